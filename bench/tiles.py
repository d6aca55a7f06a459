"""``python -m bench.tiles``: which variants of the ``chunked_mlp`` kernels are the fastest on this GPU.

Every alternative in a row of ``VARIANTS`` is checked against float64 and timed in turns with the others, on
the networks whose launches it changes. The last lines are the rows for ``kernels/chunked_mlp_tiles.py``.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bench.cases import DISTINCT_CHUNKED_CASES, ChunkedCase
from bench.environment import describe_environment
from bench.gpu_tables import TILES
from bench.results import Results
from hnetfast.kernels import chunked_mlp, chunked_mlp_tiles
from hnetfast.kernels.chunked_mlp_tiles import VARIANTS, Variant
from hnetfast.ops._mlp_layers import hidden_backward
from hnetfast.ops.chunked_mlp import chunked_mlp_reference

ROUNDS = 30
# Less gain than that may be noise: the present choice stays.
GAIN = 0.98
TOLERANCES = {"ieee": 1e-5, "tf32": 5e-3}  # ‖error‖ / ‖exact‖; operands of tf32 have 11 bits


@dataclass(frozen=True)
class Sweep:
    """What to try for one field of a variant, and where it counts.

    Attributes:
        field: The field.
        alternatives: Its values.
        backward: Whether the backward pass is timed, else the forward pass.
        hidden: Whether networks with hidden layers, or those without.
        conditions: Numbers of conditions.
    """

    field: str
    alternatives: tuple[int, ...]
    backward: bool
    hidden: bool
    conditions: tuple[int, ...]


SWEEPS = (
    Sweep("forward_stages", (1, 2, 3, 4), backward=False, hidden=True, conditions=(1, 10)),
    Sweep("repeat_rows", (16, 32, 64), backward=True, hidden=False, conditions=(10,)),
    Sweep("repeat_stages", (1, 2, 4, 6), backward=True, hidden=False, conditions=(10,)),
    Sweep("feature_programs", (1, 2, 4), backward=True, hidden=True, conditions=(1, 10)),
)


@contextlib.contextmanager
def using(generation: int, precision: str, variant: Variant) -> Iterator[None]:
    """Launch with another row of the table."""
    before = VARIANTS[generation, precision]
    VARIANTS[generation, precision] = variant
    try:
        yield
    finally:
        VARIANTS[generation, precision] = before


@contextlib.contextmanager
def computing_in(precision: str) -> Iterator[None]:
    """Ask for products in a precision, as a user does."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def networks(hidden: bool, is_small: bool) -> list[ChunkedCase]:
    """The networks of the table that the fused kernels generate and whose time is not that of launches.

    Args:
        hidden: Whether with hidden layers, or without.
        is_small: Whether to take the small one instead, whose numbers are the same sort in less time.
    """
    return [
        case
        for case in DISTINCT_CHUNKED_CASES
        if not case.gaussian
        and max(case.layers, default=0) <= chunked_mlp_tiles.MAX_FUSED_WIDTH
        and bool(case.layers) == hidden
        and (case.network == "ResNet-32") == is_small
    ]


class Problem:
    """Tensors of a network, and the two calls of the launchers."""

    def __init__(
        self,
        case: ChunkedCase,
        conditions: int,
        device: str,
        chunks: int | None = None,
        size: int | None = None,
    ) -> None:
        generator = torch.Generator(device).manual_seed(0)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, device=device)

        chunks, size = chunks or case.num_chunks, size or case.chunk_size
        self.inputs = [draw(conditions, 1, case.cond_emb_size), draw(1, chunks, case.chunk_emb_size)]
        widths = [case.cond_emb_size + case.chunk_emb_size, *case.layers, size]
        self.weights = [draw(o, k) / k**0.5 for k, o in itertools.pairwise(widths)]
        self.biases = [draw(width) for width in widths[1:]]
        self.num_outputs = chunks * size - size // 3
        self.grad = draw(conditions, self.num_outputs)
        self.hidden = self.forward()[1]

    def forward(self) -> tuple[Tensor, Tensor]:
        """The outputs, and the hidden layers."""
        return chunked_mlp.chunked_mlp_forward(
            self.inputs, self.weights, self.biases, "elu", self.num_outputs, True
        )

    def backward(self) -> list[Tensor]:
        """The gradients of all tensors."""
        tensors = (self.inputs, self.weights, self.biases)
        needs = [True] * sum(map(len, tensors))
        return chunked_mlp.chunked_mlp_backward(
            self.grad, self.hidden, *tensors, "elu", needs, hidden_backward
        )

    def exact(self) -> list[Tensor]:
        """Outputs and gradients in float64."""
        groups = [[t.double().requires_grad_() for t in g] for g in (self.inputs, self.weights, self.biases)]
        out = chunked_mlp_reference(*groups, "elu", self.num_outputs)
        return [out.detach(), *torch.autograd.grad(out, [t for g in groups for t in g], self.grad.double())]


