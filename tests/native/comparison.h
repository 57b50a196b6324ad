// Compares what the kernels wrote with the specification.

#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include "draws.h"
#include "reference.h"
#include "run.h"

namespace jaxbox_fuzz {

// Compares the results of one channel. Outputs and `g` are those of all pixels; with strides, those
// between outputs count for nothing.
template <class T>
class Comparison {
 public:
  Comparison(const Shape& shape, const Channel<T>& given, const Result<T>& result)
      : shape_(shape), given_(given), result_(result) {
    for (Index f = 0; f < shape.boxes; ++f) {
      boxes_.emplace_back(&given.theta[4 * f], shape.height, shape.width, shape.normalize);
    }
  }

  // Returns what is wrong, as text.
  std::string run() {
    if (!result_.output.empty()) compare_output();
    if (!result_.dx.empty()) compare_dx();
    if (!result_.dtheta.empty()) compare_dtheta();
    return wrong_.str();
  }

 private:
  Matrix to_matrix(const std::vector<T>& values, Index plane) const {
    Matrix matrix(shape_.height, shape_.width);
    std::copy_n(values.begin() + plane * shape_.pixels(), shape_.pixels(), matrix.values.begin());
    return matrix;
  }

  // A double is rounded at each of up to this many additions.
  double rounding_errors() const {
    return 4 * static_cast<double>(shape_.height + shape_.width + 8) * 0x1p-53;
  }

  // How much of a sum of magnitudes an integral may contain: less than one pixel of a short box.
  static double longest_part(double low, double high, double size) {
    const double length = std::clamp(high, -size, size) - std::clamp(low, -size, size);
    return std::min(1.0, std::abs(length));
  }

  double part_along_x(Index f) const {
    const double* box = &given_.theta[4 * f];
    return longest_part(box[0], box[1], static_cast<double>(shape_.width));
  }

  double part_along_y(Index f) const {
    const double* box = &given_.theta[4 * f];
    return longest_part(box[2], box[3], static_cast<double>(shape_.height));
  }

  // Compares a result that was rounded to `Number`.
  template <class Number>
  bool is_close(double result, double exact, double sum) const {
    constexpr double kLargest = static_cast<double>(std::numeric_limits<Number>::max());
    if (!std::isfinite(sum) || std::abs(exact) > 0.99 * kLargest) return true;
    const double rounding = static_cast<double>(std::numeric_limits<Number>::epsilon());
    const double smallest = static_cast<double>(std::numeric_limits<Number>::denorm_min());
    return std::abs(result - exact) <=
           rounding_errors() * sum + rounding * std::abs(exact) + smallest;
  }

  static bool are_same_or_finite(double result, double exact) {
    if (std::isfinite(exact)) return std::isfinite(result);
    return result == exact || (std::isnan(result) && std::isnan(exact));
  }

  void complain_of(const char* name, Index f, std::size_t place, double result, double exact) {
    std::ostringstream text;
    text.precision(17);
    text << name << " of box " << f << " at " << place << ": " << result << ", exact " << exact;
    wrong_ << "  " << text.str() << "\n";
  }

  void compare_output() {
    const Matrix x = to_matrix(given_.x, 0);
    const Matrix magnitudes = x.map([](double pixel) { return std::abs(finite_or_zero(pixel)); });
    for (Index f = 0; f < shape_.boxes; ++f) {
      const Reference& box = boxes_[f];
      const Matrix exact = box.output(x), own = box.output(magnitudes);
      // What a box covers of the image is as accurate where that is a part of one pixel.
      const auto rows = box.y.parts(), columns = box.x.parts();
      const double sum = magnitudes.sum_of_magnitudes() / std::abs(box.area);
      for (std::size_t i = 0; i < exact.values.size(); ++i) {
        const double result = result_.output[f * shape_.pixels() + i];
        if (overflows(own.values[i])) continue;
        const double part = rows[i / shape_.width] * columns[i % shape_.width];
        const double unit = own.values[i] == 0 ? 0 : sum * part;
        const bool is_right = are_same_or_finite(result, exact.values[i]) &&
                              (!std::isfinite(exact.values[i]) ||
                               is_close<T>(result, exact.values[i], unit));
        if (!is_right) return complain_of("output", f, i, result, exact.values[i]);
      }
    }
  }

  // What overflows may be anything.
  static bool overflows(double magnitude) {
    return std::abs(magnitude) > 0.99 * static_cast<double>(std::numeric_limits<T>::max()) &&
           std::isfinite(magnitude);
  }

  void compare_dx() {
    Matrix exact(shape_.height, shape_.width), own = exact;
    double sum = 0;
    for (Index f = 0; f < shape_.boxes; ++f) {
      const Matrix g = to_matrix(given_.g, f);
      const Matrix magnitudes = g.map([](double value) { return std::abs(finite_or_zero(value)); });
      const Matrix dx = boxes_[f].dx(g), sums = boxes_[f].dx(magnitudes);
      for (std::size_t i = 0; i < exact.values.size(); ++i) {
        exact.values[i] += dx.values[i];
        own.values[i] += std::abs(sums.values[i]);
      }
      sum += magnitudes.sum_of_magnitudes() * part_along_x(f) * part_along_y(f) /
             std::abs(boxes_[f].area);
    }
    for (std::size_t i = 0; i < exact.values.size(); ++i) {
      const double result = result_.dx[i];
      if (overflows(own.values[i])) continue;
      const bool is_right =
          are_same_or_finite(result, exact.values[i]) &&
          (!std::isfinite(exact.values[i]) || is_close<T>(result, exact.values[i], sum));
      if (!is_right) return complain_of("dx", 0, i, result, exact.values[i]);
    }
  }

  void compare_dtheta() {
    const Matrix x = to_matrix(given_.x, 0);
    const auto magnitude = [](double value) { return std::abs(finite_or_zero(value)); };
    const double sum_of_x = x.map(magnitude).sum_of_magnitudes();
    for (Index f = 0; f < shape_.boxes; ++f) {
      const Matrix g = to_matrix(given_.g, f);
      const auto exact = boxes_[f].dtheta(x, g, shape_.stride_y, shape_.stride_x);
      // Every product of a pixel and a gradient is a term.
      const double sum = sum_of_x * g.map(magnitude).sum_of_magnitudes() / std::abs(boxes_[f].area);
      const double parts[2] = {part_along_x(f), part_along_y(f)};
      const double lengths[2] = {boxes_[f].x.length, boxes_[f].y.length};
      for (int bound = 0; bound < 4; ++bound) {
        const int axis = bound / 2;
        double unit = sum * parts[1 - axis];
        if (shape_.normalize) unit += sum * parts[0] * parts[1] / std::abs(lengths[axis]);
        const double result = result_.dtheta[4 * f + bound];
        // Which value it is that is not finite depends on the order of the sum.
        const bool is_right = std::isfinite(exact[bound])
                                  ? is_close<double>(result, exact[bound], unit)
                                  : !std::isfinite(result);
        if (!is_right) complain_of("dtheta", f, bound, result, exact[bound]);
      }
    }
  }

  const Shape& shape_;
  const Channel<T>& given_;
  const Result<T>& result_;
  std::vector<Reference> boxes_;
  std::ostringstream wrong_;
};

}  // namespace jaxbox_fuzz
