"""Low-rank adapters, one of many for each row: ``pytest bench/test_bench_batched_lora.py``."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bench.harness import check, matrix_rate
from bench.memory import peak_bytes
from bench.tables import (
    Rows,
    Table,
    field,
    mode_label,
    over,
    percent_of_floor,
    speed_ups,
    times,
    times_as_fast,
)
from hnetfast._comparison import MODES, compute
from hnetfast.ops import AdapterRows, batched_lora
from hnetfast.ops.batched_lora import batched_lora_reference

# Adapters, rank, width in and out, rows of the batch.
LAYERS = {
    "64 adapters, rank 8, 1024→1024, 512 rows": (64, 8, 1024, 1024, 512),
    "64 adapters, rank 8, 1024→1024, 64 rows": (64, 8, 1024, 1024, 64),
    "8 adapters, rank 16, 768→3072, 512 rows": (8, 16, 768, 3072, 512),
    "1 adapter, rank 8, 1024→1024, 512 rows": (1, 8, 1024, 1024, 512),
}
CASES = list(itertools.product(LAYERS, ("sorted", "in any order"), MODES))


class Layer:
    """Everyone who applies generated adapters to the rows of a batch.

    Attributes:
        tensors: Inputs and the two matrices of the adapters, views of one tensor.
        contenders: "hnetfast", "sorted loop" (its reference: rows sorted once, cut by adapter), "loop" (the
            rows of each adapter picked, and their results put in place) and "gathered" (a copy of the
            adapter for each row).
    """

    def __init__(self, name: str, order: str, device: str = "cpu") -> None:
        count, rank, width, outputs, num_rows = LAYERS[name]
        generator = torch.Generator(device).manual_seed(1)
        flat = torch.randn(count, rank * (width + outputs), generator=generator, device=device)
        a, b = flat.mul_(rank**-0.5).split([rank * width, rank * outputs], 1)
        x = torch.randn(num_rows, width, generator=generator, device=device)
        self.tensors = [x, a.view(count, rank, width), b.view(count, outputs, rank)]
        index = torch.arange(num_rows, device=device) * count // num_rows
        if order != "sorted":
            index = index[torch.randperm(num_rows, generator=generator, device=device)]
        rows = AdapterRows(index=index, num_adapters=count)
        members = [(index == i).nonzero().flatten() for i in range(count)]

        def loop(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
            out = x.new_empty(num_rows, outputs)
            for some, a_i, b_i in zip(members, a.unbind(), b.unbind(), strict=True):
                out.index_copy_(0, some, x[some] @ a_i.T @ b_i.T)
            return out

        def gathered(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
            return torch.bmm(b[index], torch.bmm(a[index], x.unsqueeze(2))).squeeze(2)

        self.contenders: dict[str, Callable[..., Tensor]] = {
            "hnetfast": lambda x, a, b: batched_lora(x, a, b, rows),
            "sorted loop": lambda x, a, b: batched_lora_reference(x, a, b, rows),
            "loop": loop,
            "gathered": gathered,
        }

    def call(self, name: str, mode: str) -> list[Tensor]:
        """What is timed: results, or the gradients of their sum."""
        for tensor in self.tensors:
            tensor.requires_grad_(mode != MODES[0])
        return compute(mode, lambda: self.contenders[name](*self.tensors), self.tensors)


@pytest.mark.parametrize("case", CASES, ids=lambda case: ":".join(map(str, case)))
def test_layer(case, bench):
    name, order, mode = case
    layer = Layer(name, order, bench.device)
    calls = {contender: functools.partial(layer.call, contender, mode) for contender in layer.contenders}
    expected = calls["loop"]()
    for contender in calls.keys() - {"loop"}:
        check(calls[contender](), expected, 1e-4, contender)
    durations = bench.time(calls, minimum=5, turn=2e-2)
    _, rank, width, outputs, num_rows = LAYERS[name]
    (rate,) = bench.rates(matrix_rate(bench.device))
    operations = 2 * num_rows * rank * (width + outputs) * (1 if mode == MODES[0] else 3)
    peaks = {"hnetfast": ("hnetfast", *case), "gathered": ("gathered", *case)}
    fields = {"layer": name, "rows": order, "mode": mode, "floor_ms": 1e3 * operations / rate}
    bench.add(TABLE, durations, peaks, **fields)


def peak(contender: str, name: str, order: str, mode: str) -> int:
    """What a call adds to the memory of a process, inputs and adapters included."""
    layer = Layer(name, order)
    layer.call("loop", mode)  # libraries and threads are there now
    there = sum(tensor.nbytes for tensor in layer.tensors)
    return there + peak_bytes(functools.partial(layer.call, contender, mode))


def _facts(rows: Rows) -> list[str]:
    return [
        line
        for other, title in (
            ("loop", "a loop over adapters"),
            ("sorted loop", "a loop over sorted rows"),
            ("gathered", "copies of the adapters"),
        )
        for line in over(f"Low-rank adapters over {title}", speed_ups(rows, other))
    ]


TABLE = Table(
    key="batched_lora",
    title="Low-rank adapters",
    intro=(
        "`batched_lora`, in milliseconds, for rows that come sorted by adapter or in any order; *fwd+bwd* "
        "ends with the gradients of inputs and adapters. The *loop* picks the rows of an adapter, multiplies "
        "twice and puts the results in place; the *sorted loop* does it on rows sorted once; *gathered* "
        "copies the adapter of each row. The floor is the operations at the measured float32 matrix rate."
    ),
    columns={
        "layer": field("layer"),
        "rows": field("rows"),
        "mode": mode_label,
        **times("hnetfast", "sorted loop", "loop", "gathered"),
        "× loop": times_as_fast("loop"),
        "× sorted loop": times_as_fast("sorted loop"),
        "× gathered": times_as_fast("gathered"),
        "of floor": percent_of_floor,
    },
    place=45,
    facts=_facts,
    peak=peak,
)
