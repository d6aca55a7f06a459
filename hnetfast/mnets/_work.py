"""How much work a main network is, which decides how many sets of weights are evaluated at a time."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor

from hnetfast.mnets._layer_functions import LayerFunctions

# One set whose products take more multiply-adds than this keeps the cores of a CPU busy by itself: what is
# won by sharing calls is less than what convolutions in many groups lose. Measured on ResNet-32 (69 million a
# sample), where both are equal at 8 to 12 samples, and on WRN-16-4 (390 million), where they are at 1 to 2.
_BUSY = 6e8
# Weights evaluated at a time, in bytes: more do not fit the caches from one layer to the next.
_CACHED = 100e6


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
    if x.numel() == 0 or multiply_adds(network, x) > _BUSY:
        return 1
    return max(2, min(num_sets, int(_CACHED / (x.element_size() * network.num_params))))


def multiply_adds(network: Any, x: Tensor) -> int:
    """Count the multiply-adds in the products of one call.

    Args:
        network: A network with a method ``_evaluate``.
        x: Its input.

    Returns:
        Their number, counted once for each shape of the input.
    """
    known = network.__dict__.setdefault("_known_multiply_adds", {})
    found = known.get(x.shape)
    if found is None:
        counter = _CountedLayers()
        weights = [
            torch.empty(shape, device="meta", dtype=x.dtype) for shape in map(tuple, network.param_shapes)
        ]
        with torch.no_grad():
            network._evaluate(counter, torch.empty(x.shape, device="meta", dtype=x.dtype), weights)
        found = known[x.shape] = counter.count
    return found


class _CountedLayers(LayerFunctions):
    """Counts multiply-adds, on tensors without data; what does not multiply matrices is left out."""

    def __init__(self) -> None:
        self.count = 0

    def linear(self, h: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        self.count += prod(h.shape[:-1]) * weight.numel()
        return super().linear(h, weight, bias)

    def conv2d(
        self, h: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1, padding: int = 0
    ) -> Tensor:
        out = super().conv2d(h, weight, bias, stride, padding)
        self.count += out.shape[0] * prod(out.shape[-2:]) * weight.numel()
        return out

    def local_conv2d(self, layer: Any, h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        self.count += h.shape[0] * weight.numel()
        return super().local_conv2d(layer, h, weight, bias)

    def dropout2d(self, layer: Any, h: Tensor) -> Tensor:
        return h

    def batch_norm(self, layer: Any, h: Tensor, *arguments: Any) -> Tensor:
        return h

    def modulate(self, layer: Any, h: Tensor, weights: Any) -> Tensor:
        return h

    def map_weight(self, function: Any, weight: Tensor, own: bool) -> Tensor:
        return weight
