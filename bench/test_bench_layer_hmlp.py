"""Layer-wise generation of adapters: ``pytest bench/test_bench_layer_hmlp.py``."""

from __future__ import annotations

import functools
import importlib
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
from hnetfast._comparison import MODES, compute, libraries
from hnetfast.hnets import LayerHMLP

LAYERS, MATRICES, COND_IN_SIZE = 24, 4, 64
STEP, MANY = "training step", "one HMLP a matrix"
SIZES = ((4, 64, 32), (8, 256, 64), (8, 256, 256))  # rank, width of the adapted layers, hidden layer
CONDITIONS = (1, 16)
CASES = list(itertools.product(SIZES, CONDITIONS, (*MODES, STEP)))


class Adapters:
    """Hypernetworks for the low-rank adapters of all layers.

    Attributes:
        contenders: "hnetfast" (one ``LayerHMLP``), "one HMLP a matrix" (one for ``lora_A`` and ``lora_B`` of
            each matrix, with a hidden layer of the same width) and on a CPU "hypnettorch" (the same of its
            HMLPs); each returns ``[B, n]`` tensors.
        parameters: The parameters of each.
        grads: Gradients of what each returns.
    """

    def __init__(self, size: tuple[int, int, int], conditions: int, device: str = "cpu") -> None:
        torch.manual_seed(1)
        rank, width, hidden = size
        of_matrix = [[rank, width], [width, rank]]
        options = {"cond_in_size": COND_IN_SIZE, "layers": (hidden,), "num_cond_embs": 0, "verbose": False}
        whole = LayerHMLP(
            of_matrix * (LAYERS * MATRICES),
            **options,
            kinds=[(matrix, i) for _ in range(LAYERS) for matrix in range(MATRICES) for i in range(2)],
            depths=[depth for depth in range(LAYERS) for _ in range(2 * MATRICES)],
        ).to(device)
        self.networks: dict[str, list] = {"hnetfast": [whole]}
        others = {MANY: "hnetfast"} | {name: name for name in libraries() if name != "hnetfast"}
        for name, library in others.items() if device == "cpu" else [(MANY, "hnetfast")]:
            hmlp = importlib.import_module(f"{library}.hnets").HMLP
            self.networks[name] = [hmlp(of_matrix, **options).to(device) for _ in range(LAYERS * MATRICES)]
        self.cond = torch.randn(conditions, COND_IN_SIZE, device=device)
        grad = torch.randn(conditions, whole.num_outputs, device=device)
        of_many = [piece.contiguous() for piece in grad.split(2 * rank * width, 1)]
        self.contenders: dict[str, Callable[[], list[Tensor]]] = {
            name: lambda hnets=hnets: [hnet(cond_input=self.cond, ret_format="flattened") for hnet in hnets]
            for name, hnets in self.networks.items()
        }
        self.parameters = {
            name: [param for hnet in hnets for param in hnet.parameters()]
            for name, hnets in self.networks.items()
        }
        self.grads = {name: [grad] if name == "hnetfast" else of_many for name in self.networks}
        self._optimizers: dict[str, torch.optim.Optimizer] = {}

    def call(self, name: str, mode: str) -> list[Tensor]:
        """What is timed: results, gradients of the parameters, or these and a step of Adam."""
        params = self.parameters[name]
        if mode != STEP:
            return compute(mode, self.contenders[name], params, self.grads[name])
        if name not in self._optimizers:
            self._optimizers[name] = torch.optim.Adam(params, lr=1e-4)
        self._optimizers[name].zero_grad()
        torch.autograd.backward(self.contenders[name](), self.grads[name])
        self._optimizers[name].step()
        return []


@functools.lru_cache(maxsize=1)  # the measurements of a case follow each other
def _adapters(size: tuple[int, int, int], conditions: int, device: str) -> Adapters:
    return Adapters(size, conditions, device)


