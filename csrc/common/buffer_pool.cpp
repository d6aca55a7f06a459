#include "common/buffer_pool.h"

#include <ATen/EmptyTensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <atomic>
#include <cstdlib>
#include <iterator>
#include <list>
#include <mutex>

#ifdef __linux__
#include <sys/mman.h>
#endif
#ifndef _WIN32
#include <pthread.h>
#endif

namespace hnetfast {
namespace {

constexpr size_t kSmallest = size_t(1) << 20;  // below this the system allocator is as fast
constexpr size_t kHugePage = size_t(1) << 21;
constexpr size_t kStep = size_t(1) << 16;  // of sizes; what does not fill a huge page gets small ones

// Where it starts and how large it is. The context of a DataPtr, so that freeing needs no look-up.
struct Buffer {
  void* data;
  size_t bytes;
};

class BufferPool final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    Buffer* block = take(bytes);
    return {block->data, block, &give_back, c10::Device(c10::kCPU)};
  }

  c10::DeleterFnPtr raw_deleter() const override {
    return nullptr;  // a block is freed through its context, so there is no deleter that takes a raw pointer
  }

  void copy_data(void* dest, const void* src, std::size_t count) const override { default_copy_data(dest, src, count); }

  void empty_cache() { shrink(0); }

  void set_limit(size_t bytes) {
    limit_ = bytes;
    shrink(bytes);
  }

  int64_t free_bytes() {
    std::lock_guard<std::mutex> lock(mutex_);
    return static_cast<int64_t>(free_bytes_);
  }

 private:
  // The smallest free block that fits, of equal ones the last used.
  Buffer* take(size_t bytes) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      auto best = free_.end();
      for (auto it = free_.begin(); it != free_.end(); ++it) {
        // An eighth of waste at most: a huge buffer is not given away for a small result.
        const bool fits = (*it)->bytes >= bytes && (*it)->bytes <= bytes + bytes / 8 + kHugePage;
        if (fits && (best == free_.end() || (*it)->bytes < (*best)->bytes)) best = it;
      }
      if (best != free_.end()) {
        Buffer* block = *best;
        free_bytes_ -= block->bytes;
        free_.erase(best);
        return block;
      }
    }
    const size_t rounded = (bytes + kStep - 1) / kStep * kStep;
    void* data = nullptr;
    if (posix_memalign(&data, kHugePage, rounded) != 0) {
      empty_cache();
      TORCH_CHECK_WITH(OutOfMemoryError, posix_memalign(&data, kHugePage, rounded) == 0, "hnetfast: cannot allocate ", bytes,
                       " bytes for a result");
    }
#ifdef __linux__
    madvise(data, rounded, MADV_HUGEPAGE);
#endif
    return new Buffer{data, rounded};
  }

  static void give_back(void* context) {
    auto* block = static_cast<Buffer*>(context);
    BufferPool& pool = instance();
    {
      std::lock_guard<std::mutex> lock(pool.mutex_);
      pool.free_.push_front(block);
      pool.free_bytes_ += block->bytes;
    }
    pool.shrink(pool.limit_);
  }

  // Releases the blocks that have not been used for longest, until `bytes` are left.
  void shrink(size_t bytes) {
    std::list<Buffer*> dropped;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      while (free_bytes_ > bytes) {
        free_bytes_ -= free_.back()->bytes;
        dropped.splice(dropped.end(), free_, std::prev(free_.end()));
      }
    }
    for (Buffer* block : dropped) release(block);
  }

  static void release(Buffer* block) {
    std::free(block->data);
    delete block;
  }

 public:
  static BufferPool& instance() { return *instance_; }

 private:
  // Made when the library is loaded: a static variable in a function is itself locked during the first call.
  static BufferPool* const instance_;

  static BufferPool* make() {
#ifndef _WIN32
    // A process that is forked has the memory of all threads, but no thread that could unlock the mutex.
    pthread_atfork([] { instance().mutex_.lock(); }, [] { instance().mutex_.unlock(); }, [] { instance().mutex_.unlock(); });
#endif
    return new BufferPool();  // never destroyed: tensors may outlive static destruction
  }

  std::mutex mutex_;
  std::list<Buffer*> free_;  // last used first
  size_t free_bytes_ = 0;
  std::atomic<size_t> limit_{size_t(2) << 30};
};

BufferPool* const BufferPool::instance_ = BufferPool::make();

void set_pool_limit(int64_t bytes) {
  TORCH_CHECK_VALUE(bytes >= 0, "set_pool_limit: bytes is ", bytes, ", accepted is 0 or more");
  BufferPool::instance().set_limit(static_cast<size_t>(bytes));
}

}  // namespace

at::Tensor empty_pooled(at::IntArrayRef sizes, const at::TensorOptions& like) {
  const auto type = c10::typeMetaToScalarType(like.dtype());
  const size_t bytes = c10::multiply_integers(sizes) * c10::elementSize(type);
  if (bytes < kSmallest) return at::empty(sizes, like);
  return at::detail::empty_generic(sizes, &BufferPool::instance(), c10::DispatchKeySet(c10::DispatchKey::CPU), type,
                                   std::nullopt);
}

TORCH_LIBRARY_FRAGMENT(hnetfast, m) {
  m.def("empty_cache() -> ()", []() { BufferPool::instance().empty_cache(); });
  m.def("set_pool_limit(int bytes) -> ()", &set_pool_limit);
  m.def("pool_bytes() -> int", []() { return BufferPool::instance().free_bytes(); });
}

}  // namespace hnetfast
