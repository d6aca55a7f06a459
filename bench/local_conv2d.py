"""Convolution without weight sharing: the layers, who competes, and peak memory.

``python -m bench.local_conv2d "3→64, 32×32:32:forward"`` prints what a call of hnetfast's layer takes at its
peak, images and weights included, in bytes.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from math import prod

import torch

from bench.memory import measure_in_child, peak_bytes, print_peak
from hnetfast.examples._speed import import_hypnettorch
from hnetfast.ops.local_conv2d import local_conv2d_reference

# Channels in and out, height and width of the input, kernel, stride, padding: BioConvNet's, for CIFAR.
LAYERS = {
    "3→64, 32×32": (3, 64, 32, 5, 2, 0),
    "64→128, 14×14": (64, 128, 14, 5, 2, 0),
    "128→256, 5×5": (128, 256, 5, 3, 1, 1),
}
BATCHES, MODES = (1, 32, 256), ("forward", "forward+backward")


def build(package, name: str, device: str) -> torch.nn.Module:
    """A layer from ``hnetfast.utils.local_conv2d_layer`` or hypnettorch's, with equal weights."""
    inputs, outputs, size, kernel, stride, padding = LAYERS[name]
    torch.manual_seed(1)
    layer = package.LocalConv2dLayer(inputs, outputs, size, size, kernel, stride=stride, padding=padding)
    return layer.to(device)


def images(name: str, batch: int, device: str) -> torch.Tensor:
    """What a layer sees."""
    inputs, _, size, *_ = LAYERS[name]
    generator = torch.Generator(device).manual_seed(2)
    return torch.randn(batch, inputs, size, size, generator=generator, device=device, requires_grad=True)


def contenders(name: str, device: str, with_compiled: bool) -> dict[str, tuple[Callable, list[torch.Tensor]]]:
    """Functions of images, with their parameters: hnetfast, hypnettorch if installed, unfold and einsum."""
    found = {}
    for library, package in (
        ("hnetfast", importlib.import_module("hnetfast.utils.local_conv2d_layer")),
        ("hypnettorch", import_hypnettorch("utils.local_conv2d_layer")),
    ):
        if package is not None:
            layer = build(package, name, device)
            found[library] = (layer, list(layer.parameters()))
    layer, parameters = found["hnetfast"]
    geometry = layer._geometry

    def einsum(x, filters, bias):
        return local_conv2d_reference(x, filters, bias, *geometry)

    found["einsum"] = (lambda x: einsum(x, layer.filters, layer.bias), parameters)
    if with_compiled:
        torch.compiler.reset()
        compiled = torch.compile(einsum, dynamic=False)
        found["compiled"] = (lambda x: compiled(x, layer.filters, layer.bias), parameters)
    return found


def compute(forward: Callable, x: torch.Tensor, parameters, mode: str) -> list[torch.Tensor]:
    """The result, or the gradients of its sum."""
    if mode == MODES[0]:
        with torch.no_grad():
            return [forward(x)]
    out = forward(x)
    grads = torch.autograd.grad(out, [x, *parameters], torch.ones_like(out), allow_unused=True)
    return [g for g in grads if g is not None]


def needed_bytes(name: str, batch: int, mode: str) -> int:
    """Input, weights, result and, where computed, their gradients."""
    layer = build(importlib.import_module("hnetfast.utils.local_conv2d_layer"), name, "cpu")
    outputs = batch * prod((LAYERS[name][1], layer.out_height, layer.out_width))
    values = sum(p.numel() for p in layer.parameters()) + images(name, batch, "cpu").numel() + outputs
    return 4 * values * (1 if mode == MODES[0] else 2)


def measure_peaks(rows: Sequence[tuple[str, int, str]]) -> dict[str, int]:
    """Measure the memory of hnetfast's layer.

    Args:
        rows: Layer, batch and mode.

    Returns:
        Bytes at the peak, inputs and weights included, by ``layer:batch:mode``; empty where the system does
        not report it.
    """
    return measure_in_child("bench.local_conv2d", [":".join(map(str, row)) for row in rows])


def main(names: Sequence[str]) -> None:
    """Measure in this process; see the head of the module."""
    torch.set_num_threads(2)
    package = importlib.import_module("hnetfast.utils.local_conv2d_layer")

    def call(layer, x, mode):
        return compute(layer, x, list(layer.parameters()), mode)

    for name in names:
        layer_name, batch, mode = name.rsplit(":", 2)
        layer, x = build(package, layer_name, "cpu"), images(layer_name, int(batch), "cpu")
        tiny = next(iter(LAYERS))
        call(build(package, tiny, "cpu"), images(tiny, 8, "cpu"), mode)  # threads and libraries are there now
        there = x.nbytes + sum(p.nbytes for p in layer.parameters())
        print_peak(name, there + peak_bytes(lambda: call(layer, x, mode)))  # noqa: B023  called at once


if __name__ == "__main__":
    main(sys.argv[1:])
