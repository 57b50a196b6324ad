// What XLA calls: the box convolution of all planes, and its gradients.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "export.h"
#include "huge_pages.h"
#include "kernels.h"
#include "parallel.h"
#include "xla/ffi/api/ffi.h"

namespace jaxbox {
namespace {

namespace ffi = xla::ffi;

// With fewer groups of channels than this, each is divided into bands of rows. It is no more where
// there are more threads, so that results do not depend on their number. Bands have many rows, since
// each reads the rows around it too, as far as boxes reach.
constexpr Index kLeastItems = 8;
constexpr Index kLeastRowsOfBand = 128;

// With channels last, channels are grouped so that each group has as many outputs in a pixel, a
// cache line of float32.
constexpr Index kLeastOutputs = 16;

// With channels last, the output of an item is computed in planes first, which are to stay in the
// last cache. A thread needs that much memory.
constexpr Index kMostBytesOfPlanes = Index{1} << 23;

ffi::ErrorOr<DType> to_dtype(ffi::DataType type) {
  switch (type) {
    case ffi::DataType::F32:
      return DType::kFloat32;
    case ffi::DataType::F64:
      return DType::kFloat64;
    default:
      return ffi::Unexpected(ffi::Error::InvalidArgument("pixels must be float32 or float64"));
  }
}

std::vector<double> to_doubles(const ffi::AnyBuffer& theta) {
  const std::size_t count = theta.element_count();
  if (theta.element_type() == ffi::DataType::F64) {
    const double* values = theta.typed_data<double>();
    return {values, values + count};
  }
  const float* values = theta.typed_data<float>();
  return {values, values + count};
}

// What the caller asks for.
struct Options {
  int64_t height;  // Of the image.
  int64_t width;
  int64_t stride_y;
  int64_t stride_x;
  bool normalize;
  bool whole_pixels;
  bool channels_last;
};

// A box convolution, divided into items: bands of rows of groups of channels.
class Work {
 public:
  Work(int64_t images, const ffi::AnyBuffer& theta, DType dtype, const Options& options,
       bool is_backward)
      : shape{static_cast<Index>(theta.dimensions()[1]),
              static_cast<Index>(options.height),
              static_cast<Index>(options.width),
              options.normalize,
              options.whole_pixels,
              static_cast<Index>(options.stride_y),
              static_cast<Index>(options.stride_x)},
        dtype(dtype),
        channels_last(options.channels_last),
        channels_(theta.dimensions()[0]),
        number_size_(dtype == DType::kFloat32 ? sizeof(float) : sizeof(double)),
        theta_(to_doubles(theta)),
        images_(static_cast<Index>(images)),
        rows_(is_backward ? shape.height : shape.output_height()) {
    // In the backward pass with channels last, every band would transpose whole planes.
    const bool has_bands = !is_backward || !channels_last;
    group_ = 1;
    if (channels_last) {
      group_ = std::min(channels_, (kLeastOutputs + shape.boxes - 1) / shape.boxes);
      // Without bands, smaller groups make more items.
      if (!has_bands) group_ = std::clamp<Index>(images_ * channels_ / kLeastItems, 1, group_);
    }
    groups_ = (channels_ + group_ - 1) / group_;
    const Index whole = std::max<Index>(1, images_ * groups_);
    const Index most = std::max<Index>(1, rows_ / kLeastRowsOfBand);
    bands_ = has_bands ? std::min(most, (kLeastItems + whole - 1) / whole) : 1;
    if (channels_last && has_bands) {
      const Index bytes = group_ * shape.boxes * shape.outputs() * number_size_;
      bands_ = std::clamp((bytes + kMostBytesOfPlanes - 1) / kMostBytesOfPlanes, bands_, most);
    }
  }

  Index items() const { return images_ * groups_ * bands_; }
  Index bounds() const { return shape.boxes * 4; }

  Band band(Index item) const {
    const Index number = item % bands_;
    return {rows_ * number / bands_, rows_ * (number + 1) / bands_};
  }

  Channels channels(Index item) const {
    return {std::min(group_, channels_ - first_channel(item)), channels_};
  }

  const double* theta(Index item) const { return &theta_[first_channel(item) * bounds()]; }

  // Where an item's first number is in an array of the input's pixels, or of its outputs.
  template <class Byte>
  Byte* first_pixel(Byte* data, Index item) const {
    return first(data, item, shape.pixels(), 1);
  }
  template <class Byte>
  Byte* first_output(Byte* data, Index item) const {
    return first(data, item, shape.outputs(), shape.boxes);
  }

  // Adds up what the bands of each image contribute to the gradient with respect to the boxes.
  //
  // parts: `group * bounds()` numbers for each item.
  template <class T>
  void add_bands(const std::vector<double>& parts, T* dtheta) const {
    for (Index item = 0; item < items(); item += bands_) {
      const Index image = item / bands_ / groups_, channel = first_channel(item);
      const Index count = channels(item).count * bounds();
      for (Index i = 0; i < count; ++i) {
        double sum = 0;
        for (Index band = 0; band < bands_; ++band) sum += parts[part(item + band) + i];
        dtheta[(image * channels_ + channel) * bounds() + i] = static_cast<T>(sum);
      }
    }
  }

