// A box along one axis, on the grid of pixels. `common/bounds.py` does the same for XLA.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace jaxbox {

using Index = std::ptrdiff_t;

// The integral of a row of pixels `p` over the box at output `j` is
//
//   whole * (sum of p[j + low + 1] ... p[j + high - 1])
//   + low_part * p[j + low] + high_part * p[j + high],
//
// which subtracts nothing but sums of whole pixels, so that it is accurate for the shortest boxes.
struct Axis {
  // The pixels that hold the low and the high bound at output 0. They lie between `-(size + 1)` and
  // `size + 1`: beyond, they would change nothing.
  Index low;
  Index high;
  // 1 if there may be whole pixels between those, 0 if not.
  double whole;
  // How much of the pixels that hold the bounds the box covers. A box within one pixel has only the
  // second part.
  double low_part;
  double high_part;
  // The factor that turns integrals from the lower to the higher bound into outputs.
  double scale;
  // 1 over the extent from `min` to `max`, negative if they are swapped; 1 without `normalize`.
  double inverse_extent;
  // The pixels that hold `min` and `max`, into which the box grows. They differ from `low` and
  // `high` only if the bounds are swapped.
  Index at_min;
  Index at_max;

  Index smallest_offset() const { return std::min({low, at_min, at_max}); }
  Index largest_offset() const { return std::max({high, at_min, at_max}); }

  // The axis of the adjoint: the box is reflected through the origin.
  Axis mirrored() const {
    Axis axis = *this;
    axis.low = -high;
    axis.high = -low;
    // Within one pixel, the only part stays the high one.
    if (high > low) std::swap(axis.low_part, axis.high_part);
    return axis;
  }
};

namespace axis_internal {

struct Bound {
  Index pixel;
  double below;  // How much of the pixel lies below the bound.
  double above;
};

// On a pixel edge, the pixel is that into which the box would grow.
inline Bound find_bound(double coordinate, bool is_high) {
  const double nearest = std::rint(coordinate);
  const double rest = coordinate - nearest;  // In [-1/2, 1/2], and exact.
  const Index pixel = static_cast<Index>(nearest);
  if (is_high && rest >= 0.5) return {pixel + 1, 0.0, 1.0};
  if (!is_high && rest <= -0.5) return {pixel - 1, 1.0, 0.0};
  return {pixel, 0.5 + rest, 0.5 - rest};
}

}  // namespace axis_internal

inline Axis make_axis(double min, double max, Index size, bool normalize) {
  using axis_internal::find_bound;
  const bool is_nan = std::isnan(min) || std::isnan(max);
  // Beyond these limits a bound lies outside the image at every output.
  const double limit = static_cast<double>(size);
  const double clipped_min = is_nan ? 0.0 : std::clamp(min, -limit, limit);
  const double clipped_max = is_nan ? 0.0 : std::clamp(max, -limit, limit);
  const double low = std::min(clipped_min, clipped_max);
  const double high = std::max(clipped_min, clipped_max);
  const auto low_bound = find_bound(low, false);
  const auto high_bound = find_bound(high, true);

  Axis axis;
  axis.low = low_bound.pixel;
  axis.high = high_bound.pixel;
  axis.whole = axis.high > axis.low + 1 ? 1.0 : 0.0;
  if (axis.low == axis.high) {
    axis.low_part = 0.0;
    axis.high_part = high - low;
  } else {
    axis.low_part = low_bound.above;
    axis.high_part = high_bound.below;
  }
  axis.inverse_extent = is_nan ? std::nan("") : normalize ? 1.0 / (max - min) : 1.0;
  const double sign = max < min ? -1.0 : 1.0;
  axis.scale = normalize ? sign * axis.inverse_extent : is_nan ? axis.inverse_extent : sign;
  axis.at_min = find_bound(clipped_min, false).pixel;
  axis.at_max = find_bound(clipped_max, true).pixel;
  return axis;
}

// A box `(x_min, x_max, y_min, y_max)` along both axes.
struct Box {
  Axis x;
  Axis y;

  // The factor that turns integrals into outputs.
  double scale() const { return x.scale * y.scale; }
};

inline Box make_box(const double* theta, Index height, Index width, bool normalize) {
  return {make_axis(theta[0], theta[1], width, normalize),
          make_axis(theta[2], theta[3], height, normalize)};
}

}  // namespace jaxbox
