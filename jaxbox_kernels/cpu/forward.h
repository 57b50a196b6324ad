// The output of the box convolution.

#pragma once

#include <algorithm>
#include <new>

#include "cache.h"
#include "image.h"
#include "kernels.h"
#include "not_finite.h"
#include "prefix_rows.h"
#include "sliding_window.h"

namespace jaxbox {

// The number of rows that are computed at a time, for one box after the other.
constexpr Index kBlockRows = 16;

// How many rows before it is written a row of the output is fetched. Rows of a large output are far
// apart in memory, which the CPU does not foresee.
constexpr Index kRowsAhead = 4;

struct BoxWindow {
  Box box;
  SlidingWindow window;
};

// Makes the windows of a channel's boxes, or of the boxes reflected through the origin.
inline BoxWindow* make_windows(const Shape& shape, const double* theta, Band band, bool mirrored,
                               Arena& arena) {
  auto* windows = arena.take_array<BoxWindow>(shape.boxes);
  for (Index f = 0; f < shape.boxes; ++f) {
    const Box box = make_box(theta + 4 * f, shape.height, shape.width, shape.normalize);
    const Axis y = mirrored ? box.y.mirrored() : box.y;
    const Index first = std::clamp<Index>(band.begin + y.low, 0, shape.height);
    const Index end = std::clamp<Index>(band.end + y.high, 0, shape.height);
    new (windows + f) BoxWindow{box, SlidingWindow(y, first, end, shape.width, arena)};
  }
  return windows;
}

// How far boxes reach beyond the columns of an image.
struct Reach {
  Index before = 0;
  Index after = 0;

  void include(const Axis& x) {
    before = std::max(before, -x.smallest_offset());
    after = std::max(after, x.largest_offset());
  }
};

// Computes the output of one channel, a few rows at a time.
template <class T>
class PlaneFilter {
 public:
  PlaneFilter(const Shape& shape, const double* theta, Image<const T> image, Band band,
              Arena& arena)
      : shape_(shape),
        image_(image),
        windows_(make_windows(shape, theta, band, /*mirrored=*/false, arena)),
        rows_(make_rows(shape, windows_, arena)),
        read_(shape.height) {
    for (Index f = 0; f < shape.boxes; ++f) read_ = std::min(read_, windows_[f].window.first());
  }

  // Computes rows `begin ... end - 1` of the output, which follow those that were computed before.
  // Returns whether all pixels were finite; if not, the output is not valid.
  //
  // output: row `begin` of the first box.
  // plane_pitch: from the output of one box to that of the next.
  bool compute(Index begin, Index end, T* output, Index plane_pitch) {
    Index needed = read_;
    for (Index f = 0; f < shape_.boxes; ++f) {
      needed = std::max(needed, windows_[f].window.rows_until(end));
    }
    if (!rows_.read(image_, read_, needed)) return false;
    read_ = needed;
    for (Index f = 0; f < shape_.boxes; ++f) {
      if (shape_.whole_pixels) {
        compute_box<WholeColumnIntegrals>(f, begin, end, output + f * plane_pitch);
      } else {
        compute_box<ColumnIntegrals>(f, begin, end, output + f * plane_pitch);
      }
    }
    return true;
  }

 private:
  static PrefixRows make_rows(const Shape& shape, const BoxWindow* windows, Arena& arena) {
    Reach reach;
    Index low = windows[0].box.y.low, high = windows[0].box.y.high;
    for (Index f = 0; f < shape.boxes; ++f) {
      reach.include(windows[f].box.x);
      low = std::min(low, windows[f].box.y.low);
      high = std::max(high, windows[f].box.y.high);
    }
    const Index capacity = std::min(high - low + kBlockRows, shape.height);
    return PrefixRows(shape.width, reach.before, reach.after, capacity, arena);
  }

