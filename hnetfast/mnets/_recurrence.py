"""Recurrent layers: one step, and whole sequences in as few operations as their mathematics allow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hnetfast.mnets._layer_functions import LayerFunctions

State = tuple[Tensor, Tensor]
Modulation = Callable[[Tensor], Tensor] | None


def activation_name(activation: Any) -> str | None:
    """Tell "tanh" and "relu" from other activation functions, for which there are no fused sequences."""
    if type(activation) is nn.Tanh or activation in (torch.tanh, F.tanh):
        return "tanh"
    if (type(activation) is nn.ReLU and not activation.inplace) or activation in (torch.relu, F.relu):
        return "relu"
    return None


class Cell:
    """A step of a recurrent layer.

    Args:
        activation: Activation function, None for none.
        modulate: Context modulation, None for none.
        post: Whether that follows the activation function.
    """

    def __init__(self, activation: Callable | None, modulate: Modulation = None, post: bool = False) -> None:
        self._activation = activation
        self._modulate, self._post = modulate, post

    def _activate(self, z: Tensor) -> Tensor:
        if self._modulate is not None and not self._post:
            z = self._modulate(z)
        if self._activation is not None:
            z = self._activation(z)
        if self._modulate is not None and self._post:
            z = self._modulate(z)
        return z

    def lstm(self, gates: Tensor, cell_state: Tensor) -> State:
        """Hochreiter and Schmidhuber, "Long short-term memory", 1997, with forget gates.

        Args:
            gates: Input, forget, cell and output gate before their nonlinearities, ``[..., 4·H]``.
            cell_state: The previous cell state ``[..., H]``.

        Returns:
            The new output and cell state. Modulation before the activation function leaves the cell state as
            it is.
        """
        i, f, g, o = gates.chunk(4, -1)
        cell_state = torch.sigmoid(f) * cell_state + torch.sigmoid(i) * torch.tanh(g)
        gate = torch.sigmoid(o)
        if self._modulate is not None and self._post:
            activated = cell_state if self._activation is None else self._activation(cell_state)
            return self._modulate(gate * activated), cell_state
        return gate * self._activate(cell_state), cell_state

    def elman(self, z: Tensor) -> Tensor:
        """The state, or the output, of an Elman layer from its linear map ``[..., H]``."""
        return self._activate(z)


def fused_lstm(
    x: Tensor, weights: Sequence[Tensor], h_0: Tensor | None, c_0: Tensor | None
) -> tuple[Tensor, State]:
    """Compute the outputs of an LSTM layer with tanh by the library's kernel.

    Args:
        x: Inputs ``[T, batch, in]``.
        weights: Matrix and bias of the input, matrix and bias of the state, biases optional.
        h_0: Initial outputs ``[batch, H]``, zeros if None.
        c_0: Initial cell states ``[batch, H]``, zeros if None.

    Returns:
        The outputs ``[T, batch, H]``, and the last output and cell state.
    """
    has_bias = len(weights) == 4
    order = (0, 2, 1, 3) if has_bias else (0, 1)
    zeros = x.new_zeros(x.shape[1], weights[0].shape[0] // 4)
    states = [(zeros if state is None else state).unsqueeze(0) for state in (h_0, c_0)]
    outputs, h, c = torch.lstm(x, states, [weights[i] for i in order], has_bias, 1, 0.0, False, False, False)
    return outputs, (h[0], c[0])


def elman_states(z: Tensor, weight: Tensor, h_0: Tensor | None, activation: str) -> Tensor:
    """Compute the states ``h_t = act(z_t + W h_{t-1})`` of a sequence.

    Elman, "Finding structure in time", 1990. The weights' gradient is one product over all steps.

    Args:
        z: What comes from the input, biases included, ``[T, batch, H]`` or, for many sets of weights,
            ``[T, B, batch, H]``.
        weight: The matrix ``[H, H]`` or ``[B, H, H]``.
        h_0: Initial states, zeros if None.
        activation: "tanh" or "relu".

    Returns:
        The states, of the shape of ``z``.
    """
    if h_0 is None:
        h_0 = torch.zeros_like(z[0])
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return elman_states_reference(z, weight, h_0, activation)
    return _ElmanStates.apply(z, weight, h_0, activation)


def elman_states_reference(z: Tensor, weight: Tensor, h_0: Tensor, activation: str) -> Tensor:
    """The same, differentiated step by step."""
    act = torch.tanh if activation == "tanh" else torch.relu
    states, h = [], h_0
    for z_t in z.unbind(0):
        h = act(z_t + h @ weight.mT)
        states.append(h)
    return torch.stack(states)


class _ElmanStates(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z: Tensor, weight: Tensor, h_0: Tensor, activation: str) -> Tensor:
        states = torch.empty_like(z, memory_format=torch.contiguous_format)
        transposed = weight.mT
        multiply = torch.addmm if z.ndim == 3 else torch.baddbmm
        act = torch.tanh_ if activation == "tanh" else torch.relu_
        h = h_0
        for z_t, out in zip(z.unbind(0), states.unbind(0), strict=True):
            h = act(multiply(z_t, h, transposed, out=out))
        ctx.save_for_backward(weight, h_0, states)
        ctx.activation = activation
        return states

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        # Of differentiable operations on what was saved, so that this has a derivative too.
        weight, h_0, states = ctx.saved_tensors
        slopes = 1 - states * states if ctx.activation == "tanh" else (states > 0).to(states.dtype)
        multiply = torch.addmm if states.ndim == 3 else torch.baddbmm
        carried, grads_z = None, []
        for grad_t, slope in zip(reversed(grad.unbind(0)), reversed(slopes.unbind(0)), strict=True):
            grad_h = grad_t if carried is None else multiply(grad_t, carried, weight)
            carried = grad_h * slope
            grads_z.append(carried)
        grads_z = torch.stack(grads_z[::-1])
        previous = torch.cat([h_0.unsqueeze(0), states[:-1]])
        grad_weight = grad_h_0 = None
        if ctx.needs_input_grad[1]:
            # Steps and samples are the terms of one sum: [..., T·batch, H].
            rows = [t.movedim(0, -3).flatten(-3, -2) for t in (grads_z, previous)]
            grad_weight = rows[0].mT @ rows[1]
        if ctx.needs_input_grad[2]:
            grad_h_0 = carried @ weight
        return grads_z, grad_weight, grad_h_0, None


def input_part(layers: LayerFunctions, x: Tensor, weight: Tensor, *biases: Tensor) -> Tensor:
    """The linear map of all inputs ``[..., T, batch, in]`` at once, the sum of the biases added."""
    bias = biases[0] if len(biases) == 1 else sum(biases[1:], start=biases[0]) if biases else None
    return layers.linear(x, weight, bias)
