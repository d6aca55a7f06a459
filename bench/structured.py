"""Structured hypernetworks: the cases, who competes, their floor, and peak memory.

``python -m bench.structured hnetfast ResNet-32-linear:10`` prints the peak memory of a forward, in bytes.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Sequence
from itertools import pairwise
from math import prod

import torch
from torch import Tensor

from bench.cases import STRUCTURED_CASES, TUTORIAL_CASE, StructuredCase
from bench.memory import measure_in_child, peak_bytes, print_peak
from hnetfast.examples._speed import import_hypnettorch

# Wide-ResNets take hypnettorch minutes; the tutorial's stands for all of them.
CASES = (*(c for c in STRUCTURED_CASES if not c.gaussian and c.network == "ResNet-32"), TUTORIAL_CASE)
CONDITIONS, MODES = (1, 3, 10), ("forward", "forward+backward")


def build(module, case: StructuredCase, device: str = "cpu"):
    """The hypernetwork of a case from ``hnetfast.hnets`` or ``hypnettorch.hnets``, with equal weights."""
    torch.manual_seed(1)
    hnet = module.StructuredHMLP(**case.arguments(), num_cond_embs=max(CONDITIONS), verbose=False)
    return hnet.to(device)


def contenders(case: StructuredCase, device: str) -> dict[str, torch.nn.Module]:
    """hnetfast's hypernetwork, and hypnettorch's where it is installed."""
    found = {"hnetfast": build(importlib.import_module("hnetfast.hnets"), case, device)}
    oracle = import_hypnettorch("hnets")
    if oracle is not None:
        found["hypnettorch"] = build(oracle, case, device)
    return found


def call(hnet: torch.nn.Module, conditions: int, mode: str, grad: Tensor) -> list[Tensor]:
    """Generate the target tensors, or the gradients of all parameters from a gradient of all outputs.

    Args:
        hnet: The hypernetwork.
        conditions: For how many conditions.
        mode: One of ``MODES``.
        grad: The gradient, ``[conditions, num_outputs]``.

    Returns:
        The target tensors, one condition after the other, or the gradients; a tensor of no elements for None.
    """
    ids = list(range(conditions))
    if mode == MODES[0]:
        with torch.no_grad():
            samples = hnet.forward(cond_id=ids, ret_format="sequential")
        return [tensor for sample in samples for tensor in sample]
    flat = hnet.forward(cond_id=ids, ret_format="flattened")
    grads = torch.autograd.grad(flat, list(hnet.parameters()), grad, allow_unused=True)
    return [grad.new_empty(0) if g is None else g for g in grads]


def check(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """Compare what two contenders computed.

    Raises:
        AssertionError: They differ by more than rounding.
    """
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        error = ((a - b).norm() / b.norm().clamp(min=1e-30)).item() if a.shape == b.shape else float("inf")
        if not error <= 1e-3:
            raise AssertionError(f"tensor {i} differs from hypnettorch's by {error:.1e} of its norm")


def floor_seconds(case: StructuredCase, conditions: int, copy_rate: float, matrix_rate: float) -> float:
    """Time that a forward cannot do without: the larger of that of its bytes and that of its operations.

    Args:
        case: The architecture.
        conditions: Number of conditions.
        copy_rate: Bytes read and written a second.
        matrix_rate: Floating point operations a second.
    """
    arguments = case.arguments()
    moved = conditions * sum(map(prod, arguments["target_shapes"]))
    operations = 0
    rows = zip(
        arguments["chunk_shapes"], arguments["num_per_chunk"], case.chunk_emb_sizes, case.layers, strict=False
    )
    for shapes, chunks, emb_size, layers in rows:
        widths = [case.cond_emb_size + emb_size, *layers, sum(map(prod, shapes))]
        products = [a * b for a, b in pairwise(widths)]
        moved += sum(products)
        # Without hidden layers chunks and conditions contribute separately, but for conditional embeddings.
        separable = not layers and not case.is_tutorial
        if separable:
            operations += 2 * widths[-1] * (chunks * emb_size + conditions * case.cond_emb_size)
        else:
            operations += 2 * conditions * chunks * sum(products)
    return max(4 * moved / copy_rate, operations / matrix_rate)


def measure_peaks(implementation: str, requests: Sequence[tuple[StructuredCase, int]]) -> dict[str, int]:
    """Measure how much a forward adds to the resident memory of a process, its result included.

    Args:
        implementation: ``"hnetfast"`` or ``"hypnettorch"``.
        requests: Pairs of a case and a number of conditions.

    Returns:
        Bytes at the peak by ``name:conditions``; empty where the system does not report it (it is a Linux
        interface).
    """
    names = [f"{case.name}:{count}" for case, count in requests]
    return measure_in_child("bench.structured", [implementation, *names])


def main(arguments: Sequence[str]) -> None:
    """Measure in this process; see the head of the module."""
    implementation, *names = arguments
    torch.set_num_threads(2)
    module = importlib.import_module(f"{implementation}.hnets")
    cases = {case.name: case for case in CASES}
    grad = torch.empty(0)
    call(build(module, CASES[0]), 1, MODES[0], grad)  # libraries and threads are there now
    for name in names:
        case, count = name.rsplit(":", 1)
        hnet = build(module, cases[case])
        print_peak(name, peak_bytes(functools.partial(call, hnet, int(count), MODES[0], grad)))
        del hnet


if __name__ == "__main__":
    main(sys.argv[1:])
