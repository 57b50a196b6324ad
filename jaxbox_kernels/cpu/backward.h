// The gradients of the box convolution.
//
// With the axis operators `D_y` and `D_x` that integrate over a box's rows and columns, and the
// gradient `g` with respect to the output: `D_y^T g` (`back` below) is used twice. Integrated along
// rows and summed over boxes, it gives `dx`; multiplied by pixels of `x`, it gives the gradients of
// `x_min` and `x_max`. `D_x x` (`columns` below) gives those of `y_min` and `y_max`.

#pragma once

#include <algorithm>
#include <type_traits>

#include "box_windows.h"
#include "column_order.h"
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
template <bool kStrided>
class RowGradients {
 public:
  // For outputs `stride` columns apart.
  RowGradients(Index width, Index stride, Arena& arena)
      : width_(width),
        outputs_((width + stride - 1) / stride),
        order_{stride, outputs_},
        differences_(arena.take_array<double>(kBlockRows * order_.pitch())),
        parts_(arena.take_array<double>(kBlockRows * order_.pitch())) {}

  void clear() {
    std::fill_n(differences_, kBlockRows * order_.pitch(), 0.0);
    std::fill_n(parts_, kBlockRows * order_.pitch(), 0.0);
    std::fill_n(entered_, kBlockRows, 0.0);
  }

  // Adds a row of `back`, which has margins of zeros, integrated over a box's columns.
  void add(Index row, const double* back, const Axis& x, double scale) {
    const double whole = scale * x.whole;
    if constexpr (!kStrided) {
      add_neighbours(row, back, x, scale);
    } else {
      double* differences = differences_ + row * order_.pitch();
      double* parts = parts_ + row * order_.pitch();
      add_shifted(differences, back, x.low + 1, whole);
      add_shifted(differences, back, x.high, -whole);
      add_shifted(parts, back, x.low, scale * x.low_part);
      add_shifted(parts, back, x.high, scale * x.high_part);
    }
    // What entered to the left of the image and did not leave there.
    const Index begin = std::max<Index>(0, divide_up(-x.high));
    const Index end = std::min(outputs_, divide_up(-x.low - 1));
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (Index column = begin; column < end; ++column) sum += back[column];
    entered_[row] += whole * sum;
  }

  // Writes the gradients of the first `count` rows.
  template <class T>
  void write(Index count, T* __restrict dx) {
    Index row = 0;
    for (; row + kRowsTogether <= count; row += kRowsTogether) write_rows<kRowsTogether>(row, dx);
    for (; row < count; ++row) write_rows<1>(row, dx);
  }

 private:
  // `add` where outputs are at all columns.
  void add_neighbours(Index row, const double* back, const Axis& x, double scale) {
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
  }

  // Adds a row of `back` times a factor to the columns that are `offset` to the right of outputs.
  void add_shifted(double* row, const double* back, Index offset, double factor) const {
    const Index shift = divide_up(offset + 1) - 1;  // Rounded down.
    const Index rest = offset - shift * order_.stride;
    double* __restrict to = row + rest * order_.part;
    const double* __restrict from = back - shift;
    const Index columns = divide_up(width_ - rest);
#pragma omp simd
    for (Index i = 0; i < columns; ++i) to[i] += factor * from[i];
  }

  Index divide_up(Index columns) const {
    if constexpr (!kStrided) return columns;
    const Index quotient = columns / order_.stride;
    return quotient + (columns % order_.stride > 0);
  }

  // Writes rows `first ... first + kCount - 1`.
  template <int kCount, class T>
  void write_rows(Index first, T* __restrict dx) {
    double* __restrict sums = differences_ + first * order_.pitch();
    const double* __restrict parts = parts_ + first * order_.pitch();
    T* __restrict to = dx + first * width_;
    double totals[kCount];
    std::copy_n(entered_ + first, kCount, totals);
    if constexpr (!kStrided) {
      for (Index column = 0; column < width_; ++column) {
        for (Index row = 0; row < kCount; ++row) {
          totals[row] += sums[row * width_ + column];
          sums[row * width_ + column] = totals[row];
        }
      }
#pragma omp simd
      for (Index i = 0; i < kCount * width_; ++i) to[i] = static_cast<T>(sums[i] + parts[i]);
      return;
    }
    order_.for_each(width_, [&](Index column, Index place) {
      for (Index row = 0; row < kCount; ++row) {
        const Index at = row * order_.pitch() + place;
        totals[row] += sums[at];
        to[row * width_ + column] = static_cast<T>(totals[row] + parts[at]);
      }
    });
  }

