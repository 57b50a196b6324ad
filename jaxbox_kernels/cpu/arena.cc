#include "arena.h"

#include <cstdint>

#include "cache.h"
#include "huge_pages.h"

namespace jaxbox {

void* Arena::take(std::size_t bytes) {
  const std::size_t size = bytes + kCacheLine;
  if (used_ == blocks_.size()) blocks_.push_back({nullptr, 0});
  Block& block = blocks_[used_++];
  if (block.size < size) {
    block.memory.reset();
    block.memory = std::unique_ptr<char[]>(new char[size]);
    block.size = size;
    prefer_huge_pages(block.memory.get(), size);
  }
  const auto address = reinterpret_cast<std::uintptr_t>(block.memory.get());
  return reinterpret_cast<void*>((address + kCacheLine - 1) / kCacheLine * kCacheLine);
}

}  // namespace jaxbox
