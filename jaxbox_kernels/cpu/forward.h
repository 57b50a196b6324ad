// The output of the box convolution.

#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "box_windows.h"
#include "cache.h"
#include "image.h"
#include "kernels.h"
#include "not_finite.h"
#include "prefix_rows.h"
#include "sliding_window.h"

namespace jaxbox {

// How many rows before it is written a row of the output is fetched. Rows of a large output are far
// apart in memory, which the CPU does not foresee.
constexpr Index kRowsAhead = 4;

// Where a band of the output of one channel goes.
template <class T>
struct Output {
  Band band;
  T* first;     // Row `band.begin` of the first box.
  Index pitch;  // From one box to the next.
};

// Takes the rows before `rows_end`, of which `sums` holds those that were not taken yet, and writes
// the means of one box that need no others.
template <class Integrals, class T>
void filter_box(const Shape& shape, BoxWindow& box_window, const PrefixRows& sums, Index rows_end,
                Index first, T* output) {
  const Axis& x = box_window.box.x;
  const double scale = box_window.box.scale();
  const Index width = shape.output_width(), stride = shape.stride_y;
  const Places places(sums, x);
  const auto row_of = [&](Index row) { return Integrals(sums.row(row), places, x, scale); };
  box_window.window.take_until(rows_end, row_of, [=](Index row, Index strip) {
    T* __restrict to = output + (row / stride - first) * width;
    const T* ahead = to + kRowsAhead * width + strip * kStripColumns;
    for (Index i = 0; i < kStripColumns; i += kCacheLine / sizeof(T)) prefetch(ahead + i);
    return [to](Index column, double mean) { to[column] = static_cast<T>(mean); };
  });
}

// Whether outputs can be anything but NaN: not if the area, by which sums are divided, is zero, or if
// a bound is NaN.
inline bool has_mean(const Box& box) { return std::isfinite(box.scale()); }

// Computes the output of one channel. Returns whether all pixels were finite; if not, the output is
// not valid.
//
// rows: the rows that the windows need, of which `pixels` is the first.
template <class T>
bool filter_rows(const Shape& shape, BoxWindow* windows, Band rows, const T* pixels,
                 const Output<T>& output, Arena& arena) {
  const Reach reach = reach_of(windows, shape.boxes);
  PrefixRows sums(shape.width, reach.left, reach.right, shape.stride_x, arena);
  const auto filter = shape.whole_pixels   ? filter_box<WholeColumnIntegrals, T>
                      : shape.stride_x > 1 ? filter_box<StridedColumnIntegrals, T>
                                           : filter_box<ColumnIntegrals, T>;
  for (Index f = 0; f < shape.boxes; ++f) {
    if (has_mean(windows[f].box)) continue;
    const Index outputs = (output.band.end - output.band.begin) * shape.output_width();
    std::fill_n(output.first + f * output.pitch, outputs, std::numeric_limits<T>::quiet_NaN());
  }
  Index begin = rows.begin;
  do {
    const Index end = std::min(begin + kBlockRows, rows.end);
    if (!sums.read(pixels + (begin - rows.begin) * shape.width, begin, end)) return false;
    for (Index f = 0; f < shape.boxes; ++f) {
      if (!has_mean(windows[f].box)) continue;
      filter(shape, windows[f], sums, end, output.band.begin, output.first + f * output.pitch);
    }
    begin = end;
  } while (begin < rows.end);
  return true;
}

// Computes a band of the output of one plane. Returns whether all pixels were finite.
template <class T>
bool filter_finite_plane(const Shape& shape, const double* theta, const T* x, Band band, T* output,
                         Arena& arena) {
  BoxWindow* windows = make_windows(shape, theta, shape.boxes, band, /*mirrored=*/false, arena);
  const Band rows = needed_rows(windows, shape.boxes);
  return filter_rows(shape, windows, rows, x + rows.begin * shape.width,
                     {band, output + band.begin * shape.output_width(), shape.outputs()}, arena);
}

template <class T>
void filter_band_of(const Shape& shape, const double* theta, const T* x, Band band, T* output,
                    Arena& arena) {
  if (filter_finite_plane(shape, theta, x, band, output, arena)) return;
  const T* finite = finite_copy(x, shape.pixels(), arena);
  filter_finite_plane(shape, theta, finite, band, output, arena);
  const Marks marks(x, shape.height, shape.width, arena);
  for (Index f = 0; f < shape.boxes; ++f) {
    marks.add_to(output + f * shape.outputs(), theta + 4 * f, shape, band);
  }
}

// Computes a band of the output of neighbouring channels, in planes, which are transposed at the end.
// Returns whether all pixels were finite.
template <class T>
bool filter_finite_channels(const Shape& shape, Channels channels, const double* theta, const T* x,
                            Band band, T* output, Arena& arena) {
  const Index planes = channels.count * shape.boxes, row_pitch = channels.all * shape.width;
  BoxWindow* windows = make_windows(shape, theta, planes, band, /*mirrored=*/false, arena);
  const Band rows = needed_rows(windows, planes);
  const Index inputs = (rows.end - rows.begin) * shape.width;
  const Index input_pitch = plane_pitch<T>(inputs);
  T* input = arena.take_array<T>(channels.count * input_pitch);
  to_planes(x + rows.begin * row_pitch, channels.all, inputs, channels.count, input, input_pitch);

  const Index width = shape.output_width(), outputs = (band.end - band.begin) * width;
  const Index pitch = plane_pitch<T>(outputs);
  T* output_planes = arena.take_array<T>(planes * pitch);
  for (Index c = 0; c < channels.count; ++c) {
    const Index box = c * shape.boxes;
    const Output<T> of_channel{band, output_planes + box * pitch, pitch};
    if (!filter_rows(shape, windows + box, rows, input + c * input_pitch, of_channel, arena)) {
      return false;
    }
  }
  from_planes(output_planes, pitch, planes, outputs,
              output + band.begin * width * channels.all * shape.boxes, channels.all * shape.boxes);
  return true;
}

template <class T>
void filter_channels_of(const Shape& shape, Channels channels, const double* theta, const T* x,
                        Band band, T* output, Arena& arena) {
  if (filter_finite_channels(shape, channels, theta, x, band, output, arena)) return;
  const Index pixels = shape.pixels(), boxes = shape.boxes;
  T* planes = arena.take_array<T>(channels.count * pixels);
  to_planes(x, channels.all, pixels, channels.count, planes, pixels);
  const Index outputs = shape.outputs(), width = shape.output_width();
  T* results = arena.take_array<T>(boxes * outputs);
  for (Index c = 0; c < channels.count; ++c) {
    filter_band_of(shape, theta + c * boxes * 4, planes + c * pixels, band, results, arena);
    const Index first = band.begin * width;
    from_planes(results + first, outputs, boxes, (band.end - band.begin) * width,
                output + (first * channels.all + c) * boxes, channels.all * boxes);
  }
}

}  // namespace jaxbox
