"""Convolution without weight sharing: ``pytest bench/test_bench_local_conv2d.py``."""

from __future__ import annotations

import functools
import importlib
import statistics

import pytest
import torch

from hnetfast.examples._speed import import_hypnettorch, time_in_turns
from hnetfast.ops.local_conv2d import local_conv2d_reference

# Channels in and out, height and width of the input, kernel, stride, padding: those of BioConvNet on CIFAR.
LAYERS = {
    "3→64, 32×32": (3, 64, 32, 5, 2, 0),
    "64→128, 14×14": (64, 128, 14, 5, 2, 0),
    "128→256, 5×5": (128, 256, 5, 3, 1, 1),
}
BATCHES, MODES = (1, 32, 256), ("forward", "forward+backward")
_SLOW_BATCH = 256  # hypnettorch takes seconds for it


@functools.lru_cache(maxsize=1)  # the measurements of a layer follow each other
def _contenders(name: str, device: str, with_compiled: bool):
    inputs, outputs, size, kernel, stride, padding = LAYERS[name]
    found = {}
    for library, package in (
        ("hnetfast", importlib.import_module("hnetfast.utils.local_conv2d_layer")),
        ("hypnettorch", import_hypnettorch("utils.local_conv2d_layer")),
    ):
        if package is not None:
            torch.manual_seed(1)
            layer = package.LocalConv2dLayer(
                inputs, outputs, size, size, kernel, stride=stride, padding=padding
            )
            found[library] = (layer.to(device), list(layer.parameters()))
    layer, parameters = found["hnetfast"]
    geometry = layer._geometry

    def einsum(x, filters, bias):
        return local_conv2d_reference(x[None], filters[None], bias[None], *geometry)[0]

    found["einsum"] = (lambda x: einsum(x, layer.filters, layer.bias), parameters)
    if with_compiled:
        torch.compiler.reset()
        compiled = torch.compile(einsum, dynamic=False)
        found["compiled"] = (lambda x: compiled(x, layer.filters, layer.bias), parameters)
    return found


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", LAYERS)
def test_layer(name, batch, mode, benchmark, results, pytestconfig):
    device = pytestconfig.option.bench_device
    contenders = dict(_contenders(name, device, pytestconfig.option.with_compile))
    if mode != MODES[0]:
        # What PyTorch 2.11 compiles of its backward pass writes past the end of a tensor: the process dies.
        contenders.pop("compiled", None)
    if batch >= _SLOW_BATCH:
        contenders.pop("hypnettorch", None)
    inputs, _, size, *_ = LAYERS[name]
    generator = torch.Generator(device).manual_seed(2)
    x = torch.randn(batch, inputs, size, size, generator=generator, device=device, requires_grad=True)
    expected = None
    calls = {}
    for contender, (forward, parameters) in contenders.items():
        call = functools.partial(_compute, forward, x, parameters, mode)
        found = call()
        expected = found if expected is None else expected
        for a, b in zip(found, expected, strict=True):
            error = ((a - b).norm() / b.norm()).item()
            assert error < 1e-4, f"{contender} differs from hnetfast by {error:.1e}"
        calls[contender] = functools.partial(_timed, call)
    layer = contenders["hnetfast"][0]
    weights = layer.filters.numel()
    copied = max(weights, 1 << 18)
    source, target = torch.ones(copied, device=device), torch.empty(copied, device=device)
    factor = torch.randn(1024, 1024, device=device)
    if mode == MODES[0]:
        calls["copy"] = lambda: _wait(target.copy_(source))
        calls["product"] = lambda: _wait(factor @ factor)
    durations = time_in_turns(calls, pytestconfig.option.seconds, minimum=3, maximum=60)
    benchmark.pedantic(calls["hnetfast"], rounds=1, iterations=1)
    seconds = {key: statistics.median(times) for key, times in durations.items()}
    row = {"layer": name, "batch": batch, "mode": mode}
    if mode == MODES[0]:
        copy_rate, matrix_rate = 8 * copied / seconds.pop("copy"), 2 * 1024**3 / seconds.pop("product")
        # Weights are read once; each meets every image.
        row["floor_ms"] = 1e3 * max(4 * weights / copy_rate, 2 * batch * weights / matrix_rate)
    row["ms"] = {key: 1e3 * value for key, value in seconds.items()}
    results.local_convs.append(row)


def _compute(forward, x, parameters, mode) -> list[torch.Tensor]:
    if mode == MODES[0]:
        with torch.no_grad():
            return [forward(x)]
    out = forward(x)
    grads = torch.autograd.grad(out, [x, *parameters], torch.ones_like(out), allow_unused=True)
    return [g for g in grads if g is not None]


def _timed(call) -> None:
    _wait(call()[0])


def _wait(tensor: torch.Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize()
