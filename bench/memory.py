"""Peak memory of a call, from the high-water mark of a child process's resident memory (Linux only).

``python -m bench.memory MODULE FUNCTION ARGUMENTS ...`` prints what the function returns for each JSON list
of arguments.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

_ROOT = Path(__file__).resolve().parent.parent


def measure_peaks(peak: Callable[..., int], requests: Sequence[Sequence]) -> list[int | None]:
    """Call a function in a child process.

    Args:
        peak: The function, of a module, which returns bytes.
        requests: Its arguments, strings and numbers, once for each call.

    Returns:
        What it returned for each; None where the system does not report memory.
    """
    if not Path("/proc/self/clear_refs").exists():
        return [None] * len(requests)
    # Blocks go back to the system when they are freed: kept ones would not be seen when they are used again.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    command = [sys.executable, "-m", "bench.memory", peak.__module__, peak.__name__]
    command += [json.dumps(list(request)) for request in requests]
    output = subprocess.run(
        command, cwd=_ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    lines = [line for line in output.splitlines() if line.startswith("peak ")]
    return [int(line.removeprefix("peak ")) for line in lines]


def peak_bytes(call: Callable[[], object]) -> int:
    """Returns what a call adds to the resident memory of this process at its peak, its result included."""
    if "hnetfast" in sys.modules:
        importlib.import_module("hnetfast").empty_cache()
    ctypes.CDLL(None).malloc_trim(0)
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    result = call()
    peak = _resident("VmHWM") - before
    del result
    return peak


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {field}")


def main(arguments: Sequence[str]) -> None:
    """Measure in this process; see the head of the module."""
    module, name, *requests = arguments
    torch.set_num_threads(2)
    peak = getattr(importlib.import_module(module), name)
    for request in requests:
        print("peak", peak(*json.loads(request)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
