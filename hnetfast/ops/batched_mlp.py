"""A small MLP evaluated for many sets of weights, all layers in one pass.

Layer by layer it is :func:`hnetfast.ops.batched_linear`; of small networks the calls are what takes time.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hnetfast._errors import InputTypeError
from hnetfast.ops._activations import ACTIVATIONS
from hnetfast.ops._library import check_dense, check_tensor, without_autocast
from hnetfast.ops._mlp_layers import check_needs
from hnetfast.ops._register import register_op
from hnetfast.ops.batched_linear import batched_linear_reference

_ACCEPTED = ("identity", "relu", "sine")
_ROW_UNIT = 16  # saved activations have a multiple of as many rows, see csrc/batched_mlp.cpp


def batched_mlp(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], activation: str, omega: float = 1.0
) -> Tensor:
    """Apply an MLP with weights of its own to each batch.

    Args:
        x: Inputs ``[B or 1, batch, in]``, in single or double precision.
        weights: Matrices of the layers ``[B, out, in]``, e.g. views of generated weights ``[B, n]``.
        biases: Vectors ``[B, out]``, one a layer, or an empty list.
        activation: Of the hidden layers, "relu", "identity" or "sine". The output is linear.
        omega: Factor of the argument of "sine", which is ``sin(omega·h)``.

    Returns:
        Outputs ``[B, batch, out]``, differentiable with respect to every tensor, twice too.

    Raises:
        TypeError, ValueError: Sizes or dtypes that do not fit; the argument is named.
    """
    if isinstance(omega, Tensor):
        raise InputTypeError("omega: expected a number, which has no gradient, got a tensor")
    return _OP(x, weights, biases, activation, omega)[0]


# --- reference ------------------------------------------------------------------------------------


def _check(op: str, x, weights, biases, activation) -> None:
    check_dense(op, "x", x)
    if activation not in _ACCEPTED:
        raise ValueError(f"{op}: activation is {activation!r}, accepted are {', '.join(_ACCEPTED)}")
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{op}: x is {x.dtype}, accepted are float32 and float64")
    if not weights:
        raise ValueError(f"{op}: weights must not be empty")
    if biases and len(biases) != len(weights):
        raise ValueError(f"{op}: {len(biases)} biases for {len(weights)} weights; give one each or none")
    check_dense(op, "weights", weights[0])
    shape = weights[0].shape
    if x.dim() != 3 or len(shape) != 3 or x.shape[0] not in (1, shape[0]):
        raise ValueError(
            f"{op}: x has shape {list(x.shape)}, weights[0] {list(shape)}, expected [sets or 1, batch, in] "
            "and [sets, out, in]"
        )
    width = x.shape[2]
    for i, weight in enumerate(weights):
        check_dense(op, "weights", weight)
        found = weight.dtype, weight.device, weight.dim()
        if found != (x.dtype, x.device, 3) or (weight.shape[0], weight.shape[2]) != (shape[0], width):
            raise ValueError(
                f"{op}: weights[{i}] is {weight.dtype} {list(weight.shape)} on {weight.device}, expected "
                f"{x.dtype} [{shape[0]}, out, {width}] on {x.device}"
            )
        width = weight.shape[1]
        if biases:
            check_tensor(op, f"biases[{i}]", biases[i], (shape[0], width), x)


def _layers(x, weights, biases, activation: str, omega: float) -> tuple[Tensor, list[Tensor]]:
    """Output, and results of hidden units, of sines also their slopes, ``[B, batch, width]`` each."""
    results, slopes, h = [], [], x.expand(weights[0].shape[0], -1, -1)
    for i, weight in enumerate(weights):
        h = batched_linear_reference(h, weight, biases[i] if biases else None)
        if i + 1 == len(weights):
            break
        if activation == "sine":
            slopes.append(omega * torch.cos(omega * h))
            h = torch.sin(omega * h)
        else:
            h = ACTIVATIONS[activation].function(h)
        results.append(h)
    return h, results + slopes


def _joined(hidden: Sequence[Tensor], like: Tensor, sets: int) -> Tensor:
    """What the backward pass needs, ``[B, Σ widths (for sines twice), batch, rounded up]``."""
    padding = -like.shape[1] % _ROW_UNIT
    if not hidden:
        return like.new_empty(sets, 0, like.shape[1] + padding)
    return F.pad(torch.cat(list(hidden), 2).transpose(1, 2), (0, padding)).contiguous()


def _hidden_shape(x, weights, activation) -> tuple[int, int, int]:
    rows, width = x.shape[1], sum(weight.shape[1] for weight in weights[:-1])
    return weights[0].shape[0], 2 * width if activation == "sine" else width, rows + -rows % _ROW_UNIT


def _forward_reference(x, weights, biases, activation, omega=1.0, save_hidden=False):
    _check("batched_mlp", x, weights, biases, activation)
    with without_autocast(x.device.type):
        out, hidden = _layers(x, weights, biases, activation, omega)
    saved = _joined(hidden, x, weights[0].shape[0]) if save_hidden else x.new_empty(0)
    return out.clone(memory_format=torch.contiguous_format), saved


def _gradients(grad_out, hidden, x, weights, biases, activation, needs) -> list[Tensor]:
    widths = [weight.shape[1] for weight in weights[:-1]]
    is_sine = activation == "sine"
    found = hidden[:, :, : x.shape[1]].transpose(1, 2).split(widths * (1 + is_sine), 2) if widths else ()
    below = [x.expand(weights[0].shape[0], -1, -1), *found[: len(widths)]]
    grads: list[Tensor | None] = [None] * len(needs)
    grad = grad_out
    for i in reversed(range(len(weights))):
        grads[1 + i] = grad.transpose(1, 2) @ below[i]
        if biases:
            grads[1 + len(weights) + i] = grad.sum(1)
        grad = grad @ weights[i]
        if i > 0 and is_sine:
            grad = grad * found[len(widths) + i - 1]
        elif i > 0:
            grad = ACTIVATIONS[activation].gradient(grad, below[i])
    grads[0] = grad.sum_to_size(x.shape)
    none = x.new_empty(0)
    return [none if g is None or not need else g for g, need in zip(grads, needs, strict=True)]


def _check_backward(grad_out, hidden, x, weights, biases, activation, needs) -> None:
    op = "batched_mlp_backward"
    _check(op, x, weights, biases, activation)
    check_tensor(op, "grad_out", grad_out, (weights[0].shape[0], x.shape[1], weights[-1].shape[1]), x)
    check_tensor(op, "hidden", hidden, _hidden_shape(x, weights, activation), x)
    check_needs(op, needs, [x, *weights, *biases])


def _backward_reference(grad_out, hidden, x, weights, biases, activation, omega, needs) -> list[Tensor]:
    _check_backward(grad_out, hidden, x, weights, biases, activation, needs)
    with without_autocast(x.device.type):
        return _gradients(grad_out, hidden, x, weights, biases, activation, needs)


def _differentiable_backward(grad_out, hidden, x, weights, biases, activation, omega, needs) -> list[Tensor]:
    with without_autocast(x.device.type):
        hidden = _joined(_layers(x, weights, biases, activation, omega)[1], x, weights[0].shape[0])
        return _gradients(grad_out, hidden, x, weights, biases, activation, needs)


# --- tracing --------------------------------------------------------------------------------------


def _forward_fake(x, weights, biases, activation, omega=1.0, save_hidden=False):
    _check("batched_mlp", x, weights, biases, activation)
    out = x.new_empty(weights[0].shape[0], x.shape[1], weights[-1].shape[1])
    return out, x.new_empty(_hidden_shape(x, weights, activation) if save_hidden else 0)


def _backward_fake(grad_out, hidden, x, weights, biases, activation, omega, needs) -> list[Tensor]:
    _check_backward(grad_out, hidden, x, weights, biases, activation, needs)
    tensors = [x, *weights, *biases]
    return [t.new_empty(t.shape if need else 0) for t, need in zip(tensors, needs, strict=True)]


# --- registration ---------------------------------------------------------------------------------

register_op(
    "batched_mlp_backward(Tensor grad_out, Tensor hidden, Tensor x, Tensor[] weights, Tensor[] biases, "
    "str activation, float omega, bool[] needs) -> Tensor[]",
    _backward_reference,
    _backward_fake,
    differentiable=_differentiable_backward,
)
_OP = register_op(
    "batched_mlp(Tensor x, Tensor[] weights, Tensor[] biases, str activation, float omega=1, "
    "bool save_hidden=False) -> (Tensor out, Tensor hidden)",
    _forward_reference,
    _forward_fake,
)
