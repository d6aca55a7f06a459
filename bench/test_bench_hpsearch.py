"""What a search adds to its runs, and what many results cost: ``pytest bench/test_bench_hpsearch.py -s``."""

from __future__ import annotations

import contextlib
import io
import statistics
import subprocess
import sys
import time

import pytest

from hnetfast.hpsearch import _database, _results, hpsearch

_SCRIPT = """
import os, sys
folder = sys.argv[-1].partition("=")[2]
os.mkdir(folder)
with open(os.path.join(folder, "summary.txt"), "w") as file:
    file.write("acc 1\\nfinished 1\\n")
"""
_CONFIG = """
grid = {"x": list(range(20))}
conditions = []
_SCRIPT_NAME = "script.py"
_SUMMARY_FILENAME = "summary.txt"
_SUMMARY_KEYWORDS = ["acc", "finished"]
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "script.py").write_text(_SCRIPT)
    (tmp_path / "bench_search_config.py").write_text(_CONFIG)
    (tmp_path / "python3").symlink_to(sys.executable)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return tmp_path


def test_overhead_of_a_local_run(folder, benchmark):
    """At most 50 ms on top of the command itself, which is executed alone in turn with the search."""
    alone, together = [], []
    for turn in range(5):
        start = time.perf_counter()
        for i in range(20):
            subprocess.run(["python3", "script.py", f"--out_dir=alone_{turn}_{i}"], check=True)
        alone.append(time.perf_counter() - start)
        start = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            hpsearch.run(
                [
                    "--grid_module=bench_search_config",
                    f"--out_dir=out_{turn}",
                    "--force_out_dir",
                    "--visible_gpus=-1",
                ]
            )
        together.append(time.perf_counter() - start)
    overhead = statistics.median(t - a for t, a in zip(together, alone, strict=True)) / 20
    run = statistics.median(alone) / 20
    print(f"\na run alone: {run * 1e3:.1f} ms, the search adds {overhead * 1e3:.1f} ms")
    benchmark.extra_info["overhead_ms"] = overhead * 1e3
    benchmark.pedantic(lambda: None, rounds=1)
    assert overhead <= 0.05


def _record(folder, number: int) -> float:
    """Returns the seconds for keeping the ends of so many runs, the results file included."""
    start = time.perf_counter()
    path = folder / f"{number}"
    path.mkdir(exist_ok=True)
    (path / _database.NAME).unlink(missing_ok=True)
    database = _database.Database(path / _database.NAME, create=True)
    database.plan([_database.Run(i, {"x": i, "lr": 0.1 * i}, f"sim_{i}") for i in range(number)], {})
    results = _results.ResultsFile(path / "results.csv", "acc", False)
    for run in database.runs():
        run.state, run.summary = "finished", {"acc": [str(run.number * 7 % 101)], "finished": ["1"]}
        database.update(run)
        results.add(_results.make_row(run.options | {"out_dir": run.folder}, run.summary, run.state, {}))
        results.write_if_due()
    results.write()
    database.close()
    return time.perf_counter() - start


def test_many_results(tmp_path, benchmark):
    """The time for 10,000 is no more than ten times that for 1,000, but for what a machine's noise adds."""
    seconds = {1000: [], 10_000: []}
    for _ in range(3):
        for number, found in seconds.items():
            found.append(_record(tmp_path, number))
    fewer, more = (min(found) for found in seconds.values())  # what else uses the disk only adds
    ratio = more / fewer
    print(f"\n10,000 results: {more:.2f} s, {ratio:.1f} times as long as 1,000")
    benchmark.extra_info["ratio"] = ratio
    benchmark.pedantic(lambda: None, rounds=1)
    assert ratio <= 13
