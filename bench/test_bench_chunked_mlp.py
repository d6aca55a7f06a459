"""Throughput of chunked weight generation: ``pytest bench/test_bench_chunked_mlp.py``."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from bench.cases import CHUNKED_CASES, DISTINCT_CHUNKED_CASES, ChunkedCase
from bench.harness import Bench, check, fill_rate, matrix_rate
from bench.memory import peak_bytes
from bench.tables import (
    SMALL_BYTES,
    Plot,
    Row,
    Rows,
    Table,
    field,
    floor_share,
    known,
    markdown,
    mode_label,
    percent_of_floor,
    speed_up,
    speed_ups,
    times,
    times_as_fast,
)
from hnetfast import _comparison, hnets
from hnetfast._comparison import compute, import_hypnettorch, libraries
from hnetfast.examples._speed import generate_by_reference

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MODES = (*_comparison.MODES, "forward+backward, target tensors")
# What hypnettorch 0.0.4 needs beyond its parameters, in units of the result's size, as measured on WRN-28-10.
_HYPNETTORCH_MEMORY = {MODES[0]: 2.0, MODES[1]: 2.6, MODES[2]: 3.6}
_MEMORY_LIMIT = 12e9
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


def _contender(hnet, forward: Callable) -> Contender:
    def flat(cond_ids: Sequence[int]) -> Tensor:
        return forward(cond_id=list(cond_ids), ret_format="flattened")

    def tensors(cond_ids: Sequence[int]) -> list[Tensor]:
        lists = forward(cond_id=list(cond_ids), ret_format="sequential")
        return [tensor for weights in lists for tensor in weights]

    return Contender(flat, tensors, list(hnet.parameters()))


def _split(flat: Tensor, case: ChunkedCase) -> list[Tensor]:
    """Cut ``[B, n]`` into target tensors, one condition after the other."""
    shapes = case.target_shapes
    sizes = [math.prod(shape) for shape in shapes]
    return [t.view(s) for row in flat for t, s in zip(row.split(sizes), shapes, strict=True)]


@functools.lru_cache(maxsize=1)  # the measurements of a case follow each other
def contenders(case: ChunkedCase, device: str, with_compiled: bool) -> dict[str, Contender]:
    """All ways to generate the weights of a case: hnetfast, its reference, hypnettorch where installed.

    Args:
        case: The architecture.
        device: Where to put the hypernetworks.
        with_compiled: Whether ``torch.compile(hypnettorch)`` takes part.

    Returns:
        The contenders by name; all have equal parameters.
    """
    hnet = case.build("hnetfast", device)
    reference = functools.partial(generate_by_reference, hnet)
    found = {
        "hnetfast": _contender(hnet, hnet.forward),
        "reference": Contender(reference, lambda ids: _split(reference(ids), case), list(hnet.parameters())),
    }
    if "hypnettorch" in libraries():
        oracle = case.build("hypnettorch", device)
        found["hypnettorch"] = _contender(oracle, oracle.forward)
        if with_compiled:
            torch.compiler.reset()
            found["compiled"] = _contender(oracle, torch.compile(oracle.forward, dynamic=False))
    return found


class Comparison:
    """The contenders' calls for one case, number of conditions and mode, ready to be checked and timed."""

    def __init__(
        self, case: ChunkedCase, competitors: dict[str, Contender], conditions: int, mode: str, device: str
    ) -> None:
        self.case, self.conditions, self.mode = case, conditions, mode
        self.left_out: dict[str, str] = {}
        competing = dict(competitors)
        if mode != MODES[0]:  # only the forward of what is compiled is compared
            competing.pop("compiled", None)
        need = _HYPNETTORCH_MEMORY[mode] * 4 * conditions * case.num_outputs
        if need > _MEMORY_LIMIT and competing.pop("hypnettorch", None):
            self.left_out["hypnettorch"] = f"would take {need / 1e9:.0f} GB"
        generator = torch.Generator(device).manual_seed(2)
        grad = torch.randn(conditions, case.num_outputs, generator=generator, device=device)
        grads = _split(grad, case) if mode == MODES[2] else grad
        self.calls: dict[str, Callable[[], list[Tensor]]] = {}
        for name, contender in competing.items():
            generate = contender.tensors if mode == MODES[2] else contender.flat
            forward = functools.partial(generate, range(conditions))
            self.calls[name] = functools.partial(compute, mode, forward, contender.parameters, grads)
        # These take turns with the contenders.
        elements = conditions * case.num_outputs
        self._rates = {"fill": fill_rate(elements, device), "product": matrix_rate(device, elements)}

    def check(self) -> None:
        """Compare what everyone generates, or the gradients of hnetfast, with the reference.

        Raises:
            AssertionError: They differ by more than rounding.
        """
        # Rounding decides the side of ReLU's kink for about one in ten million units, each of which moves the
        # gradient by up to one part in a thousand of its norm.
        units = self.conditions * self.case.num_chunks * sum(self.case.layers)
        tolerance = 1e-5 if self.mode == MODES[0] else 1e-4 + 2.5e-10 * units
        expected = self.calls["reference"]()
        for name, call in self.calls.items():
            small = self.mode == MODES[0] and (self.conditions == 1 or name == "compiled")
            if name == "hnetfast" or (name != "reference" and small):
                check(call(), expected, tolerance, f"{name} against the reference")

    def measure(self, bench: Bench) -> Row:
        """Time everyone and add the row."""
        durations = bench.time(
            {name: rate.call for name, rate in self._rates.items()} | self.calls, maximum=100
        )
        rates = {name: rate.per_second(durations.pop(name)) for name, rate in self._rates.items()}
        case, forward = self.case, self.mode == MODES[0]
        fill = 4 * self.conditions * case.num_outputs / rates["fill"]
        floor = max(fill, floor_operations(case, self.conditions) / rates["product"])
        request = (CHUNKED_CASES.index(case), self.conditions)
        peaks = {name: (name, *request) for name in libraries()} if forward else None
        return bench.add(
            TABLE,
            durations,
            peaks,
            group=case.group,
            tasks=case.tasks,
            layers=",".join(map(str, case.layers)),
            chunk_size=case.chunk_size,
            num_outputs=case.num_outputs,
            conditions=self.conditions,
            mode=self.mode,
            fill_ms=1e3 * fill,
            matrix_gflops=rates["product"] / 1e9,
            floor_ms=1e3 * floor if forward else None,
            left_out=self.left_out,
        )


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


