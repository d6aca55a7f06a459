"""The output regulariser, forward and backward: ``pytest bench/test_bench_regulariser.py``."""

from __future__ import annotations

import copy
import functools
import importlib
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from bench.cases import DISTINCT_CHUNKED_CASES, ChunkedCase
from bench.harness import check, median_ms, relative_error
from bench.memory import peak_bytes
from bench.tables import Cell, Rows, Table, field, over, speed_ups, times, times_as_fast
from hnetfast._comparison import libraries
from hnetfast.utils import hnet_regularizer

TASKS = (1, 5, 20)
MANY_TASKS = 50  # how the time grows up to these
_CHANGE = 1e-3  # standard deviation of what the parameters have changed by
_SLOW = 5e7  # generated weights from which on hypnettorch takes long
_WANTED = (("ResNet-32", ()), ("ResNet-32", (100, 100)), ("ResNet-32", (10,) * 4), ("ResNet-18", (100,) * 4))

Penalty = Callable[[int], list[Tensor]]


def _find(network: str, layers: tuple[int, ...]) -> ChunkedCase:
    cases = (case for case in DISTINCT_CHUNKED_CASES if not case.gaussian)
    return next(case for case in cases if (case.network, case.layers) == (network, layers))


CASES = {
    f"{network} {_find(network, layers).architecture}": _find(network, layers) for network, layers in _WANTED
}


@functools.lru_cache(maxsize=1)  # the measurements of a case follow each other
def _contenders(name: str, device: str) -> dict[str, Penalty]:
    """What to compare for a case.

    Args:
        name: One of ``CASES``.
        device: Where to run.

    Returns:
        Functions of the number of earlier tasks that return the penalty and its gradients: "hnetfast",
        "direct" (the same from given targets, so all weights are generated) and, where it is installed,
        "hypnettorch" (in its cheaper way, which of the two is that with targets).
    """
    found = {}
    for library in libraries():
        hnet = CASES[name].build(library, device, MANY_TASKS + 1)
        found[library] = _penalty(hnet, importlib.import_module(f"{library}.utils.hnet_regularizer"))
        if library == "hnetfast":
            found["direct"] = _direct(hnet)
    return found


def _previous(hnet) -> dict[str, list[Tensor]]:
    generator = torch.Generator().manual_seed(3)

    def changed(params: Sequence[Tensor]) -> list[Tensor]:
        # Rounded to single precision, so that the double precision sees the same.
        changes = (_CHANGE * torch.randn(p.shape, generator=generator, dtype=torch.float32) for p in params)
        return [
            (p.detach().float() + change.to(p.device)).to(p)
            for p, change in zip(params, changes, strict=True)
        ]

    return {
        "prev_theta": changed(hnet.unconditional_params),
        "prev_task_embs": changed(hnet.conditional_params),
    }


def _penalty(hnet, regulariser=hnet_regularizer) -> Penalty:
    previous = _previous(hnet)
    return lambda tasks: _with_gradients(hnet, regulariser.calc_fix_target_reg(hnet, tasks, **previous))


def _direct(hnet) -> Penalty:
    former = copy.deepcopy(hnet)
    params, values = (former.unconditional_params, former.conditional_params), _previous(hnet).values()
    with torch.no_grad():
        for some, wanted in zip(params, values, strict=True):
            for param, value in zip(some, wanted, strict=True):
                param.copy_(value)
    targets = functools.lru_cache(maxsize=1)(
        lambda tasks: hnet_regularizer.get_current_targets(tasks, former)
    )

    def call(tasks: int) -> list[Tensor]:
        loss = hnet_regularizer.calc_fix_target_reg(hnet, tasks, targets=targets(tasks))
        return _with_gradients(hnet, loss)

    return call


def _with_gradients(hnet, loss: Tensor) -> list[Tensor]:
    grads = torch.autograd.grad(loss, list(hnet.parameters()), allow_unused=True)
    return [loss.detach(), *(grad for grad in grads if grad is not None)]


def _relative_errors(name: str, device: str) -> dict[str, float]:
    """The largest errors of penalty and gradients for one task, of "hnetfast" and "direct".

    Both are in single precision and compared with the direct form in double precision.
    """
    hnet = CASES[name].build("hnetfast", device, 2)
    exact = _direct(copy.deepcopy(hnet).double())(1)
    found = {"hnetfast": _penalty(hnet)(1), "direct": _direct(hnet)(1)}
    return {
        key: max(relative_error(a.double(), b) for a, b in zip(value, exact, strict=True) if b.norm() > 0)
        for key, value in found.items()
    }


@pytest.mark.parametrize("tasks", [*TASKS, MANY_TASKS])
@pytest.mark.parametrize("name", CASES)
def test_regulariser(name, tasks, bench):
    competing = _contenders(name, bench.device)
    row = {"case": name, "tasks": tasks}
    if tasks == MANY_TASKS:
        penalty = competing["hnetfast"]
        calls = {"hnetfast": lambda: penalty(tasks), "fewer": lambda: penalty(TASKS[1])}
    else:
        calls = {contender: functools.partial(call, tasks) for contender, call in competing.items()}
        if tasks * CASES[name].num_outputs < _SLOW:
            expected = calls["hnetfast"]()
            for contender in calls.keys() - {"hnetfast"}:
                check(calls[contender](), expected, 1e-2, f"{contender} against hnetfast")
    durations = bench.time(calls, minimum=5, maximum=60)
    fewer = durations.pop("fewer", None)
    if tasks == 1:
        row["errors"] = _relative_errors(name, bench.device)
    if fewer:
        row["growth"] = median_ms(durations["hnetfast"]) / median_ms(fewer)
    bench.add(TABLE, durations, {"hnetfast": (name, tasks)}, **row)


def peak(name: str, tasks: int) -> int:
    """What a call of hnetfast's regulariser adds to the memory of a process, gradients included."""
    penalty = _penalty(CASES[name].build("hnetfast", "cpu", MANY_TASKS + 1))
    penalty(1)  # threads and libraries are there now
    return peak_bytes(lambda: penalty(tasks))


def _error(name: str) -> Cell:
    return lambda row: f"{row['errors'][name]:.1e}" if "errors" in row else ""


def _facts(rows: Rows) -> list[str]:
    growth = [
        f"{row['case']}: {row['tasks']} tasks take {row['growth']:.2f} times as long as 5"
        for row in rows
        if "growth" in row
    ]
    return over("Output regulariser over hypnettorch's", speed_ups(rows), 1) + growth


TABLE = Table(
    key="regularisers",
    title="Output regulariser",
    intro=(
        "`calc_fix_target_reg` with its gradients for a number of earlier tasks, in milliseconds; *hnetfast* "
        "and *hypnettorch* from the previous parameters, *direct* is hnetfast with given targets, where all "
        "weights are generated. Peak memory includes the gradients. Errors are the largest relative ones of "
        "the penalty and its gradients, in single precision against double precision."
    ),
    columns={
        "hypernetwork": field("case"),
        "tasks": field("tasks"),
        **times("hnetfast", "direct", "hypnettorch", digits=2),
        "× hypnettorch": times_as_fast(digits=1),
        "peak MB": lambda row: f"{row['peak_bytes']['hnetfast'] / 1e6:.1f}" if "peak_bytes" in row else "",
        "error": _error("hnetfast"),
        "error of direct": _error("direct"),
    },
    place=50,
    facts=_facts,
    peak=peak,
)
