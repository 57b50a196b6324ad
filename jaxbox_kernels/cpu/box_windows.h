// The boxes of a channel, or of several, with their windows.

#pragma once

#include <algorithm>
#include <new>

#include "arena.h"
#include "axis.h"
#include "kernels.h"
#include "sliding_window.h"

namespace jaxbox {

struct BoxWindow {
  Box box;
  SlidingWindow window;
};

// Makes the windows of `count` boxes, or of the boxes reflected through the origin, that compute a
// band of rows of outputs.
inline BoxWindow* make_windows(const Shape& shape, const double* theta, Index count, Band band,
                               bool mirrored, Arena& arena) {
  auto* windows = arena.take_array<BoxWindow>(count);
  for (Index f = 0; f < count; ++f) {
    const Box box = make_box(theta + 4 * f, shape.height, shape.width, shape.normalize);
    const Axis y = mirrored ? box.y.mirrored() : box.y;
    new (windows + f) BoxWindow{
        box, SlidingWindow(y, band, shape.stride_y, shape.height, shape.output_width(), arena)};
  }
  return windows;
}

// How far boxes reach beyond the columns of an image.
struct Reach {
  Index left = 0;
  Index right = 0;
};

inline Reach reach_of(const BoxWindow* windows, Index count) {
  Reach reach;
  for (Index f = 0; f < count; ++f) {
    reach.left = std::max(reach.left, -windows[f].box.x.smallest_offset());
    reach.right = std::max(reach.right, windows[f].box.x.largest_offset());
  }
  return reach;
}

// The rows of the image that any window needs.
inline Band needed_rows(const BoxWindow* windows, Index count) {
  Band rows{windows[0].window.first(), windows[0].window.end()};
  for (Index f = 1; f < count; ++f) {
    rows.begin = std::min(rows.begin, windows[f].window.first());
    rows.end = std::max(rows.end, windows[f].window.end());
  }
  return rows;
}

}  // namespace jaxbox
