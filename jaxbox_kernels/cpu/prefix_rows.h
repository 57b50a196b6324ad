// Prefix sums of the rows of an image.

#pragma once

#include <algorithm>
#include <cmath>

#include "arena.h"
#include "axis.h"

namespace jaxbox {

// The number of rows of an image that are summed at once. A prefix sum waits for each addition
// before the next; those of several rows wait together.
constexpr Index kRowsTogether = 4;

// The last rows of an image that were read, as prefix sums. They have margins so that boxes may
// leave the image: to the left all is 0, to the right sums stay what they are.
class PrefixRows {
 public:
  // Keeps `capacity` rows, for outputs `stride` columns apart. Sums can be read from column `-before`
  // up to `width + after + 1`.
  PrefixRows(Index width, Index before, Index after, Index capacity, Index stride, Arena& arena)
      : width_(width),
        stride_(stride),
        before_((before + stride - 1) / stride * stride),
        pitch_((before_ + width + after + 2 + stride - 1) / stride * stride),
        capacity_(capacity),
        sums_(arena.take_array<double>(capacity * pitch_)),
        phases_(stride > 1 ? arena.take_array<double>(capacity * pitch_) : nullptr) {
    for (Index row = 0; row < capacity; ++row) std::fill_n(sums_ + row * pitch_, before_, 0.0);
  }

  // The sums of all pixels before each column of a row, from column 0.
  const double* row(Index number) const { return sums_ + number % capacity_ * pitch_ + before_; }

  // The sums of all pixels before column `offset` of a row, `offset + stride`, and so on.
  const double* every_stride(Index number, Index offset) const {
    if (stride_ == 1) return row(number) + offset;
    const Index place = offset + before_;
    return phases_ + number % capacity_ * pitch_ + place % stride_ * (pitch_ / stride_) +
           place / stride_;
  }

  // Reads rows `begin ... end - 1`, of which `pixels` is the first. Returns whether all pixels are
  // finite.
  template <class T>
  bool read(const T* pixels, Index begin, Index end) {
    bool finite = true;
    Index row = begin;
    for (; row + kRowsTogether <= end; row += kRowsTogether) {
      finite &= read_together<kRowsTogether>(pixels + (row - begin) * width_, row);
    }
    for (; row < end; ++row) finite &= read_together<1>(pixels + (row - begin) * width_, row);
    if (stride_ > 1) {
      for (row = begin; row < end; ++row) split_phases(row);
    }
    return finite;
  }

 private:
  template <int kCount, class T>
  bool read_together(const T* pixels, Index first) {
    double* sums[kCount];
    double totals[kCount] = {};
    for (Index k = 0; k < kCount; ++k) {
      sums[k] = sums_ + (first + k) % capacity_ * pitch_ + before_;
    }
    for (Index column = 0; column < width_; ++column) {
      for (Index k = 0; k < kCount; ++k) {
        sums[k][column] = totals[k];
        totals[k] += pixels[k * width_ + column];
      }
    }
    bool finite = true;
    for (Index k = 0; k < kCount; ++k) {
      std::fill(sums[k] + width_, sums[k] + pitch_ - before_, totals[k]);
      finite &= std::isfinite(totals[k]);
    }
    return finite;
  }

  // Copies a row such that sums `stride` columns apart are neighbours.
  void split_phases(Index number) {
    const double* __restrict sums = sums_ + number % capacity_ * pitch_;
    double* __restrict phases = phases_ + number % capacity_ * pitch_;
    const Index length = pitch_ / stride_;
    for (Index phase = 0; phase < stride_; ++phase) {
      for (Index i = 0; i < length; ++i) phases[phase * length + i] = sums[i * stride_ + phase];
    }
  }

  Index width_;
  Index stride_;
  Index before_;
  Index pitch_;  // A multiple of the stride.
  Index capacity_;
  double* sums_;
  double* phases_;  // The same sums by their column modulo the stride.
};

// The integrals over a box's columns, of one row, times a factor.
class ColumnIntegrals {
 public:
  ColumnIntegrals(const PrefixRows& sums, Index row, const Axis& x, double factor)
      : ColumnIntegrals(sums.row(row), x, factor) {}

  ColumnIntegrals(const double* sums, const Axis& x, double factor)
      : low_(sums + x.low),
        high_(sums + x.high),
        whole_(factor * x.whole),
        low_part_(factor * x.low_part),
        high_part_(factor * x.high_part) {}

  // The pixels that hold the bounds. The sums before and after them have all of their digits.
  double low_pixel(Index column) const { return low_[column + 1] - low_[column]; }
  double high_pixel(Index column) const { return high_[column + 1] - high_[column]; }

  double operator[](Index column) const {
    return whole_ * (high_[column] - low_[column + 1]) +
           (low_part_ * low_pixel(column) + high_part_ * high_pixel(column));
  }

 private:
  const double* low_;
  const double* high_;
  double whole_;
  double low_part_;
  double high_part_;
};

// The same for outputs that are several columns apart.
class StridedColumnIntegrals {
 public:
  StridedColumnIntegrals(const PrefixRows& sums, Index row, const Axis& x, double factor)
      : before_low_(sums.every_stride(row, x.low)),
        after_low_(sums.every_stride(row, x.low + 1)),
        before_high_(sums.every_stride(row, x.high)),
        after_high_(sums.every_stride(row, x.high + 1)),
        whole_(factor * x.whole),
        low_part_(factor * x.low_part),
        high_part_(factor * x.high_part) {}

  double operator[](Index column) const {
    return whole_ * (before_high_[column] - after_low_[column]) +
           (low_part_ * (after_low_[column] - before_low_[column]) +
            high_part_ * (after_high_[column] - before_high_[column]));
  }

 private:
  const double* before_low_;
  const double* after_low_;
  const double* before_high_;
  const double* after_high_;
  double whole_;
  double low_part_;
  double high_part_;
};

// The same if all bounds lie on pixel edges, for outputs any number of columns apart.
class WholeColumnIntegrals {
 public:
  WholeColumnIntegrals(const PrefixRows& sums, Index row, const Axis& x, double factor)
      : low_(sums.every_stride(row, x.low + 1)),
        high_(sums.every_stride(row, x.high)),
        whole_(factor * x.whole) {}

  double operator[](Index column) const { return whole_ * (high_[column] - low_[column]); }

 private:
  const double* low_;
  const double* high_;
  double whole_;
};

}  // namespace jaxbox
