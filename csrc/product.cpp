#include "product.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <dlfcn.h>

namespace hnetfast {
namespace {

using at::Tensor;

constexpr int64_t kLongSum = 192;  // from this length on MKL may share the terms of one sum out among its threads
constexpr int64_t kBlock = 512;    // rows or columns of the result that a task should have: smaller ones cost packing
constexpr int64_t kMostTasks = 64;

// While it lives, MKL uses one thread for the calls of this one. PyTorch brings MKL along without its headers.
class SerialLibrary {
 public:
  SerialLibrary() : before_(set_ ? set_(1) : 0) {}
  ~SerialLibrary() {
    if (set_) set_(before_);
  }
  SerialLibrary(const SerialLibrary&) = delete;
  SerialLibrary& operator=(const SerialLibrary&) = delete;

 private:
  static inline int (*const set_)(int) = reinterpret_cast<int (*)(int)>(dlsym(RTLD_DEFAULT, "MKL_Set_Num_Threads_Local"));
  int before_;
};

void library_product(Tensor out, const Tensor& a, const Tensor& b, const Tensor& bias, bool accumulate) {
  if (accumulate) {
    out.addmm_(a, b);
  } else if (bias.defined()) {
    at::addmm_out(out, bias, a, b);
  } else {
    at::mm_out(out, a, b);
  }
}

}  // namespace

void product_out(const Tensor& out, const Tensor& a, const Tensor& b, const Tensor& bias, bool accumulate) {
  const bool splits_sums = a.scalar_type() == at::kFloat || a.scalar_type() == at::kDouble;
  if (a.size(1) < kLongSum || !splits_sums) return library_product(out, a, b, bias, accumulate);
  // Each thread computes blocks of the result instead, cut the same way for any number of threads.
  const int64_t axis = out.size(0) < out.size(1), size = out.size(axis);
  int64_t tasks = 2;  // an even share for two threads
  while (tasks < kMostTasks && size / tasks > kBlock) tasks *= 2;
  at::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
    at::AutoDispatchBelowADInplaceOrView guard;  // other threads start without the state of this one
    SerialLibrary serial;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t start = size * task / tasks, width = size * (task + 1) / tasks - start;
      if (width == 0) continue;
      const Tensor block = out.narrow(axis, start, width);
      if (axis == 0) {
        library_product(block, a.narrow(0, start, width), b, bias, accumulate);
      } else {
        const Tensor part = bias.defined() ? bias.narrow(0, start, width) : bias;
        library_product(block, a, b.narrow(1, start, width), part, accumulate);
      }
    }
  });
}

Tensor product(const Tensor& a, const Tensor& b, const Tensor& bias) {
  Tensor out = at::empty({a.size(0), b.size(1)}, a.options());
  product_out(out, a, b, bias);
  return out;
}

}  // namespace hnetfast
