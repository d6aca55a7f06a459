"""Structured weight generation: ``pytest bench/test_bench_structured.py``."""

from __future__ import annotations

import functools
import statistics

import pytest
import torch

from bench.structured import CASES, CONDITIONS, MODES, call, check, contenders, floor_seconds
from hnetfast.examples._speed import time_in_turns


@functools.lru_cache(maxsize=1)  # the measurements of a case follow each other
def _contenders(case, device):
    return contenders(case, device)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("conditions", CONDITIONS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_structured(case, conditions, mode, benchmark, results, pytestconfig):
    device = pytestconfig.option.bench_device
    networks = _contenders(case, device)
    num_outputs = networks["hnetfast"].num_outputs
    generator = torch.Generator(device).manual_seed(2)
    grad = torch.randn(conditions, num_outputs, generator=generator, device=device)
    if "hypnettorch" in networks and conditions == 1:
        check(*(call(networks[name], conditions, mode, grad) for name in ("hnetfast", "hypnettorch")))
    calls = {name: functools.partial(_timed, net, conditions, mode, grad) for name, net in networks.items()}
    copied = max(conditions * num_outputs, 1 << 18)  # what fits the caches is copied within them, too
    source, target = torch.ones(copied, device=device), torch.empty(copied, device=device)
    factor = torch.randn(1024, 1024, device=device)
    product = torch.empty_like(factor)
    if mode == MODES[0]:
        calls["copy"] = lambda: _wait(target.copy_(source))
        calls["product"] = lambda: _wait(torch.mm(factor, factor, out=product))
    large = conditions * num_outputs > 5e7
    durations = time_in_turns(calls, pytestconfig.option.seconds, minimum=3 if large else 5, maximum=60)
    benchmark.pedantic(calls["hnetfast"], rounds=1, iterations=1)
    seconds = {name: statistics.median(times) for name, times in durations.items()}
    row = {"case": case.name, "conditions": conditions, "mode": mode, "num_outputs": num_outputs}
    if mode == MODES[0]:
        rates = 8 * copied / seconds.pop("copy"), 2 * 1024**3 / seconds.pop("product")
        row["floor_ms"] = 1e3 * floor_seconds(case, conditions, *rates)
    row["ms"] = {name: 1e3 * value for name, value in seconds.items()}
    results.structured.append(row)


def _timed(hnet, conditions, mode, grad) -> None:
    _wait(call(hnet, conditions, mode, grad)[0])


def _wait(tensor: torch.Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize()
