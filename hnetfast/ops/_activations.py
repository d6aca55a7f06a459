"""What is known of activation functions that users give.

Only those that are listed are taken to be elementwise and deterministic: what others do with rows that are
evaluated together, only calling them tells. A module that somebody watches is called like any other module.
"""

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
_FUNCTIONS = {
    None, F.celu, F.elu, F.gelu, F.hardsigmoid, F.hardswish, F.hardtanh, F.leaky_relu, F.logsigmoid, F.mish,
    F.relu, F.relu6, F.selu, F.sigmoid, F.silu, F.softplus, F.softsign, F.tanh, torch.celu, torch.cos,
    torch.relu, torch.selu, torch.sigmoid, torch.sin, torch.tanh,
}  # fmt: skip
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
RELU, TANH = nn.ReLU(), nn.Tanh()  # defaults of constructors, see own_activation
_UNSHARED = 1 << 14  # elements, half of what PyTorch shares out among threads
_WHOLE_VECTORS = 64  # elements: what PyTorch's loops take at a time is a divisor, for all types


def is_elementwise(activation: Any) -> bool:
    """Tell whether an activation function, or None, is known to be elementwise and deterministic."""
    if isinstance(activation, nn.Module):
        return type(activation) in _MODULES
    return activation in _FUNCTIONS


def own_activation(activation: Any) -> Any:
    """Return what a network is to call: a module of its own in the place of a default, which all share."""
    return type(activation)() if activation is RELU or activation is TANH else activation


def is_watched(activation: Any) -> bool:
    """Tell whether somebody sees or changes what a module of a known class computes.

    That is a hook, of the module or of all modules, or a ``forward`` that was assigned to it.
    """
    if not isinstance(activation, nn.Module):
        return False
    return (
        "forward" in vars(activation)
        or any(getattr(activation, name, None) for name in _HOOKS)
        or nn.modules.module._has_any_global_hook()
    )


def activate_rows(x: Tensor, activation: Any) -> Tensor:
    """Apply an elementwise activation function such that the bits of a row don't depend on the other rows.

    PyTorch computes the last elements of a thread's share on a CPU, those that fill no vector, one by one and
    rounds them differently. With rows of whole vectors, and few at a time, there are none.

    Args:
        x: Tensor ``[R, K]``.
        activation: See :func:`is_elementwise`.

    Returns:
        Tensor ``[R, K]``.
    """
    if x.device.type != "cpu":
        return activation(x)
    width = x.shape[1]
    padded = F.pad(x, (0, -width % _WHOLE_VECTORS))
    rows = max(_UNSHARED // max(padded.shape[1], 1), 1)
    if rows >= len(x):
        return activation(padded)[:, :width]
    return torch.cat([activation(block)[:, :width] for block in padded.split(rows)])
