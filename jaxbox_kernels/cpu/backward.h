// The gradients of the box convolution.
//
// With the axis operators `D_y` and `D_x` that integrate over a box's rows and columns, and the
// gradient `g` with respect to the output: `D_y^T g` (`back` below) is used twice. Integrated along
// rows and summed over boxes, it gives `dx`; multiplied by pixels of `x`, it gives the gradients of
// `x_min` and `x_max`. `D_x x` (`columns` below) gives those of `y_min` and `y_max`.

#pragma once

#include <algorithm>

#include "box_windows.h"
#include "image.h"
#include "kernels.h"
#include "not_finite.h"
#include "prefix_rows.h"
#include "sliding_window.h"

namespace jaxbox {

// Computes `dx` of a few rows of one plane.
//
// Seen from the left end of a row, whole pixels of `back` enter a sum where their box begins and
// leave it where the box ends. So `dx` is a prefix sum of differences, plus the parts of pixels.
class RowGradients {
 public:
  RowGradients(Index width, Arena& arena)
      : width_(width),
        differences_(arena.take_array<double>(kBlockRows * width)),
        parts_(arena.take_array<double>(kBlockRows * width)) {}

  void clear() {
    std::fill_n(differences_, kBlockRows * width_, 0.0);
    std::fill_n(parts_, kBlockRows * width_, 0.0);
    std::fill_n(entered_, kBlockRows, 0.0);
  }

  // Adds a row of `back`, which has margins of zeros, integrated over a box's columns.
  void add(Index row, const double* back, const Axis& x, double scale) {
    double* __restrict differences = differences_ + row * width_;
    double* __restrict parts = parts_ + row * width_;
    const double* __restrict entering = back - x.low - 1;
    const double* __restrict leaving = back - x.high;
    const double* __restrict low = back - x.low;
    const double whole = scale * x.whole;
    const double low_part = scale * x.low_part, high_part = scale * x.high_part;
#pragma omp simd
    for (Index column = 0; column < width_; ++column) {
      differences[column] += whole * (entering[column] - leaving[column]);
      parts[column] += low_part * low[column] + high_part * leaving[column];
    }
    // What entered to the left of the image and did not leave there.
    const Index begin = std::max<Index>(0, -x.high), end = std::min(width_, -x.low - 1);
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (Index column = begin; column < end; ++column) sum += back[column];
    entered_[row] += whole * sum;
  }

  // Writes the gradients of the first `count` rows.
  template <class T>
  void write(Index count, T* __restrict dx) {
    Index row = 0;
    for (; row + kRowsTogether <= count; row += kRowsTogether) sum_together<kRowsTogether>(row);
    for (; row < count; ++row) sum_together<1>(row);
    const double* __restrict sums = differences_;
    const double* __restrict parts = parts_;
#pragma omp simd
    for (Index i = 0; i < count * width_; ++i) dx[i] = static_cast<T>(sums[i] + parts[i]);
  }

 private:
  // Replaces differences by their prefix sums.
  template <int kCount>
  void sum_together(Index first) {
    double* __restrict rows = differences_ + first * width_;
    double totals[kCount];
    std::copy_n(entered_ + first, kCount, totals);
    for (Index column = 0; column < width_; ++column) {
      for (Index row = 0; row < kCount; ++row) {
        totals[row] += rows[row * width_ + column];
        rows[row * width_ + column] = totals[row];
      }
    }
  }

  Index width_;
  double* differences_;
  double* parts_;
  double entered_[kBlockRows];
};

// The inner products that make up the gradient with respect to one box.
struct InnerProducts {
  double mean = 0;  // Of `g` and the integral over the box.
  double x_min = 0;  // Of `g` and the derivatives of the integral.
  double x_max = 0;
  double y_min = 0;
  double y_max = 0;

