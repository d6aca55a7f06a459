"""The benchmark harness: what it times, counts, compares and writes, on the smallest case."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bench import gpu_tables
from bench.cases import DISTINCT_CHUNKED_CASES, ChunkedCase
from bench.harness import check, relative_error
from bench.memory import measure_peaks, peak_bytes
from bench.report import END, START, main, replace_section
from bench.results import Results
from bench.tables import all_tables, format_text, speed_up
from bench.test_bench_chunked_mlp import (
    MODES,
    TABLE,
    Comparison,
    Contender,
    allowed_bytes,
    contenders,
    floor_operations,
)
from hnetfast import _comparison

pytest.importorskip("matplotlib")
_ROOT = Path(__file__).resolve().parents[2]
_SMALLEST = DISTINCT_CHUNKED_CASES[2]  # ResNet-32, '10,10,10,10'


class _Bench:
    """Calls everyone once, and takes what a call took for a millisecond."""

    def time(self, calls, **options):
        for call in calls.values():
            call()
        return {name: [1e-3] for name in calls}

    def add(self, table, durations, peaks, **fields):
        return fields | {"ms": {name: 1e3 * found[0] for name, found in durations.items()}}


@pytest.fixture(scope="module")
def competitors():
    return contenders(_SMALLEST, "cpu", False)


def _measure(competitors, mode, conditions=1):
    comparison = Comparison(_SMALLEST, competitors, conditions, mode, "cpu")
    comparison.check()
    return comparison.measure(_Bench())


def test_operations_of_the_floor():
    def case(layers):
        return ChunkedCase("", "ResNet-32", 10, False, layers, chunk_size=100_000, documented_outputs=0)

    chunks, outputs = 5, 465_290
    assert floor_operations(case(()), 3) == 2 * (chunks + 3) * 32 * 100_000
    hidden = (chunks + 3) * 32 * 7 + 3 * chunks * 7 * 9
    assert floor_operations(case((7, 9)), 3) == 2 * (hidden + 9 * 3 * outputs)


@pytest.mark.parametrize("mode", MODES)
def test_row_of_a_measurement(competitors, mode):
    row = _measure(competitors, mode)
    assert set(row["ms"]) == set(competitors) >= {"hnetfast", "reference"}
    assert row["num_outputs"] == 468_540
    assert (row["floor_ms"] is not None) == (mode == "forward")


@pytest.mark.parametrize("mode", MODES)
def test_wrong_weights_or_gradients_are_found(competitors, mode):
    right = competitors["hnetfast"]
    wrong = Contender(
        lambda ids: 1.001 * right.flat(ids),
        lambda ids: [1.001 * tensor for tensor in right.tensors(ids)],
        right.parameters,
    )
    comparison = Comparison(_SMALLEST, competitors | {"hnetfast": wrong}, 1, mode, "cpu")
    with pytest.raises(AssertionError, match="hnetfast against the reference: tensor 0 differs by 1"):
        comparison.check()


def test_contenders_that_disagree_are_found():
    ones = torch.ones(3)
    assert relative_error(2 * ones, ones) == pytest.approx(1)
    for wrong in (torch.ones(3, 1), torch.tensor([1.0, float("nan"), 1.0])):
        with pytest.raises(AssertionError, match="name: tensor 1 differs by"):
            check([ones, wrong], [ones, ones], 0.1, "name")
    with pytest.raises(ValueError, match="longer"):
        check([ones], [ones, ones], 0.1, "name")


class _SteppedClock:
    """A clock that calls advance."""

    def __init__(self, monkeypatch):
        self.now, self.log = 0.0, []
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def call(self, name, *seconds):
        """A call that takes ``seconds``, the last of them from then on."""
        left = list(seconds)

        def call():
            self.log.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return call


def test_calls_take_turns_after_a_warm_up(monkeypatch):
    clock = _SteppedClock(monkeypatch)
    calls = {"a": clock.call("a", 3.0, 0.25), "b": clock.call("b", 0.5)}
    durations = _comparison.time_in_turns(calls, 1.0)
    assert "".join(clock.log) == "ab" + 3 * "ab"
    assert durations == {"a": [0.25] * 3, "b": [0.5] * 3}
    assert len(_comparison.time_in_turns(calls, 100.0, maximum=7)["a"]) == 7


def test_short_calls_are_repeated_within_a_turn(monkeypatch):
    clock = _SteppedClock(monkeypatch)
    calls = {"a": clock.call("a", 0.5, 0.25), "b": clock.call("b", 2.0)}
    durations = _comparison.time_in_turns(calls, 0.0, minimum=2, turn=1.0)
    assert "".join(clock.log) == "ab" + "a" + 2 * "aaaab"
    assert durations == {"a": [0.25] * 2, "b": [2.0] * 2}


def test_long_calls_are_measured_less_often(monkeypatch):
    clock = _SteppedClock(monkeypatch)
    calls = {"long": clock.call("l", 21.0, 20.0), "short": clock.call("s", 1.0)}
    durations = _comparison.time_in_turns(calls, 0.0)
    assert durations == {"long": [21.0, 20.0], "short": [1.0] * 3}


def peak_of_megabytes(count: int) -> int:
    return peak_bytes(lambda: bytearray(b"\1") * (count << 20))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system does not report memory")
def test_peaks_are_those_of_another_process():
    small, large = measure_peaks(peak_of_megabytes, [(16,), (64,)])
    assert 16 << 20 <= small < 20 << 20
    assert 64 << 20 <= large < 68 << 20


def test_every_benchmark_declares_a_table():
    tables = all_tables()
    assert len(tables) == len(gpu_tables.TABLES) + len(list((_ROOT / "bench").glob("test_bench_*.py")))
    for names in ([t.key for t in tables], [t.title for t in tables], [t.place for t in tables]):
        assert len(set(names)) == len(names)


_NEW_BENCHMARK = """
from bench.tables import Table, field, times

