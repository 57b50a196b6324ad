// Integrals over a box's rows, by a window that slides down an image.

#pragma once

#include <algorithm>

#include "arena.h"
#include "axis.h"
#include "kernels.h"

namespace jaxbox {

// The number of columns of a strip. What a window keeps of a strip stays in the nearest cache.
constexpr Index kStripColumns = 128;

// Integrates the rows of an image; those before and after it are zero. Outputs are computed in turn,
// and each row is taken once.
//
// It keeps prefix sums over the rows that it took. They are in double precision, in which the sums
// of a whole image still have the digits of a dark box beside a bright one, and zero rows leave them
// as they are, so that a box over zeros gives exactly 0. A box without whole rows reads no sums.
class SlidingWindow {
 public:
  // Computes the outputs of a band, which are at every `stride`-th row of an image of `height` rows.
  // In what follows, an output is called by that row.
  SlidingWindow(const Axis& y, Band band, Index stride, Index height, Index width, Arena& arena)
      : axis_(y),
        stride_(stride),
        outputs_{band.begin * stride, (band.end - 1) * stride + 1},
        first_(std::clamp<Index>(outputs_.begin + y.low, 0, height)),
        end_(std::clamp<Index>(outputs_.end + y.high, 0, height)),
        computed_(outputs_.begin),
        taken_(first_),
        width_(width),
        span_(y.high - y.low),
        capacity_(std::min(span_, end_ - first_) + 1),
        totals_(arena.take_array<double>(width)),
        left_(arena.take_array<double>(capacity_ * (width + kStripColumns))) {
    std::fill_n(totals_, width, 0.0);
  }

  // The rows that it needs.
  Index first() const { return first_; }
  Index end() const { return end_; }

  // Takes the rows before `rows_end` that were not taken yet, and computes the outputs that need no
  // others.
  //
  // row_of: returns the values of a row, `row_of(row)[column]`.
  // writer_of: returns what writes the integrals at an output, `writer_of(output, strip)(column,
  //   integral)`.
  template <class RowOf, class WriterOf>
  void take_until(Index rows_end, RowOf row_of, WriterOf writer_of) {
    const Index end = std::clamp(rows_end - axis_.high, computed_, outputs_.end);
    advance(rows_end < end_ ? end : outputs_.end, rows_end, row_of, writer_of);
  }

  // Computes the outputs before `end` that were not computed yet; all rows can be read.
  template <class RowOf, class WriterOf>
  void compute_until(Index end, RowOf row_of, WriterOf writer_of) {
    advance(end, end_, row_of, writer_of);
  }

 private:
  // Computes the outputs before `end`, which need only rows before `rows_end`, and takes these.
  template <class RowOf, class WriterOf>
  void advance(Index end, Index rows_end, RowOf row_of, WriterOf writer_of) {
    const Index before = std::min({computed_ + axis_.high, rows_end, end_});
    const Index strips = (width_ + kStripColumns - 1) / kStripColumns;
    for (Index strip = 0; strip < strips; ++strip) {
      for (Index row = taken_; row < before; ++row) {
        take<false, false>(row, strip, row_of(row), [](Index, double) {});
      }
      for (Index output = computed_; output < end; ++output) {
        const Index row = output + axis_.high;
        if (stride_ > 1 && output % stride_ != 0) {
          if (row >= first_ && row < end_) {
            take<false, false>(row, strip, row_of(row), [](Index, double) {});
          }
        } else if (row < first_ || row >= end_) {
          finish(output, strip, row_of, writer_of(output, strip));
        } else if (span_ > 0 && row - span_ >= first_) {
          take<true, true>(row, strip, row_of(row), writer_of(output, strip));
        } else {
          take<false, true>(row, strip, row_of(row), writer_of(output, strip));
        }
      }
    }
    computed_ = end;
    taken_ = std::max(taken_, std::min({end + axis_.high, rows_end, end_}));
  }

  // What is kept of a strip of a row.
  double* kept(Index row, Index strip) const {
    return left_ + (strip * capacity_ + (row - first_) % capacity_) * kStripColumns;
  }

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

  // Writes the integrals at an output whose box ends outside of the rows.
  template <class RowOf, class Write>
  void finish(Index output, Index strip, RowOf row_of, Write write) const {
    const Index begin = strip * kStripColumns, end = std::min(begin + kStripColumns, width_);
    const Index last_before = output + axis_.low;  // The row whose prefix sum is subtracted.
    const bool is_empty = last_before >= end_ || output + axis_.high < first_;
    if (is_empty) {
      for (Index column = begin; column < end; ++column) write(column, 0.0);
    } else if (last_before < first_) {
      for (Index column = begin; column < end; ++column) write(column, totals_[column]);
    } else if (last_before == end_ - 1) {
      // Not a difference of sums, which would not be exactly 0 where this row is.
      const auto& values = row_of(last_before);
      for (Index column = begin; column < end; ++column) {
        write(column, axis_.low_part * values[column]);
      }
    } else {
      const double* left = kept(last_before, strip) - begin;
      for (Index column = begin; column < end; ++column) {
        write(column, totals_[column] - left[column]);
      }
    }
  }

  Axis axis_;
  Index stride_;
  Band outputs_;
  Index first_;
  Index end_;
  Index computed_;  // The end of the outputs that were computed.
  Index taken_;     // The end of the rows that were taken.
  Index width_;
  Index span_;
  Index capacity_;
  double* totals_;  // The prefix sums through the last row taken.
  // What is subtracted where each row holds the box's low bound, strip by strip.
  double* left_;
};

}  // namespace jaxbox
