// Memory for large results, kept warm between calls.
//
// The first touch of fresh pages costs several times what writing the result costs. Buffers from here come back
// to a bounded free list when the last tensor on them dies, and only then, so nothing alive is ever overwritten.
#pragma once

#include <ATen/core/Tensor.h>

namespace hnetfast {

// Contiguous CPU tensor with uninitialised contents.
at::Tensor empty_pooled(at::IntArrayRef sizes, const at::TensorOptions& like);

}  // namespace hnetfast
