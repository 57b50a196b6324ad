// Random shapes, boxes and values.

#pragma once

#include <cmath>
#include <limits>
#include <vector>

#include "kernels.h"
#include "random.h"
#include "reference.h"

namespace jaxbox_fuzz {

using jaxbox::Band;
using jaxbox::Index;
using jaxbox::Shape;

// What the kernels are given of one channel. All numbers are of dtype `T`.
template <class T>
struct Channel {
  std::vector<double> theta;
  std::vector<T> x;
  std::vector<T> g;
};

template <class T>
struct Case {
  Shape shape;
  std::vector<Channel<T>> channels;
  bool channels_last;
  Index first;              // The number of the image's channels before these,
  Index all;                // and of all.
  std::vector<Band> bands;  // Together they are all rows.
  bool needs_dx;
  bool needs_dtheta;
};

inline void draw_size(Random& random, Shape& shape) {
  const long largest = random.choose({1, 4, 4, 8, 8, 8, 8, 16, 16, 40});
  shape.height = random.integer(1, largest);
  shape.width = random.integer(1, largest);
  if (random.chance(0.1)) (random.chance(0.5) ? shape.height : shape.width) = 1;
  if (random.chance(0.002)) {
    // Several strips of columns and several blocks of rows.
    const bool is_wide = random.chance(0.5);
    (is_wide ? shape.width : shape.height) = random.integer(60, 300);
    (is_wide ? shape.height : shape.width) = random.integer(1, 20);
  }
}

// A bound somewhere near an image.
inline double draw_bound(Random& random, double size) {
  const double reach = random.choose({0.5, 1.0, 1.5, 4.0}) * size + 1;
  return random.uniform(-reach, reach);
}

template <class T>
double next_to(Random& random, double bound) {
  const T infinity = std::numeric_limits<T>::infinity();
  return std::nextafter(static_cast<T>(bound), random.chance(0.5) ? infinity : -infinity);
}

// The bounds of a box along one axis.
template <class T>
void draw_bounds(Random& random, double size, double* bounds) {
  double low = draw_bound(random, size), high = draw_bound(random, size);
  if (low > high) std::swap(low, high);
  const double edge = std::round(low) - 0.5, length = std::round(high - low);
  switch (random.integer(0, 14)) {
    case 0:  // Both on edges.
      low = edge, high = edge + length;
      break;
    case 1:  // One on an edge.
      (random.chance(0.5) ? low : high) = edge;
      break;
    case 2:  // One rounding error off edges.
      low = next_to<T>(random, edge), high = next_to<T>(random, edge + length);
      break;
    case 3:  // Through pixel centres.
      low = edge + 0.5, high = edge + 0.5 + length;
      break;
    case 4:  // Without extent.
      high = low = random.choose({low, edge, edge + 0.5, 0.0});
      break;
    case 5:  // Tiny, around 0 or an edge.
      high = random.power_of_10(-30, 0), low = random.chance(0.5) ? 0 : -high;
      if (random.chance(0.3)) low = edge - high, high += edge;
      break;
    case 6:  // Huge.
      low *= random.power_of_10(0, 30), high *= random.power_of_10(0, 30);
      break;
    case 7:  // Far outside.
      high = random.power_of_10(0, 3) * size, low = high - random.uniform(0, 3);
      if (random.chance(0.5)) low = -high, high = low + random.uniform(0, 3);
      break;
    case 8:
      (random.chance(0.5) ? low : high) = random.chance(0.5) ? kInfinity : -kInfinity;
      break;
    case 9:
      low = -kInfinity, high = kInfinity;
      break;
    case 10:
      if (random.chance(0.2)) (random.chance(0.5) ? low : high) = std::nan("");
      break;
    default:
      break;
  }
  if (random.chance(0.1)) std::swap(low, high);
  bounds[0] = static_cast<T>(low);
  bounds[1] = static_cast<T>(high);
}

// Moves bounds onto pixel edges. Those far outside may stay where they are.
inline void move_to_edges(std::vector<double>& theta) {
  for (double& bound : theta) {
    if (std::abs(bound) < 1e6) bound = std::floor(bound + 0.5) - 0.5;
  }
}

template <class T>
std::vector<T> draw_plane(Random& random, const Shape& shape) {
  std::vector<T> plane(shape.pixels());
  const bool is_scaled = random.chance(0.3), has_span = random.chance(0.2);
  const double scale = is_scaled ? random.choose({1e-35, 1e35, random.power_of_10(-35, 35)}) : 1;
  const double part_of_zeros = random.choose({0.0, 0.0, 0.0, 0.5, 0.9, 1.0});
  const double low = random.choose({-1.0, -1.0, 0.5, 1.0});
  for (T& pixel : plane) {
    const double span = has_span ? random.power_of_10(-6, 0) : 1;
    const double value = random.chance(part_of_zeros) ? 0 : scale * span * random.uniform(low, 1);
    pixel = static_cast<T>(value);
  }
  if (random.chance(0.2)) {
    const T infinity = std::numeric_limits<T>::infinity();
    const T nan = std::numeric_limits<T>::quiet_NaN();
    for (long count = random.integer(1, 3); count > 0; --count) {
      plane[random.integer(0, shape.pixels() - 1)] = random.choose({infinity, -infinity, nan});
    }
  }
  return plane;
}

inline std::vector<Band> draw_bands(Random& random, Index height) {
  std::vector<Band> bands = {{0, height}};
  while (bands.back().end - bands.back().begin > 1 && random.chance(0.4)) {
    Band& last = bands.back();
    const Index middle = random.integer(last.begin + 1, last.end - 1);
    const Band rest = {middle, last.end};
    last.end = middle;
    bands.push_back(rest);
  }
  return bands;
}

template <class T>
Channel<T> draw_channel(Random& random, const Shape& shape) {
  Channel<T> channel;
  channel.theta.resize(shape.boxes * 4);
  for (Index f = 0; f < shape.boxes; ++f) {
    draw_bounds<T>(random, static_cast<double>(shape.width), &channel.theta[4 * f]);
    draw_bounds<T>(random, static_cast<double>(shape.height), &channel.theta[4 * f + 2]);
  }
  if (shape.whole_pixels) move_to_edges(channel.theta);
  channel.x = draw_plane<T>(random, shape);
  for (Index f = 0; f < shape.boxes; ++f) {
    const auto plane = draw_plane<T>(random, shape);
    channel.g.insert(channel.g.end(), plane.begin(), plane.end());
  }
  return channel;
}

template <class T>
Case<T> draw_case(Random& random) {
  Case<T> drawn;
  Shape& shape = drawn.shape;
  draw_size(random, shape);
  shape.boxes = random.choose({1, 1, 2, 3, 5});
  shape.normalize = random.chance(0.5);
  shape.whole_pixels = random.chance(0.2);
  drawn.channels_last = random.chance(0.4);
  const long count = drawn.channels_last ? random.choose({1, 2, 5}) : 1;
  for (long c = 0; c < count; ++c) drawn.channels.push_back(draw_channel<T>(random, shape));
  drawn.first = random.choose({0, 0, 1, 3});
  drawn.all = drawn.first + count + random.choose({0, 0, 2});
  drawn.bands = draw_bands(random, shape.height);
  drawn.needs_dx = random.chance(0.8);
  drawn.needs_dtheta = random.chance(0.8);
  return drawn;
}

}  // namespace jaxbox_fuzz
