// Integrals over a box's rows, by a window that slides down an image.

#pragma once

#include <algorithm>

#include "arena.h"
#include "axis.h"

namespace jaxbox {

// The number of columns of a strip. What a window keeps of a strip stays in the nearest cache.
constexpr Index kStripColumns = 128;

// Integrates rows `first ... end - 1` of an image; the rows before and after them are zero. Outputs
// are computed in turn, and each row is taken once.
//
// It keeps prefix sums over the rows that it took. They are in double precision, in which the sums
// of a whole image still have the digits of a dark box beside a bright one, and zero rows leave them
// as they are, so that a box over zeros gives exactly 0. A box without whole rows reads no sums.
class SlidingWindow {
 public:
  SlidingWindow(const Axis& y, Index first, Index end, Index width, Arena& arena)
      : axis_(y),
        first_(first),
        end_(end),
        taken_(first),
        width_(width),
        span_(y.high - y.low),
        capacity_(std::min(span_, end - first) + 1),
        totals_(arena.take_array<double>(width)),
        left_(arena.take_array<double>(capacity_ * (width + kStripColumns))) {
    std::fill_n(totals_, width, 0.0);
  }

  // Computes outputs `begin ... end - 1`, which follow those that were computed before.
  //
  // row_of: returns the values of a row, `row_of(row)[column]`.
  // writer_of: returns what writes the integrals at an output, `writer_of(output, strip)(column,
  //   integral)`.
  template <class RowOf, class WriterOf>
  void integrate(Index begin, Index end, RowOf row_of, WriterOf writer_of) {
    const Index strips = (width_ + kStripColumns - 1) / kStripColumns;
    for (Index strip = 0; strip < strips; ++strip) {
      for (Index row = taken_; row < std::min(begin + axis_.high, end_); ++row) {
        take<false, false>(row, strip, row_of(row), [](Index, double) {});
      }
      for (Index output = begin; output < end; ++output) {
        const Index row = output + axis_.high;
        if (row < first_ || row >= end_) {
          finish(output, strip, writer_of(output, strip));
        } else if (span_ > 0 && row - span_ >= first_) {
          take<true, true>(row, strip, row_of(row), writer_of(output, strip));
        } else {
          take<false, true>(row, strip, row_of(row), writer_of(output, strip));
        }
      }
    }
    taken_ = rows_until(end);
  }

  // The end of the rows that outputs before `output` need.
  Index rows_until(Index output) const { return std::clamp(output + axis_.high, first_, end_); }

  Index first() const { return first_; }

 private:
  // What is kept of a strip of a row.
  double* kept(Index row, Index strip) const {
    return left_ + (strip * capacity_ + (row - first_) % capacity_) * kStripColumns;
  }

  // 1 if boxes whose low bound lies in a row subtract sums through it; 0 if it is the last, below
  // which there is nothing: what a box covers of it alone is not to be a difference of sums.
  double counts_sum(Index row) const { return row == end_ - 1 ? 0.0 : 1.0; }

  // Takes a row, and writes the integrals at output `row - high`.
  template <bool kSubtracts, bool kWrites, class Row, class Write>
  void take(Index row, Index strip, const Row& values, Write write) {
    const Index begin = strip * kStripColumns;
    const Index columns = std::min(kStripColumns, width_ - begin);
    double* __restrict totals = totals_ + begin;
    double* __restrict left = kept(row, strip);
    const double* __restrict before = kSubtracts ? kept(row - span_, strip) : nullptr;
    const double whole = axis_.whole;
    const double low_part = axis_.low_part, high_part = axis_.high_part;
    const double counts = counts_sum(row);
#pragma omp simd
    for (Index i = 0; i < columns; ++i) {
      const double value = values[begin + i];
      const double through = totals[i] + whole * value;
      if (kWrites) {
        const double high = totals[i] + high_part * value;
        write(begin + i, kSubtracts ? high - before[i] : high);
      }
      left[i] = counts * through - low_part * value;
      totals[i] = through;
    }
  }

  // Writes the integrals at an output whose box ends outside of the rows.
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
      const double counts = counts_sum(last_before);
      for (Index column = begin; column < end; ++column) {
        write(column, counts * totals_[column] - left[column]);
      }
    }
  }

  Axis axis_;
  Index first_;
  Index end_;
  Index taken_;  // The end of the rows that were taken.
  Index width_;
  Index span_;
  Index capacity_;
  double* totals_;  // The prefix sums through the last row taken.
  // What is subtracted where each row holds the box's low bound, strip by strip.
  double* left_;
};

}  // namespace jaxbox
