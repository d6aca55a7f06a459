"""The states of an Elman layer, ``h_t = act(z_t + W h_{t-1})``, for a whole sequence."""

from __future__ import annotations

import torch
from torch import Tensor

from hnetfast.ops._register import register_op, vmap_of


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
    if activation not in ("tanh", "relu"):
        raise ValueError(f"activation: expected 'tanh' or 'relu', got {activation!r}")
    if h_0 is None:
        h_0 = torch.zeros_like(z[0])
    return _OP(z, weight, h_0, activation)


def elman_states_reference(z: Tensor, weight: Tensor, h_0: Tensor, activation: str) -> Tensor:
    """The same in plain PyTorch, differentiated step by step."""
    _check(z, weight, h_0)
    act = torch.tanh if activation == "tanh" else torch.relu
    states, h = [], h_0
    for z_t in z.unbind(0):
        h = act(z_t + h @ weight.mT)
        states.append(h)
    return torch.stack(states)


def _check(z: Tensor, weight: Tensor, h_0: Tensor) -> None:
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


def _backward(grad_states, states, weight, h_0, activation: str, needs) -> list[Tensor]:
    """Gradients of z, of the matrices and of the initial states, differentiable."""
    slopes = 1 - states * states if activation == "tanh" else (states > 0).to(states.dtype)
    grads: list[Tensor] = []
    for grad_t, slope in zip(reversed(grad_states.unbind(0)), reversed(slopes.unbind(0)), strict=True):
        grads.append((grad_t + grads[-1] @ weight if grads else grad_t) * slope)
    grad_z = torch.stack(grads[::-1])
    grad_weight = grad_h_0 = grad_z.new_empty(0)
    if needs[1]:
        grad_weight = grad_z[0].mT @ h_0
        if len(states) > 1:
            # Steps and samples are the terms of one sum: [..., T·batch, H].
            rows = [t.movedim(0, -3).flatten(-3, -2) for t in (grad_z[1:], states[:-1])]
            grad_weight = grad_weight + rows[0].mT @ rows[1]
    if needs[2]:
        grad_h_0 = grad_z[0] @ weight
    return [grad_z, grad_weight, grad_h_0]


def _fake(z, weight, h_0, activation: str) -> Tensor:
    _check(z, weight, h_0)
    return z.new_empty(z.shape)


def _backward_fake(grad_states, states, weight, h_0, activation: str, needs) -> list[Tensor]:
    _check(grad_states, weight, h_0)
    shapes = (grad_states.shape, weight.shape, h_0.shape)
    return [weight.new_empty(shape if need else 0) for shape, need in zip(shapes, needs, strict=True)]


_BACKWARD_OP = register_op(
    "elman_states_backward(Tensor grad_states, Tensor states, Tensor weight, Tensor h_0, str activation, "
    "bool[] needs) -> Tensor[]",
    _backward,
    _backward_fake,
    differentiable=_backward,
    vmap=vmap_of(_backward),
)
_OP = register_op(
    "elman_states(Tensor z, Tensor weight, Tensor h_0, str activation) -> Tensor states",
    elman_states_reference,
    _fake,
    vmap=vmap_of(elman_states_reference),
    autocast=lambda op, device, *args: elman_states_reference(*args),
)
