// The kernels: what is computed of one plane by one thread.

#pragma once

#include "arena.h"
#include "axis.h"

namespace jaxbox {

// What all planes of one box convolution have in common.
struct Shape {
  Index boxes;  // Of each channel.
  Index height;
  Index width;
  bool normalize;
  bool whole_pixels;  // Whether all bounds are known to lie on pixel edges.
  Index stride_y = 1;  // The steps between outputs.
  Index stride_x = 1;

  Index pixels() const { return height * width; }
  Index output_height() const { return (height + stride_y - 1) / stride_y; }
  Index output_width() const { return (width + stride_x - 1) / stride_x; }
  Index outputs() const { return output_height() * output_width(); }
  bool is_strided() const { return stride_y > 1 || stride_x > 1; }
};

// Rows `begin ... end - 1` of the result.
struct Band {
  Index begin;
  Index end;
};

// Neighbouring channels of an image with channels last.
struct Channels {
  Index count;
  Index all;  // Of the image.
};

enum class DType { kFloat32, kFloat64 };

// Computes a band of the output of one plane.
//
// theta: the boxes, `(boxes, 4)`.
// x: the plane, `(height, width)`.
// output: all rows of the output, `(boxes, output_height, output_width)`, of which the band is
//   written.
void filter_band(DType dtype, const Shape& shape, const double* theta, const void* x, Band band,
                 void* output, Arena& arena);

// Computes a band of the output of neighbouring channels of an image with channels last.
//
// theta: the boxes, `(channels.count, boxes, 4)`.
// x: the first of the channels in the first pixel of the image.
// output: the output of the first of them in the first pixel.
void filter_channels(DType dtype, const Shape& shape, Channels channels, const double* theta,
                     const void* x, Band band, void* output, Arena& arena);

// Computes a band of `dx` of one plane, and what the band adds to `dtheta`.
//
// theta: the boxes, `(boxes, 4)`.
// x: the plane, `(height, width)`; null if `dtheta` is.
// g: the gradient with respect to the output, `(boxes, output_height, output_width)`.
// dx: all rows of the gradient with respect to `x`, of which the band is written, or null.
// dtheta: the gradient with respect to the boxes, `(boxes, 4)`, or null.
void differentiate_band(DType dtype, const Shape& shape, const double* theta, const void* x,
                        const void* g, Band band, void* dx, double* dtheta, Arena& arena);

// The same for neighbouring channels of an image with channels last.
//
// theta: the boxes, `(channels.count, boxes, 4)`.
// x, dx: the first of the channels in the first pixel.
// g: the gradient with respect to the output of the first of them in the first pixel.
// dtheta: `(channels.count, boxes, 4)`.
void differentiate_channels(DType dtype, const Shape& shape, Channels channels, const double* theta,
                            const void* x, const void* g, Band band, void* dx, double* dtheta,
                            Arena& arena);

}  // namespace jaxbox
