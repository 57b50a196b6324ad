// Random numbers that are the same on every machine.

#pragma once

#include <cmath>
#include <cstdint>
#include <initializer_list>

namespace jaxbox_fuzz {

class Random {
 public:
  // Every case has its own numbers, so that one that fails can be run alone.
  Random(std::uint64_t seed, std::uint64_t number) : state_(seed) { state_ = next() + number; }

  // SplitMix64.
  std::uint64_t next() {
    std::uint64_t bits = state_ += 0x9e3779b97f4a7c15;
    bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9;
    bits = (bits ^ (bits >> 27)) * 0x94d049bb133111eb;
    return bits ^ (bits >> 31);
  }

  // From `low` to `high`, both included.
  long integer(long low, long high) {
    return low + static_cast<long>(next() % static_cast<std::uint64_t>(high - low + 1));
  }

  double uniform(double low, double high) {
    return low + (high - low) * static_cast<double>(next() >> 11) * 0x1p-53;
  }

  bool chance(double probability) { return uniform(0, 1) < probability; }

  template <class T>
  T choose(std::initializer_list<T> values) {
    return values.begin()[integer(0, static_cast<long>(values.size()) - 1)];
  }

  double power_of_10(double smallest, double largest) {
    return std::pow(10.0, uniform(smallest, largest));
  }

 private:
  std::uint64_t state_;
};

}  // namespace jaxbox_fuzz
