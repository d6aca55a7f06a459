"""Throughput of chunked weight generation: ``pytest bench/`` (``--help`` lists the options)."""

from __future__ import annotations

import functools
import statistics

import pytest
import torch

from bench.cases import CHUNKED_CASES, DISTINCT_CHUNKED_CASES, ChunkedCase
from bench.timing import MODES, Comparison, Contender, choose_rounds, contenders, is_worth_measuring
from hnetfast import hnets
from hnetfast.examples._speed import import_hypnettorch, time_in_turns

_TINY_SHAPES = [[10, 4], [10], [2, 10], [2]]


def _measurements(all_rows: bool) -> list[tuple[ChunkedCase, int, str]]:
    """By default once each network, and the Gaussian ones, twice as large, with one condition only."""
    chosen = []
    for case in CHUNKED_CASES if all_rows else DISTINCT_CHUNKED_CASES:
        if case.gaussian and case.network == "WRN-28-10" and not all_rows:
            continue
        for conditions in (1, 10) if all_rows or not case.gaussian else (1,):
            chosen += [
                (case, conditions, mode)
                for mode in MODES
                if is_worth_measuring(case, mode) and (mode != MODES[2] or conditions == 1)
            ]
    return chosen


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "measurement" in metafunc.fixturenames:
        found = _measurements(metafunc.config.option.all_rows)
        metafunc.parametrize(
            "measurement",
            found,
            ids=[f"{case.name}-B{count}-{mode.replace(' ', '-')}" for case, count, mode in found],
        )


@functools.lru_cache(maxsize=1)  # the measurements of a case follow each other
def _contenders(case: ChunkedCase, device: str, with_compiled: bool) -> dict[str, Contender]:
    return contenders(case, device, with_compiled)


def test_generation(measurement, benchmark, results, peak_requests, pytestconfig):
    case, conditions, mode = measurement
    device = pytestconfig.option.bench_device
    competitors = _contenders(case, device, pytestconfig.option.with_compile)
    comparison = Comparison(case, competitors, conditions, mode, device)
    comparison.check()
    rounds = choose_rounds(comparison.warm_up(), pytestconfig.option.seconds)
    # The others take their turn before every round of hnetfast.
    benchmark.pedantic(comparison.own_call, setup=comparison.time_others, rounds=rounds, iterations=1)
    row = comparison.row(benchmark.stats.stats.data)
    benchmark.extra_info.update(row)
    results.rows.append(row)
    if mode == MODES[0]:
        peak_requests.append((case, conditions))


@pytest.mark.parametrize("mode", ["forward", "forward with gradients", "forward+backward"])
def test_call_on_a_tiny_network(mode, benchmark, results, pytestconfig):
    device = pytestconfig.option.bench_device
    calls = {}
    for name, module in (("hnetfast", hnets), ("hypnettorch", import_hypnettorch("hnets"))):
        if module is None:
            continue
        hnet = module.ChunkedHMLP(_TINY_SHAPES, 32, layers=(10, 10), num_cond_embs=2, verbose=False).to(
            device
        )
        calls[name] = functools.partial(_many_calls, hnet, mode)
    # Turns are long enough that what one evicts from the caches does not count for the other.
    durations = time_in_turns(calls, pytestconfig.option.seconds, minimum=5)
    benchmark.pedantic(calls["hnetfast"], rounds=3, iterations=1)
    us = {name: 1e6 * statistics.median(times) / _REPETITIONS for name, times in durations.items()}
    results.calls.append({"mode": mode, "us": us})


_REPETITIONS = 50


def _many_calls(hnet, mode: str) -> None:
    with torch.set_grad_enabled(mode != "forward"):
        for _ in range(_REPETITIONS):
            weights = hnet.forward(cond_id=0)
            if mode == "forward+backward":
                sum(w.sum() for w in weights).backward()
    if weights[0].is_cuda:
        torch.cuda.synchronize()
