r"""Main networks with Gaussian weights, evaluated by drawing the results of layers instead of weights.

Kingma et al., "Variational Dropout and the Local Reparameterization Trick", 2015,
https://arxiv.org/abs/1506.02557: with independent Gaussian weights, a linear map of x has independent
Gaussian results of mean :math:`\sum_i x_i \mu_i` and variance :math:`\sum_i x_i^2 \sigma_i^2`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import compress
from typing import Any

import torch
from torch import Tensor

from hnetfast._errors import UnsupportedError
from hnetfast.mnets._batched import can_evaluate
from hnetfast.mnets._layer_functions import LayerFunctions
from hnetfast.mnets._module.structures import flatten, join_outputs
from hnetfast.ops.split_targets import split_targets
from hnetfast.utils.local_conv2d_layer import LocalConv2dLayer


class LocallyDrawn(LayerFunctions):
    """Layers whose weights are means of Gaussians, and whose results are drawn.

    Args:
        means: The means.
        variances: The variance of each.
    """

    def __init__(self, means: list[Tensor], variances: list[Tensor]) -> None:
        # The tensors are found by what they are: networks hand on those that they are given.
        self._variances = {id(mean): variance for mean, variance in zip(means, variances, strict=True)}

    @property
    def num_unused(self) -> int:
        """For how many weights no result of a layer was drawn."""
        return len(self._variances)

    def _draw(
        self, function: Callable[..., Tensor], h: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        """Draw the result of ``function(h, weight, bias)``, which is linear in weight and bias."""
        mean = function(h, weight, bias)
        variance = self._variances.pop(id(weight), None)
        if variance is None:
            return mean
        bias_variance = None if bias is None else self._variances.pop(id(bias))
        # Where all inputs are 0 the square root has no finite derivative.
        tiny = torch.finfo(mean.dtype).tiny
        std = function(h.square(), variance, bias_variance).clamp_min(tiny).sqrt()
        return torch.addcmul(mean, std, torch.randn_like(mean))

    def linear(self, h: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return self._draw(super().linear, h, weight, bias)

    def _convolve(self, h: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
        convolve = partial(super()._convolve, stride=stride, padding=padding)
        return self._draw(convolve, h, weight, bias)

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
        NotImplementedError, ValueError: If results of its layers cannot be drawn.
    """
    unsupported = (
        f"sampling: {type(network).__name__} uses weights otherwise than in linear maps and convolutions, so "
        'that their results cannot be drawn ("local"); expected "weights" or "radial"'
    )
    if not can_evaluate(network) or getattr(network, "_use_spectral_norm", False):
        raise UnsupportedError(unsupported)
    learned = network.hyper_shapes_learned
    shapes = network.param_shapes if learned is None else learned
    refs = (None if learned is None else network.hyper_shapes_learned_ref) or range(len(shapes))
    drawn = [network.param_shapes_meta[i]["name"] in ("weight", "bias") for i in refs]
    means, stds, variances = (split_targets(t.unsqueeze(0), shapes)[0] for t in (mean, std, std.square()))
    layers = LocallyDrawn(list(compress(means, drawn)), list(compress(variances, drawn)))
    weights = [
        mu if in_map else torch.addcmul(mu, sigma, torch.randn_like(mu))
        for mu, sigma, in_map in zip(means, stds, drawn, strict=True)
    ]
    inputs, rebuild = flatten(x)
    repeated = rebuild([t.expand(num_samples, *t.shape).flatten(0, 1) for t in inputs])
    outputs = network._evaluate(layers, repeated, weights, **kwargs)
    if layers.num_unused:
        raise UnsupportedError(unsupported)
    return join_outputs([outputs], lambda tensors: tensors[0].unflatten(0, (num_samples, -1)))
