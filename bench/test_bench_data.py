"""Data handlers: ``pytest bench/test_bench_data.py``."""

from __future__ import annotations

import contextlib
import functools
import gc
import io
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.data import (
    BATCH_SIZES,
    BATCHES,
    BUILDS,
    SEQUENCES,
    SHARED,
    TENSORS,
    batches_call,
    measure_memory,
    module,
    same,
    seed,
    tensors_call,
    write_files,
)
from hnetfast.examples._speed import time_in_turns

LIBRARIES = ("hnetfast", "hypnettorch")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Made files of the published sizes."""
    path = tmp_path_factory.mktemp("data")
    write_files(path)
    yield path
    shutil.rmtree(path)


@pytest.fixture(autouse=True)
def _nothing_is_shared():
    """Handlers of earlier measurements are gone: those that are built later would share their images."""
    gc.collect()


def _measure(
    what: str, case: str, make: Callable[[str], Callable], benchmark, results, seconds: float
) -> None:
    """Check that the libraries agree, time them in turns and add the row."""
    calls, found = {}, {}
    for library in LIBRARIES:
        if module(library, "dataset") is None:
            continue
        with contextlib.redirect_stdout(io.StringIO()):
            seed()
            calls[library] = _quietly(make(library))
            seed()
            found[library] = calls[library]()
    assert same(*[found.get(library, found["hnetfast"]) for library in LIBRARIES]), "results differ"
    del found
    durations = time_in_turns(calls, seconds, minimum=3, maximum=100)
    benchmark.pedantic(calls["hnetfast"], rounds=1, iterations=1)
    row = {"what": what, "case": case}
    row["ms"] = {library: 1e3 * statistics.median(times) for library, times in durations.items()}
    results.data.append(row)


def _quietly(call: Callable) -> Callable:
    def quiet():
        with contextlib.redirect_stdout(io.StringIO()):
            return call()

    return quiet


@pytest.mark.parametrize("case", TENSORS)
def test_tensors(case, folder, benchmark, results, pytestconfig):
    make = functools.partial(tensors_call, folder=str(folder), case=case)
    _measure("tensor of 128 images", case, make, benchmark, results, pytestconfig.option.seconds)


@pytest.mark.parametrize("size", BATCH_SIZES)
@pytest.mark.parametrize("case", BATCHES)
def test_batches(case, size, folder, benchmark, results, pytestconfig):
    make = functools.partial(batches_call, folder=str(folder), case=case, size=size)
    _measure(f"batch of {size} and its tensors", case, make, benchmark, results, pytestconfig.option.seconds)


@pytest.mark.parametrize("case", BUILDS)
def test_building(case, folder, benchmark, results, pytestconfig):
    def make(library):
        return lambda: BUILDS[case](library, str(folder))

    _measure("building from files", case, make, benchmark, results, pytestconfig.option.seconds)


def test_building_without_a_cache(folder, benchmark, results, pytestconfig):
    """MNIST as it is downloaded: what either library leaves beside the files is removed before each call."""
    raw = {path.name for path in (folder / "MNIST").glob("*.gz")}

    def make(library):
        def call():
            for path in (folder / "MNIST").iterdir():
                if path.name not in raw:
                    path.unlink()
            return BUILDS["MNIST"](library, str(folder))

        return call

    _measure("building, first time", "MNIST", make, benchmark, results, pytestconfig.option.seconds)


@pytest.mark.parametrize("case", SEQUENCES)
def test_sequences(case, benchmark, results, pytestconfig):
    def make(library):
        return lambda: SEQUENCES[case](library)

    _measure("10,000 made sequences", case, make, benchmark, results, pytestconfig.option.seconds)


def test_memory(folder: Path, results, pytestconfig):
    if pytestconfig.option.no_memory:
        pytest.skip("memory is left out")
    libraries = [library for library in LIBRARIES if module(library, "dataset") is not None]
    peaks = measure_memory(folder, libraries)
    for case, (_, image_bytes) in SHARED.items():
        found = {library: peaks.get(f"{folder}:{library}:{case}") for library in libraries}
        if any(found.values()):
            results.data.append({"what": "memory", "case": case, "bytes": found, "image_bytes": image_bytes})
