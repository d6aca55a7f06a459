"""Main networks evaluated for many sets of weights: ``pytest bench/test_bench_ensemble.py``."""

from __future__ import annotations

import functools
import statistics
import time

import pytest

from bench.ensembles import CASES, Ensemble
from hnetfast.examples._speed import time_in_turns


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_forward_batched(case, benchmark, results, pytestconfig):
    ensemble = Ensemble(case, pytestconfig.option.bench_device)
    ensemble.check()
    repetitions = {name: _repetitions(ensemble, name) for name in ensemble.contenders}
    calls = {name: functools.partial(_repeat, ensemble, name, count) for name, count in repetitions.items()}
    durations = time_in_turns(calls, pytestconfig.option.seconds, minimum=5)
    benchmark.pedantic(calls["hnetfast"], rounds=3, iterations=1)
    ms = {name: 1e3 * statistics.median(times) / repetitions[name] for name, times in durations.items()}
    benchmark.extra_info.update(ms)
    results.ensembles.append(
        {
            "network": case.network,
            "sets": case.sets,
            "batch": case.batch,
            "mode": case.mode,
            "rounds": len(durations["hnetfast"]),
            "ms": ms,
        }
    )


def _repetitions(ensemble: Ensemble, name: str, milliseconds: float = 3.0) -> int:
    """Turns are long enough that what one evicts from the caches does not count for the next."""
    ensemble.call(name)
    start = time.perf_counter()
    ensemble.call(name)
    return max(1, round(1e-3 * milliseconds / (time.perf_counter() - start)))


def _repeat(ensemble: Ensemble, name: str, count: int) -> None:
    for _ in range(count):
        ensemble.call(name)
