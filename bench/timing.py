"""Measuring weight generation: who competes, whether they agree, how long they take, and the floor below."""

from __future__ import annotations

import importlib
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from bench.cases import ChunkedCase
from hnetfast.examples._speed import (
    Call,
    generate_by_reference,
    generation_call,
    import_hypnettorch,
)

MODES = ("forward", "forward+backward", "forward+backward, target tensors")
CONDITIONS = 10
# What hypnettorch 0.0.4 needs beyond its parameters, in units of the result's size, as measured on WRN-28-10.
_HYPNETTORCH_MEMORY = {MODES[0]: 2.0, MODES[1]: 2.6, MODES[2]: 3.6}
MEMORY_LIMIT = 12e9
_LARGE = 10_000_000  # elements of a result that takes so long that a larger product can take turns with it
_SPLIT_BACKWARD_LIMIT = 20_000_000  # generated weights; beyond, hypnettorch takes 5 to 15 s for a call


@dataclass(frozen=True)
class Contender:
    """One way to generate weights.

    Attributes:
        flat: Returns the weights ``[B, n]`` of the given conditions.
        tensors: Returns them as a list of target tensors, one condition after the other.
        parameters: What gradients are asked for.
    """

    flat: Callable[[Sequence[int]], Tensor]
    tensors: Callable[[Sequence[int]], list[Tensor]]
    parameters: list[Tensor]


def build_hypernetwork(
    module, case: ChunkedCase, device: str, num_conditions: int = CONDITIONS, seed: int = 1
):
    """The ``ChunkedHMLP`` of a case from ``hnetfast.hnets`` or ``hypnettorch.hnets``, with equal weights."""
    torch.manual_seed(seed)
    return module.ChunkedHMLP(
        case.target_shapes,
        case.chunk_size,
        chunk_emb_size=case.chunk_emb_size,
        cond_in_size=case.cond_emb_size,
        layers=case.layers,
        num_cond_embs=num_conditions,
        verbose=False,
    ).to(device)


def _contender(hnet, forward: Callable) -> Contender:
    def flat(cond_ids: Sequence[int]) -> Tensor:
        return forward(cond_id=list(cond_ids), ret_format="flattened")

    def tensors(cond_ids: Sequence[int]) -> list[Tensor]:
        lists = forward(cond_id=list(cond_ids), ret_format="sequential")
        return [tensor for weights in lists for tensor in weights]

    return Contender(flat, tensors, list(hnet.parameters()))


def contenders(case: ChunkedCase, device: str, with_compiled: bool) -> dict[str, Contender]:
    """All ways to generate the weights of a case: hnetfast, its reference, hypnettorch where installed.

    Args:
        case: The architecture.
        device: Where to put the hypernetworks.
        with_compiled: Whether ``torch.compile(hypnettorch)`` takes part.

    Returns:
        The contenders by name; all have equal parameters.
    """
    hnet = build_hypernetwork(importlib.import_module("hnetfast.hnets"), case, device)
    shapes = case.target_shapes
    sizes = [math.prod(shape) for shape in shapes]

    def reference_tensors(cond_ids: Sequence[int]) -> list[Tensor]:
        rows = generate_by_reference(hnet, cond_ids)
        return [t.view(s) for row in rows for t, s in zip(row.split(sizes), shapes, strict=True)]

    found = {
        "hnetfast": _contender(hnet, hnet.forward),
        "reference": Contender(
            lambda cond_ids: generate_by_reference(hnet, cond_ids), reference_tensors, list(hnet.parameters())
        ),
    }
    oracle = import_hypnettorch("hnets")
    if oracle is not None:
        hnet_oracle = build_hypernetwork(oracle, case, device)
        found["hypnettorch"] = _contender(hnet_oracle, hnet_oracle.forward)
        if with_compiled:
            torch.compiler.reset()
            found["compiled"] = _contender(hnet_oracle, torch.compile(hnet_oracle.forward, dynamic=False))
    return found


