"""The states of an Elman layer, ``h_t = act(z_t + W h_{t-1})``, for a whole sequence."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hnetfast.ops._activations import ACTIVATIONS
from hnetfast.ops._library import check_dense, check_tensor
from hnetfast.ops._register import register_op

FUSED = ("tanh", "relu")  # the activation functions of this op


def elman_states(z: Tensor, weight: Tensor, h_0: Tensor | None, activation: str) -> Tensor:
    """Compute the states of a sequence; the weights' gradient is one product over all its steps.

    Elman, "Finding structure in time", 1990.

    Args:
        z: What comes from the inputs, biases included, ``[T, batch, H]`` or, for many sets of weights,
            ``[T, B, batch, H]``.
        weight: The matrix ``[H, H]`` or ``[B, H, H]``.
        h_0: Initial states, of the shape of a step of ``z``; zeros if None.
        activation: "tanh" or "relu".

    Returns:
        The states, of the shape of ``z``.

    Raises:
        ValueError: If ``activation`` is neither, or the shapes do not fit.
    """
    if h_0 is None:
        h_0 = torch.zeros_like(z[0])
    return _OP(z, weight, h_0, activation)


def elman_states_reference(z: Tensor, weight: Tensor, h_0: Tensor, activation: str) -> Tensor:
    """Compute the hidden states in plain PyTorch, differentiated step by step.

    Args:
        z: What comes from the inputs, ``[T, batch, H]`` or, for many sets of weights, ``[T, B, batch, H]``.
        weight: The matrix ``[H, H]`` or ``[B, H, H]``.
        h_0: Initial states, of the shape of a step of ``z``.
        activation: "tanh" or "relu".

    Returns:
        The states after each step, of the shape of ``z``.

    Raises:
        ValueError: If the shapes do not fit.
    """
    _check(z, weight, h_0, activation)
    act = ACTIVATIONS[activation].function
    states, h = [], h_0
    for z_t in z.unbind(0):
        h = act(z_t + h @ weight.mT)
        states.append(h)
    return torch.stack(states)


def _forward(z: Tensor, weight: Tensor, h_0: Tensor, activation: str) -> Tensor:
    if not weight.is_floating_point() or z.dtype != weight.dtype or h_0.dtype != weight.dtype:
        raise ValueError(
            f"elman_states: z is {z.dtype}, weight {weight.dtype} and h_0 {h_0.dtype}, expected one type, "
            "floating point"
        )
    return elman_states_reference(z, weight, h_0, activation)


def _check(z: Tensor, weight: Tensor, h_0: Tensor, activation: str) -> None:
    for name, tensor in (("z", z), ("weight", weight), ("h_0", h_0)):
        check_dense("elman_states", name, tensor)
    if activation not in FUSED:
        raise ValueError(f"elman_states: activation is {activation!r}, accepted are {', '.join(FUSED)}")
    sets = weight.shape[:-2]
    if (
        weight.dim() not in (2, 3)
        or z.dim() != weight.dim() + 1
        or len(z) == 0
        or weight.shape[-1] != weight.shape[-2]
        or z.shape[-1] != weight.shape[-1]
        or (sets and z.shape[1] != sets[0])
        or h_0.shape != z.shape[1:]
    ):
        raise ValueError(
            f"elman_states: z has shape {list(z.shape)}, weight {list(weight.shape)} and h_0 "
            f"{list(h_0.shape)}, expected at least one step of [steps, batch, width], [width, width] and "
            "[batch, width], or the same for several sets of weights"
        )


def _check_backward(
    grad_states: Tensor, states: Tensor, weight: Tensor, h_0: Tensor, activation: str
) -> None:
    _check(grad_states, weight, h_0, activation)
    shape = tuple(grad_states.shape)
    for name, tensor in (("grad_states", grad_states), ("states", states)):
        check_tensor("elman_states_backward", name, tensor, shape, weight)
    check_tensor("elman_states_backward", "h_0", h_0, shape[1:], weight)


def _backward(grad_states, states, weight, h_0, activation: str, needs) -> list[Tensor]:
    """Gradients of z, of the matrices and of the initial states, differentiable."""
    _check_backward(grad_states, states, weight, h_0, activation)
    gradient = ACTIVATIONS[activation].gradient
    grads: list[Tensor] = []
    for grad_t, h in zip(reversed(grad_states.unbind(0)), reversed(states.unbind(0)), strict=True):
        grads.append(gradient(grad_t + grads[-1] @ weight if grads else grad_t, h))
    grad_z = torch.stack(grads[::-1])
    grad_weight = grad_h_0 = grad_z.new_empty(0)
    if needs[1]:
        grad_weight = grad_z[0].mT @ h_0
        if len(states) > 1:
            grad_weight = grad_weight + _rows(grad_z[1:]).mT @ _rows(states[:-1])
    if needs[2]:
        grad_h_0 = grad_z[0] @ weight
    return [grad_z if needs[0] else grad_z.new_empty(0), grad_weight, grad_h_0]


def _rows(steps: Tensor) -> Tensor:
    """Steps and samples as the terms of one sum: ``[..., T·batch, H]``."""
    count = steps.shape[0] * steps.shape[-2]
    return steps.transpose(0, -3).reshape(*steps.shape[1:-2], count, steps.shape[-1])


def _fake(z, weight, h_0, activation: str) -> Tensor:
    _check(z, weight, h_0, activation)
    return z.new_empty(z.shape)


def _backward_fake(grad_states, states, weight, h_0, activation: str, needs) -> list[Tensor]:
    _check_backward(grad_states, states, weight, h_0, activation)
    shapes = (grad_states.shape, weight.shape, h_0.shape)
    return [weight.new_empty(shape if need else 0) for shape, need in zip(shapes, needs, strict=True)]


def _fold(info, in_dims, sequences: Sequence[Tensor], others: Sequence[Tensor]) -> list[Tensor]:
    """Makes the batch of ``vmap`` more sets of weights: ``[T, V·B, …]``, and of the others ``[V·B, …]``."""

    def in_front(tensor: Tensor, dim: int | None) -> Tensor:
        return tensor.expand(info.batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)

    tensors = [in_front(t, dim) for t, dim in zip([*sequences, *others], in_dims, strict=False)]
    sequences, others = [t.transpose(0, 1) for t in tensors[: len(sequences)]], tensors[len(sequences) :]
    if others[0].dim() == 4:
        sequences, others = [t.flatten(1, 2) for t in sequences], [t.flatten(0, 1) for t in others]
    return [*sequences, *others]


def _unfold(info, tensor: Tensor, dim: int, has_sets: bool) -> Tensor:
    return tensor.unflatten(dim, (info.batch_size, -1)) if has_sets else tensor


def _vmap(op, info, in_dims, z, weight, h_0, activation: str):
    has_sets = weight.dim() - (in_dims[1] is not None) == 3
    states = op(*_fold(info, in_dims, [z], [weight, h_0]), activation)
    return _unfold(info, states, 1, has_sets), 1


def _vmap_backward(op, info, in_dims, grad_states, states, weight, h_0, activation: str, needs):
    has_sets = weight.dim() - (in_dims[2] is not None) == 3
    found = op(*_fold(info, in_dims, [grad_states, states], [weight, h_0]), activation, needs)
    dims = [d if need else None for d, need in zip((1, 0, 0), needs, strict=True)]
    return [t if d is None else _unfold(info, t, d, has_sets) for t, d in zip(found, dims, strict=True)], dims


register_op(
    "elman_states_backward(Tensor grad_states, Tensor states, Tensor weight, Tensor h_0, str activation, "
    "bool[] needs) -> Tensor[]",
    _backward,
    _backward_fake,
    differentiable=_backward,
    vmap=_vmap_backward,
)
_OP = register_op(
    "elman_states(Tensor z, Tensor weight, Tensor h_0, str activation) -> Tensor states",
    _forward,
    _fake,
    vmap=_vmap,
    autocast=lambda op, device, *args: elman_states_reference(*args),
)