  Index width_;
  Index outputs_;  // The number of outputs of a row.
  ColumnOrder order_;
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

// kStrided: whether a stride is larger than 1.
template <class T, bool kStrided>
class PlaneGradients {
 public:
  PlaneGradients(const Shape& shape, const double* theta, Band band, T* dx, double* dtheta,
                 Arena& arena)
      : shape_(shape),
        band_(band),
        dx_(dx),
        dtheta_(dtheta),
        windows_(make_windows(at_every_row(shape), theta, shape.boxes, band, /*mirrored=*/true,
                              arena)),
        reach_(reach_of(windows_, shape.boxes)) {}

  void run(const T* x, const T* const* g, Arena& arena) {
    const Index stride = kStrided ? shape_.stride_x : 1, width = output_width();
    PrefixRows rows(shape_.width, reach_.left, reach_.right, stride, arena);
    RowGradients<kStrided> gradients(shape_.width, stride, arena);
    // `dx` reads `back` at mirrored boxes, and one pixel before those.
    const Index before = (reach_.right + 1) / stride, after = (reach_.left + stride - 1) / stride;
    const Index pitch = before + width + after;
    double* back = arena.take_array<double>(pitch * kBlockRows);
    std::fill_n(back, pitch * kBlockRows, 0.0);
    back += before;
    T* zeros = arena.take_array<T>(width);
    std::fill_n(zeros, width, T(0));
    zeros_ = zeros;
    if constexpr (kStrided) {
      auto* begins = arena.take_array<Index>(shape_.height);
      std::fill_n(begins, shape_.height, Index{-1});
      for (Index i = 0; i < shape_.output_height(); ++i) begins[i * shape_.stride_y] = i * width;
      begins_in_g_ = begins;
    }
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
          if (!dtheta_) continue;
          const Columns columns(rows.row(row), places, box.x, 1.0);
          add_products(box, rows, columns, g[f], row, row_of_back, products[f]);
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
  using Columns = std::conditional_t<kStrided, StridedColumnIntegrals, ColumnIntegrals>;

  Index output_width() const { return kStrided ? shape_.output_width() : shape_.width; }

  struct RowOfG {
    const T* __restrict row;
    double operator[](Index column) const { return row[column]; }
  };

  // The shape with outputs at every row: the window reads zeros between the rows of `g`.
  static Shape at_every_row(Shape shape) {
    shape.stride_y = 1;
    return shape;
  }

  // The row of `g` of the output at a row of the image; zeros if there is none.
  const T* row_of_g(const T* g, Index row) const {
    if (row < 0 || row >= shape_.height) return zeros_;
    if constexpr (!kStrided) return g + row * shape_.width;
    return begins_in_g_[row] < 0 ? zeros_ : g + begins_in_g_[row];
  }

  // Computes rows of `D_y^T g`, `pitch` apart.
  void integrate_rows(Index f, const T* g, Index begin, Index end, double* back, Index pitch) {
    const auto row_of = [&](Index row) { return RowOfG{row_of_g(g, row)}; };
    windows_[f].window.compute_until(end, row_of, [=](Index row, Index) {
      double* __restrict to = back + (row - begin) * pitch;
      return [to](Index column, double integral) { to[column] = integral; };
    });
  }

  void add_products(const Box& box, const PrefixRows& rows, const Columns& columns, const T* g,
                    Index row, const double* back, InnerProducts& products) const {
    const Index width = output_width();
    const T* at_y_min = row_of_g(g, row - box.y.at_min);
    const T* at_y_max = row_of_g(g, row - box.y.at_max);
    const auto pixel = [&](Index offset) {
      const double* before = rows.row(row) + rows.place(offset);
      const double* after = rows.row(row) + rows.place(offset + 1);
      return [=](Index column) { return after[column] - before[column]; };
    };
    if (box.x.at_min == box.x.low && box.x.at_max == box.x.high) {
      // The pixels are read once, for both purposes.
      products.add(
          width, back, columns, [&](Index column) { return columns.low_pixel(column); },
          [&](Index column) { return columns.high_pixel(column); }, at_y_min, at_y_max);
    } else {
      products.add(width, back, columns, pixel(box.x.at_min), pixel(box.x.at_max), at_y_min,
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
  // Where the outputs at each row of the image begin in `g`, or -1. A table, since the CPU divides
  // slowly.
  const Index* begins_in_g_ = nullptr;
};

// Makes the components of a box's gradient NaN whose sums have a term that is not finite: pixels of
// `x` in the box, which dividing by the area brings in, or in the box that is the derivative.
inline void spoil_gradient(const Marks& marks, const double* theta, const Shape& shape,
                           double* dtheta) {
  const Box box = make_box(theta, shape.height, shape.width, shape.normalize);
  const bool all = shape.normalize && marks.any_in(theta, shape);
  const Index at[4] = {box.x.at_min, box.x.at_max, box.y.at_min, box.y.at_max};
  for (int bound = 0; bound < 4; ++bound) {
    // A derivative is the integral over a box as wide or as high as the pixel that holds the bound.
    double derivative[4];
    std::copy_n(theta, 4, derivative);
    double* axis = derivative + bound / 2 * 2;
    axis[0] = static_cast<double>(at[bound]) - 0.5;
    axis[1] = static_cast<double>(at[bound]) + 0.5;
    if (all || marks.any_in(derivative, shape)) dtheta[bound] = std::nan("");
  }
}

// Puts the gradients of outputs that are several pixels apart where these are, among zeros.
template <class T>
const T* spread_out(const Shape& shape, const T* g, Arena& arena) {
  T* spread = arena.take_array<T>(shape.pixels());
  std::fill_n(spread, shape.pixels(), T(0));
  for (Index row = 0; row < shape.output_height(); ++row) {
    T* to = spread + row * shape.stride_y * shape.width;
    const T* from = g + row * shape.output_width();
    for (Index i = 0; i < shape.output_width(); ++i) to[i * shape.stride_x] = from[i];
  }
  return spread;
}

// Adds to a band of `dx` what NaN and infinities of a plane of `g` contribute.
template <class T>
void add_not_finite(const Shape& shape, const double* box, const T* g, Band band, T* dx,
                    Arena& arena) {
  const double mirrored[4] = {-box[1], -box[0], -box[3], -box[2]};
  Shape every_pixel = shape;
  every_pixel.stride_y = every_pixel.stride_x = 1;
  const T* plane = shape.is_strided() ? spread_out(shape, g, arena) : g;
  Marks(plane, shape.height, shape.width, arena).add_to(dx, mirrored, every_pixel, band);
}

// `g` has planes that are `pitch` apart.
template <class T>
void differentiate_planes(const Shape& shape, const double* theta, const T* x, const T* g,
                          Index pitch, Band band, T* dx, double* dtheta, Arena& arena) {
  const T** planes = arena.take_array<const T*>(shape.boxes);
  bool* g_is_finite = arena.take_array<bool>(shape.boxes);
  for (Index f = 0; f < shape.boxes; ++f) {
    const T* plane = g + f * pitch;
    g_is_finite[f] = all_finite(plane, shape.outputs());
    planes[f] = g_is_finite[f] ? plane : finite_copy(plane, shape.outputs(), arena);
  }
  const bool x_is_finite = !dtheta || all_finite(x, shape.pixels());
  const T* image = x_is_finite ? x : finite_copy(x, shape.pixels(), arena);
  if (shape.is_strided()) {
    PlaneGradients<T, true>(shape, theta, band, dx, dtheta, arena).run(image, planes, arena);
  } else {
    PlaneGradients<T, false>(shape, theta, band, dx, dtheta, arena).run(image, planes, arena);
  }

  for (Index f = 0; f < shape.boxes; ++f) {
    const double* box = theta + 4 * f;
    if (!g_is_finite[f] && dx) add_not_finite(shape, box, g + f * pitch, band, dx, arena);
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

template <class T>
void differentiate_band_of(const Shape& shape, const double* theta, const T* x, const T* g,
                           Band band, T* dx, double* dtheta, Arena& arena) {
  differentiate_planes(shape, theta, x, g, shape.outputs(), band, dx, dtheta, arena);
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
    differentiate_planes<T>(shape, theta + c * boxes * 4,
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
