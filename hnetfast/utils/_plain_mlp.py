"""Multi-layer perceptrons without autograd, which takes longer than the arithmetic of small ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from hnetfast.mnets import MLP
from hnetfast.ops._activations import ACTIVATIONS, activation_name
from hnetfast.ops.batched_linear import batched_linear

_EXACT = ("identity", "relu", "sigmoid", "tanh")  # whose derivatives have autograd's bits


def is_plain(net: Any, inputs: Tensor) -> bool:
    """Whether :func:`layer_outputs` and :func:`weight_gradients` do all that a main network does."""
    if type(net) is not MLP or "forward" in vars(net) or inputs.dim() != 2 or len(inputs) < 2:
        return False  # products of a single row are computed in several ways, by its memory layout
    return not (
        inputs.shape[1] != net._n_in
        or net._use_batch_norm
        or net._use_spectral_norm
        or net._use_context_mod
        or net._dropout_rate != -1
        or net._out_fn is not None
        or activation_name(net._a_fun) not in _EXACT
    )


def layer_outputs(net: MLP, inputs: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    """Compute the outputs of all layers.

    Args:
        net: A network that :func:`is_plain`.
        inputs: ``[B, n_in]``, or ``[K, B, n_in]`` for K sets of weights.
        weights: All weights, as in ``net.param_shapes``; of K sets ``[K, *shape]``.

    Returns:
        The inputs, then for each layer ``[B, width]`` or ``[K, B, width]``; the last one is the network's
        output.
    """
    outputs, activation = [inputs], net._a_fun
    step = 2 if net._has_bias else 1
    linear = F.linear if inputs.dim() == 2 else batched_linear
    for i in range(0, len(weights), step):
        if i and activation is not None:
            outputs[-1] = activation(outputs[-1])
        outputs.append(linear(outputs[-1], *weights[i : i + step]))
    return outputs


def weight_gradients(
    net: MLP, outputs: Sequence[Tensor], weights: Sequence[Tensor], gradient: Tensor
) -> Tensor:
    """Compute the gradients of all weights, bit for bit as autograd does.

    Args:
        net: A network that :func:`is_plain`.
        outputs: What :func:`layer_outputs` has returned.
        weights: What it was given.
        gradient: That of the network's output, ``[B, n_out]`` or ``[K, B, n_out]``.

    Returns:
        Flattened and joined, ``[n]`` or ``[K, n]``.
    """
    of_activation = ACTIVATIONS[cast(str, activation_name(net._a_fun))].gradient
    step = 2 if net._has_bias else 1
    gradients = []
    for i in range(len(outputs) - 2, -1, -1):
        if net._has_bias:
            gradients.append(gradient.sum(-2))
        gradients.append((gradient.mT @ outputs[i]).flatten(-2))
        if i:
            gradient = of_activation(gradient @ weights[step * i], outputs[i])
    # Not written in place: the bits of products may depend on where in memory the result begins.
    return torch.cat(gradients[::-1], dim=-1)
