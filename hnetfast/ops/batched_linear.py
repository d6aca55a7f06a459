"""A linear layer evaluated for many sets of weights: ``out[b] = x[b] · W[b]ᵀ + bias[b]``."""

from __future__ import annotations

import torch
from torch import Tensor

from hnetfast.ops._library import check_dense, check_tensor
from hnetfast.ops._register import lowered, register_op


def batched_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply a linear layer with weights of its own to each batch.

    Args:
        x: Inputs ``[B, batch, in]``; a stride of 0 in the first dimension where all sets share them.
        weight: Matrices ``[B, out, in]``, e.g. a view of generated weights ``[B, n]``.
        bias: Vectors ``[B, out]``.

    Returns:
        Outputs ``[B, batch, out]``.

    Raises:
        ValueError, RuntimeError: If shapes or dtypes do not fit.
    """
    return _OP(x, weight, bias)


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
    _check("batched_linear", x, weight, bias)
    if bias is None:
        return torch.bmm(x, weight.transpose(1, 2))
    return torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))


def _backward(grad_out, x, weight, needs) -> list[Tensor]:
    _check_backward(grad_out, x, weight)
    none = x.new_empty(0)
    return [
        torch.bmm(grad_out, weight) if needs[0] else none,
        torch.bmm(grad_out.transpose(1, 2), x) if needs[1] else none,
        grad_out.sum(1) if needs[2] else none,
    ]


def _check(op: str, x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    check_dense(op, "x", x)
    check_dense(op, "weight", weight)
    if x.dim() != 3 or weight.dim() != 3 or x.shape[0] != weight.shape[0] or x.shape[2] != weight.shape[2]:
        raise ValueError(
            f"{op}: x has shape {list(x.shape)}, weight {list(weight.shape)}, expected [sets, batch, in] and "
            "[sets, out, in]"
        )
    if not x.is_floating_point() or weight.dtype != x.dtype:
        raise ValueError(f"{op}: x is {x.dtype}, weight {weight.dtype}, expected the same floating point")
    if bias is not None:
        check_dense(op, "bias", bias)
        if bias.shape != weight.shape[:2]:  # would be expanded
            raise ValueError(f"{op}: bias has shape {list(bias.shape)}, expected {list(weight.shape[:2])}")


def _fake(x, weight, bias) -> Tensor:
    _check("batched_linear", x, weight, bias)
    return x.new_empty(weight.shape[0], x.shape[1], weight.shape[1])


def _check_backward(grad_out: Tensor, x: Tensor, weight: Tensor) -> None:
    op = "batched_linear_backward"
    _check(op, x, weight, None)
    check_tensor(op, "grad_out", grad_out, (*x.shape[:2], weight.shape[1]), x)
    check_tensor(op, "weight", weight, tuple(weight.shape), x)


def _backward_fake(grad_out, x, weight, needs) -> list[Tensor]:
    _check_backward(grad_out, x, weight)
    shapes = (x.shape, weight.shape, weight.shape[:2])
    return [x.new_empty(shape if need else 0) for shape, need in zip(shapes, needs, strict=True)]


def _fold(info, in_dims, *tensors: Tensor | None) -> list[Tensor | None]:
    """Makes the batch of ``vmap`` part of the sets: ``[V·B, …]``."""
    folded = []
    for tensor, dim in zip(tensors, in_dims, strict=False):
        if tensor is not None:
            batched = tensor.expand(info.batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
            tensor = batched.flatten(0, 1)
        folded.append(tensor)
    return folded


def _vmap(op, info, in_dims, *tensors):
    return op(*_fold(info, in_dims, *tensors)).unflatten(0, (info.batch_size, -1)), 0


def _vmap_backward(op, info, in_dims, grad_out, x, weight, needs):
    found = op(*_fold(info, in_dims, grad_out, x, weight), needs)
    found = [
        t.unflatten(0, (info.batch_size, -1)) if need else t for t, need in zip(found, needs, strict=True)
    ]
    return found, [0 if need else None for need in needs]


register_op(
    "batched_linear_backward(Tensor grad_out, Tensor x, Tensor weight, bool[] needs) -> Tensor[]",
    _backward,
    _backward_fake,
    differentiable=_backward,
    vmap=_vmap_backward,
)
_OP = register_op(
    "batched_linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor out",
    batched_linear_reference,
    _fake,
    vmap=_vmap,
    autocast=lowered,
)
