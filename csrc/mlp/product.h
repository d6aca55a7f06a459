// Matrix products whose result does not depend on the number of threads, which a library's may.
#pragma once

#include <ATen/core/Tensor.h>

namespace hnetfast {

// out = a·b (+ bias), or out += a·b where `accumulate`. Rows of `out` are contiguous.
void product_out(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, const at::Tensor& bias = {},
                 bool accumulate = false);

at::Tensor product(const at::Tensor& a, const at::Tensor& b, const at::Tensor& bias = {});

}  // namespace hnetfast
