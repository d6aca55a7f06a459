"""Main networks evaluated for many sets of weights: ``pytest bench/test_bench_ensemble.py``."""

from __future__ import annotations

import functools
import importlib
import itertools
import statistics
from collections.abc import Callable
from math import prod

import pytest
import torch
from torch import Tensor

from bench.harness import check
from bench.memory import peak_bytes
from bench.tables import Row, Rows, Table, field, mode_label, over, speed_ups, times, times_as_fast
from hnetfast._comparison import MODES, compute, libraries
from hnetfast.ops import split_targets

NETWORKS = {
    "MLP 784-100-100-10": ("MLP", {"n_in": 784, "n_out": 10, "hidden_layers": [100, 100]}, 784),
    "LeNet": ("LeNet", {}, 784),
    "ResNet-32": ("ResNet", {"use_batch_norm": False}, 3072),
    "WRN-16-4": ("WRN", {"n": 2, "k": 4, "use_batch_norm": False}, 3072),
}
SETS, BATCHES = (1, 10, 50), (1, 32)
CASES = list(itertools.product(NETWORKS, SETS, BATCHES, MODES))


class Ensemble:
    """Everyone who computes the outputs of a network, from the same weights ``[B, n]``.

    Attributes:
        contenders: Functions from weights to outputs ``[B, batch, out]``: "loop" (of single calls),
            "hnetfast" (``forward_batched``), "vmap" (of its single call) and
            "hypnettorch" (its single calls).
    """

    def __init__(self, name: str, sets: int, batch: int, device: str = "cpu") -> None:
        cls, arguments, features = NETWORKS[name]
        networks = {
            library: getattr(importlib.import_module(f"{library}.mnets"), cls)(
                no_weights=True, verbose=False, **arguments
            ).to(device)
            for library in libraries()
        }
        network = networks["hnetfast"]
        shapes = [tuple(shape) for shape in network.param_shapes]
        sizes = [prod(shape) for shape in shapes]
        generator = torch.Generator(device).manual_seed(1)
        x = torch.randn(batch, features, generator=generator, device=device)
        fan_in = [shape[1] * prod(shape[2:]) if len(shape) > 1 else 100 for shape in shapes]
        scale = torch.cat([torch.full((size,), n**-0.5) for size, n in zip(sizes, fan_in, strict=True)])
        self.weights = torch.randn(sets, sum(sizes), generator=generator, device=device)
        self.weights.mul_(scale.to(device))

        def one(row: Tensor) -> Tensor:
            pieces = row.split_with_sizes(sizes)
            return network.forward(x, weights=[p.view(s) for p, s in zip(pieces, shapes, strict=True)])

        def loop(network, flat: Tensor) -> Tensor:
            return torch.stack([network.forward(x, weights=w) for w in split_targets(flat, shapes)])

        self.contenders: dict[str, Callable[[Tensor], Tensor]] = {
            "hnetfast": lambda flat: network.forward_batched(x, flat),
            "loop": functools.partial(loop, network),
            "vmap": torch.vmap(one),
        }
        if "hypnettorch" in networks:
            self.contenders["hypnettorch"] = functools.partial(loop, networks["hypnettorch"])

    def call(self, name: str, mode: str) -> list[Tensor]:
        """What is timed: outputs, or the gradient ``[B, n]`` of their sum."""
        self.weights.requires_grad_(mode != MODES[0])
        return compute(mode, lambda: self.contenders[name](self.weights), [self.weights])


@pytest.mark.parametrize("case", CASES, ids=lambda case: ":".join(map(str, case)))
def test_forward_batched(case, bench):
    name, sets, batch, mode = case
    ensemble = Ensemble(name, sets, batch, bench.device)
    calls = {name: functools.partial(ensemble.call, name, mode) for name in ensemble.contenders}
    expected = calls["loop"]()
    for contender in calls.keys() - {"loop"}:
        # Rounding moves a unit across ReLU's kink now and then, which shows in gradients.
        check(calls[contender](), expected, 1e-4 if mode == MODES[0] else 5e-3, contender)
    durations = bench.time(calls, minimum=5, turn=3e-3)
    peaks = {contender: (contender, *case) for contender in ("hnetfast", "loop")}
    bench.add(TABLE, durations, peaks, network=name, sets=sets, batch=batch, mode=mode)


def peak(contender: str, name: str, sets: int, batch: int, mode: str) -> int:
    """What a call adds to the memory of a process, weights and result included."""
    Ensemble(name, 1, 1).call(contender, mode)  # libraries and threads are there now
    ensemble = Ensemble(name, sets, batch)
    return ensemble.weights.nbytes + peak_bytes(functools.partial(ensemble.call, contender, mode))


def _over_better(row: Row) -> float:
    return min(row["ms"]["loop"], row["ms"]["vmap"]) / row["ms"]["hnetfast"]


def _over_loop(row: Row) -> str:
    peak = row.get("peak_bytes", {})
    return f"{peak['hnetfast'] / peak['loop']:.2f}" if "loop" in peak else ""


def _facts(rows: Rows) -> list[str]:
    slowest = min(rows, key=_over_better)
    overall = statistics.geometric_mean(map(_over_better, rows))
    where = f"{slowest['network']}, {slowest['sets']} sets, batch {slowest['batch']}, {slowest['mode']}"
    return [
        *over("Over hypnettorch's loop", speed_ups(rows)),
        f"Over the better of loop and vmap: geometric mean {overall:.2f}×, "
        f"slowest {_over_better(slowest):.2f}× ({where})",
    ]


TABLE = Table(
    key="ensembles",
    title="Many sets of weights",
    intro=(
        "Outputs of a network for sets of weights `[B, n]` and a batch that they share, in milliseconds: "
        "`forward_batched` (hnetfast), the loop of its single calls, `torch.vmap` of its single call, and "
        "hypnettorch's loop; *fwd+bwd* ends with the gradient `[B, n]`. Networks have no batch "
        "normalisation. Peak memory is that of a process, weights and result included."
    ),
    columns={
        "network": field("network"),
        "sets": field("sets"),
        "batch": field("batch"),
        "mode": mode_label,
        **times("hnetfast", "loop", "vmap", "hypnettorch"),
        "× hypnettorch": times_as_fast(),
        "× better of loop and vmap": lambda row: f"{_over_better(row):.2f}",
        "peak memory, × loop": _over_loop,
    },
    place=20,
    facts=_facts,
    readme=lambda rows: "`forward_batched`, many sets of weights at once:",
    peak=peak,
)
