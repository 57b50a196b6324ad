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
  // Keeps `capacity` rows. Sums can be read from column `-before` up to `width + after + 1`.
  PrefixRows(Index width, Index before, Index after, Index capacity, Arena& arena)
      : width_(width),
        before_(before),
        pitch_(before + width + after + 2),
        capacity_(capacity),
        sums_(arena.take_array<double>(capacity * pitch_)) {
    for (Index row = 0; row < capacity; ++row) std::fill_n(sums_ + row * pitch_, before, 0.0);
  }

  // The sums of all pixels before each column of a row, from column 0.
  const double* row(Index number) const { return sums_ + number % capacity_ * pitch_ + before_; }

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

  Index width_;
  Index before_;
  Index pitch_;
  Index capacity_;
  double* sums_;
};

// The integrals over a box's columns, of one row, times a factor.
class ColumnIntegrals {
 public:
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

// The same if all bounds lie on pixel edges.
class WholeColumnIntegrals {
 public:
  WholeColumnIntegrals(const double* sums, const Axis& x, double factor)
      : low_(sums + x.low + 1), high_(sums + x.high), whole_(factor * x.whole) {}

  double operator[](Index column) const { return whole_ * (high_[column] - low_[column]); }

 private:
  const double* low_;
  const double* high_;
  double whole_;
};

}  // namespace jaxbox
