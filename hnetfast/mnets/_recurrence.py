"""Recurrent layers: one step, and whole sequences in as few operations as their mathematics allow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hnetfast.mnets._layer_functions import LayerFunctions
from hnetfast.ops._activations import is_watched

State = tuple[Tensor, Tensor]
Modulation = Callable[[Tensor], Tensor] | None


def activation_name(activation: Any) -> str | None:
    """Tell "tanh" and "relu" from other activation functions, for which there are no fused sequences."""
    if is_watched(activation):
        return None
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
    zeros = x.new_zeros(x.shape[1], weights[0].shape[0] // 4)
    states = [zeros if state is None else state for state in (h_0, c_0)]
    if x.device.type == "cpu" or not torch.is_grad_enabled():
        outputs, *last = _library_lstm(x, *states, *weights)
    else:
        outputs, *last = TwiceDifferentiableLSTM.apply(x, *states, *weights)
    return outputs, tuple(last)


def _library_lstm(x: Tensor, h_0: Tensor, c_0: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    has_bias = len(weights) == 4
    ordered = [weights[i] for i in ((0, 2, 1, 3) if has_bias else (0, 1))]
    states = (h_0.unsqueeze(0), c_0.unsqueeze(0))
    # cuDNN keeps what a gradient needs "in training" only; without dropout it computes the same.
    train = torch.is_grad_enabled()
    outputs, h, c = torch.lstm(x, states, ordered, has_bias, 1, 0.0, train, False, False)
    return outputs, h[0], c[0]


def _lstm_by_steps(x: Tensor, h: Tensor, c: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    w_ih, b_ih, w_hh, b_hh = weights if len(weights) == 4 else (weights[0], None, weights[1], None)
    cell, outputs = Cell(torch.tanh), []
    for z in F.linear(x, w_ih, b_ih).unbind(0):
        h, c = cell.lstm(z + F.linear(h, w_hh, b_hh), c)
        outputs.append(h)
    return torch.stack(outputs), h, c


class TwiceDifferentiableLSTM(torch.autograd.Function):
    """The library's kernel where its gradient has no gradient (cuDNN's): that then goes step by step."""

    @staticmethod
    def forward(ctx, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Input, initial output and cell state, weights; outputs, last output and cell state."""
        ctx.save_for_backward(*inputs)
        with torch.enable_grad():
            leaves = [
                tensor.detach().requires_grad_(needed)
                for tensor, needed in zip(inputs, ctx.needs_input_grad, strict=True)
            ]
            results = _library_lstm(*leaves)
        ctx.leaves, ctx.results = leaves, results
        return tuple(result.detach() for result in results)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the inputs."""
        inputs, results = ctx.leaves, ctx.results
        if torch.is_grad_enabled():
            inputs = ctx.saved_tensors
            results = _lstm_by_steps(*inputs)
        wanted = [i for i, needed in enumerate(ctx.needs_input_grad) if needed]
        found = torch.autograd.grad(
            results,
            [inputs[i] for i in wanted],
            grads,
            retain_graph=True,
            create_graph=torch.is_grad_enabled(),
        )
        gradients = dict(zip(wanted, found, strict=True))
        return tuple(gradients.get(i) for i in range(len(inputs)))


def input_part(layers: LayerFunctions, x: Tensor, weight: Tensor, *biases: Tensor) -> Tensor:
    """The linear map of all inputs ``[..., T, batch, in]`` at once, the sum of the biases added."""
    bias = biases[0] if len(biases) == 1 else sum(biases[1:], start=biases[0]) if biases else None
    return layers.linear(x, weight, bias)
