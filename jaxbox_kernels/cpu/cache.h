// The caches of the CPU.

#pragma once

#include <cstddef>

namespace jaxbox {

// The size of a cache line in bytes.
constexpr std::ptrdiff_t kCacheLine = 64;

// Fetches memory that will be written soon into the caches. The address need not be valid.
inline void prefetch([[maybe_unused]] const void* address) {
#ifdef __GNUC__
  __builtin_prefetch(address, 1);
#endif
}

}  // namespace jaxbox
