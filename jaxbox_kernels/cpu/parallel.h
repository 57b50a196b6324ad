// Loops over XLA's own threads.

#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <new>

#include "arena.h"
#include "axis.h"
#include "xla/ffi/api/ffi.h"

namespace jaxbox {

// Calls `body(item, arena)` for `count` items, on the calling thread and on those of a pool.
//
// It waits only for items that have begun: the pool's threads may all be waiting in such a loop.
// Returns an error if memory ran out.
template <class Body>
xla::ffi::Error parallel_for(xla::ffi::ThreadPool& pool, Index count, const Body& body) {
  // Threads that come too late find it after the loop has ended.
  struct Loop {
    std::atomic<Index> next{0};
    std::atomic<bool> has_memory{true};
    Index done = 0;
    std::mutex mutex;
    std::condition_variable all_done;
  };
  const auto loop = std::make_shared<Loop>();
  const auto work = [loop, count, &body] {
    Arena arena;
    Index finished = 0;
    for (Index item; (item = loop->next.fetch_add(1)) < count; ++finished) {
      arena.clear();
      try {
        body(item, arena);
      } catch (const std::bad_alloc&) {
        loop->has_memory = false;
      }
    }
    if (finished == 0) return;
    const std::lock_guard<std::mutex> lock(loop->mutex);
    loop->done += finished;
    if (loop->done == count) loop->all_done.notify_all();
  };
  const Index threads = std::min<Index>(pool.num_threads(), count);
  for (Index thread = 1; thread < threads; ++thread) pool.Schedule(std::function<void()>(work));
  work();
  std::unique_lock<std::mutex> lock(loop->mutex);
  loop->all_done.wait(lock, [&] { return loop->done == count; });
  if (loop->has_memory) return xla::ffi::Error::Success();
  return xla::ffi::Error(xla::ffi::ErrorCode::kResourceExhausted,
                         "box convolution: out of memory for intermediate results");
}

}  // namespace jaxbox
