// Memory for each thread.
#pragma once

#include <cstdint>
#include <memory>
#include <new>
#include <type_traits>

namespace hnetfast {

constexpr std::align_val_t kCacheLine{64};

struct AlignedDelete {
  void operator()(void* memory) const { ::operator delete(memory, kCacheLine); }
};

// Memory of this thread, kept between calls, at the start of a cache line: vectors that straddle two lines take up to
// twice as long.
template <typename T>
T* scratch(int64_t count) {
  static_assert(std::is_trivial_v<T>);
  thread_local std::unique_ptr<T, AlignedDelete> buffer;
  thread_local int64_t size = -1;
#ifdef __SANITIZE_ADDRESS__
  size = -1;  // so that there is nothing of use beyond the end
#endif
  if (size < count) {
    size = -1;
    buffer.reset();
    buffer.reset(static_cast<T*>(::operator new(count * sizeof(T), kCacheLine)));
    size = count;
  }
  return buffer.get();
}

}  // namespace hnetfast
