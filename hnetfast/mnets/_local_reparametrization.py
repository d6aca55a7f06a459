r"""Main networks with Gaussian weights, evaluated by drawing the results of layers instead of weights.

Kingma et al., "Variational Dropout and the Local Reparameterization Trick", 2015,
https://arxiv.org/abs/1506.02557: with independent Gaussian weights, a linear map of x has independent
Gaussian results of mean :math:`\sum_i x_i \mu_i` and variance :math:`\sum_i x_i^2 \sigma_i^2`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hnetfast._errors import InputError, UnsupportedError
from hnetfast.mnets._batched import can_evaluate
from hnetfast.mnets._layer_functions import ManySets
from hnetfast.mnets._module.structures import flatten
from hnetfast.mnets._recurrent import RecurrentLayers
from hnetfast.mnets.bi_rnn import BiRNN
from hnetfast.mnets.module_target import ModuleTarget
from hnetfast.ops.split_targets import split_targets
from hnetfast.utils.local_conv2d_layer import LocalConv2dLayer

_COMPUTE_OTHERWISE = (RecurrentLayers, BiRNN, ModuleTarget)


class LocallyDrawn(ManySets):
    """Layers that draw their results, for many samples at once: activations are ``[S, N, ...]``.

    Args:
        num_sets: Number of samples S.
        weights: For each weight of linear maps and convolutions what the network gets, ``[S, *shape]``, the
            mean ``[*shape]`` and the variance.
    """

    def __init__(self, num_sets: int, weights: Sequence[tuple[Tensor, Tensor, Tensor]]) -> None:
        super().__init__(num_sets)
        # They are found by what they are: networks hand on the tensors that they are given, mostly in order.
        self._remaining = list(weights)
        self._drawn: list[Tensor] = []

    @property
    def have_all_been_drawn(self) -> bool:
        """Whether the results of all linear maps and convolutions have been drawn."""
        return not self._remaining

    def mlp(self, *arguments: Any) -> None:
        """Each layer draws its results."""
        return

    def _moments_of(self, weight: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Mean and variance of a weight; a network's own one has no variance, and all samples share it."""
        if weight is None:
            return None, None
        for i, (given, mean, variance) in enumerate(self._remaining):
            if given is weight:
                del self._remaining[i]
                self._drawn.append(weight)
                return mean, variance
        if any(given is weight for given in self._drawn):
            raise UnsupportedError(
                'sampling: the network uses a weight twice, so that results cannot be drawn ("local"); '
                'expected "weights" or "radial"'
            )
        return weight[0], None

    def _draw(
        self, function: Callable[..., Tensor], h: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        """Draw the result of ``function(h, weight, bias)``, which is linear in weight and bias.

        Args:
            function: Takes ``[N, ...]``.
            h: ``[S, N, ...]``.
            weight: ``[S, *shape]``.
            bias: Likewise.
        """
        mean_weight, variance = self._moments_of(weight)
        mean_bias, bias_variance = self._moments_of(bias)
        if variance is None and bias_variance is not None:
            raise UnsupportedError('sampling: expected "weights" or "radial" where biases alone are drawn')
        shared = h.stride(0) == 0  # what all samples read is read once
        images = h.ndim == 5
        rows = h[0] if shared else h.flatten(0, 1) if images else h
        mean = function(rows, mean_weight, mean_bias)
        if shared:
            mean = mean.expand(self.num_sets, *mean.shape)
        if variance is not None:
            # Where all inputs are 0 the square root would have no finite derivative.
            floor = min(torch.finfo(mean.dtype).tiny, 2.0**-24)  # the second one for float16
            std = function(rows.square(), variance, bias_variance).clamp_min(floor).sqrt()
            mean = torch.addcmul(mean, std, torch.randn_like(mean, memory_format=torch.contiguous_format))
        return mean.unflatten(0, h.shape[:2]) if images and not shared else mean

    def linear(self, h: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return self._draw(F.linear, h, weight, bias)

    def _convolve(self, h: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
        return self._draw(partial(F.conv2d, stride=stride, padding=padding), h, weight, bias)

    def local_conv2d(self, layer: LocalConv2dLayer, h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return self._draw(layer.convolve, h, weight, bias)


def evaluate_locally(
    network: Any, x: Any, mean: Tensor, std: Tensor, num_samples: int, kwargs: dict[str, Any]
) -> Any:
    """Evaluate a main network with Gaussian weights, the results of its layers drawn for each input.

    Args:
        network: The network.
        x: Its input ``[N, ...]``.
        mean: Means ``[n]`` of its weights.
        std: Their standard deviations.
        num_samples: How often to evaluate it, S.
        kwargs: Further arguments of the network's ``forward``.

    Returns:
        What ``forward`` returns, every tensor with an additional first dimension of size S.

    Raises:
        NotImplementedError: If results of its layers cannot be drawn.
        ValueError: If the number of weights is another one.
    """
    unsupported = (
        f"sampling: {type(network).__name__} uses weights otherwise than in linear maps and convolutions, so "
        'that their results cannot be drawn ("local"); expected "weights" or "radial"'
    )
    if not _has_drawable_layers(network):
        raise UnsupportedError(unsupported)
    shapes, refs = network.param_shapes, None
    if mean.shape[0] != network.num_params and network.hyper_shapes_learned is not None:
        shapes, refs = network.hyper_shapes_learned, network.hyper_shapes_learned_ref
    num_weights = sum(map(math.prod, shapes))
    if mean.shape[0] != num_weights:
        raise InputError(f"mnet: expected a network of {mean.shape[0]} weights, got one of {num_weights}")
    meta = network.param_shapes_meta
    moments = (mean, std, std.square())
    means, stds, variances = (split_targets(t.contiguous().unsqueeze(0), shapes)[0] for t in moments)
    weights: list[Tensor] = []  # [S, *shape]
    of_maps: list[tuple[Tensor, Tensor, Tensor]] = []
    for i, mu, sigma, variance in zip(refs or range(len(shapes)), means, stds, variances, strict=True):
        weight = mu.expand(num_samples, *mu.shape)
        if meta[i]["name"] in ("weight", "bias"):
            of_maps.append((weight, mu, variance))
        else:
            weight = torch.addcmul(mu, sigma, torch.randn_like(weight, memory_format=torch.contiguous_format))
        weights.append(weight)
    layers = LocallyDrawn(num_samples, of_maps)
    inputs, rebuild = flatten(x)
    shared = rebuild([tensor.expand(num_samples, *tensor.shape) for tensor in inputs])
    outputs = network._evaluate(layers, shared, weights, **kwargs)
    if not layers.have_all_been_drawn:
        raise UnsupportedError(unsupported)
    return outputs


def _has_drawable_layers(network: Any) -> bool:
    """Whether a network uses its weights in layers only. Evaluation would tell, but may change statistics."""
    if not can_evaluate(network) or isinstance(network, _COMPUTE_OTHERWISE):
        return False
    return not any(getattr(part, "_use_spectral_norm", False) for part in (network, *network.children()))
