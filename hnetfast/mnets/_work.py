"""How much work a main network is, which decides how many sets of weights are evaluated at a time."""

from __future__ import annotations

from math import ceil, prod
from typing import Any

import torch
from torch import Tensor

from hnetfast.mnets._layer_functions import LayerFunctions

# One set whose products take more multiply-adds than this keeps the cores of a CPU busy by itself; what is
# won by sharing calls is less than what convolutions in many groups lose. Measured on ResNet-32 (69 million a
# sample), where both are equal at about 6 samples, and on WRN-16-4 (390 million), where they are at 1.
_BUSY = 4e8
# Samples up to which convolutions in many groups are fast: with more, the groups' maps are rearranged for
# each. Measured on LeNet and ZenkeNet, whose convolutions lose at 4.
_FEW_IMAGES = 3
# Weights evaluated at a time, in bytes: more do not fit the caches from one layer to the next.
_CACHED = 128e6
_KNOWN_SHAPES = 64  # of inputs whose work a network remembers


def sets_at_once(network: Any, x: Tensor, num_sets: int) -> int:
    """Choose how many sets of weights to evaluate at a time.

    Args:
        network: A network with a method ``_evaluate``.
        x: The input of one set.
        num_sets: How many sets there are.

    Returns:
        1 if each set keeps the processor busy; all of them on an accelerator, where calls are what costs, and
        in a compiled graph; else as many as have their weights in the caches.
    """
    if num_sets == 1:
        return 1
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return num_sets
    if x.numel() == 0:
        return 1
    try:
        work = _count(network, x)
    except Exception:  # a subclass needs data; what is wrong with an input, the call itself tells
        return 1
    if work.multiply_adds > _BUSY or (work.convolves and x.shape[0] > _FEW_IMAGES):
        return 1
    fitting = max(2, int(_CACHED / (x.element_size() * work.num_params)))
    return ceil(num_sets / ceil(num_sets / fitting))  # groups of about the same size


def multiply_adds(network: Any, x: Tensor) -> int:
    """Count the multiply-adds in the products of one call.

    Args:
        network: A network with a method ``_evaluate``.
        x: Its input.
    """
    return _count(network, x).multiply_adds


def _count(network: Any, x: Tensor) -> _CountedLayers:
    """What one call computes, found out once for each shape of the input."""
    known = network.__dict__.setdefault("_known_work", {})
    found = known.get(x.shape)
    if found is None:
        found = _CountedLayers(network.num_params)
        weights = [
            torch.empty(shape, device="meta", dtype=x.dtype) for shape in map(tuple, network.param_shapes)
        ]
        with torch.no_grad():
            network._evaluate(found, torch.empty(x.shape, device="meta", dtype=x.dtype), weights)
        if len(known) == _KNOWN_SHAPES:
            known.clear()
        known[x.shape] = found
    return found


class _CountedLayers(LayerFunctions):
    """Counts multiply-adds, on tensors without data.

    What does not multiply matrices is left out, so no module or function of a user is called.
    """

    def __init__(self, num_params: int) -> None:
        self.num_params = num_params
        self.multiply_adds = 0
        self.convolves = False

    def linear(self, h: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        self.multiply_adds += prod(h.shape[:-1]) * weight.numel()
        return super().linear(h, weight, bias)

    def conv2d(
        self, h: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1, padding: int = 0
    ) -> Tensor:
        out = super().conv2d(h, weight, bias, stride, padding)
        self.convolves = True
        self.multiply_adds += out.shape[0] * prod(out.shape[-2:]) * weight.numel()
        return out

    def local_conv2d(self, layer: Any, h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        self.multiply_adds += h.shape[0] * weight.numel()
        return super().local_conv2d(layer, h, weight, bias)

    def elementwise(self, function: Any, h: Tensor) -> Tensor:
        return h

    def dropout2d(self, layer: Any, h: Tensor) -> Tensor:
        return h

    def batch_norm(self, layer: Any, h: Tensor, *arguments: Any) -> Tensor:
        return h

    def modulate(self, layer: Any, h: Tensor, weights: Any) -> Tensor:
        return h

    def map_weight(self, function: Any, weight: Tensor, own: bool) -> Tensor:
        return weight
