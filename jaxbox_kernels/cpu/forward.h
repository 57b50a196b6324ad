// The output of the box convolution.

#pragma once

#include <algorithm>

#include "kernels.h"
#include "not_finite.h"
#include "prefix_rows.h"
#include "sliding_window.h"

namespace jaxbox {

// The size of the prefix sums, in numbers, that are computed before they are read.
constexpr Index kBlockSize = 4096;

// How many rows before it is written a row of the output is fetched.
constexpr Index kRowsAhead = 4;

struct BoxWindow {
  Box box;
  SlidingWindow window;
};

template <class T>
class PlaneFilter {
 public:
  PlaneFilter(const Shape& shape, const double* theta, Band band, T* output, Arena& arena)
      : shape_(shape), band_(band), output_(output) {
    windows_ = arena.take_array<BoxWindow>(shape.boxes);
    for (Index f = 0; f < shape.boxes; ++f) {
      const Box box = make_box(theta + 4 * f, shape.height, shape.width, shape.normalize);
      const Index first = std::clamp<Index>(band.begin + box.y.low, 0, shape.height);
      const Index end = std::clamp<Index>(band.end + box.y.high, 0, shape.height);
      new (windows_ + f) BoxWindow{box, SlidingWindow(box.y, first, end, shape.width, arena)};
    }
  }

  // Returns whether all pixels are finite; if not, the output is to be computed again.
  bool run(const T* x, Arena& arena) {
    Index before = 0, after = 0, first = shape_.height, end = 0;
    for (Index f = 0; f < shape_.boxes; ++f) {
      const BoxWindow& each = windows_[f];
      before = std::max(before, -each.box.x.smallest_offset());
      after = std::max(after, each.box.x.largest_offset());
      first = std::min(first, each.window.first());
      end = std::max(end, each.window.end());
    }
    const Index block = std::clamp<Index>(kBlockSize / (before + shape_.width + after), kRowsTogether, shape_.height + kRowsTogether);
    PrefixRows rows(shape_.width, before, after, block, arena);
    for (Index f = 0; f < shape_.boxes; ++f) write_before_first_row(f);
    for (Index begin = first; begin < end; begin += block) {
      const Index stop = std::min(begin + block, end);
      if (!rows.fill(x + begin * shape_.width, stop - begin)) return false;
      for (Index f = 0; f < shape_.boxes; ++f) slide(f, rows, begin, stop);
    }
    for (Index f = 0; f < shape_.boxes; ++f) write_after_last_row(f);
    return true;
  }

 private:
  // Writes an output row of a box.
  auto writer(Index f, Index row) const {
    T* __restrict output = output_ + f * shape_.pixels() + row * shape_.width;
    const double scale = windows_[f].box.scale();
    return [output, scale](Index column, double integral) {
      output[column] = static_cast<T>(integral * scale);
    };
  }

  bool has_row(Index row) const { return row >= band_.begin && row < band_.end; }

  // Slides the window of a box down rows `begin ... stop - 1`, which are in `rows`.
  void slide(Index f, const PrefixRows& rows, Index begin, Index stop) {
    if (shape_.whole_pixels) {
      slide_over<WholeColumnIntegrals>(f, rows, begin, stop);
    } else {
      slide_over<ColumnIntegrals>(f, rows, begin, stop);
    }
  }

  template <class Integrals>
  void slide_over(Index f, const PrefixRows& rows, Index begin, Index stop) {
    auto& [box, window] = windows_[f];
    const Index first = std::max(begin, window.first()), end = std::min(stop, window.end());
    for (Index strip = 0; strip < window.strips(); ++strip) {
      for (Index row = first; row < end; ++row) {
        const Integrals integrals(rows.row(row - begin), box.x);
        const Index output = row - box.y.high;
        if (has_row(output)) {
          prefetch_strip(f, output + kRowsAhead, strip);
          window.advance(row, strip, integrals, writer(f, output));
        } else {
          window.skip(row, strip, integrals);
        }
      }
    }
  }

  // Rows of a large output are far apart in memory, which the CPU does not foresee.
  void prefetch_strip(Index f, Index row, Index strip) const {
    const T* output = output_ + f * shape_.pixels() + row * shape_.width + strip * kStripColumns;
    for (Index i = 0; i < kStripColumns; i += kCacheLine / sizeof(T)) prefetch(output + i);
  }

  void write_before_first_row(Index f) {
    const auto& [box, window] = windows_[f];
    finish(f, band_.begin, std::min(band_.end, window.first() - box.y.high));
  }

  void write_after_last_row(Index f) {
    const auto& [box, window] = windows_[f];
    finish(f, std::max(band_.begin, window.end() - box.y.high), band_.end);
  }

  void finish(Index f, Index begin, Index end) {
    const SlidingWindow& window = windows_[f].window;
    for (Index strip = 0; strip < window.strips(); ++strip) {
      for (Index row = begin; row < end; ++row) window.finish(row, strip, writer(f, row));
    }
  }

  Shape shape_;
  Band band_;
  T* output_;
  BoxWindow* windows_;
};

template <class T>
void filter_band_of(const Shape& shape, const double* theta, const T* x, Band band, T* output,
                 Arena& arena) {
  if (PlaneFilter<T>(shape, theta, band, output, arena).run(x, arena)) return;
  const T* finite = finite_copy(x, shape.pixels(), arena);
  PlaneFilter<T>(shape, theta, band, output, arena).run(finite, arena);
  const Marks marks(x, shape.height, shape.width, arena);
  for (Index f = 0; f < shape.boxes; ++f) {
    marks.add_to(output + f * shape.pixels(), theta + 4 * f, shape.normalize, band);
  }
}

}  // namespace jaxbox
