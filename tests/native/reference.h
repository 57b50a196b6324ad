// The specification in C++: `tests/oracles/box_conv.py` for one plane and one box.
//
// It is written straight from the definitions and shares nothing with the kernels.

#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

namespace jaxbox_fuzz {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct Matrix {
  long rows;
  long columns;
  std::vector<double> values;

  Matrix(long rows, long columns) : rows(rows), columns(columns), values(rows * columns) {}

  double& operator()(long row, long column) { return values[row * columns + column]; }
  double operator()(long row, long column) const { return values[row * columns + column]; }

  template <class Function>
  Matrix map(Function function) const {
    Matrix result = *this;
    for (double& value : result.values) value = function(value);
    return result;
  }

  Matrix transposed() const {
    Matrix result(columns, rows);
    for (long row = 0; row < rows; ++row) {
      for (long column = 0; column < columns; ++column) result(column, row) = (*this)(row, column);
    }
    return result;
  }

  double sum_of_magnitudes() const {
    double sum = 0;
    for (double value : values) sum += std::abs(value);
    return sum;
  }
};

inline Matrix operator*(const Matrix& a, const Matrix& b) {
  Matrix product(a.rows, b.columns);
  for (long row = 0; row < a.rows; ++row) {
    for (long k = 0; k < a.columns; ++k) {
      const double factor = a(row, k);
      if (factor == 0) continue;
      for (long column = 0; column < b.columns; ++column) {
        product(row, column) += factor * b(k, column);
      }
    }
  }
  return product;
}

inline double sign(double value) { return value > 0 ? 1 : value < 0 ? -1 : value; }

inline double finite_or_zero(double value) { return std::isfinite(value) ? value : 0; }

// A box along one axis: `[i, k]` for the output at `i` and pixel `k`.
struct AxisWeights {
  Matrix overlaps;  // The signed length of the box in the pixel.
  Matrix d_low;     // Its derivatives with respect to the bounds.
  Matrix d_high;
  double length;  // 1 if integrals are not divided by it; NaN if a bound is.

  AxisWeights(double low, double high, long size, bool normalize)
      : overlaps(size, size), d_low(size, size), d_high(size, size) {
    length = normalize || std::isnan(low) || std::isnan(high) ? high - low : 1;
    if (std::isnan(length)) return;
    for (long i = 0; i < size; ++i) {
      for (long k = 0; k < size; ++k) {
        const double begin = static_cast<double>(k - i) - 0.5, end = begin + 1;
        const double overlap = std::clamp(high, begin, end) - std::clamp(low, begin, end);
        overlaps(i, k) = overlap;
        d_low(i, k) = begin < low && low <= end ? -1 : 0;
        d_high(i, k) = begin <= high && high < end ? 1 : 0;
      }
    }
  }

  // How much of the image the box covers at each output, at most one pixel.
  std::vector<double> parts() const {
    std::vector<double> result;
    for (long i = 0; i < overlaps.rows; ++i) {
      double sum = 0;
      for (long k = 0; k < overlaps.columns; ++k) sum += std::abs(overlaps(i, k));
      result.push_back(std::min(1.0, sum));
    }
    return result;
  }
};

// `rows * plane * columns^T`, in which 0 times what is not finite is 0. The weights of either
// matrix are all of one sign.
inline Matrix weigh(const Matrix& rows, const Matrix& plane, const Matrix& columns) {
  const Matrix columns_t = columns.transposed();
  Matrix total = rows * (plane.map(finite_or_zero) * columns_t);
  const auto add = [&](double value, auto is_value) {
    const auto mark = [&](double pixel) { return is_value(pixel) ? 1.0 : 0.0; };
    const Matrix found = plane.map(mark);
    if (found.sum_of_magnitudes() == 0) return;
    const Matrix signs = rows.map(sign) * (found * columns_t.map(sign));
    for (std::size_t i = 0; i < signs.values.size(); ++i) {
      if (signs.values[i] != 0) total.values[i] += sign(signs.values[i]) * value;
    }
  };
  add(kInfinity, [](double pixel) { return pixel == kInfinity; });
  add(-kInfinity, [](double pixel) { return pixel == -kInfinity; });
  add(std::nan(""), [](double pixel) { return std::isnan(pixel); });
  return total;
}

// A box `(x_min, x_max, y_min, y_max)` over a plane.
struct Reference {
  AxisWeights y;
  AxisWeights x;
  bool normalize;
  double area;

  Reference(const double* box, long height, long width, bool normalize)
      : y(box[2], box[3], height, normalize),
        x(box[0], box[1], width, normalize),
        normalize(normalize),
        area(y.length * x.length) {}

  Matrix output(const Matrix& plane) const { return divided(weigh(y.overlaps, plane, x.overlaps)); }

  Matrix dx(const Matrix& g) const {
    return divided(weigh(y.overlaps.transposed(), g, x.overlaps.transposed()));
  }

  // stride_y, stride_x: the steps between outputs; `g` of others counts for nothing.
  std::array<double, 4> dtheta(const Matrix& plane, const Matrix& g, long stride_y,
                               long stride_x) const {
    const auto inner = [&](const Matrix& rows, const Matrix& columns) {
      const Matrix integrals = weigh(rows, plane, columns);
      double sum = 0;
      for (long row = 0; row < g.rows; row += stride_y) {
        for (long column = 0; column < g.columns; column += stride_x) {
          const long i = row * g.columns + column;
          sum += g.values[i] * integrals.values[i];
        }
      }
      return sum / area;
    };
    std::array<double, 4> result = {inner(y.overlaps, x.d_low), inner(y.overlaps, x.d_high),
                                    inner(y.d_low, x.overlaps), inner(y.d_high, x.overlaps)};
    if (normalize) {
      const double mean = inner(y.overlaps, x.overlaps);
      result[0] += mean / x.length;
      result[1] -= mean / x.length;
      result[2] += mean / y.length;
      result[3] -= mean / y.length;
    }
    return result;
  }

 private:
  Matrix divided(const Matrix& integrals) const {
    return integrals.map([this](double integral) { return integral / area; });
  }
};

}  // namespace jaxbox_fuzz
