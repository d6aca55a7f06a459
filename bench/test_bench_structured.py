"""Structured weight generation: ``pytest bench/test_bench_structured.py``."""

from __future__ import annotations

import functools
import importlib
import statistics
from collections.abc import Callable
from itertools import pairwise
from math import prod

import pytest
import torch
from torch import Tensor

from bench.cases import STRUCTURED_CASES, TUTORIAL_CASE, StructuredCase
from bench.harness import check, copy_rate, matrix_rate
from bench.memory import peak_bytes
from bench.tables import (
    SMALL_BYTES,
    Row,
    Rows,
    Table,
    field,
    floor_share,
    known,
    mode_label,
    over,
    percent_of_floor,
    speed_ups,
    times,
    times_as_fast,
)
from hnetfast._comparison import MODES, compute, libraries

# Wide-ResNets take hypnettorch minutes; the tutorial's stands for all of them.
CASES = (*(c for c in STRUCTURED_CASES if not c.gaussian and c.network == "ResNet-32"), TUTORIAL_CASE)
CONDITIONS = (1, 3, 10)


def _build(library: str, case: StructuredCase, device: str = "cpu"):
    """The hypernetwork of a case, of each library with equal weights."""
    torch.manual_seed(1)
    module = importlib.import_module(f"{library}.hnets")
    hnet = module.StructuredHMLP(**case.arguments(), num_cond_embs=max(CONDITIONS), verbose=False)
    return hnet.to(device)


@functools.lru_cache(maxsize=1)  # the measurements of a case follow each other
def _contenders(case: StructuredCase, device: str) -> dict[str, torch.nn.Module]:
    return {library: _build(library, case, device) for library in libraries()}


def _call(hnet, conditions: int, mode: str, grad: Tensor | None = None) -> Callable[[], list[Tensor]]:
    """A call that returns the target tensors, or the gradients for one of all outputs ``[B, n]``."""
    ids = list(range(conditions))

    def forward() -> Tensor | list[Tensor]:
        if mode != MODES[0]:
            return hnet.forward(cond_id=ids, ret_format="flattened")
        samples = hnet.forward(cond_id=ids, ret_format="sequential")
        return [tensor for sample in samples for tensor in sample]

    return functools.partial(compute, mode, forward, list(hnet.parameters()), grad)


def _floor_seconds(case: StructuredCase, conditions: int, copy_rate: float, matrix_rate: float) -> float:
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


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("conditions", CONDITIONS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_structured(case, conditions, mode, bench):
    networks = _contenders(case, bench.device)
    num_outputs = networks["hnetfast"].num_outputs
    generator = torch.Generator(bench.device).manual_seed(2)
    grad = torch.randn(conditions, num_outputs, generator=generator, device=bench.device)
    calls = {name: _call(hnet, conditions, mode, grad) for name, hnet in networks.items()}
    if "hypnettorch" in calls and conditions == 1:
        check(calls["hnetfast"](), calls["hypnettorch"](), 1e-3, "hnetfast against hypnettorch")
    rates = {}
    if mode == MODES[0]:
        rates["copy"] = copy_rate(conditions * num_outputs, bench.device)
        rates["product"] = matrix_rate(bench.device)
    large = conditions * num_outputs > 5e7
    turns = calls | {name: rate.call for name, rate in rates.items()}
    durations = bench.time(turns, minimum=3 if large else 5, maximum=60)
    found = [rate.per_second(durations.pop(name)) for name, rate in rates.items()]
    floor = {"floor_ms": 1e3 * _floor_seconds(case, conditions, *found)} if rates else {}
    peaks = {"hnetfast": (case.name, conditions)} if rates else None
    row = {"case": case.name, "conditions": conditions, "mode": mode, "num_outputs": num_outputs}
    bench.add(TABLE, durations, peaks, **row, **floor)


def peak(name: str, conditions: int) -> int:
    """What a forward of a case adds to the memory of a process, its result included."""
    _call(_build("hnetfast", CASES[0]), 1, MODES[0])()  # libraries and threads are there now
    case = next(case for case in CASES if case.name == name)
    return peak_bytes(_call(_build("hnetfast", case), conditions, MODES[0]))


def _over_output(row: Row) -> str:
    peak, size = row.get("peak_bytes", {}), 4 * row["num_outputs"] * row["conditions"]
    return f"{peak['hnetfast'] / size:.2f}" if peak and size > SMALL_BYTES else ""


def _facts(rows: Rows) -> list[str]:
    lines = over("Structured hypernetworks over hypnettorch", speed_ups(rows))
    shares = known(map(floor_share, rows))
    if shares:
        mean = statistics.geometric_mean(shares)
        lines.append(f"Share of the floor, forward: geometric mean {100 * mean:.0f} %")
    return lines


TABLE = Table(
    key="structured",
    title="Structured hypernetworks",
    intro=(
        "`StructuredHMLP`, in milliseconds: *forward* gives the list of target tensors, *fwd+bwd* one flat "
        "result and the gradients of all parameters. The floor is the larger of the bytes of the weights and "
        "of the result at the measured copy rate and of the operations at the measured float32 matrix rate. "
        "Peak memory is that of a forward, result included (results above 16 MB)."
    ),
    columns={
        "hypernetwork": field("case"),
        "B": field("conditions"),
        "mode": mode_label,
        **times("hnetfast", "hypnettorch"),
        "× hypnettorch": times_as_fast(),
        "of floor": percent_of_floor,
        "peak memory, × output": _over_output,
    },
    place=30,
    facts=_facts,
    readme=lambda rows: "`StructuredHMLP`:",
    peak=peak,
)