def _measurements(all_rows: bool) -> list[tuple[ChunkedCase, int, str]]:
    """By default once each network, and the Gaussian ones, twice as large, with one condition only."""
    return [
        (case, conditions, mode)
        for case in (CHUNKED_CASES if all_rows else DISTINCT_CHUNKED_CASES)
        if all_rows or not (case.gaussian and case.network == "WRN-28-10")
        for conditions in ((1, 10) if all_rows or not case.gaussian else (1,))
        for mode in MODES
        if mode != MODES[2] or (conditions == 1 and case.num_outputs < _SPLIT_BACKWARD_LIMIT)
    ]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "measurement" in metafunc.fixturenames:
        found = _measurements(metafunc.config.option.all_rows)
        ids = [f"{case.name}-B{count}-{mode.replace(' ', '-')}" for case, count, mode in found]
        metafunc.parametrize("measurement", found, ids=ids)


def test_generation(measurement, bench):
    case, conditions, mode = measurement
    competitors = contenders(case, bench.device, bench.with_compile)
    comparison = Comparison(case, competitors, conditions, mode, bench.device)
    comparison.check()
    comparison.measure(bench)


@pytest.mark.parametrize("mode", ["forward", "forward with gradients", "forward+backward"])
def test_call_on_a_tiny_network(mode, bench):
    calls = {}
    for name, module in (("hnetfast", hnets), ("hypnettorch", import_hypnettorch("hnets"))):
        if module is not None:
            shapes = [[10, 4], [10], [2, 10], [2]]
            hnet = module.ChunkedHMLP(shapes, 32, layers=(10, 10), num_cond_embs=2, verbose=False)
            calls[name] = functools.partial(_call, hnet.to(bench.device), mode)
    bench.add(TABLE, bench.time(calls, minimum=5, turn=10e-3), mode=mode, tiny=True)


def _call(hnet, mode: str) -> None:
    with torch.set_grad_enabled(mode != MODES[0]):
        weights = hnet.forward(cond_id=0)
        if mode == MODES[1]:
            sum(w.sum() for w in weights).backward()


def peak(library: str, number: int, conditions: int) -> int:
    """What a forward of a case without gradients adds to the memory of a process, its result included."""
    _warm_up(library)
    return _peak(CHUNKED_CASES[number].build(library, "cpu"), conditions)


@functools.cache
def _warm_up(library: str) -> None:
    hnet = CHUNKED_CASES[0].build(library, "cpu")
    for count in (1, 10):  # threads, libraries and their buffers are there before the first measurement
        _peak(hnet, count)


def _peak(hnet, conditions: int) -> int:
    with torch.no_grad():
        return peak_bytes(lambda: hnet.forward(cond_id=list(range(conditions)), ret_format="flattened"))


