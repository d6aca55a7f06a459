// Kernels of hnetfast::local_conv2d for CUDA, and how they are launched; no ATen, so that a host can run them too.
//
// A weight is used once for each image: for N images of float, 4 bytes are read and 2·N operations done. Up to about
// 32 images the bytes bound a GPU, beyond that the operations; so 32 images are one pass over the weights. A thread
// holds 8 outputs × 8 images (double: 4) of one position: per entry 8 weights from shared memory and two 128-bit loads
// of pixels, whose images lie side by side in a copy made before, feed 64 multiply-adds. Weights are copied to shared
// memory asynchronously in blocks of 16 bytes, 2 to 3 chunks deep; a run of any alignment keeps its phase there, so
// that all blocks but those across the ends of the tensor are 128-bit. A tile is at most 32 positions (all if P ≤ 32:
// then a chunk of entries is one run), two blocks of 256 threads fit an SM at 128 registers. What is left of a block's
// threads, and more blocks if these are few, share out the entries; the sums meet in a fixed order, without atomics.
// The gradient to the input is the same with outputs summed over and channels held; the one to the weights holds
// 8 outputs × 8 entries, sums over images and leaves through shared memory as whole runs.
#pragma once

#include "local_conv2d/forward.cuh"
#include "local_conv2d/grad_input.cuh"
#include "local_conv2d/grad_weight.cuh"

namespace hnetfast::local_conv2d {

// A device has allocate<T>(count), memory until the call is over, and launch(blocks, threads, shared, kernel, ...).

constexpr int64_t kFewBlocks = 2048;  // of kernels that loop over what there is

// The images [sets, N, size] as the kernels of TN images in a thread read them.
template <typename T, int TN, typename Device>
const Seen<T, TN>* lay_side_by_side(const T* from, int sets, int images, int64_t size, const Images& plan, Device& device) {
  if constexpr (TN == 1) {
    return from;
  } else {
    Acc<T>* to = device.template allocate<Acc<T>>(sets * plan.blocks * size * plan.pitch);
    const int64_t tiles = ceil_div<int64_t>(size, 32) * plan.blocks * sets;
    device.launch(least(tiles, kFewBlocks), kThreads, 32 * 33 * static_cast<int>(sizeof(Acc<T>)), side_by_side_kernel<T>, from,
                  to, sets, images, size, plan);
    return to;
  }
}

template <typename T, typename Device>
void add_parts(const Acc<T>* partial, int parts, int64_t size, const T* bias, int64_t image, int images, T* out, Device& device) {
  device.launch(least(ceil_div<int64_t>(size, kThreads), kFewBlocks), kThreads, 0, add_parts_kernel<T>, partial, parts, size,
                bias, image, images, out);
}

template <typename T, int TN, typename Device>
void run_forward_of(const DeviceShape& s, const T* input, const T* weight, const T* bias, T* out, Device& device) {
  const ForwardPlan plan = plan_forward<T>(s);
  const int64_t P = s.positions(), image = s.outputs * P, size = s.sets * s.images * image;
  const auto* seen = lay_side_by_side<T, TN>(input, s.shared ? 1 : s.sets, s.images,
                                             static_cast<int64_t>(s.channels) * s.pixels(), plan.images, device);
  Acc<T>* partial = plan.parts > 1 ? device.template allocate<Acc<T>>(plan.parts * size) : nullptr;
  device.launch(plan.blocks, plan.threads, plan.shared_bytes, forward_kernel<T, TN>, s, plan, seen, weight,
                weight + s.sets * image * s.fields(), bias, out, partial);
  if (partial) add_parts(partial, plan.parts, size, bias, image, s.images, out, device);
}

template <typename T, typename Device>
void run_forward(const DeviceShape& s, const T* input, const T* weight, const T* bias, T* out, Device& device) {
  if (s.images == 1) {
    run_forward_of<T, 1>(s, input, weight, bias, out, device);
  } else {
    run_forward_of<T, kColumns<T>>(s, input, weight, bias, out, device);
  }
}

template <typename T, typename Device>
void run_grad_weight(const DeviceShape& s, const T* grad, const T* input, T* grad_weight, Device& device) {
  const WeightPlan plan = plan_weight<T>(s);
  device.launch(plan.blocks, plan.threads, plan.shared_bytes, grad_weight_kernel<T>, s, plan, grad, input, grad_weight);
}

template <typename T, int TN, typename Device>
void run_grad_input_of(const DeviceShape& s, const T* grad, const T* weight, T* grad_input, Device& device) {
  const InputPlan plan = plan_input<T>(s);
  const int64_t P = s.positions(), slots = s.shared ? 1 : s.sets;
  const int64_t image = static_cast<int64_t>(s.channels) * s.pixels(), size = slots * s.images * image;
  const auto* seen = lay_side_by_side<T, TN>(grad, s.sets, s.images, s.outputs * P, plan.images, device);
  Acc<T>* partial = plan.parts > 1 ? device.template allocate<Acc<T>>(plan.parts * size) : nullptr;
  device.launch(plan.blocks, plan.threads, plan.shared_bytes,
                plan.staged ? grad_input_kernel<T, TN, true> : grad_input_kernel<T, TN, false>, s, plan, seen, weight,
                weight + s.sets * s.outputs * P * s.fields(), grad_input, partial);
  if (partial) add_parts<T>(partial, plan.parts, size, nullptr, image, s.images, grad_input, device);
}

template <typename T, typename Device>
void run_grad_input(const DeviceShape& s, const T* grad, const T* weight, T* grad_input, Device& device) {
  if (s.images == 1) {
    run_grad_input_of<T, 1>(s, grad, weight, grad_input, device);
  } else {
    run_grad_input_of<T, kColumns<T>>(s, grad, weight, grad_input, device);
  }
}

}  // namespace hnetfast::local_conv2d
