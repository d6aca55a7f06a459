// The hidden layers of a network as it is and as it was.
#pragma once

#include <ATen/core/Tensor.h>

#include "mlp/network.h"

namespace hnetfast {

constexpr int64_t kRowByRow = 3;  // so many rows at most are not worth laying out matrices for

// The results of the hidden layers as hidden_layers returns them, and by how much those of the last have changed since the
// network was `then`, [R, K].
struct HiddenChange {
  at::Tensor hidden, change;
};
HiddenChange hidden_change(const Mlp& now, const Mlp& then, const Sizes& sizes, bool save);

}  // namespace hnetfast
