"""Peak memory of a call, from the high-water mark of a child process's resident memory (Linux only)."""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent


def measure_in_child(module: str, arguments: Sequence[str]) -> dict[str, int]:
    """Run a module of the benchmark as a program that prints what :func:`print_peak` does.

    Args:
        module: Its name, e.g. ``"bench.structured"``.
        arguments: Its command line.

    Returns:
        Bytes by name; empty where the system does not report them.
    """
    if not Path("/proc/self/clear_refs").exists():
        return {}
    # Blocks go back to the system when they are freed: kept ones would not be seen when they are used again.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    command = [sys.executable, "-m", module, *arguments]
    output = subprocess.run(
        command, cwd=_ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    return dict(json.loads(line) for line in output.splitlines() if line.startswith('["'))


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


def print_peak(name: str, size: int) -> None:
    """Tell :func:`measure_in_child`."""
    print(json.dumps([name, size]), flush=True)


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {field}")
