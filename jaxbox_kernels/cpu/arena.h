// Memory for the intermediate results of one thread.

#pragma once

#include <cstddef>
#include <memory>
#include <vector>

namespace jaxbox {

// Hands out blocks of memory, all of which end with the arena. A block that was given back by
// `clear` is used again, so that a thread asks the system for memory once and not for every plane.
class Arena {
 public:
  // Returns `bytes` of memory, not initialized, at a multiple of a cache line.
  void* take(std::size_t bytes);

  template <class T>
  T* take_array(std::ptrdiff_t length) {
    return static_cast<T*>(take(static_cast<std::size_t>(length) * sizeof(T)));
  }

  // Takes all blocks back.
  void clear() { used_ = 0; }

 private:
  struct Block {
    std::unique_ptr<char[]> memory;
    std::size_t size;
  };
  std::vector<Block> blocks_;
  std::size_t used_ = 0;
};

}  // namespace jaxbox
