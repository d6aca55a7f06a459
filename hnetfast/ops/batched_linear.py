"""A linear layer evaluated for many sets of weights: ``out[b] = x[b] · W[b]ᵀ + bias[b]``."""

from __future__ import annotations

import torch
from torch import Tensor

from hnetfast.ops._library import EXTENSION_LOADED, LIBRARY, takes_plain_tensors

LIBRARY.define("batched_linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor")

_KERNEL_DTYPES = (torch.float32, torch.float64)


def batched_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply a linear layer with weights of its own to each batch.

    Args:
        x: Inputs ``[B, batch, in]``; a stride of 0 in the first dimension where all sets share them.
        weight: Matrices ``[B, out, in]``, e.g. a view of generated weights ``[B, n]``.
        bias: Vectors ``[B, out]``.

    Returns:
        Outputs ``[B, batch, out]``.

    Raises:
        ValueError, RuntimeError: If the shapes do not fit.
    """
    if (
        EXTENSION_LOADED
        and x.device.type == weight.device.type == "cpu"
        and x.dtype == weight.dtype
        and x.dtype in _KERNEL_DTYPES
        and not torch.is_autocast_enabled("cpu")
        and takes_plain_tensors()
    ):
        return torch.ops.hnetfast.batched_linear(x, weight, bias)
    return batched_linear_reference(x, weight, bias)


def batched_linear_reference(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply a linear layer with weights of its own to each batch, in plain PyTorch.

    Args:
        x: Inputs ``[B, batch, in]``.
        weight: Matrices ``[B, out, in]``.
        bias: Vectors ``[B, out]``.

    Returns:
        Outputs ``[B, batch, out]``.

    Raises:
        ValueError: If the biases have another shape.
    """
    if bias is None:
        return torch.bmm(x, weight.transpose(1, 2))
    if bias.shape != weight.shape[:2]:  # would be expanded
        raise ValueError(
            f"batched_linear: bias has shape {list(bias.shape)}, expected {list(weight.shape[:2])}"
        )
    return torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))
