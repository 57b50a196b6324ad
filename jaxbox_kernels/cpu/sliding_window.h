// Integrals over a box's rows, by a window that slides down an image.

#pragma once

#include <algorithm>

#include "arena.h"
#include "axis.h"

namespace jaxbox {

// The number of columns of a strip. What a window keeps of a strip stays in the nearest cache.
constexpr Index kStripColumns = 64;

// Takes rows `first ... end - 1` of an image one after the other; the rows before and after them are
// zero. Once it has taken row `r`, it knows the integral over the box's rows at output `r - high`.
//
// It keeps prefix sums over the rows that it took. They are in double precision, in which the sums of
// a whole image still have the digits of a dark box beside a bright one, and zero rows leave them as
// they are, so that a box over zeros gives exactly 0. A box without whole rows reads no prefix sums.
class SlidingWindow {
 public:
  SlidingWindow(const Axis& y, Index first, Index end, Index width, Arena& arena)
      : axis_(y),
        first_(first),
        end_(end),
        width_(width),
        span_(y.high - y.low),
        capacity_(std::min(span_, end - first) + 1),
        totals_(arena.take_array<double>(width)),
        left_(arena.take_array<double>(capacity_ * (width + kStripColumns))) {
    std::fill_n(totals_, width, 0.0);
  }

  Index first() const { return first_; }
  Index end() const { return end_; }

  // Takes a strip of columns of row `row`, and writes the integrals at output `row - high`.
  template <class Row, class Write>
  void advance(Index row, Index strip, const Row& values, Write write) {
    if (span_ > 0 && row - span_ >= first_) {
      take<true, true>(row, strip, values, write);
    } else {
      take<false, true>(row, strip, values, write);
    }
  }

  // Takes a row whose output lies outside the image.
  template <class Row>
  void skip(Index row, Index strip, const Row& values) {
    take<false, false>(row, strip, values, [](Index, double) {});
  }

  Index strips() const { return (width_ + kStripColumns - 1) / kStripColumns; }

  // Writes a strip of the integrals at an output that needs no row which was not yet taken.
  template <class Write>
  void finish(Index output, Index strip, Write write) const {
    const Index begin = strip * kStripColumns, end = std::min(begin + kStripColumns, width_);
    const Index last_before = output + axis_.low;  // The row whose prefix sum is subtracted.
    const bool is_empty = last_before >= end_ || output + axis_.high < first_;
    if (is_empty) {
      for (Index column = begin; column < end; ++column) write(column, 0.0);
    } else if (last_before < first_) {
      for (Index column = begin; column < end; ++column) write(column, totals_[column]);
    } else {
      const double* left = kept(last_before, strip) - begin;
      for (Index column = begin; column < end; ++column) {
        write(column, totals_[column] - left[column]);
      }
    }
  }

 private:
  // What is kept of a strip of a row.
  double* kept(Index row, Index strip) const {
    return left_ + (strip * capacity_ + (row - first_) % capacity_) * kStripColumns;
  }

  template <bool kSubtracts, bool kWrites, class Row, class Write>
  void take(Index row, Index strip, const Row& values, Write write) {
    const Index begin = strip * kStripColumns;
    const Index columns = std::min(kStripColumns, width_ - begin);
    double* __restrict totals = totals_ + begin;
    double* __restrict left = kept(row, strip);
    const double* __restrict before = kSubtracts ? kept(row - span_, strip) : nullptr;
    const double whole = axis_.whole;
    const double low_part = axis_.low_part, high_part = axis_.high_part;
#pragma omp simd
    for (Index i = 0; i < columns; ++i) {
      const double value = values[begin + i];
      const double through = totals[i] + whole * value;
      if (kWrites) {
        const double high = totals[i] + high_part * value;
        write(begin + i, kSubtracts ? high - before[i] : high);
      }
      left[i] = through - low_part * value;
      totals[i] = through;
    }
  }

  Axis axis_;
  Index first_;
  Index end_;
  Index width_;
  Index span_;
  Index capacity_;
  double* totals_;  // The prefix sums through the last row taken.
  // What is subtracted where each row holds the box's low bound, strip by strip.
  double* left_;
};

}  // namespace jaxbox
