// Memory for large results.

#pragma once

#include <cstddef>
#include <cstdint>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace jaxbox {

// Asks the system for huge pages, as NumPy does for large arrays: an array that was just allocated
// has no memory yet, and to provide it in pages of 4 KB takes longer than the computation.
inline void prefer_huge_pages([[maybe_unused]] void* array, [[maybe_unused]] std::size_t bytes) {
#ifdef MADV_HUGEPAGE
  constexpr std::size_t kSmallest = std::size_t{1} << 22;
  constexpr std::uintptr_t kPage = 4096;
  if (bytes < kSmallest) return;
  const auto address = reinterpret_cast<std::uintptr_t>(array);
  const std::uintptr_t begin = (address + kPage - 1) / kPage * kPage;
  const std::uintptr_t end = (address + bytes) / kPage * kPage;
  // Without them, the result is the same.
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

}  // namespace jaxbox
