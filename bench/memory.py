"""Peak memory of a forward, from the high-water mark of a child process's resident memory.

``python -m bench.memory hnetfast 0:1 0:10`` measures case 0 for 1 and for 10 conditions, a JSON line each.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from bench.cases import CHUNKED_CASES, ChunkedCase
from bench.timing import build_hypernetwork

_ROOT = Path(__file__).resolve().parent.parent


def measure_peaks(
    implementation: str, requests: Sequence[tuple[ChunkedCase, int]]
) -> dict[tuple[str, int], int]:
    """Measure how much a forward without gradients adds to the memory of a process.

    Args:
        implementation: ``"hnetfast"`` or ``"hypnettorch"``.
        requests: Pairs of a case and a number of conditions.

    Returns:
        Bytes at the peak, the result included, by name of the case and number of conditions; empty where the
        system does not report it (it is a Linux interface).
    """
    if not Path("/proc/self/clear_refs").exists():
        return {}
    index = {case.name: i for i, case in enumerate(CHUNKED_CASES)}
    arguments = [f"{index[case.name]}:{count}" for case, count in requests]
    # Blocks go back to the system when they are freed: kept ones would not be seen when they are used again.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    command = [sys.executable, "-m", "bench.memory", implementation, *arguments]
    output = subprocess.run(
        command, cwd=_ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    rows = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return {(row["case"], row["conditions"]): row["peak_bytes"] for row in rows}


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {field}")


def _release(implementation: str) -> None:
    if implementation == "hnetfast":
        importlib.import_module("hnetfast").empty_cache()
    ctypes.CDLL(None).malloc_trim(0)


def _peak(implementation: str, hnet, conditions: int) -> int:
    cond_ids = list(range(conditions))
    _release(implementation)
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    before = _resident("VmRSS")
    with torch.no_grad():
        hnet.forward(cond_id=cond_ids, ret_format="flattened")
    return _resident("VmHWM") - before


def main(arguments: Sequence[str]) -> None:
    """Measure in this process; see the head of the module."""
    implementation, *requests = arguments
    torch.set_num_threads(2)
    module = importlib.import_module(f"{implementation}.hnets")
    warm = build_hypernetwork(module, CHUNKED_CASES[0], "cpu")
    for count in (1, 10):  # threads, libraries and their buffers are there before the first measurement
        _peak(implementation, warm, count)
    for request in requests:
        number, count = map(int, request.split(":"))
        case = CHUNKED_CASES[number]
        hnet = build_hypernetwork(module, case, "cpu")
        peak = _peak(implementation, hnet, count)
        print(json.dumps({"case": case.name, "conditions": count, "peak_bytes": peak}), flush=True)
        del hnet


if __name__ == "__main__":
    main(sys.argv[1:])