  // Adds one row.
  //
  // back: the row of `D_y^T g`.
  // columns: the row of `D_x x`.
  // x_min_pixel, x_max_pixel: functions that read the pixels of `x` that hold the bounds along x.
  // at_y_min, at_y_max: the rows of `g` whose bounds along y lie in this row.
  template <class T, class Columns, class XMin, class XMax>
  void add(Index width, const double* __restrict back, const Columns& columns, XMin x_min_pixel,
           XMax x_max_pixel, const T* __restrict at_y_min, const T* __restrict at_y_max) {
    double mean_sum = 0, x_min_sum = 0, x_max_sum = 0, y_min_sum = 0, y_max_sum = 0;
#pragma omp simd reduction(+ : mean_sum, x_min_sum, x_max_sum, y_min_sum, y_max_sum)
    for (Index column = 0; column < width; ++column) {
      const double integral = columns[column];
      mean_sum += back[column] * integral;
      x_min_sum += back[column] * x_min_pixel(column);
      x_max_sum += back[column] * x_max_pixel(column);
      y_min_sum += integral * at_y_min[column];
      y_max_sum += integral * at_y_max[column];
    }
    mean += mean_sum;
    x_min += x_min_sum;
    x_max += x_max_sum;
    y_min += y_min_sum;
    y_max += y_max_sum;
  }

  // Puts the gradient together (paper, equation 6).
  void write(const Box& box, bool normalize, double* dtheta) const {
    // Swapped bounds along the other axis change the sign of the integral.
    const double scale_x = box.y.scale * box.x.inverse_extent;
    const double scale_y = box.x.scale * box.y.inverse_extent;
    dtheta[0] = -scale_x * x_min;
    dtheta[1] = scale_x * x_max;
    dtheta[2] = -scale_y * y_min;
    dtheta[3] = scale_y * y_max;
    if (normalize) {
      const double through_width = mean * box.scale() * box.x.inverse_extent;
      const double through_height = mean * box.scale() * box.y.inverse_extent;
      dtheta[0] += through_width;
      dtheta[1] -= through_width;
      dtheta[2] += through_height;
      dtheta[3] -= through_height;
    }
  }
};

template <class T>
class PlaneGradients {
 public:
  PlaneGradients(const Shape& shape, const double* theta, Band band, T* dx, double* dtheta,
                 Arena& arena)
      : shape_(shape),
        band_(band),
        dx_(dx),
        dtheta_(dtheta),
        windows_(make_windows(shape, theta, shape.boxes, band, /*mirrored=*/true, arena)),
        reach_(reach_of(windows_, shape.boxes)) {}

  void run(const T* x, const T* const* g, Arena& arena) {
    PrefixRows rows(shape_.width, reach_.left, reach_.right, /*stride=*/1, arena);
    RowGradients gradients(shape_.width, arena);
    // `dx` reads `back` at mirrored boxes, and one pixel before those.
    const Index pitch = reach_.right + 1 + shape_.width + reach_.left;
    double* back = arena.take_array<double>(pitch * kBlockRows);
    std::fill_n(back, pitch * kBlockRows, 0.0);
    back += reach_.right + 1;
    T* zeros = arena.take_array<T>(shape_.width);
    std::fill_n(zeros, shape_.width, T(0));
    zeros_ = zeros;
    auto* products = arena.take_array<InnerProducts>(shape_.boxes);
    std::fill_n(products, shape_.boxes, InnerProducts());

    for (Index begin = band_.begin; begin < band_.end; begin += kBlockRows) {
      const Index end = std::min(begin + kBlockRows, band_.end);
      if (dtheta_) rows.read(x + begin * shape_.width, begin, end);
      if (dx_) gradients.clear();
      for (Index f = 0; f < shape_.boxes; ++f) {
        const Box& box = windows_[f].box;
        const Places places(rows, box.x);
        integrate_rows(f, g[f], begin, end, back, pitch);
        for (Index row = begin; row < end; ++row) {
          const double* row_of_back = back + (row - begin) * pitch;
          if (dx_) gradients.add(row - begin, row_of_back, box.x, box.scale());
          if (dtheta_) add_products(f, rows, places, g[f], row, row_of_back, products[f]);
        }
      }
      if (dx_) gradients.write(end - begin, dx_ + begin * shape_.width);
    }
    if (!dtheta_) return;
    for (Index f = 0; f < shape_.boxes; ++f) {
      products[f].write(windows_[f].box, shape_.normalize, dtheta_ + 4 * f);
    }
  }

