"""Data handlers, on made files of the published sizes: ``pytest bench/test_bench_data.py``."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import io
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.harness import Bench
from bench.made_files import write_files
from bench.memory import measure_peaks, peak_bytes
from bench.tables import Cell, Row, Rows, Table, field, number, speed_up
from hnetfast._comparison import import_hypnettorch, libraries

Call = Callable[[], Any]


def module(library: str, name: str):
    """A module below ``data`` of a library."""
    if library == "hypnettorch":
        return import_hypnettorch(f"data.{name}")
    return importlib.import_module(f"{library}.data.{name}")


def _mnist(library: str, folder: str, **options: Any):
    return module(library, "mnist_data").MNISTData(folder, **options)


def _cifar(library: str, folder: str, **options: Any):
    return module(library, "cifar10_data").CIFAR10Data(folder, **options)


def _permuted(library: str, folder: str, tasks: int):
    permutations = [np.random.RandomState(i).permutation(32 * 32) for i in range(tasks)]
    handlers = module(library, "special.permuted_mnist").PermutedMNISTList(
        permutations, folder, padding=2, show_perm_change_msg=False
    )
    return handlers[-1] if tasks == 1 else handlers


def _split_mnist(library: str, folder: str):
    return module(library, "special.split_mnist").get_split_mnist_handlers(folder)


def _split_cifar(library: str, folder: str):
    return module(library, "special.split_cifar").get_split_cifar_handlers(folder)


# Building a handler, or several. hypnettorch finds the dump that it left beside the files.
BUILDS = {
    "MNIST": _mnist,
    "CIFAR-10": _cifar,
    "split MNIST": _split_mnist,
    "split CIFAR-10/100": _split_cifar,
}
# Handlers for tensors of 128 images: how to build one, and the mode.
TENSORS = {
    "CIFAR-10, augmentation and cutout": (
        lambda library, folder: _cifar(library, folder, use_data_augmentation=True, use_cutout=True),
        "train",
    ),
    "CIFAR-10, normalised": (
        lambda library, folder: _cifar(library, folder, use_data_augmentation=True),
        "inference",
    ),
    "MNIST, augmentation": (
        lambda library, folder: _mnist(library, folder, use_torch_augmentation=True),
        "train",
    ),
    "permuted MNIST, padded": (lambda library, folder: _permuted(library, folder, 1), "train"),
}
# Handlers whose batches become tensors.
BATCHES = {
    "MNIST": (lambda library, folder: _mnist(library, folder, use_one_hot=True), "train"),
    "CIFAR-10": (lambda library, folder: _cifar(library, folder, use_one_hot=True), "train"),
    "CIFAR-10, augmentation": (
        lambda library, folder: _cifar(library, folder, use_one_hot=True, use_data_augmentation=True),
        "train",
    ),
}
BATCH_SIZES = (32, 256)
# Made sequences, 10,000 of them.
SEQUENCES: dict[str, Callable[[str], Any]] = {
    "copy task": lambda library: module(library, "timeseries.copy_data").CopyTask(
        5, 20, num_train=9000, num_test=1000, rseed=1
    ),
    "recurrent teacher": lambda library: module(library, "timeseries.rnd_rec_teacher").RndRecTeacher(
        num_train=9000, num_test=1000, rseed=1
    ),
    "cognitive task 0": lambda library: module(
        library, "timeseries.cognitive_tasks.cognitive_data"
    ).CognitiveTasks(task_id=0, num_train=8000, num_val=1000, num_test=1000, rstate=np.random.RandomState(1)),
}
# Handlers that share their images, and how many bytes one copy of these takes.
SHARED = {
    "permuted MNIST, 100 tasks": (lambda library, folder: _permuted(library, folder, 100), 70000 * 784),
    "split MNIST": (_split_mnist, 70000 * 784),
}


def tensors_call(library: str, folder: str, case: str, count: int = 128) -> Call:
    """Return what turns ``count`` images into a tensor."""
    build, mode = TENSORS[case]
    handler = build(library, folder)
    inputs = handler.next_train_batch(count)[0]
    return lambda: handler.input_to_torch_tensor(inputs, "cpu", mode=mode)


def batches_call(library: str, folder: str, case: str, size: int) -> Call:
    """Return what takes the next batch and makes tensors of it."""
    build, mode = BATCHES[case]
    handler = build(library, folder)

    def call():
        inputs, outputs = handler.next_train_batch(size)
        return (
            handler.input_to_torch_tensor(inputs, "cpu", mode=mode),
            handler.output_to_torch_tensor(outputs, "cpu", mode=mode),
        )

    return call


def _same(ours: Any, theirs: Any) -> bool:
    """Whether two results are equal: tensors, lists of them, or handlers."""
    if isinstance(theirs, torch.Tensor):
        return torch.equal(ours, theirs)
    if isinstance(theirs, (list, tuple)):
        return len(ours) == len(theirs) and all(map(_same, ours, theirs))
    parts = [name for name in ("train", "test") if getattr(theirs, f"num_{name}_samples")]
    return all(
        np.array_equal(getattr(ours, name)()[:100], getattr(theirs, name)()[:100])
        for part in parts
        for name in (f"get_{part}_inputs", f"get_{part}_outputs")
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Made files of the published sizes."""
    path = tmp_path_factory.mktemp("data")
    write_files(path)
    yield str(path)
    shutil.rmtree(path)