  // Where an item's part of the gradient begins.
  Index part(Index item) const { return item * group_ * bounds(); }

  Shape shape;
  DType dtype;
  bool channels_last;

 private:
  // The array has `places` in a plane, and `each` numbers of a channel in a place.
  template <class Byte>
  Byte* first(Byte* data, Index item, Index places, Index each) const {
    const Index image = item / bands_ / groups_, channel = first_channel(item);
    const Index of_channel = channels_last ? 1 : places;
    return data + (image * channels_ * places + channel * of_channel) * each * number_size_;
  }

  Index first_channel(Index item) const { return item / bands_ % groups_ * group_; }

  Index channels_;
  Index number_size_;
  std::vector<double> theta_;
  Index images_;
  Index rows_;   // Of the result.
  Index group_;  // Channels of an item.
  Index groups_;
  Index bands_;
};

ffi::Error forward(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer theta,
                   ffi::Result<ffi::AnyBuffer> output, Options options) {
  const auto dtype = to_dtype(x.element_type());
  if (!dtype) return dtype.error();
  const Work work(x.dimensions()[0], theta, *dtype, options, /*is_backward=*/false);
  const auto* input = static_cast<const char*>(x.untyped_data());
  auto* result = static_cast<char*>(output->untyped_data());
  prefer_huge_pages(result, output->size_bytes());
  return parallel_for(pool, work.items(), [&](Index item, Arena& arena) {
    const auto* of_input = work.first_pixel(input, item);
    auto* of_result = work.first_output(result, item);
    if (work.channels_last) {
      filter_channels(*dtype, work.shape, work.channels(item), work.theta(item), of_input,
                      work.band(item), of_result, arena);
    } else {
      filter_band(*dtype, work.shape, work.theta(item), of_input, work.band(item), of_result,
                  arena);
    }
  });
}

// The gradient with respect to the boxes is that of each image. An array without elements stands
// for a gradient that is not needed, or for an `x` that is not.
ffi::Error backward(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer theta, ffi::AnyBuffer g,
                    ffi::Result<ffi::AnyBuffer> dx, ffi::Result<ffi::AnyBuffer> dtheta,
                    Options options) {
  const auto dtype = to_dtype(g.element_type());
  if (!dtype) return dtype.error();
  const Work work(g.dimensions()[0], theta, *dtype, options, /*is_backward=*/true);
  const bool needs_dx = dx->element_count() > 0, needs_dtheta = dtheta->element_count() > 0;
  const auto* input = static_cast<const char*>(x.untyped_data());
  const auto* gradient = static_cast<const char*>(g.untyped_data());
  auto* result = static_cast<char*>(dx->untyped_data());
  prefer_huge_pages(result, dx->size_bytes());
  std::vector<double> parts(needs_dtheta ? work.part(work.items()) : 0);
  ffi::Error error = parallel_for(pool, work.items(), [&](Index item, Arena& arena) {
    const auto* of_x = needs_dtheta ? work.first_pixel(input, item) : nullptr;
    const auto* of_g = work.first_output(gradient, item);
    auto* of_dx = needs_dx ? work.first_pixel(result, item) : nullptr;
    double* of_dtheta = needs_dtheta ? &parts[work.part(item)] : nullptr;
    if (work.channels_last) {
      differentiate_channels(*dtype, work.shape, work.channels(item), work.theta(item), of_x, of_g,
                             work.band(item), of_dx, of_dtheta, arena);
    } else {
      differentiate_band(*dtype, work.shape, work.theta(item), of_x, of_g, work.band(item), of_dx,
                         of_dtheta, arena);
    }
  });
  if (needs_dtheta && *dtype == DType::kFloat32) {
    work.add_bands(parts, dtheta->typed_data<float>());
  } else if (needs_dtheta) {
    work.add_bands(parts, dtheta->typed_data<double>());
  }
  return error;
}

}  // namespace
}  // namespace jaxbox

// The number of the calls' form: `library.py` refuses a library with another one than its own. Raise
// both when an argument, a result or an attribute below changes.
JAXBOX_EXPORT int jaxbox_calls_version() { return 2; }

XLA_FFI_REGISTER_STRUCT_ATTR_DECODING(jaxbox::Options,
                                      xla::ffi::StructMember<int64_t>("height"),
                                      xla::ffi::StructMember<int64_t>("width"),
                                      xla::ffi::StructMember<int64_t>("stride_y"),
                                      xla::ffi::StructMember<int64_t>("stride_x"),
                                      xla::ffi::StructMember<bool>("normalize"),
                                      xla::ffi::StructMember<bool>("whole_pixels"),
                                      xla::ffi::StructMember<bool>("channels_last"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxbox_box_conv_forward, jaxbox::forward,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Attrs<jaxbox::Options>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxbox_box_conv_backward, jaxbox::backward,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Attrs<jaxbox::Options>());
