// What XLA calls: the box convolution of all planes, and its gradients.

#include <cstdint>
#include <functional>
#include <vector>

#include "huge_pages.h"
#include "kernels.h"
#include "parallel.h"
#include "xla/ffi/api/ffi.h"

namespace jaxbox {
namespace {

namespace ffi = xla::ffi;

// With fewer planes than this, each is divided into bands of rows. It is no more where there are
// more threads, so that results do not depend on their number.
constexpr Index kLeastItems = 16;
constexpr Index kLeastRowsOfBand = 32;

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

// The planes of a box convolution, divided into bands.
struct Work {
  Shape shape;
  Index channels;
  Index planes;
  Index bands;
  DType dtype;
  std::size_t item_size;

  Work(ffi::Span<const int64_t> size, const ffi::AnyBuffer& theta, DType dtype,
       std::size_t item_size, bool normalize, bool whole_pixels)
      : dtype(dtype), item_size(item_size) {
    const auto boxes = theta.dimensions();
    channels = boxes[0];
    planes = size[0] * channels;
    shape = {static_cast<Index>(boxes[1]), static_cast<Index>(size[size.size() - 2]),
             static_cast<Index>(size[size.size() - 1]), normalize, whole_pixels};
    const Index most = std::max<Index>(1, shape.height / kLeastRowsOfBand);
    bands = planes == 0 ? 1 : std::min(most, (kLeastItems + planes - 1) / planes);
  }

  Index items() const { return planes * bands; }

  Band band(Index number) const {
    return {shape.height * number / bands, shape.height * (number + 1) / bands};
  }

  // The bytes of one plane, or of its boxes' planes.
  template <class Byte>
  Byte* plane(Byte* data, Index number, Index boxes = 1) const {
    return data + number * boxes * shape.pixels() * item_size;
  }
};

ffi::Error forward(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer theta,
                   ffi::Result<ffi::AnyBuffer> output, bool normalize, bool whole_pixels) {
  const auto dtype = to_dtype(x.element_type());
  if (!dtype) return dtype.error();
  const Work work(x.dimensions(), theta, *dtype, ffi::ByteWidth(x.element_type()), normalize,
                  whole_pixels);
  const auto boxes = to_doubles(theta);
  const auto* input = static_cast<const char*>(x.untyped_data());
  auto* result = static_cast<char*>(output->untyped_data());
  prefer_huge_pages(result, output->size_bytes());
  parallel_for(pool, work.items(), [&](Index item, Arena& arena) {
    const Index plane = item / work.bands;
    filter_band(work.dtype, work.shape, &boxes[plane % work.channels * work.shape.boxes * 4],
                work.plane(input, plane), work.band(item % work.bands),
                work.plane(result, plane, work.shape.boxes), arena);
  });
  return ffi::Error::Success();
}

template <class T>
void add_bands(const std::vector<double>& parts, const Work& work, Index bounds, T* dtheta) {
  for (Index plane = 0; plane < work.planes; ++plane) {
    for (Index bound = 0; bound < bounds; ++bound) {
      double sum = 0;
      for (Index band = 0; band < work.bands; ++band) {
        sum += parts[(plane * work.bands + band) * bounds + bound];
      }
      dtheta[plane * bounds + bound] = static_cast<T>(sum);
    }
  }
}

// The gradient with respect to the boxes is that of each image. An array without elements stands for
// a gradient that is not needed, or for an `x` that is not.
ffi::Error backward(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer theta, ffi::AnyBuffer g,
                    ffi::Result<ffi::AnyBuffer> dx, ffi::Result<ffi::AnyBuffer> dtheta,
                    bool normalize, bool whole_pixels) {
  const auto dtype = to_dtype(g.element_type());
  if (!dtype) return dtype.error();
  const Work work(g.dimensions(), theta, *dtype, ffi::ByteWidth(g.element_type()), normalize,
                  whole_pixels);
  const bool needs_dx = dx->element_count() > 0, needs_dtheta = dtheta->element_count() > 0;
  const auto boxes = to_doubles(theta);
  const Index bounds = work.shape.boxes * 4;
  const auto* input = static_cast<const char*>(x.untyped_data());
  const auto* gradient = static_cast<const char*>(g.untyped_data());
  auto* result = static_cast<char*>(dx->untyped_data());
  prefer_huge_pages(result, dx->size_bytes());
  std::vector<double> parts(needs_dtheta ? work.items() * bounds : 0);
  parallel_for(pool, work.items(), [&](Index item, Arena& arena) {
    const Index plane = item / work.bands;
    differentiate_band(work.dtype, work.shape, &boxes[plane % work.channels * bounds],
                       needs_dtheta ? work.plane(input, plane) : nullptr,
                       work.plane(gradient, plane, work.shape.boxes), work.band(item % work.bands),
                       needs_dx ? work.plane(result, plane) : nullptr,
                       needs_dtheta ? &parts[item * bounds] : nullptr, arena);
  });
  if (needs_dtheta && work.dtype == DType::kFloat32) {
    add_bands(parts, work, bounds, dtheta->typed_data<float>());
  } else if (needs_dtheta) {
    add_bands(parts, work, bounds, dtheta->typed_data<double>());
  }
  return ffi::Error::Success();
}

}  // namespace
}  // namespace jaxbox

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxbox_box_conv_forward, jaxbox::forward,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Attr<bool>("normalize")
                                  .Attr<bool>("whole_pixels"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxbox_box_conv_backward, jaxbox::backward,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Attr<bool>("normalize")
                                  .Attr<bool>("whole_pixels"));
