// Arrays between guard zones.

#pragma once

#include <cstddef>
#include <cstring>
#include <vector>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

namespace jaxbox_fuzz {

// Makes the address sanitizer report reads and writes.
inline void forbid([[maybe_unused]] const void* begin, [[maybe_unused]] std::size_t bytes) {
#ifdef __SANITIZE_ADDRESS__
  ASAN_POISON_MEMORY_REGION(begin, bytes);
#endif
}

inline void allow([[maybe_unused]] const void* begin, [[maybe_unused]] std::size_t bytes) {
#ifdef __SANITIZE_ADDRESS__
  ASAN_UNPOISON_MEMORY_REGION(begin, bytes);
#endif
}

// An array that nothing may be read or written around. Without the address sanitizer, writes are
// found by `is_intact`.
template <class T>
class Guarded {
 public:
  explicit Guarded(std::size_t size) : size_(size), all_(size + 2 * kGuard) {
    std::memset(all_.data(), kMark, all_.size() * sizeof(T));
    forbid_guards();
  }

  explicit Guarded(const std::vector<T>& values) : Guarded(values.size()) {
    std::copy(values.begin(), values.end(), data());
  }

  ~Guarded() { allow(all_.data(), all_.size() * sizeof(T)); }

  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;

  std::size_t size() const { return size_; }
  T* data() { return all_.data() + kGuard; }
  const T* data() const { return all_.data() + kGuard; }

  // Whether an element is what it was at first, bit for bit.
  bool is_untouched(std::size_t place) const {
    return is_marked(kGuard + place, kGuard + place + 1);
  }

  bool is_intact() {
    allow(all_.data(), all_.size() * sizeof(T));
    const bool is_intact = is_marked(0, kGuard) && is_marked(kGuard + size_, all_.size());
    forbid_guards();
    return is_intact;
  }

 private:
  static constexpr std::size_t kGuard = 64;
  static constexpr unsigned char kMark = 0xa5;

  bool is_marked(std::size_t begin, std::size_t end) const {
    const auto* bytes = reinterpret_cast<const unsigned char*>(all_.data());
    for (std::size_t i = begin * sizeof(T); i < end * sizeof(T); ++i) {
      if (bytes[i] != kMark) return false;
    }
    return true;
  }

  void forbid_guards() {
    forbid(all_.data(), kGuard * sizeof(T));
    forbid(all_.data() + kGuard + size_, kGuard * sizeof(T));
  }

  std::size_t size_;
  std::vector<T> all_;
};

}  // namespace jaxbox_fuzz
