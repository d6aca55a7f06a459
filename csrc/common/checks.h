// Checks of what an op was given, worded alike everywhere: op, argument, what came, what is accepted.
#pragma once

#include <ATen/core/Tensor.h>

namespace hnetfast {

// A tensor with memory that strides tell of: not None, which comes as an undefined tensor, and not a sparse one.
inline void check_dense(const char* op, const char* name, const at::Tensor& tensor) {
  TORCH_CHECK_TYPE(tensor.defined(), op, ": ", name, " is None, expected a tensor");
  TORCH_CHECK_TYPE(tensor.layout() == at::kStrided, op, ": ", name, " has layout ", tensor.layout(), ", expected a dense tensor");
}

// A tensor of one dtype and shape. (Of one device they are anyway: the dispatcher hands tensors of several to another op.)
inline void check_tensor(const char* op, const char* name, const at::Tensor& tensor, at::ScalarType type, at::IntArrayRef sizes) {
  check_dense(op, name, tensor);
  TORCH_CHECK_VALUE(tensor.scalar_type() == type && tensor.sizes() == sizes, op, ": ", name, " is ", tensor.scalar_type(), " ",
                    tensor.sizes(), ", expected ", type, " ", sizes);
}

inline void check_tensor(const char* op, const char* name, size_t index, const at::Tensor& tensor, const at::Tensor& like) {
  check_dense(op, name, tensor);
  TORCH_CHECK_VALUE(tensor.scalar_type() == like.scalar_type() && tensor.device() == like.device(), op, ": ", name, "[", index,
                    "] is ", tensor.scalar_type(), " on ", tensor.device(), ", but weights[0] is ", like.scalar_type(), " on ",
                    like.device());
}

}  // namespace hnetfast