def allowed_bytes(row: Row) -> int:
    """What a forward may take at its peak: the result and as much again as the largest hidden layer."""
    widest = max((int(width) for width in row["layers"].split(",") if width), default=0)
    num_chunks = -(-row["num_outputs"] // row["chunk_size"])
    return 4 * row["conditions"] * (row["num_outputs"] + num_chunks * widest)


def _generation(rows: Rows) -> list[Row]:
    """Without the calls on a tiny network."""
    return [row for row in rows if not row.get("tiny")]


def _group(row: Row) -> str | None:
    return None if row.get("tiny") else f"{row['group']}, {row['num_outputs']:,} weights ({row['tasks']})"


def _peaks(row: Row) -> str:
    peak = row.get("peak_bytes", {})
    return " / ".join(f"{peak[name] / 1e6:.1f}" for name in ("hnetfast", "hypnettorch") if name in peak)


def _facts(rows: Rows) -> list[str]:
    """The time of a call on a tiny network, and what the machine can do."""
    lines = [
        f"A call on a tiny network (4 target tensors), {row['mode']}: "
        + ", ".join(f"{name} {1e3 * value:.0f} µs" for name, value in row["ms"].items())
        for row in rows
        if row.get("tiny")
    ]
    generation = _generation(rows)
    if generation:
        matrix = statistics.median(row["matrix_gflops"] for row in generation)
        largest = max(generation, key=lambda row: row["num_outputs"] * row["conditions"])
        fill = 4e-6 * largest["num_outputs"] * largest["conditions"] / largest["fill_ms"]
        lines.append(
            f"Measured in turns with the rest: {matrix:.0f} GFLOP/s in a large float32 product, "
            f"{fill:.0f} GB/s in filling a warm buffer of the largest result's size"
        )
    return lines


_SUMMARY = ("geometric means over rows", "rows", "× hypnettorch", "slowest row", "× compiled")
_SUMMARY += ("× own reference", "of floor", "highest peak memory")


def _summary(rows: Rows) -> list[list[str]]:
    """A line for each mode, Gaussian or not; peak memory in units of what is allowed, for large results."""
    lines = [list(_SUMMARY)]
    for mode in MODES:
        for gaussian in (False, True):
            chosen = [
                row
                for row in _generation(rows)
                if row["mode"] == mode and row["group"].startswith("Gaussian") == gaussian
            ]
            if not chosen:
                continue
            ratios = {name: speed_ups(chosen, name) for name in ("hypnettorch", "compiled", "reference")}
            means = [f"{statistics.geometric_mean(r):.2f}×" if r else "" for r in ratios.values()]
            slowest = f"{min(ratios['hypnettorch']):.2f}×" if ratios["hypnettorch"] else ""
            shares = known(map(floor_share, chosen))
            peaks = [
                row["peak_bytes"]["hnetfast"] / allowed_bytes(row)
                for row in chosen
                if "hnetfast" in row.get("peak_bytes", {}) and allowed_bytes(row) > SMALL_BYTES
            ]
            lines.append(
                [
                    mode + ", Gaussian" * gaussian,
                    str(len(chosen)),
                    means[0],
                    slowest,
                    *means[1:],
                    f"{100 * statistics.geometric_mean(shares):.0f} %" if shares else "",
                    f"{max(peaks):.2f} of allowed" if peaks else "",
                ]
            )
    return lines


_COMPACT = {f"{mode}, B = {count}": (mode, count) for mode in MODES[:2] for count in (1, 10)}


def _by_architecture(rows: Rows) -> dict[tuple[str, str], dict[tuple[str, int], Row]]:
    """The rows of the networks themselves (not Gaussian, first problem), by mode and number of conditions."""
    found: dict[tuple[str, str], dict[tuple[str, int], Row]] = {}
    for row in _generation(rows):
        if not row["group"].startswith("Gaussian"):
            key = (row["group"], row["layers"] or "none")
            found.setdefault(key, {}).setdefault((row["mode"], row["conditions"]), row)
    return found


def _readme(rows: Rows) -> str:
    """A table of times of hypnettorch and of hnetfast, and their ratio."""

    def milliseconds(value: float) -> str:
        return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"

    def cell(row: Row | None) -> str:
        ratio = speed_up(row) if row else None
        if ratio is None:
            return "–"
        before, after = milliseconds(row["ms"]["hypnettorch"]), milliseconds(row["ms"]["hnetfast"])
        return f"{before} → {after} (**{ratio:.1f}×**)"

    lines = [["network", "hidden layers", *_COMPACT]]
    for (network, layers), found in _by_architecture(rows).items():
        lines.append([network, f"`{layers}`", *(cell(found.get(key)) for key in _COMPACT.values())])
    text = "Milliseconds to generate all weights for B conditions, hypnettorch → hnetfast (median)."
    return f"{text}\n\n{markdown(lines)}"


def _axes(title: str, height: float):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, height), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log")
    axes.set_title(title, fontsize=11)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    return figure, axes


