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

// Prefix sums of rows of an image, with margins so that boxes may leave the image: to the left all is
// 0, to the right sums stay what they are.
class PrefixRows {
 public:
  // Sums can be read from column `-before` up to `width + after + 1`.
  PrefixRows(Index width, Index before, Index after, Index rows, Arena& arena)
      : width_(width),
        before_(before),
        pitch_(before + width + after + 2),
        sums_(arena.take_array<double>(rows * pitch_)) {
    for (Index row = 0; row < rows; ++row) std::fill_n(sums_ + row * pitch_, before, 0.0);
  }

  // The sums of all pixels before each column, from column 0.
  const double* row(Index number) const { return sums_ + number * pitch_ + before_; }

  // Sums `count` rows of an image that follow one another. Returns whether all pixels are finite.
  template <class T>
  bool fill(const T* image, Index count) {
    bool finite = true;
    Index row = 0;
    for (; row + kRowsTogether <= count; row += kRowsTogether) {
      finite &= fill_together<kRowsTogether>(image + row * width_, row);
    }
    for (; row < count; ++row) finite &= fill_together<1>(image + row * width_, row);
    return finite;
  }

 private:
  template <int kCount, class T>
  bool fill_together(const T* __restrict image, Index first) {
    double* __restrict sums = sums_ + first * pitch_ + before_;
    double totals[kCount] = {};
    for (Index column = 0; column < width_; ++column) {
      for (Index row = 0; row < kCount; ++row) {
        sums[row * pitch_ + column] = totals[row];
        totals[row] += image[row * width_ + column];
      }
    }
    bool finite = true;
    for (Index row = 0; row < kCount; ++row) {
      double* margin = sums + row * pitch_ + width_;
      std::fill(margin, margin + pitch_ - before_ - width_, totals[row]);
      finite &= std::isfinite(totals[row]);
    }
    return finite;
  }

  Index width_;
  Index before_;
  Index pitch_;
  double* sums_;
};

// The integrals over a box's columns, of one row.
class ColumnIntegrals {
 public:
  ColumnIntegrals(const double* sums, const Axis& x)
      : low_(sums + x.low),
        high_(sums + x.high),
        whole_(x.whole),
        low_part_(x.low_part),
        high_part_(x.high_part) {}

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

// The same if all bounds lie on pixel edges.
class WholeColumnIntegrals {
 public:
  WholeColumnIntegrals(const double* sums, const Axis& x)
      : low_(sums + x.low + 1), high_(sums + x.high), whole_(x.whole) {}

  double operator[](Index column) const { return whole_ * (high_[column] - low_[column]); }

 private:
  const double* low_;
  const double* high_;
  double whole_;
};

}  // namespace jaxbox
