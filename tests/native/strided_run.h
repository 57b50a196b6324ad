// Runs the kernels with strides. Outputs are compared with the same ones without strides, gradients
// with the specification of outputs that get no gradient but where strides lead.

#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "comparison.h"
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
    bands_of_dx_ = draw_bands(random, shape_.height);
    x_.write(&Channel<T>::x);
    for (const auto& channel : given_.channels) {
      theta_.insert(theta_.end(), channel.theta.begin(), channel.theta.end());
    }
  }

  // Returns what is wrong, a line each.
  //
  // results: the outputs at every pixel.
  std::string run(const std::vector<Result<T>>& results) {
    const std::string wrong = filter(results) + differentiate();
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

  Channels channels() const { return {static_cast<Index>(given_.channels.size()), given_.all}; }

  std::string filter(const std::vector<Result<T>>& results) {
    Guarded<T> output(given_.all * shape_.boxes * shape_.outputs());
    T* first = output.data() + place(0, 0, 0);
    for (const Band& band : bands_) {
      Arena arena;
      if (given_.channels_last) {
        jaxbox::filter_channels(kDType, shape_, channels(), theta_.data(), x_.channel(0), band,
                                first, arena);
      } else {
        jaxbox::filter_band(kDType, shape_, theta_.data(), x_.channel(0), band, first, arena);
      }
    }
    if (!output.is_intact()) return "  wrote outside the strided output\n";
    std::string wrong;
    for (std::size_t c = 0; c < given_.channels.size(); ++c) {
      for (Index f = 0; f < shape_.boxes; ++f) wrong += compare(c, f, results[c], output.data());
    }
    return wrong;
  }

  std::string differentiate() {
    // Nothing but what belongs to these channels may be read.
    Guarded<T> g(given_.all * shape_.boxes * shape_.outputs());
    std::fill_n(g.data(), g.size(), std::numeric_limits<T>::quiet_NaN());
    auto spread = given_.channels;
    for (std::size_t c = 0; c < spread.size(); ++c) {
      std::fill(spread[c].g.begin(), spread[c].g.end(), T(0));
      for (Index f = 0; f < shape_.boxes; ++f) {
        for (Index i = 0; i < shape_.outputs(); ++i) {
          const Index pixel = f * shape_.pixels() + pixel_of(i);
          g.data()[place(c, f, i)] = spread[c].g[pixel] = given_.channels[c].g[pixel];
        }
      }
    }
    Planes<T> dx(given_, 1);
    std::vector<Result<T>> results(spread.size());
    for (auto& result : results) result.dtheta.resize(shape_.boxes * 4);
    for (const Band& band : bands_of_dx_) {
      Arena arena;
      Guarded<double> dtheta(theta_.size());
      const T* of_output = g.data() + place(0, 0, 0);
      if (given_.channels_last) {
        jaxbox::differentiate_channels(kDType, shape_, channels(), theta_.data(), x_.channel(0),
                                       of_output, band, dx.channel(0), dtheta.data(), arena);
      } else {
        jaxbox::differentiate_band(kDType, shape_, theta_.data(), x_.channel(0), of_output, band,
                                   dx.channel(0), dtheta.data(), arena);
      }
      if (!dx.is_intact(band.end)) return "  wrote outside the band of dx\n";
      if (!dtheta.is_intact()) return "  wrote outside dtheta\n";
      for (std::size_t i = 0; i < dtheta.size(); ++i) {
        results[i / (shape_.boxes * 4)].dtheta[i % (shape_.boxes * 4)] += dtheta.data()[i];
      }
    }
    dx.read(results, &Result<T>::dx);
    std::string wrong;
    for (std::size_t c = 0; c < spread.size(); ++c) {
      wrong += Comparison<T>(shape_, spread[c], results[c]).run();
    }
    return wrong;
  }

  Index pixel_of(Index output) const {
    const Index width = shape_.output_width();
    return output / width * shape_.stride_y * shape_.width + output % width * shape_.stride_x;
  }

  std::string compare(Index c, Index f, const Result<T>& whole, const T* output) const {
    const T* plane = whole.output.data() + f * shape_.pixels();
    T largest = 0;
    for (Index i = 0; i < shape_.pixels(); ++i) {
      if (std::isfinite(plane[i])) largest = std::max(largest, std::abs(plane[i]));
    }
    for (Index i = 0; i < shape_.outputs(); ++i) {
      const T expected = plane[pixel_of(i)], actual = output[place(c, f, i)];
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
  std::vector<double> theta_;
  std::vector<Band> bands_;
  std::vector<Band> bands_of_dx_;
  Planes<T> x_;
};

}  // namespace jaxbox_fuzz