  template <class Integrals>
  void compute_box(Index f, Index begin, Index end, T* output) {
    const Axis& x = windows_[f].box.x;
    const auto row_of = [&](Index row) { return Integrals(rows_.row(row), x); };
    const double scale = windows_[f].box.scale();
    windows_[f].window.integrate(begin, end, row_of, [=](Index row, Index strip) {
      T* __restrict to = output + (row - begin) * shape_.width;
      const T* ahead = to + kRowsAhead * shape_.width + strip * kStripColumns;
      for (Index i = 0; i < kStripColumns; i += kCacheLine / sizeof(T)) prefetch(ahead + i);
      return [to, scale](Index column, double integral) {
        to[column] = static_cast<T>(integral * scale);
      };
    });
  }

  Shape shape_;
  Image<const T> image_;
  BoxWindow* windows_;
  PrefixRows rows_;
  Index read_;  // The end of the rows that were read.
};

// Computes a band of the output of one plane. Returns whether all pixels were finite.
template <class T>
bool filter_finite_plane(const Shape& shape, const double* theta, const T* x, Band band, T* output,
                         Arena& arena) {
  PlaneFilter<T> filter(shape, theta, {x, shape.width, 1}, band, arena);
  for (Index begin = band.begin; begin < band.end; begin += kBlockRows) {
    const Index end = std::min(begin + kBlockRows, band.end);
    if (!filter.compute(begin, end, output + begin * shape.width, shape.pixels())) return false;
  }
  return true;
}

template <class T>
void filter_band_of(const Shape& shape, const double* theta, const T* x, Band band, T* output,
                    Arena& arena) {
  if (filter_finite_plane(shape, theta, x, band, output, arena)) return;
  const T* finite = finite_copy(x, shape.pixels(), arena);
  filter_finite_plane(shape, theta, finite, band, output, arena);
  const Marks marks(x, shape.height, shape.width, arena);
  for (Index f = 0; f < shape.boxes; ++f) {
    marks.add_to(output + f * shape.pixels(), theta + 4 * f, shape.normalize, band);
  }
}

// Computes a band of the output of neighbouring channels. Returns whether all pixels were finite.
template <class T>
bool filter_finite_channels(const Shape& shape, Channels channels, const double* theta, const T* x,
                            Band band, T* output, Arena& arena) {
  const Index row_pitch = channels.all * shape.width, planes = channels.count * shape.boxes;
  auto* filters = arena.take_array<PlaneFilter<T>>(channels.count);
  for (Index c = 0; c < channels.count; ++c) {
    const Image<const T> image{x + c, row_pitch, channels.all};
    new (filters + c) PlaneFilter<T>(shape, theta + c * shape.boxes * 4, image, band, arena);
  }
  const Index block_pitch = plane_pitch<T>(kBlockRows * shape.width);
  T* block = arena.take_array<T>(planes * block_pitch);
  for (Index begin = band.begin; begin < band.end; begin += kBlockRows) {
    const Index end = std::min(begin + kBlockRows, band.end);
    for (Index c = 0; c < channels.count; ++c) {
      T* of_channel = block + c * shape.boxes * block_pitch;
      if (!filters[c].compute(begin, end, of_channel, block_pitch)) return false;
    }
    from_planes(block, block_pitch, planes, (end - begin) * shape.width,
                output + begin * row_pitch * shape.boxes, channels.all * shape.boxes);
  }
  return true;
}

template <class T>
void filter_channels_of(const Shape& shape, Channels channels, const double* theta, const T* x,
                        Band band, T* output, Arena& arena) {
  if (filter_finite_channels(shape, channels, theta, x, band, output, arena)) return;
  const Index pixels = shape.pixels(), boxes = shape.boxes;
  T* planes = arena.take_array<T>(channels.count * pixels);
  to_planes(x, channels.all, pixels, channels.count, planes, pixels);
  T* results = arena.take_array<T>(boxes * pixels);
  for (Index c = 0; c < channels.count; ++c) {
    filter_band_of(shape, theta + c * boxes * 4, planes + c * pixels, band, results, arena);
    const Index first = band.begin * shape.width;
    from_planes(results + first, pixels, boxes, (band.end - band.begin) * shape.width,
                output + (first * channels.all + c) * boxes, channels.all * boxes);
  }
}

}  // namespace jaxbox
