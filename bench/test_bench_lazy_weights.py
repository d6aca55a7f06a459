"""Weights generated when layers need them, and all at once: ``pytest bench/test_bench_lazy_weights.py``."""

from __future__ import annotations

import functools
import itertools

import pytest
import torch
from torch import Tensor

from bench.harness import check
from bench.memory import peak_bytes
from bench.tables import Row, Rows, Table, field, known, number, times
from hnetfast.hnets import ChunkedHMLP
from hnetfast.mnets import WRN

NETWORKS = {"WRN-16-4": {"n": 2, "k": 4}, "WRN-28-10": {"n": 4, "k": 10}}
# Chunk size and hidden layers of the hypernetwork; those of large chunks are rows of bench/cases.py.
CHUNKS = {
    "10,000": (10_000, (100, 100)),
    "500,000": (500_000, ()),
    "700,000": (700_000, (50, 50, 50, 50)),
}
CASES = [*itertools.product(("WRN-28-10",), CHUNKS, (2,)), ("WRN-16-4", "10,000", 2)]
CONTENDERS = ("hnetfast", "all at once")


class Step:
    """Forward and backward pass of a wide residual network, up to the gradients of its hypernetwork."""

    def __init__(self, network: str, chunks: str, batch: int, device: str = "cpu") -> None:
        torch.manual_seed(1)
        self.mnet = WRN(use_bias=False, use_fc_bias=True, no_weights=True, verbose=False, **NETWORKS[network])
        self.mnet.to(device)
        chunk_size, layers = CHUNKS[chunks]
        self.hnet = ChunkedHMLP(
            self.mnet.param_shapes,
            chunk_size,
            chunk_emb_size=32,
            cond_in_size=32,
            layers=layers,
            num_cond_embs=10,
            verbose=False,
        ).to(device)
        self.images = torch.randn(batch, 3072, device=device)

    def outputs(self, contender: str) -> Tensor:
        """The logits ``[1, batch, 10]``."""
        if contender == "hnetfast":
            return self.mnet.forward_batched(self.images, self.hnet, lazy=True, cond_id=[0])
        return self.mnet.forward_batched(self.images, self.hnet(cond_id=[0], ret_format="flattened"))

    def gradients(self, contender: str) -> list[Tensor]:
        """Those of all parameters that have one."""
        self.hnet.zero_grad(set_to_none=True)
        self.outputs(contender).logsumexp(-1).sum().backward()
        return [param.grad for param in self.hnet.parameters() if param.grad is not None]


@pytest.mark.parametrize("case", CASES, ids=lambda case: ":".join(map(str, case)))
def test_lazy_weights(case, bench):
    network, chunks, batch = case
    step = Step(*case, bench.device)
    with torch.no_grad():
        check([step.outputs("hnetfast")], [step.outputs("all at once")], 1e-6, "outputs")
    check(step.gradients("hnetfast"), step.gradients("all at once"), 5e-3, "gradients")
    calls = {name: functools.partial(step.gradients, name) for name in CONTENDERS}
    durations = bench.time(calls, minimum=3)
    peaks = {name: (name, *case) for name in CONTENDERS}
    size = sum(param.numel() for param in step.hnet.parameters())
    compression = round(size / step.hnet.num_outputs, 3)
    bench.add(TABLE, durations, peaks, network=network, chunks=chunks, batch=batch, compression=compression)


def peak(contender: str, network: str, chunks: str, batch: int) -> int:
    """What a step adds to the memory of a process, gradients of the hypernetwork included."""
    Step("WRN-16-4", "10,000", 1).gradients(contender)  # libraries and threads are there now
    return peak_bytes(functools.partial(Step(network, chunks, batch).gradients, contender))


def _share(row: Row) -> float | None:
    peaks = row.get("peak_bytes", {})
    return peaks["hnetfast"] / peaks["all at once"] if len(peaks) == len(CONTENDERS) else None


def _megabytes(contender: str):
    return lambda row: number(row.get("peak_bytes", {}).get(contender, 0) / 1e6 or None)


def _facts(rows: Rows) -> list[str]:
    shares = known(map(_share, rows))
    slower = max(row["ms"]["hnetfast"] / row["ms"]["all at once"] for row in rows)
    memory = (
        [f"peak memory {min(shares):.2f} to {max(shares):.2f} of that of all weights at once"]
        if shares
        else []
    )
    return [*memory, f"takes at most {slower:.2f} times as long"]


TABLE = Table(
    key="lazy_weights",
    title="Weights generated when layers need them",
    intro=(
        "Forward and backward pass of a wide residual network for one condition of a `ChunkedHMLP`, up to "
        "the gradients of the hypernetwork: `forward_batched(…, lazy=True)` (hnetfast), and with the weights "
        "generated *all at once*. *Compression* is the number of the hypernetwork's parameters over that of "
        "generated weights. Peak memory is what the step adds to a process that holds the hypernetwork; it "
        "includes the gradients of the hypernetwork and what layers keep for the backward pass."
    ),
    columns={
        "network": field("network"),
        "chunk size": field("chunks"),
        "batch": field("batch"),
        "compression": field("compression"),
        **times(*CONTENDERS, digits=1),
        "time ratio": lambda row: f"{row['ms']['hnetfast'] / row['ms']['all at once']:.2f}",
        "peak MB, hnetfast": _megabytes("hnetfast"),
        "peak MB, all at once": _megabytes("all at once"),
        "peak memory ratio": lambda row: number(_share(row), 2),
    },
    place=21,
    facts=_facts,
    peak=peak,
)
