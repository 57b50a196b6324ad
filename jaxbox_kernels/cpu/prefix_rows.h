// Prefix sums of the rows of an image.

#pragma once

#include <algorithm>
#include <cmath>

#include "arena.h"
#include "axis.h"
#include "column_order.h"

namespace jaxbox {

// The number of rows that are computed at a time, for one box after the other. A constant, since
// rows are found by its remainders.
constexpr Index kBlockRows = 8;

// The number of rows of an image that are summed at once. A prefix sum waits for each addition
// before the next; those of several rows wait together.
constexpr Index kRowsTogether = 4;

// The last `kBlockRows` rows of an image that were read, as prefix sums. They have margins so that
// boxes may leave the image: to the left all is 0, to the right sums stay what they are.
class PrefixRows {
 public:
  // For outputs `stride` columns apart. Sums can be read from column `-before` up to
  // `width + after + 1`.
  PrefixRows(Index width, Index before, Index after, Index stride, Arena& arena)
      : width_(width),
        before_((before + stride - 1) / stride * stride),
        order_{stride, (before_ + width + after + 2 + stride - 1) / stride},
        sums_(arena.take_array<double>(kBlockRows * order_.pitch())) {
    for (Index part = 0; part < kBlockRows * stride; ++part) {
      std::fill_n(sums_ + part * order_.part, before_ / stride, 0.0);
    }
  }

  // The sums of a row.
  const double* row(Index number) const { return begin_of(number); }

  // Where in a row the sum of all pixels before a column is. The sums before the columns `stride`,
  // two strides and so on farther follow.
  Index place(Index column) const { return order_.place(column + before_); }

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
  double* begin_of(Index number) const { return sums_ + number % kBlockRows * order_.pitch(); }

  template <int kCount, class T>
  bool read_together(const T* pixels, Index first) {
    double* sums[kCount];
    double totals[kCount] = {};
    for (Index k = 0; k < kCount; ++k) sums[k] = begin_of(first + k) + before_ / order_.stride;
    order_.for_each(width_, [&](Index column, Index place) {
      for (Index k = 0; k < kCount; ++k) {
        sums[k][place] = totals[k];
        totals[k] += pixels[k * width_ + column];
      }
    });
    bool finite = true;
    for (Index k = 0; k < kCount; ++k) {
      double* const begin = begin_of(first + k);
      for (Index part = 0; part < order_.stride; ++part) {
        const Index filled = (before_ + width_ - part + order_.stride - 1) / order_.stride;
        std::fill(begin + part * order_.part + filled, begin + (part + 1) * order_.part, totals[k]);
      }
      finite &= std::isfinite(totals[k]);
    }
    return finite;
  }

  Index width_;
  Index before_;  // A multiple of the stride.
  ColumnOrder order_;
  double* sums_;
};

// Where in rows of prefix sums those are that a box needs.
struct Places {
  Index before_low;
  Index after_low;
  Index before_high;
  Index after_high;

  Places(const PrefixRows& sums, const Axis& x)
      : before_low(sums.place(x.low)),
        after_low(sums.place(x.low + 1)),
        before_high(sums.place(x.high)),
        after_high(sums.place(x.high + 1)) {}
};

// The integrals over a box's columns, of one row, times a factor.
class ColumnIntegrals {
 public:
  ColumnIntegrals(const double* row, const Places& places, const Axis& x, double factor)
      : low_(row + places.before_low),
        high_(row + places.before_high),
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
  StridedColumnIntegrals(const double* row, const Places& places, const Axis& x, double factor)
      : before_low_(row + places.before_low),
        after_low_(row + places.after_low),
        before_high_(row + places.before_high),
        after_high_(row + places.after_high),
        whole_(factor * x.whole),
        low_part_(factor * x.low_part),
        high_part_(factor * x.high_part) {}

  double low_pixel(Index column) const { return after_low_[column] - before_low_[column]; }
  double high_pixel(Index column) const { return after_high_[column] - before_high_[column]; }

  double operator[](Index column) const {
    return whole_ * (before_high_[column] - after_low_[column]) +
           (low_part_ * low_pixel(column) + high_part_ * high_pixel(column));
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
  WholeColumnIntegrals(const double* row, const Places& places, const Axis& x, double factor)
      : low_(row + places.after_low),
        high_(row + places.before_high),
        whole_(factor * x.whole) {}

  double operator[](Index column) const { return whole_ * (high_[column] - low_[column]); }

 private:
  const double* low_;
  const double* high_;
  double whole_;
};

}  // namespace jaxbox
