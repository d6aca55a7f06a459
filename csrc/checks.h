// Checks of what an op was given, worded alike everywhere: op, argument, what came, what is accepted.
#pragma once

#include <ATen/core/Tensor.h>

namespace hnetfast {

inline void check_tensor(const char* op, const char* name, size_t index, const at::Tensor& tensor, const at::Tensor& like) {
  TORCH_CHECK_VALUE(
      tensor.scalar_type() == like.scalar_type() && tensor.device() == like.device(),
      op, ": ", name, "[", index, "] is ", tensor.scalar_type(), " on ", tensor.device(), ", but weights[0] is ",
      like.scalar_type(), " on ", like.device());
}

}  // namespace hnetfast