 private:
  struct RowOfG {
    const T* __restrict row;
    double operator[](Index column) const { return row[column]; }
  };

  // Computes rows of `D_y^T g`, `pitch` apart.
  void integrate_rows(Index f, const T* g, Index begin, Index end, double* back, Index pitch) {
    const auto row_of = [&](Index row) { return RowOfG{g + row * shape_.width}; };
    windows_[f].window.compute_until(end, row_of, [=](Index row, Index) {
      double* __restrict to = back + (row - begin) * pitch;
      return [to](Index column, double integral) { to[column] = integral; };
    });
  }

  void add_products(Index f, const PrefixRows& rows, const Places& places, const T* g, Index row,
                    const double* back, InnerProducts& products) const {
    const Box& box = windows_[f].box;
    const double* sums = rows.row(row);
    const auto row_of_g = [&](Index output) {
      return output >= 0 && output < shape_.height ? g + output * shape_.width : zeros_;
    };
    const T* at_y_min = row_of_g(row - box.y.at_min);
    const T* at_y_max = row_of_g(row - box.y.at_max);
    const ColumnIntegrals columns(sums, places, box.x, 1.0);
    const auto pixel = [&](Index offset) {
      return [at = sums + rows.place(offset)](Index column) { return at[column + 1] - at[column]; };
    };
    if (box.x.at_min == box.x.low && box.x.at_max == box.x.high) {
      // The pixels are read once, for both purposes.
      products.add(
          shape_.width, back, columns, [&](Index column) { return columns.low_pixel(column); },
          [&](Index column) { return columns.high_pixel(column); }, at_y_min, at_y_max);
    } else {
      products.add(shape_.width, back, columns, pixel(box.x.at_min), pixel(box.x.at_max), at_y_min,
                   at_y_max);
    }
  }

