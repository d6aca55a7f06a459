// The CUDA kernels of local_conv2d as a library for the host, called by test_local_conv2d_cuda.py.
#define HNETFAST_CUDA_ON_HOST
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include "local_conv2d/kernels.cuh"

namespace {

using namespace hnetfast::local_conv2d;

struct Device {
  std::vector<std::unique_ptr<unsigned char[]>> memory = {};

  template <typename T>
  T* allocate(int64_t count) {
    memory.emplace_back(new unsigned char[count * sizeof(T) + 16]);
    unsigned char* begin = memory.back().get();
    std::memset(begin, 0xff, count * sizeof(T) + 16);
    return reinterpret_cast<T*>(begin + (16 - reinterpret_cast<uintptr_t>(begin) % 16) % 16);
  }

  template <typename... Parameters, typename... Arguments>
  void launch(int64_t blocks, int threads, int shared, void (*kernel)(Parameters...), Arguments... arguments) {
    cuda_on_host::launch(blocks, threads, shared, [=] { kernel(static_cast<Parameters>(arguments)...); });
  }
};

template <typename T>
void run(const DeviceShape& s, const void* input, const void* weight, const void* bias, const void* grad, void* out,
         void* grad_input, void* grad_weight) {
  const auto in = [](const void* pointer) { return static_cast<const T*>(pointer); };
  const auto to = [](void* pointer) { return static_cast<T*>(pointer); };
  Device device;
  run_forward<T>(s, in(input), in(weight), in(bias), to(out), device);
  run_grad_weight<T>(s, in(grad), in(input), to(grad_weight), device);
  run_grad_input<T>(s, in(grad), in(weight), to(grad_input), device);
}

template <typename T>
void describe(const DeviceShape& s, int64_t* to) {
  const ForwardPlan forward = plan_forward<T>(s);
  const WeightPlan weight = plan_weight<T>(s);
  const InputPlan input = plan_input<T>(s);
  const int64_t plans[] = {forward.blocks, forward.threads,     forward.shared_bytes, forward.parts, weight.blocks,
                           weight.threads, weight.shared_bytes, input.blocks,         input.threads, input.shared_bytes,
                           input.parts,    input.staged,        input.whole,          input.stages};
  std::memcpy(to, plans, sizeof(plans));
}

template <typename F>
void with_type(int type, const F& call) {
  if (type == 0) return call(float());
  if (type == 1) return call(double());
  if (type == 2) return call(c10::Half());
  if (type == 3) return call(c10::BFloat16());
  cuda_on_host::fail("no such type");
}

DeviceShape sizes_of(const int* n, bool shared) {
  return {n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7], n[8], n[9], n[10], n[11], n[12], n[13], n[14], n[15], n[16], shared};
}

}  // namespace

extern "C" void local_conv2d(int type, const int* sizes, int shared, const void* input, const void* weight, const void* bias,
                             const void* grad, void* out, void* grad_input, void* grad_weight) {
  with_type(type, [&](auto zero) {
    run<decltype(zero)>(sizes_of(sizes, shared), input, weight, bias, grad, out, grad_input, grad_weight);
  });
}

extern "C" void local_conv2d_plans(int type, const int* sizes, int shared, int64_t* to) {
  with_type(type, [&](auto zero) { describe<decltype(zero)>(sizes_of(sizes, shared), to); });
}
