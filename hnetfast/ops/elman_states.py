"""The states of an Elman layer, ``h_t = act(z_t + W h_{t-1})``, for a whole sequence."""

from __future__ import annotations

import torch
from torch import Tensor

from hnetfast.ops._library import EXTENSION_LOADED, LIBRARY, takes_plain_tensors

LIBRARY.define("elman_states(Tensor z, Tensor weight, Tensor h_0, str activation) -> Tensor")
LIBRARY.define("elman_states_backward(Tensor grad, Tensor states, Tensor weight, str activation) -> Tensor")

_KERNEL_DTYPES = (torch.float32, torch.float64)


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
    if (
        EXTENSION_LOADED
        and z.device.type == weight.device.type == "cpu"
        and z.dtype == weight.dtype == h_0.dtype
        and z.dtype in _KERNEL_DTYPES
        and z.numel()
        and not torch.is_autocast_enabled("cpu")
        and takes_plain_tensors()
    ):
        return _ElmanStates.apply(z, weight, h_0, activation)
    return elman_states_reference(z, weight, h_0, activation)


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
    act = torch.tanh if activation == "tanh" else torch.relu
    states, h = [], h_0
    for z_t in z.unbind(0):
        h = act(z_t + h @ weight.mT)
        states.append(h)
    return torch.stack(states)


class _ElmanStates(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z: Tensor, weight: Tensor, h_0: Tensor, activation: str) -> Tensor:
        states = torch.ops.hnetfast.elman_states(z, weight, h_0, activation)
        ctx.save_for_backward(weight, h_0, states)
        ctx.activation = activation
        return states

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, h_0, states = ctx.saved_tensors
        if torch.is_grad_enabled():
            # What was saved knows where it comes from, so that this has a derivative too.
            grad_z = _differentiable_backward(grad, states, weight, ctx.activation)
        else:
            grad_z = torch.ops.hnetfast.elman_states_backward(grad, states, weight, ctx.activation)
        grad_weight = grad_h_0 = None
        if ctx.needs_input_grad[1]:
            grad_weight = grad_z[0].mT @ h_0
            if len(states) > 1:
                # Steps and samples are the terms of one sum: [..., T·batch, H].
                rows = [t.movedim(0, -3).flatten(-3, -2) for t in (grad_z[1:], states[:-1])]
                grad_weight = grad_weight + rows[0].mT @ rows[1]
        if ctx.needs_input_grad[2]:
            grad_h_0 = grad_z[0] @ weight
        return grad_z, grad_weight, grad_h_0, None


def _differentiable_backward(grad: Tensor, states: Tensor, weight: Tensor, activation: str) -> Tensor:
    slopes = 1 - states * states if activation == "tanh" else (states > 0).to(states.dtype)
    grads: list[Tensor] = []
    for grad_t, slope in zip(reversed(grad.unbind(0)), reversed(slopes.unbind(0)), strict=True):
        grads.append((grad_t + grads[-1] @ weight if grads else grad_t) * slope)
    return torch.stack(grads[::-1])
