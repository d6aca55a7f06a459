"""tests/gpu_first.sh: whatever happens to a part is recorded, and the next one runs."""

import os
import time

import pytest

from bench.report import docs_page
from bench.results import Results
from bench.tables import all_tables
from tests import gpu_first
from tests.gpu_first import Part, program

ENVIRONMENT = dict.fromkeys(("date", "commit", "device", "threads", "torch", "hypnettorch"), "")
ENVIRONMENT |= {"uncommitted_changes": False}


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_first, "WORK", tmp_path / "work")


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_every_end_is_recorded_and_the_next_part_runs(tmp_path):
    store = f"{str(tmp_path / 'work' / 'floors.json')!r}"
    measure = f"open({store}, 'w').write('{{\"rows\": {{\"chunked\": []}}}}')"
    sleep = "import time; time.sleep(60)"
    grandchild = f"print(subprocess.Popen([sys.executable, '-c', '{sleep}']).pid, flush=True)"
    todo = [
        Part("good", 60, program("print('fine')")),
        Part("bad", 60, program("print('why')", "raise SystemExit(3)")),
        Part("dead", 60, program("import os, signal", "os.kill(os.getpid(), signal.SIGSEGV)")),
        Part("slow", 2, program("import subprocess, sys", grandchild, sleep)),
        Part("nowhere", 60, ["/no/such/program"]),
        Part("idle", 60, [*program("print('3 skipped')"), "pytest"]),
        Part("elsewhere", 60, why_not="needs two GPUs"),
        Part("floors", 60, program(measure)),
    ]
    assert gpu_first.run_all(todo, "cpu", "A GPU (80 GB)", tmp_path / "results") == 5
    path = tmp_path / "results" / "a-gpu-80-gb-first.json"
    results = Results.load(path)
    ends = {part["part"]: part["status"] for part in results.rows["parts"]}
    assert ends == {
        "good": "passed",
        "bad": "failed",
        "dead": "failed",
        "slow": "out of time",
        "nowhere": "failed",
        "idle": "failed",
        "elsewhere": "not run",
        "floors": "passed",
    }
    parts = results.rows["parts"]
    assert parts[1]["output"] == "why\n" and parts[6]["output"] == "needs two GPUs"
    assert results.environment["torch"] and results.rows["chunked"] == []
    pid = int(parts[3]["output"])
    for _ in range(100):
        if not is_running(pid):
            break
        time.sleep(0.05)
    assert not is_running(pid)
    assert "| slow | out of time |" in docs_page(all_tables(), [("a-gpu", results)])


def test_what_is_known_is_written_after_each_part(tmp_path, monkeypatch):
    def stop(part):
        if part.name == "second":
            raise KeyboardInterrupt
        return {"part": part.name, "status": "passed"}

    monkeypatch.setattr(gpu_first, "run", stop)
    monkeypatch.setattr(gpu_first, "describe_environment", lambda device, name: {"device": name})
    with pytest.raises(KeyboardInterrupt):
        gpu_first.run_all([Part("first", 1), Part("second", 1)], "cpu", "gpu", tmp_path)
    assert [part["part"] for part in Results.load(tmp_path / "gpu-first.json").rows["parts"]] == ["first"]


def test_ten_minutes_are_enough():
    assert sum(part.limit for part in gpu_first.parts()) <= 600
    for part in gpu_first.parts() + gpu_first.dry_parts():
        for word in part.command:
            if word.startswith(("tests/", "bench/")):
                assert (gpu_first.ROOT / word).exists(), word


def test_a_package_that_cannot_be_imported_is_no_obstacle(monkeypatch):
    monkeypatch.setattr(gpu_first, "program", lambda *statements: program("raise ImportError"))
    environment = gpu_first.describe_environment("cuda", "A GPU")
    assert environment["device"] == "A GPU"
    docs_page(all_tables(), [("gpu", Results(environment))])


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([{1: 1.0, 2: 0.9, 4: 0.8}, {1: 1.0, 2: 0.9, 4: 1.3}], 2),
        ([{1: 1.0, 2: 0.99}], 1),  # no clear gain
        ([{2: 0.5}], 1),  # nothing to compare with
        ([{1: 2.0, 2: 1.0}, {1: 1.0, 2: 3.0}], 1),
    ],
)
def test_choice_of_a_sweep(times, expected):
    tiles = pytest.importorskip("bench.tiles", reason="there is no Triton", exc_type=ImportError)
    rows = [{"present": 1, "ms": ms} for ms in times]
    assert tiles.best(rows) == expected
    named = [
        {"field": "repeat_rows", "precision": "ieee", "network": "WRN", "conditions": 10, **row}
        for row in rows
    ]
    page = docs_page(all_tables(), [("gpu", Results(ENVIRONMENT, {"tiles": named}))])
    assert f"| repeat_rows | ieee | WRN | 10 | {min(times[0])}" in page