  Shape shape_;
  Band band_;
  T* dx_;
  double* dtheta_;
  BoxWindow* windows_;
  Reach reach_;
  const T* zeros_ = nullptr;  // In place of rows outside of `g`.
};

// Makes the components of a box's gradient NaN whose sums have a term that is not finite: pixels of
// `x` in the box, which dividing by the area brings in, or in the box that is the derivative.
inline void spoil_gradient(const Marks& marks, const double* theta, const Shape& shape,
                           double* dtheta) {
  const Box box = make_box(theta, shape.height, shape.width, shape.normalize);
  const bool all = shape.normalize && marks.any_in(theta);
  const Index at[4] = {box.x.at_min, box.x.at_max, box.y.at_min, box.y.at_max};
  for (int bound = 0; bound < 4; ++bound) {
    // A derivative is the integral over a box as wide or as high as the pixel that holds the bound.
    double derivative[4];
    std::copy_n(theta, 4, derivative);
    double* axis = derivative + bound / 2 * 2;
    axis[0] = static_cast<double>(at[bound]) - 0.5;
    axis[1] = static_cast<double>(at[bound]) + 0.5;
    if (all || marks.any_in(derivative)) dtheta[bound] = std::nan("");
  }
}

// Puts the gradients of outputs that are several pixels apart where these are, among zeros.
template <class T>
void spread_out(const Shape& shape, const T* g, T* spread) {
  std::fill_n(spread, shape.pixels(), T(0));
  for (Index row = 0; row < shape.output_height(); ++row) {
    T* to = spread + row * shape.stride_y * shape.width;
    const T* from = g + row * shape.output_width();
    for (Index i = 0; i < shape.output_width(); ++i) to[i * shape.stride_x] = from[i];
  }
}

// Computes the gradients of outputs at all pixels. `g` has planes that are `pitch` apart.
template <class T>
void differentiate_planes(const Shape& shape, const double* theta, const T* x, const T* g,
                          Index pitch, Band band, T* dx, double* dtheta, Arena& arena) {
  const T** planes = arena.take_array<const T*>(shape.boxes);
  bool* g_is_finite = arena.take_array<bool>(shape.boxes);
  for (Index f = 0; f < shape.boxes; ++f) {
    const T* plane = g + f * pitch;
    g_is_finite[f] = all_finite(plane, shape.pixels());
    planes[f] = g_is_finite[f] ? plane : finite_copy(plane, shape.pixels(), arena);
  }
  const bool x_is_finite = !dtheta || all_finite(x, shape.pixels());
  const T* image = x_is_finite ? x : finite_copy(x, shape.pixels(), arena);
  PlaneGradients<T>(shape, theta, band, dx, dtheta, arena).run(image, planes, arena);

  for (Index f = 0; f < shape.boxes; ++f) {
    const double* box = theta + 4 * f;
    if (!g_is_finite[f] && dx) {
      const double mirrored[4] = {-box[1], -box[0], -box[3], -box[2]};
      const Marks marks(g + f * pitch, shape.height, shape.width, arena);
      marks.add_to(dx, mirrored, shape, band);
    }
    if (!dtheta) continue;
    const bool has_nan_bound = std::any_of(box, box + 4, [](double b) { return std::isnan(b); });
    if (!g_is_finite[f] || has_nan_bound) std::fill_n(dtheta + 4 * f, 4, std::nan(""));
  }
  if (x_is_finite) return;
  const Marks marks(x, shape.height, shape.width, arena);
  for (Index f = 0; f < shape.boxes; ++f) {
    spoil_gradient(marks, theta + 4 * f, shape, dtheta + 4 * f);
  }
}

// `g` has planes that are `pitch` apart, of outputs that may be several pixels apart.
//
// Spread out, one plane after the other, `g` stays in the cache.
template <class T>
void differentiate_outputs(const Shape& shape, const double* theta, const T* x, const T* g,
                           Index pitch, Band band, T* dx, double* dtheta, Arena& arena) {
  if (!shape.is_strided()) {
    differentiate_planes(shape, theta, x, g, pitch, band, dx, dtheta, arena);
    return;
  }
  Shape every_pixel = shape;
  every_pixel.stride_y = every_pixel.stride_x = 1;
  T* spread = arena.take_array<T>(shape.boxes * shape.pixels());
  for (Index f = 0; f < shape.boxes; ++f) {
    spread_out(shape, g + f * pitch, spread + f * shape.pixels());
  }
  differentiate_planes(every_pixel, theta, x, spread, shape.pixels(), band, dx, dtheta, arena);
}

template <class T>
void differentiate_band_of(const Shape& shape, const double* theta, const T* x, const T* g,
                           Band band, T* dx, double* dtheta, Arena& arena) {
  differentiate_outputs(shape, theta, x, g, shape.outputs(), band, dx, dtheta, arena);
}

template <class T>
void differentiate_channels_of(const Shape& shape, Channels channels, const double* theta,
                               const T* x, const T* g, Band band, T* dx, double* dtheta,
                               Arena& arena) {
  const Index boxes = shape.boxes, pitch = plane_pitch<T>(shape.pixels());
  const Index pitch_of_g = plane_pitch<T>(shape.outputs());
  T* planes_of_g = arena.take_array<T>(channels.count * boxes * pitch_of_g);
  to_planes(g, channels.all * boxes, shape.outputs(), channels.count * boxes, planes_of_g,
            pitch_of_g);
  T* planes_of_x = nullptr;
  if (dtheta) {
    planes_of_x = arena.take_array<T>(channels.count * pitch);
    to_planes(x, channels.all, shape.pixels(), channels.count, planes_of_x, pitch);
  }
  T* planes_of_dx = dx ? arena.take_array<T>(channels.count * pitch) : nullptr;
  for (Index c = 0; c < channels.count; ++c) {
    differentiate_outputs<T>(shape, theta + c * boxes * 4,
                             dtheta ? planes_of_x + c * pitch : nullptr,
                             planes_of_g + c * boxes * pitch_of_g, pitch_of_g, band,
                             dx ? planes_of_dx + c * pitch : nullptr,
                             dtheta ? dtheta + c * boxes * 4 : nullptr, arena);
  }
  if (!dx) return;
  const Index first = band.begin * shape.width;
  from_planes(planes_of_dx + first, pitch, channels.count, (band.end - band.begin) * shape.width,
              dx + first * channels.all, channels.all);
}

}  // namespace jaxbox
