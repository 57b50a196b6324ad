// Runs the kernels on memory that tells what they read and write.

#pragma once

#include <algorithm>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "draws.h"
#include "guarded.h"
#include "kernels.h"

namespace jaxbox_fuzz {

using jaxbox::Arena;
using jaxbox::Channels;
using jaxbox::DType;

// Of one channel; empty if it is not needed.
template <class T>
struct Result {
  std::vector<T> output;
  std::vector<T> dx;
  std::vector<double> dtheta;
};

// An image with its channels, or with the outputs of their boxes.
template <class T>
class Planes {
 public:
  // each: the number of planes of each channel.
  Planes(const Case<T>& given, Index each)
      : given_(given), each_(each), array_(given.all * each * given.shape.pixels()) {}

  // Where the planes of channel `c` begin. Those of several channels last begin with the first.
  T* channel(Index c) { return array_.data() + place(c, 0, 0); }

  // Writes `NaN` into what is not `values`, which must not matter.
  void write(std::vector<T> Channel<T>::*values) {
    std::fill_n(array_.data(), array_.size(), std::numeric_limits<T>::quiet_NaN());
    for_each([&](Index c, Index i, T& number) { number = (given_.channels[c].*values)[i]; });
  }

  void read(std::vector<Result<T>>& results, std::vector<T> Result<T>::*values) {
    for (auto& result : results) (result.*values).resize(each_ * given_.shape.pixels());
    for_each([&](Index c, Index i, T& number) { (results[c].*values)[i] = number; });
  }

  // Whether no other rows than those before `end` were written, of no other channels.
  bool is_intact(Index end) {
    const Index written = end * given_.shape.width;
    Index touched = 0;
    for (std::size_t i = 0; i < array_.size(); ++i) touched += !array_.is_untouched(i);
    for_each([&](Index, Index i, T& number) {
      if (i % given_.shape.pixels() >= written) return;
      touched -= !array_.is_untouched(&number - array_.data());
    });
    return touched == 0 && array_.is_intact();
  }

 private:
  Index place(Index c, Index plane, Index pixel) const {
    const Index channel = given_.first + c;
    return given_.channels_last ? (pixel * given_.all + channel) * each_ + plane
                                : (channel * each_ + plane) * given_.shape.pixels() + pixel;
  }

  template <class Visit>
  void for_each(Visit visit) {
    const Index pixels = given_.shape.pixels();
    for (std::size_t c = 0; c < given_.channels.size(); ++c) {
      for (Index i = 0; i < each_ * pixels; ++i) {
        visit(c, i, array_.data()[place(c, i / pixels, i % pixels)]);
      }
    }
  }

  const Case<T>& given_;
  Index each_;
  Guarded<T> array_;
};

template <class T>
class Run {
 public:
  explicit Run(const Case<T>& given)
      : given_(given),
        bounds_(given.shape.boxes * 4),
        theta_(given.channels.size() * bounds_),
        x_(given, 1),
        g_(given, given.shape.boxes),
        output_(given, given.shape.boxes),
        dx_(given, 1),
        results(given.channels.size()) {
    for (std::size_t c = 0; c < given.channels.size(); ++c) {
      const auto& theta = given.channels[c].theta;
      std::copy(theta.begin(), theta.end(), theta_.data() + c * bounds_);
      if (given.needs_dtheta) results[c].dtheta.resize(bounds_);
    }
    x_.write(&Channel<T>::x);
    g_.write(&Channel<T>::g);
    for (const Band& band : given.bands) filter(band);
    for (const Band& band : given.bands) differentiate(band);
    output_.read(results, &Result<T>::output);
    if (given.needs_dx) dx_.read(results, &Result<T>::dx);
  }

 private:
  static constexpr DType kDType = std::is_same_v<T, float> ? DType::kFloat32 : DType::kFloat64;

  Channels channels() const { return {static_cast<Index>(given_.channels.size()), given_.all}; }

  void filter(Band band) {
    Arena arena;
    if (given_.channels_last) {
      jaxbox::filter_channels(kDType, given_.shape, channels(), theta_.data(), x_.channel(0), band,
                              output_.channel(0), arena);
    } else {
      jaxbox::filter_band(kDType, given_.shape, theta_.data(), x_.channel(0), band,
                          output_.channel(0), arena);
    }
    // Bands come from the first row to the last.
    if (!output_.is_intact(band.end)) wrong += "  wrote outside the band of the output\n";
  }

  void differentiate(Band band) {
    Arena arena;
    Guarded<double> dtheta(theta_.size());
    const T* x = given_.needs_dtheta ? x_.channel(0) : nullptr;
    T* dx = given_.needs_dx ? dx_.channel(0) : nullptr;
    double* of_boxes = given_.needs_dtheta ? dtheta.data() : nullptr;
    if (given_.channels_last) {
      jaxbox::differentiate_channels(kDType, given_.shape, channels(), theta_.data(), x,
                                     g_.channel(0), band, dx, of_boxes, arena);
    } else {
      jaxbox::differentiate_band(kDType, given_.shape, theta_.data(), x, g_.channel(0), band, dx,
                                 of_boxes, arena);
    }
    if (!dx_.is_intact(given_.needs_dx ? band.end : 0)) wrong += "  wrote outside the band of dx\n";
    if (!dtheta.is_intact()) wrong += "  wrote outside dtheta\n";
    if (!given_.needs_dtheta) return;
    for (std::size_t i = 0; i < dtheta.size(); ++i) {
      results[i / bounds_].dtheta[i % bounds_] += dtheta.data()[i];
    }
  }

  const Case<T>& given_;
  std::size_t bounds_;  // Of each channel.
  Guarded<double> theta_;
  Planes<T> x_;
  Planes<T> g_;
  Planes<T> output_;
  Planes<T> dx_;

 public:
  std::vector<Result<T>> results;  // Of each channel.
  std::string wrong;               // What was written where it must not be.
};

}  // namespace jaxbox_fuzz
