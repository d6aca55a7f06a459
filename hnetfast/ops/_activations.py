"""Activation functions that treat every element by itself, whatever is evaluated with it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_MODULES = {
    nn.CELU, nn.ELU, nn.GELU, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.Identity, nn.LeakyReLU,
    nn.LogSigmoid, nn.Mish, nn.ReLU, nn.ReLU6, nn.SELU, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Softsign,
    nn.Tanh,
}  # fmt: skip
_FUNCTIONS = {None, F.elu, F.gelu, F.relu, F.silu, torch.relu, torch.sigmoid, torch.tanh}
_WHOLE_VECTORS = 64  # elements: what PyTorch's loops take at a time is a divisor, for all types


def is_elementwise(activation: Any) -> bool:
    """Tell whether an activation function, or None, is known to be elementwise and not in place."""
    if isinstance(activation, nn.Module):
        return type(activation) in _MODULES and not getattr(activation, "inplace", False)
    return activation in _FUNCTIONS


def activate_rows(x: Tensor, activation: Any) -> Tensor:
    """Apply an elementwise activation function such that the bits of a row don't depend on the other rows.

    PyTorch computes the last elements of a tensor on a CPU, those that fill no vector, one by one and rounds
    them differently. With rows of whole vectors there are none.

    Args:
        x: Tensor ``[R, K]``.
        activation: See :func:`is_elementwise`.

    Returns:
        Tensor ``[R, K]``.
    """
    width = x.shape[1]
    padding = -width % _WHOLE_VECTORS if x.device.type == "cpu" else 0
    return activation(F.pad(x, (0, padding)))[:, :width] if padding else activation(x)
