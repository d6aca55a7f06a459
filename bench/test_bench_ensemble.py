"""Main networks evaluated for many sets of weights: ``pytest bench/test_bench_ensemble.py``."""

from __future__ import annotations

import functools
import statistics

import pytest

from bench.ensembles import CASES, Ensemble
from hnetfast.examples._speed import time_in_turns

_TURN = 3e-3  # seconds: what one contender evicts from the caches does not count for the next
_LONG, _VERY_LONG = 10.0, 40.0  # seconds


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_forward_batched(case, benchmark, results, pytestconfig):
    ensemble = Ensemble(case, pytestconfig.option.bench_device)
    first = ensemble.check()
    repetitions = {name: max(1, round(_TURN / seconds)) for name, seconds in first.items()}
    calls = {name: functools.partial(_repeat, ensemble, name, count) for name, count in repetitions.items()}
    if sum(first.values()) > _LONG:
        # Calls this long owe nothing to a warm-up: one more round is enough, or none.
        more = sum(first.values()) < _VERY_LONG
        durations = time_in_turns(calls, 0, minimum=int(more), maximum=int(more), warm_up=False)
        durations = {name: [first[name], *times] for name, times in durations.items()}
    else:
        durations = time_in_turns(calls, pytestconfig.option.seconds, minimum=5)
    benchmark.pedantic(calls["hnetfast"], rounds=1, iterations=1)
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


def _repeat(ensemble: Ensemble, name: str, count: int) -> None:
    for _ in range(count):
        ensemble.call(name)
