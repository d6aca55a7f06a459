"""What a search adds to its runs, and what many results cost: ``pytest bench/test_bench_hpsearch.py``."""

from __future__ import annotations

import contextlib
import io
import itertools
import statistics
import subprocess
import sys

import pytest

from bench.tables import Rows, Table, field, times
from hnetfast.hpsearch import _database, _results, hpsearch

_RUNS = 20
_SCRIPT = """
import os, sys
folder = sys.argv[-1].partition("=")[2]
os.mkdir(folder)
with open(os.path.join(folder, "summary.txt"), "w") as file:
    file.write("acc 1\\nfinished 1\\n")
"""
_CONFIG = f"""
grid = {{"x": list(range({_RUNS}))}}
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


def test_overhead_of_a_local_run(folder, bench):
    """At most 50 ms on top of the command itself, which is executed alone in turn with the search."""
    turns = itertools.count()

    def alone() -> None:
        turn = next(turns)
        for i in range(_RUNS):
            subprocess.run(["python3", "script.py", f"--out_dir=alone_{turn}_{i}"], check=True)

    def together() -> None:
        options = ["--grid_module=bench_search_config", "--force_out_dir", "--visible_gpus=-1"]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            hpsearch.run([*options, f"--out_dir=out_{next(turns)}"])

    durations = bench.time({"alone": alone, "hnetfast": together}, minimum=5, maximum=5)
    pairs = zip(durations["hnetfast"], durations["alone"], strict=True)
    overhead = 1e3 * statistics.median(more - less for more, less in pairs) / _RUNS
    bench.add(TABLE, durations, what=f"{_RUNS} runs of a script", overhead_ms=overhead)
    assert overhead <= 50


def _record(folder, number: int) -> None:
    """Keep the ends of so many runs, the results file included."""
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


def test_many_results(tmp_path, bench):
    """The time for 10,000 is no more than ten times that for 1,000, but for what a machine's noise adds."""
    calls = {"1,000 results": lambda: _record(tmp_path, 1000), "hnetfast": lambda: _record(tmp_path, 10_000)}
    durations = bench.time(calls, minimum=3, maximum=3)
    growth = min(durations["hnetfast"]) / min(durations["1,000 results"])  # other use of the disk only adds
    bench.add(TABLE, durations, what="keeping 10,000 results", growth=growth)
    assert growth <= 13


def _facts(rows: Rows) -> list[str]:
    overheads = [
        f"A search adds {row['overhead_ms']:.1f} ms to a run" for row in rows if "overhead_ms" in row
    ]
    growths = [
        f"Keeping 10,000 results takes {row['growth']:.1f} times as long as 1,000"
        for row in rows
        if "growth" in row
    ]
    return overheads + growths


TABLE = Table(
    key="searches",
    title="Hyperparameter searches",
    intro="A search on this machine and its commands executed alone, in milliseconds; what results cost.",
    columns={"what": field("what"), **times("hnetfast", "alone", "1,000 results", digits=1)},
    place=110,
    facts=_facts,
)
