// Runs the forward kernels with strides and compares with the same outputs without.

#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "draws.h"
#include "guarded.h"
#include "kernels.h"
#include "run.h"

namespace jaxbox_fuzz {

template <class T>
class StridedRun {
 public:
  StridedRun(const Case<T>& given, Random& random)
      : given_(given), shape_(given.shape), x_(given, 1) {
    shape_.stride_y = random.choose({1, 2, 3, 5});
    shape_.stride_x = random.choose({1, 2, 3, 4, 7});
    bands_ = draw_bands(random, shape_.output_height());
    x_.write(&Channel<T>::x);
  }

  // Returns what is wrong, a line each.
  //
  // results: the outputs at every pixel.
  std::string run(const std::vector<Result<T>>& results) {
    Guarded<T> output(given_.all * shape_.boxes * shape_.outputs());
    std::vector<double> theta;
    for (const auto& channel : given_.channels) {
      theta.insert(theta.end(), channel.theta.begin(), channel.theta.end());
    }
    T* first = output.data() + place(0, 0, 0);
    for (const Band& band : bands_) {
      Arena arena;
      if (given_.channels_last) {
        const Channels channels{static_cast<Index>(given_.channels.size()), given_.all};
        jaxbox::filter_channels(kDType, shape_, channels, theta.data(), x_.channel(0), band, first,
                                arena);
      } else {
        jaxbox::filter_band(kDType, shape_, theta.data(), x_.channel(0), band, first, arena);
      }
    }
    if (!output.is_intact()) return "  wrote outside the strided output\n";
    std::string wrong;
    for (std::size_t c = 0; c < given_.channels.size(); ++c) {
      for (Index f = 0; f < shape_.boxes; ++f) wrong += compare(c, f, results[c], output.data());
    }
    if (wrong.empty()) return wrong;
    return wrong + "  with strides " + std::to_string(shape_.stride_y) + " and " +
           std::to_string(shape_.stride_x) + "\n";
  }

 private:
  static constexpr DType kDType = std::is_same_v<T, float> ? DType::kFloat32 : DType::kFloat64;

  Index place(Index c, Index f, Index output) const {
    const Index channel = given_.first + c;
    return given_.channels_last ? (output * given_.all + channel) * shape_.boxes + f
                                : (channel * shape_.boxes + f) * shape_.outputs() + output;
  }

  std::string compare(Index c, Index f, const Result<T>& whole, const T* output) const {
    const T* plane = whole.output.data() + f * shape_.pixels();
    T largest = 0;
    for (Index i = 0; i < shape_.pixels(); ++i) {
      if (std::isfinite(plane[i])) largest = std::max(largest, std::abs(plane[i]));
    }
    const Index width = shape_.output_width();
    for (Index i = 0; i < shape_.outputs(); ++i) {
      const Index row = i / width * shape_.stride_y, column = i % width * shape_.stride_x;
      const T expected = plane[row * shape_.width + column], actual = output[place(c, f, i)];
      const bool same = std::isfinite(expected)
                            ? std::abs(actual - expected) <= 1e-6f * largest
                            : (std::isnan(expected) ? std::isnan(actual) : actual == expected);
      if (!same) {
        return "  output " + std::to_string(i) + " of box " + std::to_string(f) + " is " +
               std::to_string(actual) + ", not " + std::to_string(expected) + "\n";
      }
    }
    return "";
  }

  const Case<T>& given_;
  Shape shape_;
  std::vector<Band> bands_;
  Planes<T> x_;
};

}  // namespace jaxbox_fuzz