def _plot_speed_up(rows: Rows) -> Figure:
    """Bars: how many times as fast as hypnettorch each architecture is."""
    architectures = _by_architecture(rows)
    title = "Generating all weights of a network for B conditions"
    figure, axes = _axes(title, 0.62 * len(architectures) + 1.6)
    height = 0.8 / len(_COMPACT)
    colors = ("#88ccaa", "#228833", "#99bbdd", "#4477aa")
    for i, (label, key) in enumerate(_COMPACT.items()):
        points = [
            (y + (i - 1.5) * height, speed_up(found[key]))
            for y, found in enumerate(architectures.values())
            if key in found and speed_up(found[key]) is not None
        ]
        if not points:
            continue
        y, ratios = zip(*points, strict=True)
        axes.barh(y, [ratio - 1 for ratio in ratios], height, left=1, color=colors[i], label=label)
        for position, ratio in points:
            axes.text(max(ratio, 1) * 1.03, position, f"{ratio:.1f}×", va="center", fontsize=7)
    axes.axvline(1, color="0.3", linewidth=1)
    axes.set_xticks([1, 2, 5, 10, 20, 50], [f"{tick}×" for tick in (1, 2, 5, 10, 20, 50)])
    axes.minorticks_off()
    axes.margins(y=0.01)
    axes.set_xlim(left=min(0.95, axes.get_xlim()[0]))
    axes.set_yticks(range(len(architectures)), ["\n".join(key) for key in architectures], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("times as fast as hypnettorch")
    axes.grid(axis="x", color="0.9")
    figure.legend(loc="outside lower center", ncols=len(_COMPACT), frameon=False, fontsize=9)
    return figure


def _plot_times(rows: Rows, conditions: int = 10) -> Figure:
    """Dots: the time of a forward for each contender, next to the time of the floor."""
    key = (MODES[0], conditions)
    architectures = {name: found[key] for name, found in _by_architecture(rows).items() if key in found}
    title = f"Forward for {conditions} conditions: time of each contender, and the floor"
    figure, axes = _axes(title, 0.42 * len(architectures) + 1.8)
    colors = {"hnetfast": "#228833", "reference": "#4477aa", "hypnettorch": "#ee6677"}
    for y, row in enumerate(architectures.values()):
        floor = row["floor_ms"]
        ends = [min(floor, *row["ms"].values()), max(floor, *row["ms"].values())]
        axes.plot(ends, [y, y], color="0.88", linewidth=5, zorder=1)
        axes.plot(floor, y, "|", color="black", markersize=13, zorder=3, label=None if y else "floor")
        for name, color in colors.items():
            if name in row["ms"]:
                axes.plot(row["ms"][name], y, "o", color=color, zorder=4, label=None if y else name)
    axes.set_yticks(range(len(architectures)), ["  ".join(name) for name in architectures], fontsize=8)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("ms")
    axes.grid(axis="x", color="0.92")
    figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    return figure


TABLE = Table(
    key="chunked",
    title="Chunked weight generation",
    intro=(
        "*forward* and *fwd+bwd* generate one flat result; *fwd+bwd, targets* generates the list of target "
        "tensors and starts the backward pass from a gradient for each, as training does. *compiled* is "
        "`torch.compile(hypnettorch)`. The floor is the larger of the operations that cannot be saved at the "
        "measured float32 matrix rate, and of filling a warm buffer of the result's size, timed in turns "
        "with the rest. Peak memory is what a forward without gradients adds to the resident memory of a "
        "process with cold caches, its result included; allowed "
        "are the result and as much again as the largest hidden layer (results above 16 MB)."
    ),
    columns={
        "hidden layers": lambda row: row["layers"] or "none",
        "B": field("conditions"),
        "mode": mode_label,
        **times("hnetfast", "reference", "hypnettorch", "compiled"),
        "speed-up": times_as_fast(unit="×"),
        "of floor": percent_of_floor,
        "peak MB, ours / hypnettorch": _peaks,
    },
    place=10,
    facts=_facts,
    readme=_readme,
    group=_group,
    summary=_summary,
    plots=(Plot("Speed-up", "speed", _plot_speed_up), Plot("Times", "time", _plot_times)),
    peak=peak,
)