class Comparison:
    """The contenders' calls for one case, number of conditions and mode, ready to be checked and timed."""

    def __init__(
        self, case: ChunkedCase, competitors: dict[str, Contender], conditions: int, mode: str, device: str
    ) -> None:
        self.case, self.conditions, self.mode, self.device = case, conditions, mode, device
        self.competitors = dict(competitors)
        self.left_out = self._leave_out()
        self._first: dict[str, float] = {}
        generator = torch.Generator(device).manual_seed(2)
        self._grad = torch.randn(conditions, case.num_outputs, generator=generator, device=device)
        shapes = case.target_shapes
        sizes = [math.prod(shape) for shape in shapes]
        self._target_grads = [
            part.view(shape)
            for row in self._grad
            for part, shape in zip(row.split(sizes), shapes, strict=True)
        ]
        self.calls: dict[str, Call] = {
            name: self._call(contender) for name, contender in self.competitors.items()
        }
        self._fill = torch.empty_like(self._grad)
        size = 2048 if self._fill.numel() > _LARGE else 1024
        self._factor = torch.randn(size, size, generator=generator, device=device)
        self._product = torch.empty_like(self._factor)
        # Everyone and everything that takes turns with hnetfast.
        self._turns = {"product": self._multiply, "fill": self._fill_buffer, **self.calls}
        del self._turns["hnetfast"]
        self._others: dict[str, list[float]] = {name: [] for name in self._turns}

    def _leave_out(self) -> dict[str, str]:
        reasons: dict[str, str] = {}
        if self.mode != MODES[0] and "compiled" in self.competitors:
            reasons["compiled"] = "only its forward is compared"
        if "hypnettorch" in self.competitors:
            need = _HYPNETTORCH_MEMORY[self.mode] * 4 * self.conditions * self.case.num_outputs
            if need > MEMORY_LIMIT:
                reasons["hypnettorch"] = f"would take {need / 1e9:.0f} GB"
        for name in reasons:
            del self.competitors[name]
        return reasons

    def _call(self, contender: Contender) -> Call:
        if self.mode == MODES[2]:
            return lambda: self._gradients(contender) and self.synchronize()
        cond_ids = range(self.conditions)
        return generation_call(self.mode, lambda: contender.flat(cond_ids), contender.parameters, self._grad)

    def _gradients(self, contender: Contender) -> tuple[Tensor | None, ...]:
        cond_ids = range(self.conditions)
        if self.mode == MODES[2]:
            results, grads = contender.tensors(cond_ids), self._target_grads
        else:
            results, grads = contender.flat(cond_ids), self._grad
        return torch.autograd.grad(results, contender.parameters, grads, allow_unused=True)

    def synchronize(self) -> None:
        """Wait for the device."""
        if self._grad.device.type == "cuda":
            torch.cuda.synchronize()

    def check(self) -> None:
        """Compare what hnetfast generates, or its gradients, with the reference.

        Raises:
            AssertionError: They differ by more than rounding.
        """
        ours, reference = self.competitors["hnetfast"], self.competitors["reference"]
        cond_ids = range(self.conditions)
        if self.mode == MODES[0]:
            with torch.no_grad():
                _assert_close("weights", ours.flat(cond_ids), reference.flat(cond_ids), 1e-5)
                for name in {"hypnettorch", "compiled"} & self.competitors.keys():
                    if self.conditions == 1 or name == "compiled":  # which compiles here, before it is timed
                        other = self.competitors[name].flat(cond_ids)
                        _assert_close(f"weights of {name}", other, reference.flat(cond_ids), 1e-5)
            return
        # Rounding decides the side of ReLU's kink for about one in ten million units, each of which moves the
        # gradient by up to one part in a thousand of its norm.
        rows = self.conditions * -(-self.case.num_outputs // self.case.chunk_size)
        tolerance = 1e-4 + 2.5e-10 * rows * sum(self.case.layers)
        pairs = zip(self._gradients(ours), self._gradients(reference), strict=True)
        for i, (actual, expected) in enumerate(pairs):
            if actual is None or expected is None:
                if actual is not expected:
                    raise AssertionError(f"gradient {i} is None in only one of both")
                continue
            error = ((actual - expected).norm() / expected.norm().clamp(min=1e-30)).item()
            if not error <= tolerance:
                raise AssertionError(
                    f"gradient {i}: values differ from the reference by {error:.1e} of their norm"
                )

    def warm_up(self) -> float:
        """Call everyone once; returns how long that took in seconds."""
        start = time.perf_counter()
        self.own_call()
        own = time.perf_counter() - start
        self.time_others()
        self._first = {"hnetfast": own} | {name: times.pop() for name, times in self._others.items()}
        return time.perf_counter() - start

    def own_call(self) -> None:
        """What is measured: the call of hnetfast."""
        self.calls["hnetfast"]()

    def time_others(self) -> None:
        """Time a call of everyone else, a large product, and filling a buffer of the result's size."""
        for name, call in self._turns.items():
            start = time.perf_counter()
            call()
            self._others[name].append(time.perf_counter() - start)

    def _fill_buffer(self) -> None:
        self._fill.zero_()
        self.synchronize()

    def _multiply(self) -> None:
        torch.mm(self._factor, self._factor, out=self._product)
        self.synchronize()

    def row(self, own: Sequence[float]) -> dict:
        """What was measured, as a plain dictionary.

        Args:
            own: Durations of hnetfast's call in seconds.
        """
        durations = {"hnetfast": list(own), **self._others}
        if len(own) == 1:  # Calls this long owe nothing to a warm-up, which then counts as a round.
            durations = {name: [self._first[name], *times] for name, times in durations.items()}
        fill = statistics.median(durations.pop("fill"))
        rate = 2 * len(self._factor) ** 3 / statistics.median(durations.pop("product"))
        floor = max(fill, floor_operations(self.case, self.conditions) / rate)
        return {
            "group": self.case.group,
            "tasks": self.case.tasks,
            "layers": ",".join(map(str, self.case.layers)),
            "chunk_size": self.case.chunk_size,
            "num_outputs": self.case.num_outputs,
            "conditions": self.conditions,
            "mode": self.mode,
            "ms": {name: 1e3 * statistics.median(times) for name, times in durations.items()},
            "best_ms": {name: 1e3 * min(times) for name, times in durations.items()},
            "rounds": len(durations["hnetfast"]),
            "fill_ms": 1e3 * fill,
            "matrix_gflops": rate / 1e9,
            "floor_ms": 1e3 * floor if self.mode == MODES[0] else None,
            "left_out": self.left_out,
        }


def _assert_close(what: str, actual: Tensor, expected: Tensor, tolerance: float) -> None:
    scale = max(expected.abs().max().item(), 1e-30)
    # Piece by piece: the differences of all values would take as much memory as the result.
    pieces = zip(actual.flatten().split(1 << 24), expected.flatten().split(1 << 24), strict=True)
    error = max((a - e).abs().max().item() for a, e in pieces) / scale
    if not error <= tolerance:
        raise AssertionError(f"{what} differ from the reference by {error:.1e} of the largest value")


def floor_operations(case: ChunkedCase, conditions: int) -> int:
    """Floating point operations that generation cannot do without.

    The first layer is separable, so that it costs a product for each chunk and for each condition; without
    hidden layers nothing else is left.
    """
    rows = conditions * case.num_chunks
    inputs = case.num_chunks * case.chunk_emb_size + conditions * case.cond_emb_size
    products = inputs * (case.layers[0] if case.layers else case.chunk_size)
    for fan_in, width in pairwise(case.layers):
        products += rows * fan_in * width
    if case.layers:
        products += case.layers[-1] * conditions * case.num_outputs
    return 2 * products


def choose_rounds(round_seconds: float, seconds: float, maximum: int = 100) -> int:
    """How many rounds fit into ``seconds``: at most ``maximum``, at least three, or one long one."""
    minimum = 1 if round_seconds > 20 else 3
    return max(minimum, min(maximum, round(seconds / max(round_seconds, 1e-9))))


def is_worth_measuring(case: ChunkedCase, mode: str) -> bool:
    """Whether hypnettorch takes part in a time that someone would wait for."""
    return mode != MODES[2] or case.num_outputs < _SPLIT_BACKWARD_LIMIT
