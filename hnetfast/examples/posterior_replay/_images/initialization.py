"""Initialisation of the hypernetworks of posterior replay."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from hnetfast.examples.posterior_replay._images.networks import Networks
from hnetfast.hnets.chunked_mlp_hnet import ChunkedHMLP
from hnetfast.hnets.hnet_interface import HyperNetInterface
from hnetfast.ops.split_targets import split_targets
from hnetfast.probabilistic import ImplicitWeights
from hnetfast.utils.init_utils import calc_fan_in_and_out

# Of the search for the factor: how far the logarithm may be off, and its steps.
_TOLERANCE = 0.05
_LARGEST_STEP = 3.0
_MOST_STEPS = 30


@torch.no_grad()
def scale_embeddings(hnet: HyperNetInterface, of_tasks: float, of_chunks: float) -> None:
    """Give embeddings, standard normal at first, other standard deviations.

    Args:
        hnet: The hypernetwork.
        of_tasks: Factor of its embeddings of conditions.
        of_chunks: Factor of embeddings of chunks that all conditions share.
    """
    conditional = {id(parameter) for parameter in hnet.conditional_params or ()}
    for meta in hnet.param_shapes_meta:
        if meta["name"] == "embedding" and meta["index"] != -1:
            parameter = cast("nn.ParameterList", hnet.internal_params)[meta["index"]]
            parameter *= of_tasks if id(parameter) in conditional else of_chunks


@torch.no_grad()
def scale_generated_weights(networks: Networks, noise_std: float) -> None:
    r"""Make weights of the main network that come from noise as large as weights usually are at first.

    An implicit hypernetwork whose own weights are generated multiplies generated numbers as often as it has
    layers, so that what it makes of them would be too large by orders of magnitude. Here the output layer of
    the hyper-hypernetwork is multiplied by one factor, so that the sum of squares of the main network's
    weights is what He et al. (https://arxiv.org/abs/1502.01852) give it, :math:`2 / \text{fan-in}` for each
    weight on average. The factor is searched for with one sample, of noise of the usual norm, from the
    posterior of the first task.

    Args:
        networks: Those of an implicit posterior; the hyper-hypernetwork is changed.
        noise_std: Standard deviation of the noise.
    """
    hnet, implicit = networks.hnet, cast("HyperNetInterface", networks.implicit)
    shapes = implicit.target_shapes
    wanted = sum(2 * math.prod(shape) / calc_fan_in_and_out(shape)[0] for shape in shapes if len(shape) > 1)
    weights = ImplicitWeights(implicit, noise_std=noise_std, generator=hnet)
    noise = torch.randn(1, weights.noise_size, device=next(hnet.parameters()).device)
    noise *= noise_std * math.sqrt(weights.noise_size) / torch.linalg.vector_norm(noise)
    generated = weights.parameters_of(0)

    def excess(factor: float) -> float:
        """The sum of squares with that factor, for each that is wanted."""
        sample = weights.sample(1, weights=[factor * tensor for tensor in generated], noise=noise)
        tensors = split_targets(sample, shapes)[0]
        return sum(float(t.double().square().sum()) for t in tensors if t.ndim > 1) / wanted

    factor = _root(excess)
    for tensor in _output_layer(hnet):
        tensor *= factor


def _root(excess: Callable[[float], float]) -> float:
    """Where a function, a sum of powers, is 1: by the secant method on logarithms, in which it is convex."""
    x, previous = 0.0, None
    for _ in range(_MOST_STEPS):
        value = excess(math.exp(x))
        if not 0 < value < math.inf:  # too large or too small for floating-point numbers
            x += _LARGEST_STEP if value == 0 else -_LARGEST_STEP
            continue
        y = math.log(value)
        if abs(y) < _TOLERANCE:
            break
        slope = 2.0 if previous is None else (y - previous[1]) / (x - previous[0])
        previous = x, y
        x -= max(-_LARGEST_STEP, min(_LARGEST_STEP, y / slope))
    return math.exp(x)


def _output_layer(hnet: HyperNetInterface) -> list[Tensor]:
    """Weights and biases of the last layer, which the outputs are linear in."""
    count = 1 if isinstance(hnet, ChunkedHMLP) else len(hnet.target_shapes)
    layers = (hnet.layer_weight_tensors, hnet.layer_bias_vectors)
    return [tensor for tensors in layers for tensor in list(tensors or ())[-count:]]
