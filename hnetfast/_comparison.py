"""Comparing implementations within one process: timed in turns, and with hypnettorch if installed."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import cast

import torch
from torch import Tensor

Call = Callable[[], object]
MODES = ("forward", "forward+backward")
_LONG = 5.0  # seconds


def time_in_turns(
    calls: Mapping[str, Call],
    seconds: float,
    *,
    minimum: int = 3,
    maximum: int = 200,
    turn: float = 0.0,
    device: str | torch.device = "cpu",
) -> dict[str, list[float]]:
    """Time several calls, one of each in every round, so that a busy machine slows all of them alike.

    Each is called once before the first round. A call that then takes more than five seconds owes nothing to
    having been called before: this time counts, and it takes part in the first round only.

    Args:
        calls: What to time, by name.
        seconds: No round starts later than this, once ``minimum`` is reached.
        minimum: Rounds at least.
        maximum: Rounds at most.
        turn: Seconds that a turn takes at least: shorter calls are repeated within it, so that what one
            evicts from the caches does not count for the next.
        device: Where they run; a turn ends when the device is done.

    Returns:
        The durations of each call in seconds, by name; what a call returns is freed within it.
    """
    is_cuda = torch.device(device).type == "cuda"

    def duration(name: str, repetitions: int = 1) -> float:
        call = calls[name]
        start = time.perf_counter()
        for _ in range(repetitions):
            call()
        if is_cuda:
            torch.cuda.synchronize(device)
        return (time.perf_counter() - start) / repetitions

    first = {name: duration(name) for name in calls}
    repetitions = {
        name: max(1, round(turn / duration(name))) if seconds < turn else 1 for name, seconds in first.items()
    }
    durations = {name: [seconds] if seconds > _LONG else [] for name, seconds in first.items()}
    stop = time.perf_counter() + seconds
    for done in range(maximum):
        if done >= minimum and time.perf_counter() > stop:
            break
        for name in calls:
            if done == 0 or first[name] <= _LONG:
                durations[name].append(duration(name, repetitions[name]))
    return durations


def compute(
    mode: str,
    forward: Callable[[], Tensor | list[Tensor]],
    parameters: Sequence[Tensor],
    grads: Tensor | list[Tensor] | None = None,
) -> list[Tensor]:
    """Compute results or gradients.

    Args:
        mode: "forward"; anything else asks for gradients.
        forward: Returns the results.
        parameters: What to differentiate with respect to; those not involved are left out.
        grads: Gradients of the results; ones if not given.

    Returns:
        The results, computed without gradients, or the gradients of the parameters.
    """
    if mode == MODES[0]:
        with torch.no_grad():
            results = forward()
        return [results] if isinstance(results, Tensor) else results
    results = forward()
    if grads is None:
        grads = torch.ones_like(cast("Tensor", results))  # several results come with their gradients
    found = torch.autograd.grad(results, parameters, grads, allow_unused=True)
    return [grad for grad in found if grad is not None]


def import_hypnettorch(module: str) -> ModuleType | None:
    """A module of hypnettorch, or ``None`` where hypnettorch is not installed or is hnetfast in disguise."""
    try:
        if module.split(".")[0] == "data":
            _give_names_back_to_numpy()
        found = importlib.import_module(f"hypnettorch.{module}")
    except ImportError:
        return None
    return found if found.__name__ == f"hypnettorch.{module}" else None


def libraries() -> list[str]:
    """The names of the libraries to compare: "hnetfast" and, where it is installed, "hypnettorch"."""
    return ["hnetfast"] + ["hypnettorch"] * (import_hypnettorch("hnets") is not None)


def _give_names_back_to_numpy() -> None:
    # hypnettorch's data handlers use names that numpy no longer has. What these handlers import must not see
    # them, so it is imported first.
    for name in ("numpy.ma", "scipy.sparse", "sklearn.preprocessing", "pandas", "torchvision"):
        importlib.import_module(name)
    numpy = importlib.import_module("numpy")
    for name, kind in {"int": int, "float": float, "bool": bool}.items():
        if not hasattr(numpy, name):
            setattr(numpy, name, kind)
