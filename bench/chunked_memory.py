"""Peak memory of chunked hypernetworks: ``python -m bench.chunked_memory hnetfast 0:1 0:10``

measures a forward of case 0 for 1 and for 10 conditions.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

import torch

from bench.cases import CHUNKED_CASES, ChunkedCase
from bench.memory import measure_in_child, peak_bytes, print_peak
from bench.timing import build_hypernetwork


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
    index = {case.name: i for i, case in enumerate(CHUNKED_CASES)}
    names = {(case.name, count): f"{index[case.name]}:{count}" for case, count in requests}
    peaks = measure_in_child("bench.chunked_memory", [implementation, *names.values()])
    return {key: peaks[name] for key, name in names.items() if name in peaks}


def _peak(hnet, conditions: int) -> int:
    with torch.no_grad():
        return peak_bytes(lambda: hnet.forward(cond_id=list(range(conditions)), ret_format="flattened"))


def main(arguments: Sequence[str]) -> None:
    """Measure in this process; see the head of the module."""
    implementation, *requests = arguments
    torch.set_num_threads(2)
    module = importlib.import_module(f"{implementation}.hnets")
    warm = build_hypernetwork(module, CHUNKED_CASES[0], "cpu")
    for count in (1, 10):  # threads, libraries and their buffers are there before the first measurement
        _peak(warm, count)
    for request in requests:
        number, count = map(int, request.split(":"))
        hnet = build_hypernetwork(module, CHUNKED_CASES[number], "cpu")
        print_peak(request, _peak(hnet, count))
        del hnet


if __name__ == "__main__":
    main(sys.argv[1:])
