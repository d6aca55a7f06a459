"""The output regulariser of continual learning: architectures, contenders, and peak memory.

Run as a program, it prints peak memory: ``python -m bench.regulariser CASE:TASKS ...``.
"""

from __future__ import annotations

import copy
import importlib
import sys
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bench.cases import DISTINCT_CHUNKED_CASES, ChunkedCase
from bench.memory import measure_in_child, peak_bytes, print_peak
from bench.timing import build_hypernetwork
from hnetfast.examples._speed import import_hypnettorch

TASKS = (1, 5, 20)
MANY_TASKS = 50
_CHANGE = 1e-3  # standard deviation of what the parameters have changed by
_WANTED = (("ResNet-32", ()), ("ResNet-32", (100, 100)), ("ResNet-32", (10,) * 4), ("ResNet-18", (100,) * 4))


def _find(network: str, layers: tuple[int, ...]) -> ChunkedCase:
    found = (
        c for c in DISTINCT_CHUNKED_CASES if (c.network, c.layers) == (network, layers) and not c.gaussian
    )
    return next(found)


CASES = {
    f"{network} {_find(network, layers).architecture}": _find(network, layers) for network, layers in _WANTED
}
GROWTH = "ResNet-32 '100,100'"

Call = Callable[[], tuple[Tensor, ...]]


def contenders(
    name: str, device: str, tasks: int = MANY_TASKS
) -> dict[str, Callable[[int], tuple[Tensor, ...]]]:
    """What to compare for a case.

    Args:
        name: One of ``CASES``.
        device: Where to run.
        tasks: Number of tasks that the hypernetworks know.

    Returns:
        Functions of the number of earlier tasks that return the penalty and its gradients: "hnetfast",
        "direct" (the same from given targets, so all weights are generated) and, where it is installed,
        "hypnettorch" (in its cheaper way, which of the two is that with targets).
    """
    found = {}
    for library in ("hnetfast", "hypnettorch"):
        if library == "hypnettorch" and import_hypnettorch("hnets") is None:
            continue
        hnet = build_hypernetwork(importlib.import_module(f"{library}.hnets"), CASES[name], device, tasks + 1)
        regulariser = importlib.import_module(f"{library}.utils.hnet_regularizer")
        found[library] = _penalty(hnet, regulariser)
        if library == "hnetfast":
            found["direct"] = _direct(hnet, regulariser)
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


def _penalty(hnet, regulariser) -> Callable[[int], tuple[Tensor, ...]]:
    previous = _previous(hnet)

    def call(tasks: int) -> tuple[Tensor, ...]:
        return _with_gradients(hnet, regulariser.calc_fix_target_reg(hnet, tasks, **previous))

    return call


def _direct(hnet, regulariser) -> Callable[[int], tuple[Tensor, ...]]:
    former = copy.deepcopy(hnet)
    previous = _previous(hnet)
    with torch.no_grad():
        for params, values in zip(
            (former.unconditional_params, former.conditional_params), previous.values(), strict=True
        ):
            for param, value in zip(params, values, strict=True):
                param.copy_(value)
    known: dict[int, list] = {}

    def call(tasks: int) -> tuple[Tensor, ...]:
        if tasks not in known:
            known.clear()
            known[tasks] = regulariser.get_current_targets(tasks, former)
        return _with_gradients(hnet, regulariser.calc_fix_target_reg(hnet, tasks, targets=known[tasks]))

    return call


def _with_gradients(hnet, loss: Tensor) -> tuple[Tensor, ...]:
    grads = torch.autograd.grad(loss, list(hnet.parameters()), allow_unused=True)
    return loss.detach(), *(g for g in grads if g is not None)


def relative_errors(name: str, device: str) -> dict[str, float]:
    """Errors of penalty and gradients for one task, against the direct form in double precision.

    Args:
        name: One of ``CASES``.
        device: Where to run.

    Returns:
        For "hnetfast" and "direct", both in single precision, the largest relative error.
    """
    hnet = build_hypernetwork(importlib.import_module("hnetfast.hnets"), CASES[name], device, 2)
    regulariser = importlib.import_module("hnetfast.utils.hnet_regularizer")
    exact = _direct(copy.deepcopy(hnet).double(), regulariser)(1)
    found = {"hnetfast": _penalty(hnet, regulariser)(1), "direct": _direct(hnet, regulariser)(1)}
    return {
        key: max(
            ((a - b).norm() / b.norm()).item() for a, b in zip(value, exact, strict=True) if b.norm() > 0
        )
        for key, value in found.items()
    }


def measure_peaks(rows: Sequence[tuple[str, int]]) -> dict[str, int]:
    """Measure the memory of hnetfast's regulariser.

    Args:
        rows: Pairs of a case and a number of tasks.

    Returns:
        Bytes at the peak, gradients included, parameters and snapshot not, by ``case:tasks``; empty where the
        system does not report it.
    """
    return measure_in_child("bench.regulariser", [f"{name}:{tasks}" for name, tasks in rows])


def main(names: Sequence[str]) -> None:
    """Measure in this process; see the head of the module."""
    torch.set_num_threads(2)
    for name in names:
        case, tasks = name.rsplit(":", 1)
        hnet = build_hypernetwork(
            importlib.import_module("hnetfast.hnets"), CASES[case], "cpu", MANY_TASKS + 1
        )
        call = _penalty(hnet, importlib.import_module("hnetfast.utils.hnet_regularizer"))
        call(1)  # threads and libraries are there now
        print_peak(name, peak_bytes(lambda: call(int(tasks))))  # noqa: B023  called at once


if __name__ == "__main__":
    main(sys.argv[1:])
