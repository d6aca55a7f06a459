"""The output regulariser, forward and backward: ``pytest bench/test_bench_regulariser.py``."""

from __future__ import annotations

import functools
import itertools
import statistics

import pytest
import torch

from bench.regulariser import CASES, GROWTH, MANY_TASKS, TASKS, contenders, measure_peaks, relative_errors
from hnetfast.examples._speed import time_in_turns

_SLOW = 5e7  # generated weights from which on one round has to do
_contenders = functools.lru_cache(maxsize=1)(contenders)  # the measurements of a case follow each other


@pytest.fixture(scope="module")
def peaks(pytestconfig):
    """Peak memory by case and number of tasks, measured in a child process before anything is timed."""
    if pytestconfig.option.no_memory or pytestconfig.option.bench_device != "cpu":
        return {}
    return measure_peaks(list(itertools.product(CASES, (*TASKS, MANY_TASKS))))


@pytest.mark.parametrize("tasks", [*TASKS, MANY_TASKS])
@pytest.mark.parametrize("name", CASES)
def test_regulariser(name, tasks, benchmark, results, pytestconfig, peaks):
    competing = dict(_contenders(name, pytestconfig.option.bench_device))
    if tasks == MANY_TASKS:  # how the time grows
        competing = {"hnetfast": competing["hnetfast"]}
    calls, slow = {}, tasks * CASES[name].documented_outputs > _SLOW
    expected = competing["hnetfast"](tasks)
    for contender, call in competing.items():
        if contender != "hnetfast" and not slow:
            for a, b in zip(call(tasks), expected, strict=True):
                error = ((a - b).norm() / b.norm().clamp_min(1e-30)).item()
                assert error < 1e-2, f"{contender} differs from hnetfast by {error:.1e}"
        calls[contender] = functools.partial(_timed, call, tasks)
    if tasks == MANY_TASKS:
        calls["fewer"] = functools.partial(_timed, competing["hnetfast"], TASKS[1])
    rounds = {"minimum": 1, "maximum": 1} if slow and tasks != MANY_TASKS else {"minimum": 5, "maximum": 60}
    durations = time_in_turns(calls, pytestconfig.option.seconds, **rounds, warm_up=not slow)
    if slow:  # the fast ones more often
        fast = {key: call for key, call in calls.items() if key != "hypnettorch"}
        durations |= time_in_turns(fast, pytestconfig.option.seconds, minimum=3, maximum=20)
    benchmark.pedantic(calls["hnetfast"], rounds=1, iterations=1)
    seconds = {key: statistics.median(times) for key, times in durations.items()}
    row = {"case": name, "tasks": tasks}
    fewer = seconds.pop("fewer", None)
    if fewer:
        row["growth"] = seconds["hnetfast"] / fewer
    row["ms"] = {key: 1e3 * value for key, value in seconds.items()}
    if f"{name}:{tasks}" in peaks:
        row["peak_bytes"] = peaks[f"{name}:{tasks}"]
    if tasks == 1:
        row["errors"] = relative_errors(name, pytestconfig.option.bench_device)
    results.regularisers.append(row)


def test_growth_case_is_there():
    assert GROWTH in CASES


def _timed(call, tasks: int) -> None:
    loss, *_ = call(tasks)
    if loss.is_cuda:
        torch.cuda.synchronize()
