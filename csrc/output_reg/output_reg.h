// The parts of the op output_reg on the CPU, see hnetfast/ops/output_reg.py.
//
// With the last layer A = [W b], what it was A* = [W* b*], D = A − A*, its input rows h, what they were, h − Δ, and
// factors s: Σ s ‖D h̃ + W* Δ‖² = ⟨DᵀD, Σ s h̃h̃ᵀ⟩ + 2⟨DᵀW*, Σ s h̃Δᵀ⟩ + ⟨W*ᵀW*, Σ s ΔΔᵀ⟩, with h̃ = [h 1].
#pragma once

#include <ATen/core/Tensor.h>

#include <array>

#include "output_reg/last_rows.h"

namespace hnetfast {

// DᵀD [2, C, C], DᵀW* [2, C, K] and W*ᵀW* [2, K, K] of the first `split` outputs and of the others.
std::array<at::Tensor, 3> layer_matrices(const ChangedLayer& layer);

// Gradients of weight and bias (empty if there is none) from those of DᵀD and DᵀW*.
std::array<at::Tensor, 2> layer_gradients(const ChangedLayer& layer, const at::Tensor& grad_changes,
                                          const at::Tensor& grad_mixed);

// What rows h give, with their changes Δ, of `chunks` for every condition: the last of them meets the first part of the layer,
// others all of it.
struct RowSums {
  double loss;
  at::Tensor changes, mixed;  // its gradients for DᵀD and DᵀW*
  at::Tensor rows;            // its gradient for the rows, [R, K], undefined if not asked for
};

RowSums change_of_rows(const at::Tensor& now, const at::Tensor& change, const at::Tensor& scaling, int64_t chunks,
                       const std::array<at::Tensor, 3>& matrices, bool has_bias, bool gradients);

}  // namespace hnetfast
