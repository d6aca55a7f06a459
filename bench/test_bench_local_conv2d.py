"""Convolution without weight sharing: ``pytest bench/test_bench_local_conv2d.py``."""

from __future__ import annotations

import functools
import statistics
from math import prod

import pytest
import torch
from torch import Tensor

from bench.harness import check, copy_rate, matrix_rate
from bench.memory import peak_bytes
from bench.tables import (
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
from hnetfast._comparison import MODES, compute, import_hypnettorch
from hnetfast.ops.local_conv2d import local_conv2d_reference
from hnetfast.utils import local_conv2d_layer

# Channels in and out, height and width of the input, kernel, stride, padding: BioConvNet's, for CIFAR.
LAYERS = {
    "3→64, 32×32": (3, 64, 32, 5, 2, 0),
    "64→128, 14×14": (64, 128, 14, 5, 2, 0),
    "128→256, 5×5": (128, 256, 5, 3, 1, 1),
}
BATCHES = (1, 32, 256)
_SLOW_BATCH = 256  # hypnettorch takes seconds for it


def _build(package, name: str, device: str = "cpu") -> torch.nn.Module:
    """The layer of a library, of each with equal weights."""
    inputs, outputs, size, kernel, stride, padding = LAYERS[name]
    torch.manual_seed(1)
    layer = package.LocalConv2dLayer(inputs, outputs, size, size, kernel, stride=stride, padding=padding)
    return layer.to(device)


def _images(name: str, batch: int, device: str = "cpu") -> Tensor:
    inputs, _, size, *_ = LAYERS[name]
    generator = torch.Generator(device).manual_seed(2)
    return torch.randn(batch, inputs, size, size, generator=generator, device=device, requires_grad=True)


def _compute(forward, parameters: list[Tensor], x: Tensor, mode: str) -> list[Tensor]:
    return compute(mode, lambda: forward(x), [x, *parameters])


@functools.lru_cache(maxsize=1)  # the measurements of a layer follow each other
def _contenders(name: str, device: str, with_compiled: bool) -> dict[str, functools.partial]:
    """:func:`_compute` of hnetfast, hypnettorch if installed, unfold and einsum, and that compiled."""
    layer = _build(local_conv2d_layer, name, device)
    parameters = list(layer.parameters())

    def einsum(x, filters, bias):
        return local_conv2d_reference(x, filters, bias, *layer._geometry)

    found = {
        "hnetfast": functools.partial(_compute, layer, parameters),
        "einsum": functools.partial(_compute, lambda x: einsum(x, layer.filters, layer.bias), parameters),
    }
    package = import_hypnettorch("utils.local_conv2d_layer")
    if package is not None:
        theirs = _build(package, name, device)
        found["hypnettorch"] = functools.partial(_compute, theirs, list(theirs.parameters()))
    if with_compiled:
        torch.compiler.reset()
        compiled = torch.compile(einsum, dynamic=False)
        found["compiled"] = functools.partial(
            _compute, lambda x: compiled(x, layer.filters, layer.bias), parameters
        )
    return found


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", LAYERS)
def test_layer(name, batch, mode, bench):
    competing = dict(_contenders(name, bench.device, bench.with_compile))
    if mode != MODES[0]:
        # What PyTorch 2.11 compiles of its backward pass writes past the end of a tensor: the process dies.
        competing.pop("compiled", None)
    if batch >= _SLOW_BATCH:
        competing.pop("hypnettorch", None)
    x = _images(name, batch, bench.device)
    calls = {contender: functools.partial(call, x, mode) for contender, call in competing.items()}
    expected = calls["hnetfast"]()
    for contender in calls.keys() - {"hnetfast"}:
        check(calls[contender](), expected, 1e-4, f"{contender} against hnetfast")
    durations = bench.time(calls, maximum=60)
    values = {"layer": name, "batch": batch, "mode": mode}
    weights = _build(local_conv2d_layer, name).filters.numel()
    if mode == MODES[0]:
        # Apart from the layers: a large product would empty the caches before each of them.
        copied, operations = bench.rates(copy_rate(weights, bench.device), matrix_rate(bench.device))
        # Weights are read once; each meets every image.
        values["floor_ms"] = 1e3 * max(4 * weights / copied, 2 * batch * weights / operations)
    peaks = {"hnetfast": (name, batch, mode)}
    bench.add(TABLE, durations, peaks, needed_bytes=needed_bytes(name, batch, mode), **values)


def needed_bytes(name: str, batch: int, mode: str) -> int:
    """Bytes of images, weights, result and, where computed, their gradients."""
    layer = _build(local_conv2d_layer, name)
    outputs = batch * prod((LAYERS[name][1], layer.out_height, layer.out_width))
    values = sum(p.numel() for p in layer.parameters()) + _images(name, batch).numel() + outputs
    return 4 * values * (1 if mode == MODES[0] else 2)


def peak(name: str, batch: int, mode: str) -> int:
    """What a call of hnetfast's layer adds to the memory of a process, images and weights included."""

    def call(layer: torch.nn.Module, x: Tensor) -> list[Tensor]:
        return _compute(layer, list(layer.parameters()), x, mode)

    tiny = next(iter(LAYERS))
    call(_build(local_conv2d_layer, tiny), _images(tiny, 8))  # threads and libraries are there now
    layer, x = _build(local_conv2d_layer, name), _images(name, batch)
    there = x.nbytes + sum(p.nbytes for p in layer.parameters())
    return there + peak_bytes(lambda: call(layer, x))


def _peak_share(row: Row) -> float | None:
    return row["peak_bytes"]["hnetfast"] / row["needed_bytes"] if "peak_bytes" in row else None


def _facts(rows: Rows) -> list[str]:
    what, lines = "Locally connected layers", []
    for other, title in (
        ("hypnettorch", "hypnettorch's layer"),
        ("einsum", "unfold and einsum"),
        ("compiled", "the same compiled"),
    ):
        lines += over(f"{what} over {title}", speed_ups(rows, other))
    shares = known(floor_share(row) for row in rows if row["batch"] == 32)
    if shares:
        low, high, mean = (100 * of(shares) for of in (min, max, statistics.geometric_mean))
        lines.append(
            f"{what}, forward, batch 32: {low:.0f} to {high:.0f} % of the floor, geometric mean {mean:.0f} %"
        )
    peaks = known(map(_peak_share, rows))
    if peaks:
        span = f"{min(peaks):.2f} to {max(peaks):.2f}×"
        lines.append(f"{what}: peak memory over images, weights, results and gradients {span}")
    return lines


TABLE = Table(
    key="local_convs",
    title="Locally connected layers",
    intro=(
        "`LocalConv2dLayer`, in milliseconds; *einsum* is `unfold` and `einsum`, *compiled* the same under "
        "`torch.compile`. The floor is the larger of reading the weights once at the measured copy rate and "
        "of the operations at the measured float32 matrix rate. Peak memory is that of a process, over the "
        "bytes of images, weights, results and their gradients."
    ),
    columns={
        "layer": field("layer"),
        "batch": field("batch"),
        "mode": mode_label,
        **times("hnetfast", "hypnettorch", "einsum", "compiled"),
        "× hypnettorch": times_as_fast(),
        "× einsum": times_as_fast("einsum"),
        "of floor": percent_of_floor,
        "peak memory, × needed": lambda row: f"{_peak_share(row):.2f}" if "peak_bytes" in row else "",
    },
    place=40,
    facts=_facts,
    peak=peak,
)
