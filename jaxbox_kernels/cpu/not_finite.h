// NaN and infinite pixels, which must reach exactly the sums that contain them.
//
// Kernels share sums between outputs, so that one NaN would spread. So they take such pixels for 0,
// and what these add is added afterwards.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "arena.h"
#include "axis.h"
#include "kernels.h"

namespace jaxbox {

// Whether all bits of an exponent are set tells what is not finite. Compilers vectorize the test of
// bits, but not sums, which they may not reorder.
template <class T>
bool all_finite(const T* values, Index count) {
  using Bits = std::conditional_t<sizeof(T) == sizeof(std::uint32_t), std::uint32_t, std::uint64_t>;
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  Bits exponent;
  std::memcpy(&exponent, &kInfinity, sizeof exponent);
  Bits found = 0;
  for (Index i = 0; i < count; ++i) {
    Bits bits;
    std::memcpy(&bits, values + i, sizeof bits);
    found |= (bits & exponent) == exponent;
  }
  return !found;
}

// Copies a plane, with 0 in place of what is not finite.
template <class T>
const T* finite_copy(const T* plane, Index count, Arena& arena) {
  T* copy = arena.take_array<T>(count);
  for (Index i = 0; i < count; ++i) copy[i] = std::isfinite(plane[i]) ? plane[i] : T(0);
  return copy;
}

// The pixels that a box touches along one axis, by a positive length: at output `j`, pixels
// `j + first ... j + end - 1`.
struct Touched {
  Index first;
  Index end;
};

inline Touched touched(double a, double b, Index size) {
  const Axis axis = make_axis(a, b, size, false);
  if (std::isnan(a) || std::isnan(b) || a == b) return {0, 0};
  return {axis.low_part == 0 && axis.high > axis.low ? axis.low + 1 : axis.low,
          axis.high_part == 0 ? axis.high : axis.high + 1};
}

// Numbers of marked pixels in rectangles of a plane.
class Counts {
 public:
  template <class IsMarked>
  Counts(Index height, Index width, Arena& arena, IsMarked is_marked)
      : height_(height),
        width_(width),
        table_(arena.take_array<std::int64_t>((height + 1) * (width + 1))) {
    std::fill_n(table_, width + 1, 0);
    for (Index row = 0; row < height; ++row) {
      const std::int64_t* above = table_ + row * (width + 1);
      std::int64_t* sums = table_ + (row + 1) * (width + 1);
      std::int64_t total = sums[0] = 0;
      for (Index column = 0; column < width; ++column) {
        total += is_marked(row * width + column);
        sums[column + 1] = above[column + 1] + total;
      }
    }
  }

  // Whether a box touches a marked pixel at an output.
  bool any(Touched y, Touched x, Index row, Index column) const {
    const std::int64_t* high = table_ + std::clamp<Index>(row + y.end, 0, height_) * (width_ + 1);
    const std::int64_t* low = table_ + std::clamp<Index>(row + y.first, 0, height_) * (width_ + 1);
    const Index right = std::clamp<Index>(column + x.end, 0, width_);
    const Index left = std::clamp<Index>(column + x.first, 0, width_);
    return (high[right] - high[left]) - (low[right] - low[left]) > 0;
  }

 private:
  Index height_;
  Index width_;
  std::int64_t* table_;  // Counts above and to the left.
};

// The NaN and infinite pixels of a plane.
class Marks {
 public:
  template <class T>
  Marks(const T* plane, Index height, Index width, Arena& arena)
      : height_(height),
        width_(width),
        positive_(height, width, arena, [=](Index i) { return plane[i] == kInfinity; }),
        negative_(height, width, arena, [=](Index i) { return plane[i] == -kInfinity; }),
        nan_(height, width, arena, [=](Index i) { return std::isnan(plane[i]); }) {}

  // Adds to a band of the output of a box what these pixels contribute.
  template <class T>
  void add_to(T* output, const double* theta, const Shape& shape, Band band) const {
    const Touched x = touched(theta[0], theta[1], width_), y = touched(theta[2], theta[3], height_);
    const Box box = make_box(theta, height_, width_, shape.normalize);
    const double scale = box.scale();
    const Index columns = shape.output_width();
    for (Index i = band.begin; i < band.end; ++i) {
      for (Index j = 0; j < columns; ++j) {
        const Index row = i * shape.stride_y, column = j * shape.stride_x;
        double value = 0;
        if (positive_.any(y, x, row, column)) value += kInfinity;
        if (negative_.any(y, x, row, column)) value -= kInfinity;
        if (nan_.any(y, x, row, column)) value = std::nan("");
        if (value == 0) continue;
        T& pixel = output[i * columns + j];
        pixel = static_cast<T>(pixel + value * scale);
      }
    }
  }

  // Whether a box touches any of these pixels at any output.
  bool any_in(const double* theta, const Shape& shape) const {
    const Touched x = touched(theta[0], theta[1], width_), y = touched(theta[2], theta[3], height_);
    for (Index row = 0; row < height_; row += shape.stride_y) {
      for (Index column = 0; column < width_; column += shape.stride_x) {
        if (positive_.any(y, x, row, column) || negative_.any(y, x, row, column) ||
            nan_.any(y, x, row, column)) {
          return true;
        }
      }
    }
    return false;
  }

 private:
  static constexpr double kInfinity = std::numeric_limits<double>::infinity();

  Index height_;
  Index width_;
  Counts positive_;
  Counts negative_;
  Counts nan_;
};

}  // namespace jaxbox
