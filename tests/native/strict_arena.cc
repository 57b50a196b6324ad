// The kernels' memory, in place of `arena.cc`: nothing is used twice, all of it is NaN at first,
// and the address sanitizer knows where each array begins and ends.

#include <cstdint>
#include <cstring>

#include "arena.h"
#include "cache.h"
#include "guarded.h"

namespace jaxbox {

void* Arena::take(std::size_t bytes) {
  const std::size_t size = bytes + 3 * kCacheLine;
  blocks_.push_back({std::unique_ptr<char[]>(new char[size]), size});
  char* memory = blocks_.back().memory.get();
  std::memset(memory, 0xff, size);
  const auto address = reinterpret_cast<std::uintptr_t>(memory);
  const std::size_t before = 2 * kCacheLine - address % kCacheLine;
  char* array = memory + before;
  jaxbox_fuzz::forbid(memory, before);
  jaxbox_fuzz::forbid(array + bytes, size - before - bytes);
  return array;
}

}  // namespace jaxbox
