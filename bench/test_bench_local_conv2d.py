"""Convolution without weight sharing: ``pytest bench/test_bench_local_conv2d.py``."""

from __future__ import annotations

import functools
import itertools
import statistics

import pytest
import torch

from bench.local_conv2d import (
    BATCHES,
    LAYERS,
    MODES,
    compute,
    contenders,
    images,
    measure_peaks,
    needed_bytes,
)
from hnetfast.examples._speed import time_in_turns

_SLOW_BATCH = 256  # hypnettorch takes seconds for it

_contenders = functools.lru_cache(maxsize=1)(contenders)  # the measurements of a layer follow each other


@pytest.fixture(scope="module")
def peaks(pytestconfig):
    """Peak memory by layer, batch and mode, measured in a child process before anything is timed."""
    if pytestconfig.option.no_memory or pytestconfig.option.bench_device != "cpu":
        return {}
    return measure_peaks(list(itertools.product(LAYERS, BATCHES, MODES)))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", LAYERS)
def test_layer(name, batch, mode, benchmark, results, pytestconfig, peaks):
    device = pytestconfig.option.bench_device
    competing = dict(_contenders(name, device, pytestconfig.option.with_compile))
    if mode != MODES[0]:
        # What PyTorch 2.11 compiles of its backward pass writes past the end of a tensor: the process dies.
        competing.pop("compiled", None)
    if batch >= _SLOW_BATCH:
        competing.pop("hypnettorch", None)
    x = images(name, batch, device)
    expected = None
    calls = {}
    for contender, (forward, parameters) in competing.items():
        call = functools.partial(compute, forward, x, parameters, mode)
        found = call()
        expected = found if expected is None else expected
        for a, b in zip(found, expected, strict=True):
            error = ((a - b).norm() / b.norm()).item()
            assert error < 1e-4, f"{contender} differs from hnetfast by {error:.1e}"
        calls[contender] = functools.partial(_timed, call)
    layer = competing["hnetfast"][0]
    weights = layer.filters.numel()
    copied = max(weights, 1 << 18)
    source, target = torch.ones(copied, device=device), torch.empty(copied, device=device)
    factor, product = torch.randn(2, 1024, 1024, device=device)
    durations = time_in_turns(calls, pytestconfig.option.seconds, minimum=3, maximum=60)
    benchmark.pedantic(calls["hnetfast"], rounds=1, iterations=1)
    seconds = {key: statistics.median(times) for key, times in durations.items()}
    row = {"layer": name, "batch": batch, "mode": mode}
    if mode == MODES[0]:
        # Apart from the layers: a large product would empty the caches before each of them.
        rates = {
            "copy": lambda: _wait(target.copy_(source)),
            "product": lambda: _wait(torch.mm(factor, factor, out=product)),
        }
        durations = time_in_turns(rates, pytestconfig.option.seconds / 4, minimum=5, maximum=30)
        seconds |= {key: statistics.median(times) for key, times in durations.items()}
        copy_rate, matrix_rate = 8 * copied / seconds.pop("copy"), 2 * 1024**3 / seconds.pop("product")
        # Weights are read once; each meets every image.
        row["floor_ms"] = 1e3 * max(4 * weights / copy_rate, 2 * batch * weights / matrix_rate)
    row["ms"] = {key: 1e3 * value for key, value in seconds.items()}
    peak = peaks.get(f"{name}:{batch}:{mode}")
    if peak:
        row["peak_share"] = peak / needed_bytes(name, batch, mode)
    results.local_convs.append(row)


def _timed(call) -> None:
    _wait(call()[0])


def _wait(tensor: torch.Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize()