def test_sums(bench):
    calls = {"hnetfast": lambda: sum(range(999)), "slow": lambda: sum(range(9999))}
    bench.add(TABLE, bench.time(calls), what="sums")

TABLE = Table("sums", "Sums", "", {"what": field("what"), **times("hnetfast", "slow")}, place=1)
"""


def test_new_benchmark_is_one_file(tmp_path):
    """Its table, pytest-benchmark's and what is stored are of the same durations: those of the turns."""
    (tmp_path / "test_bench_sums.py").write_text(_NEW_BENCHMARK)
    stored, shown = tmp_path / "stored.json", tmp_path / "shown.json"
    command = [sys.executable, "-m", "pytest", "-p", "bench.conftest", "-p", "no:cacheprovider", tmp_path]
    command += ["--seconds=0", f"--store={stored}", f"--benchmark-json={shown}", f"--rootdir={tmp_path}"]
    finished = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    (row,) = Results.load(stored).rows["sums"]
    (entry,) = json.loads(shown.read_text())["benchmarks"]
    assert row["rounds"] == entry["stats"]["rounds"] == 3
    assert row["ms"]["hnetfast"] == pytest.approx(1e3 * entry["stats"]["median"])
    assert row["ms"]["slow"] > row["ms"]["hnetfast"]
    assert re.search(r"what +hnetfast +slow\nsums +0\.\d+ +0\.\d+\n", finished.stdout)


def test_section_is_replaced_between_its_markers():
    text = f"before\n{START}\nold\n{END}\nafter"
    assert replace_section(text, r"new \1") == f"before\n{START}\nnew \\1\n{END}\nafter"
    for wrong in ("no markers", f"{END}{START}", text + text):
        with pytest.raises(ValueError, match="once each"):
            replace_section(wrong, "new")


def test_report_is_written_from_stored_results(competitors, tmp_path):
    environment = {"date": "2024-01-01", "commit": "abc", "uncommitted_changes": False, "device": "a CPU"}
    results = Results(environment | {"threads": 2, "torch": torch.__version__, "hypnettorch": "0.0.4"})
    rows = [_measure(competitors, mode, count) for mode in MODES[:2] for count in (1, 10)]
    rows[0]["peak_bytes"] = {"hnetfast": 2 * allowed_bytes(rows[0])}
    rows.append({"mode": "forward", "tiny": True, "ms": {"hnetfast": 0.04, "hypnettorch": 0.4}})
    results.rows[TABLE.key] = rows
    results.save(tmp_path / "results" / "a-cpu.json")
    (tmp_path / "README.md").write_text(f"# Title\n{START}\n{END}\n")

    assert main(["--results", str(tmp_path / "results"), "--root", str(tmp_path)]) == 0

    readme, page = (tmp_path / "README.md").read_text(), (tmp_path / "docs" / "benchmarks.md").read_text()
    for text in (readme, page):
        assert "hnetfast 40 µs, hypnettorch 400 µs" in text
        assert "a CPU, 2 threads" in text
    if "hypnettorch" in competitors:
        assert f"(**{speed_up(rows[0]):.1f}×**)" in readme
    for name in ("speed", "time"):
        assert (tmp_path / "docs" / "img" / f"{name}-a-cpu.png").read_bytes().startswith(b"\x89PNG")
    stored = Results.load(tmp_path / "results" / "a-cpu.json").rows[TABLE.key]
    assert "10,10,10,10" in format_text(TABLE, stored)


def test_results_of_another_format_are_refused(tmp_path):
    path = tmp_path / "old.json"
    path.write_text(json.dumps({"format": 1}))
    with pytest.raises(ValueError, match="has format 1, expected 2"):
        Results.load(path)


def test_published_tables_are_those_of_the_stored_results(tmp_path):
    """Nobody types a figure by hand, and what writes the tables has not changed since."""
    (tmp_path / "README.md").write_text(f"{START}\n{END}")
    assert main(["--root", str(tmp_path)]) == 0
    assert (tmp_path / "docs" / "benchmarks.md").read_text() == (_ROOT / "docs" / "benchmarks.md").read_text()
    assert (tmp_path / "README.md").read_text() in (_ROOT / "README.md").read_text()