def check(problem: Problem, expected: Sequence[Tensor], tolerance: float) -> None:
    """Compare outputs and gradients with exact ones.

    Raises:
        AssertionError: They differ by more than the tolerance.
    """
    found = [problem.forward()[0], *problem.backward()]
    for i, (got, want) in enumerate(zip(found, expected, strict=True)):
        error = ((got.double() - want).norm() / want.norm()).item()
        if not error <= tolerance:
            raise AssertionError(f"result {i}: error {error:.1e}, accepted {tolerance:.0e}")


def time_in_turns(calls: dict[int, Callable[[], object]]) -> dict[int, float]:
    """Median milliseconds on the GPU of each call, captured in graphs and replayed in turns."""
    graphs = {}
    for key, call in calls.items():
        call()  # compiles
        torch.cuda.synchronize()
        graphs[key] = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graphs[key]):
            call()
    times: dict[int, list[float]] = {key: [] for key in graphs}
    for _ in range(ROUNDS):
        for key, graph in graphs.items():
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            times[key].append(start.elapsed_time(end))
    return {key: statistics.median(values[1:]) for key, values in times.items()}


def sweep(part: Sweep, generation: int, precision: str, device: str) -> list[dict]:
    """Check the alternatives of a field, and time them where there is a GPU.

    Returns:
        For each network and number of conditions ``ms`` by alternative, and ``errors`` of those that do not
        compile or are wrong; on a CPU (in Triton's interpreter) one row with only the latter.
    """
    present = VARIANTS[generation, precision]
    variants = {value: present._replace(**{part.field: value}) for value in part.alternatives}
    errors: dict[int, str] = {}
    small = Problem(networks(part.hidden, True)[0], part.conditions[-1], device, chunks=19, size=100)
    expected = small.exact()
    for value, variant in variants.items():
        try:
            with using(generation, precision, variant):
                check(small, expected, TOLERANCES[precision])
        except Exception as error:
            errors[value] = f"{type(error).__name__}: {error}"
    common = {
        "generation": generation,
        "precision": precision,
        "field": part.field,
        "present": getattr(present, part.field),
        "errors": errors,
    }
    if device != "cuda":
        return [{**common, "ms": {}}]
    rows = []
    for case, conditions in itertools.product(networks(part.hidden, False), part.conditions):
        problem = Problem(case, conditions, device)

        def call_of(variant: Variant, problem: Problem = problem) -> Callable[[], object]:
            def call() -> object:
                with using(generation, precision, variant):
                    return problem.backward() if part.backward else problem.forward()

            return call

        calls = {value: call_of(variant) for value, variant in variants.items() if value not in errors}
        rows.append({**common, "network": case.name, "conditions": conditions, "ms": time_in_turns(calls)})
        del problem, calls
        torch.cuda.empty_cache()
    return rows


def best(rows: Sequence[dict]) -> int:
    """The value with the least geometric mean of times, if it is clearly faster than the present one."""
    present = rows[0]["present"]
    timed = [row["ms"] for row in rows if present in row["ms"]]
    if not timed:
        return present
    means = {
        value: statistics.geometric_mean(times[value] / times[present] for times in timed)
        for value in timed[0]
    }
    fastest = min(means, key=means.__getitem__)
    return fastest if means[fastest] < GAIN else present


def main(arguments: Sequence[str] | None = None) -> int:
    """Sweep everything; returns 1 if an alternative is wrong."""
    parser = argparse.ArgumentParser(prog="python -m bench.tiles", description=__doc__)
    parser.add_argument("--store", type=Path, help="write what is measured to this JSON file")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        parser.error("there is no GPU")
    generation = chunked_mlp_tiles.generation(torch.empty(0, device="cuda").device)
    results = Results(describe_environment("cuda"))
    for part, precision in itertools.product(SWEEPS, TOLERANCES):
        with computing_in(precision):
            rows = sweep(part, generation, precision, "cuda")
        results.rows.setdefault(TILES.key, []).extend(rows)
        # The next fields are measured with it.
        VARIANTS[generation, precision] = VARIANTS[generation, precision]._replace(**{part.field: best(rows)})
        if options.store:
            results.save(options.store)  # what is measured so far is there if time runs out
        for row in rows:
            times = "  ".join(f"{value}: {ms:.3f} ms" for value, ms in row["ms"].items())
            where = f"{row['network']} B={row['conditions']}"
            print(f"{part.field:<17} {precision} {where:<45} {times}", flush=True)
        for value, error in rows[0]["errors"].items():
            print(f"{part.field:<17} {precision} {value} fails: {error[:300]}", flush=True)
    for precision in TOLERANCES:
        print(f'    ({generation}, "{precision}"): {VARIANTS[generation, precision]},')
    return int(any(row["errors"] for row in results.rows[TILES.key]))


if __name__ == "__main__":
    raise SystemExit(main())