@pytest.mark.parametrize("case", CASES, ids=lambda case: ":".join(map(str, case)))
def test_adapters(case, bench):
    size, conditions, mode = case
    rank, width, hidden = size
    adapters = _adapters(size, conditions, bench.device)
    _check_layers(adapters)
    calls = {name: functools.partial(adapters.call, name, mode) for name in adapters.contenders}
    for call in calls.values():  # PyTorch imports much when an optimiser makes its first step
        call()
    durations = bench.time(calls, minimum=5, turn=3e-3)
    fields = {"rank": rank, "width": width, "hidden": hidden, "conditions": conditions, "mode": mode}
    if mode != STEP:
        (rate,) = bench.rates(matrix_rate(bench.device))
        num_outputs = 2 * rank * width * LAYERS * MATRICES
        operations = 2 * hidden * conditions * num_outputs * (1 if mode == MODES[0] else 3)
        fields["floor_ms"] = 1e3 * operations / rate
    peaks = {name: (name, *case) for name in calls} if mode == MODES[1] else None
    counts = {name: sum(p.numel() for p in adapters.parameters[name]) for name in calls}
    bench.add(TABLE, durations, peaks, parameters=counts, **fields)


def _check_layers(adapters: Adapters) -> None:
    """Compare some tensors with what plain PyTorch computes of the same parameters."""
    (whole,) = adapters.networks["hnetfast"]
    weight, bias, *heads = whole.unconditional_params[: 2 + 2 * 2 * MATRICES]
    tensors = whole(cond_input=adapters.cond, ret_format="sequential")
    for depth, head in ((0, 0), (LAYERS - 1, 2 * MATRICES - 1)):
        read = [whole.depth_embs[depth], whole.kind_embs[head]]
        x = torch.cat([*(e.expand(len(adapters.cond), -1) for e in read), adapters.cond], 1)
        out = torch.relu(x @ weight.T + bias) @ heads[2 * head].T + heads[2 * head + 1]
        found = torch.stack([sample[2 * MATRICES * depth + head].flatten() for sample in tensors])
        check([found], [out], 1e-4, "LayerHMLP")


def peak(name: str, size: tuple[int, int, int], conditions: int, mode: str) -> int:
    """What a call adds to the memory of a process, parameters included."""
    adapters = Adapters(size, conditions)
    there = sum(param.nbytes for param in adapters.parameters[name])
    return there + peak_bytes(functools.partial(adapters.call, name, mode))


def _facts(rows: Rows) -> list[str]:
    return [
        line
        for name, other in (("one HMLP", MANY), ("one HMLP of hypnettorch", "hypnettorch"))
        for mode in (*MODES, STEP)
        for line in over(
            f"LayerHMLP over {name} a matrix, {mode}",
            speed_ups([row for row in rows if row["mode"] == mode], other),
        )
    ]


TABLE = Table(
    key="layer_hmlp",
    title="Layer-wise generation of adapters",
    intro=(
        f"Low-rank adapters of {MATRICES} matrices in each of {LAYERS} layers, for B conditions, in "
        "milliseconds: one `LayerHMLP`, and one `HMLP` with as wide a hidden layer for each matrix, ours or "
        f"hypnettorch's. The latter's last layers have {LAYERS} times as many parameters, which have to be "
        "read, and to get gradients. *training step* is fwd+bwd and a step of Adam. The floor is the "
        "operations of the last layer, which both need, at the measured float32 matrix rate."
    ),
    columns={
        "rank": field("rank"),
        "width": field("width"),
        "hidden layer": field("hidden"),
        "B": field("conditions"),
        "mode": mode_label,
        **times("hnetfast", MANY, "hypnettorch"),
        f"× {MANY}": times_as_fast(MANY),
        "× hypnettorch": times_as_fast(),
        "of floor": percent_of_floor,
    },
    place=47,
    facts=_facts,
    peak=peak,
)