@pytest.fixture(autouse=True)
def _nothing_is_shared():
    """Handlers of earlier measurements are gone: those that are built later would share their images."""
    gc.collect()


def _measure(what: str, case: str, make: Callable[[str], Call], bench: Bench) -> None:
    """Check that the libraries agree, time them in turns and add the row."""
    calls, found = {}, {}
    for library in libraries():
        _seed()
        with contextlib.redirect_stdout(io.StringIO()):
            calls[library] = _quietly(make(library))
        _seed()
        found[library] = calls[library]()
    assert _same(found["hnetfast"], list(found.values())[-1]), "results differ"
    del found
    bench.add(TABLE, bench.time(calls, maximum=100), what=what, case=case)


def _seed() -> None:
    np.random.seed(0)
    torch.manual_seed(0)


def _quietly(call: Call) -> Call:
    def quiet():
        with contextlib.redirect_stdout(io.StringIO()):
            return call()

    return quiet


@pytest.mark.parametrize("case", TENSORS)
def test_tensors(case, folder, bench):
    _measure("tensor of 128 images", case, functools.partial(tensors_call, folder=folder, case=case), bench)


@pytest.mark.parametrize("size", BATCH_SIZES)
@pytest.mark.parametrize("case", BATCHES)
def test_batches(case, size, folder, bench):
    make = functools.partial(batches_call, folder=folder, case=case, size=size)
    _measure(f"batch of {size} and its tensors", case, make, bench)


@pytest.mark.parametrize("case", BUILDS)
def test_building(case, folder, bench):
    make = functools.partial(functools.partial, BUILDS[case], folder=folder)
    _measure("building from files", case, make, bench)


def test_building_without_a_cache(folder, bench):
    """MNIST as it is downloaded: what either library leaves beside the files is removed before each call."""
    mnist = Path(folder) / "MNIST"
    raw = {path.name for path in mnist.glob("*.gz")}

    def make(library: str) -> Call:
        def call():
            for path in mnist.iterdir():
                if path.name not in raw:
                    path.unlink()
            return BUILDS["MNIST"](library, folder)

        return call

    _measure("building, first time", "MNIST", make, bench)


@pytest.mark.parametrize("case", SEQUENCES)
def test_sequences(case, bench):
    make = functools.partial(functools.partial, SEQUENCES[case])
    _measure("10,000 made sequences", case, make, bench)


@pytest.mark.filterwarnings("ignore:Benchmark fixture was not used")
def test_memory(folder, bench):
    if not bench.with_memory:
        pytest.skip("memory is left out")
    names = libraries()
    for case, (_, image_bytes) in SHARED.items():
        sizes = measure_peaks(peak, [(library, folder, case) for library in names])  # the files are there now
        found = {library: size for library, size in zip(names, sizes, strict=True) if size is not None}
        if found:
            bench.add(TABLE, what="memory", case=case, peak_bytes=found, image_bytes=image_bytes)


def peak(library: str, folder: str, case: str) -> int:
    """What handlers that share images add to the memory of a process."""
    build, _ = SHARED[case]
    build(library, folder)  # modules are loaded now, and caches written
    return peak_bytes(lambda: build(library, folder))


def _values(row: Row) -> dict[str, float]:
    """Milliseconds or MB by library."""
    return row["ms"] if "ms" in row else {name: size / 1e6 for name, size in row["peak_bytes"].items()}


def _value(library: str) -> Cell:
    return lambda row: number(_values(row).get(library), digits=2)


def _ratio(row: Row) -> str:
    values = _values(row)
    return f"{values['hypnettorch'] / values['hnetfast']:.1f}" if len(values) == 2 else "–"


def _facts(rows: Rows) -> list[str]:
    lines = []
    for what in dict.fromkeys(row["what"] for row in rows if "ms" in row):
        ratios = {row["case"]: speed_up(row) for row in rows if row["what"] == what}
        if None not in ratios.values():
            slowest = min(ratios, key=ratios.get)
            mean = statistics.geometric_mean(ratios.values())
            least = f"least {ratios[slowest]:.1f}× ({slowest})"
            lines.append(f"Data handlers, {what}: geometric mean {mean:.1f}×, {least}")
    lines += [
        f"Memory of {row['case']}: one copy of the images ({row['image_bytes'] / 1e6:.0f} MB) and "
        f"{(row['peak_bytes']['hnetfast'] - row['image_bytes']) / 1e6:.0f} MB"
        for row in rows
        if "peak_bytes" in row
    ]
    return lines


TABLE = Table(
    key="data",
    title="Data handlers",
    intro=(
        "Data handlers, in milliseconds: *building* reads made files of the published sizes from a warm "
        "disk, hypnettorch and hnetfast with what they left beside the files before; *first time* without. "
        "Memory is what the handlers add to a process at the peak."
    ),
    columns={
        "what": lambda row: row["what"] + ", MB" * ("ms" not in row),
        "case": field("case"),
        "hnetfast": _value("hnetfast"),
        "hypnettorch": _value("hypnettorch"),
        "× hypnettorch": _ratio,
    },
    place=90,
    facts=_facts,
    readme=lambda rows: "",
)
