"""The search for hyperparameters: what becomes of runs, and of a search that is killed."""

import json
import os
import pickle
import random
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hnetfast.hpsearch import _commands, _gpus, _grid, _results, hpsearch
from hnetfast.hpsearch._config_module import import_config
from hnetfast.hpsearch._summary import SummaryError, read_summary
from tests.hpsearch.scripts import command, environment, rows, search, write_files

MODES = {
    "good": "finished",
    "fail": "failed",
    "hang": "timeout",
    "signal": "killed",
    "nothing": "no_summary",
    "garbage": "no_summary",
    "nan": "no_summary",
    "short": "no_summary",
}


def is_alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_every_run_is_a_row(tmp_path):
    write_files(tmp_path, {"mode": list(MODES)})
    done = search(tmp_path, "--num_cpu_jobs=4", "--timeout=1", cpu=False)
    assert done.returncode == 0, done.stderr
    found = rows(tmp_path)
    assert {row["mode"]: row["hpsearch_state"] for row in found} == MODES
    by_mode = {row["mode"]: row for row in found}
    assert found[0]["mode"] == "good" and found[0]["acc"] == "2.0" and found[0]["finished"] == "1"
    assert by_mode["fail"]["hpsearch_reason"] == "exit code 3"
    assert by_mode["fail"]["hpsearch_log_end"].endswith("no such luck")
    assert "SIGKILL" in by_mode["signal"]["hpsearch_reason"]
    assert "there is no summary file" in by_mode["nothing"]["hpsearch_reason"]
    assert "'acc', 'finished'" in by_mode["garbage"]["hpsearch_reason"]
    assert by_mode["nan"]["acc"] == "nan" and "is nan" in by_mode["nan"]["hpsearch_reason"]
    assert by_mode["short"]["finished"] == "1" and by_mode["short"]["acc"] == ""
    child = int((tmp_path / by_mode["hang"]["out_dir"] / "child").read_text())
    assert not is_alive(child)  # with everything that the run had started
    assert "8/8 done, 0 running, 7 failed, best acc 2 (run" in done.stderr
    threads = Path(tmp_path, by_mode["good"]["hpsearch_log"]).read_text().splitlines()[0]
    assert threads == f"threads {max(1, len(os.sched_getaffinity(0)) // 4)} passive"


def test_files_of_a_search(tmp_path):
    write_files(tmp_path, {"x": [1, 2], "text": ["a b", "it's $HOME", '"c d"'], "flag": [False, True]})
    done = search(tmp_path, OMP_NUM_THREADS="7", OMP_WAIT_POLICY="active", CUDA_VISIBLE_DEVICES="5")
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    found = rows(tmp_path)
    commands = pickle.loads((out / "commands.pickle").read_bytes())
    lines = [line for line in (out / "commands.sh").read_text().splitlines() if line.startswith("python3")]
    assert len(found) == len(commands) == len(lines) == 12
    assert {row["hpsearch_state"] for row in found} == {"finished"}
    assert {row["text"] for row in found} == {"a b", "it's $HOME", '"c d"'}
    logs = {row["out_dir"]: (tmp_path / row["hpsearch_log"]).read_text().splitlines() for row in found}
    meanings = {"a b": "a b", "it's $HOME": "it's $HOME", '"c d"': "c d"}
    for options, line in zip(commands, lines, strict=True):
        executed = logs[options["out_dir"]][-1]
        assert executed == f"argv {shlex.split(line)[2:]}"
        assert f"--text={meanings[options['text']]}" in shlex.split(line)
        run_command = (tmp_path / options["out_dir"] / "hpsearch_command.sh").read_text()
        assert run_command == f"#!/bin/sh\n{line}\n"
    assert all(log[:2] == ["threads 7 active", "gpu 5"] for log in logs.values())  # as the user set them
    # Each line runs as written.
    arguments = subprocess.run(
        ["sh", "-c", lines[0].replace("python3 script.py", "printf '%s\\n'", 1)],
        capture_output=True,
        text=True,
    )
    assert arguments.stdout.splitlines() == shlex.split(lines[0])[2:]
    assert (out / "my_config.py").read_text() == (tmp_path / "my_config.py").read_text()


def test_killed_twenty_times(tmp_path):
    number = 30
    write_files(tmp_path, {"x": list(range(number)), "seconds": [0.1]})
    moments = random.Random(0)
    options, kills = [], 0
    while True:
        process = subprocess.Popen(
            command(*options),
            cwd=tmp_path, env=environment(tmp_path), stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        try:
            # It takes a tenth of a second or so until there is something to be resumed.
            process.wait(moments.uniform(0.04, 0.26) if kills < 20 else 60)
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
        finally:
            process.stderr.close()
        begun = (tmp_path / "out" / "search_results.csv").exists()
        options = ["--resume"] if begun or (tmp_path / "out" / "commands.sh").exists() else ["--force"]
    assert (process.returncode, kills) == (0, 20)
    found = rows(tmp_path)
    assert sorted(float(row["x"]) for row in found) == list(range(number))
    assert {row["hpsearch_state"] for row in found} == {"finished"}, found
    for row in found:
        assert float(row["acc"]) == 2 * float(row["x"])
        assert (tmp_path / row["out_dir"] / "started").read_text() == "once\n"


def test_resuming_takes_over_what_runs(tmp_path):
    write_files(tmp_path, {"x": [1, 2], "seconds": [0.6]})
    process = subprocess.Popen(
        command("--num_cpu_jobs=2", cpu=False),
        cwd=tmp_path, env=environment(tmp_path), stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while len(list((tmp_path / "out").glob("sim_*/started"))) < 2:
        time.sleep(0.01)
    process.kill()
    process.wait()
    done = search(tmp_path, "--num_cpu_jobs=2", "--resume", cpu=False)
    assert done.returncode == 0, done.stderr
    assert [row["hpsearch_state"] for row in rows(tmp_path)] == ["finished"] * 2
    assert all((path / "started").read_text() == "once\n" for path in (tmp_path / "out").glob("sim_*"))
    # Once more: there is nothing left to do.
    before = (tmp_path / "out" / "search_results.csv").read_text()
    assert search(tmp_path, "--resume").returncode == 0
    assert (tmp_path / "out" / "search_results.csv").read_text() == before


def test_interrupting_ends_runs(tmp_path):
    write_files(tmp_path, {"mode": ["hang"]})
    process = subprocess.Popen(
        command(), cwd=tmp_path, env=environment(tmp_path), stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs ignore it
    )  # fmt: skip
    while not (children := list((tmp_path / "out").glob("sim_*/child"))) or not children[0].read_text():
        time.sleep(0.01)
    child = int(children[0].read_text())
    other = search(tmp_path, "--resume")
    assert other.returncode == 1 and "another search is under way" in other.stderr
    process.send_signal(signal.SIGINT)
    assert "--resume" in process.communicate(timeout=30)[1]
    assert not is_alive(child)
    assert rows(tmp_path) == []


def test_a_script_that_does_not_know_an_option(tmp_path):
    write_files(tmp_path, {"x": [1, 2, 3], "unknown": [1]})
    done = search(tmp_path)
    assert done.returncode == 1
    assert "does not know --unknown=1" in done.stderr and "Traceback" not in done.stderr
    (tmp_path / "script.py").write_text(
        (tmp_path / "script.py")
        .read_text()
        .replace("args = ", "parser.add_argument('--unknown')\nargs = ", 1)
    )
    assert search(tmp_path, "--resume").returncode == 0
    assert [row["hpsearch_state"] for row in rows(tmp_path)] == ["finished"] * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--grid_module="], "grid_module: expected the name of a configuration module"),
        (["--grid_module=not_there"], "there is no module 'not_there'"),
        (["--run_cluster", "--scheduler=slurm"], "SLURM"),
        (["--run_cluster", "--timeout=3"], "--num_hours"),
        (["--num_cpu_jobs=2", "--visible_gpus=0"], "num_cpu_jobs"),
        (["--visible_gpus=0,77"], "77"),
        (["--visible_gpus=a"], "visible_gpus: expected numbers"),
        (["--sampler=tpe"], "num_searches"),
        (["--sampler=random", "--num_searches=3", "--dont_generate_full_grid"], "dont_generate_full_grid"),
        (["--num_searches=0"], "num_searches: expected -1"),
        (["--resume", "--force"], "resume"),
        (["--resume"], "no search to be resumed"),
        (["--study=s.db"], "study"),
        (["--grid_config=none.pickle"], "there is no file none.pickle"),
        (["--run_cwd=nowhere"], "there is no folder nowhere"),
        (["--timeout=-1"], "timeout"),
    ],
)
def test_options_that_are_refused(tmp_path, monkeypatch, options, message):
    write_files(tmp_path, {"x": [1]})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.delitem(sys.modules, "my_config", raising=False)
    with pytest.raises((ValueError, RuntimeError, FileNotFoundError), match=message):
        hpsearch.run(["--grid_module=my_config", "--out_dir=out", *options])
    assert not (tmp_path / "out").exists()


def test_a_script_that_is_not_there(tmp_path, monkeypatch):
    write_files(tmp_path, {"x": [1]}, more="_SCRIPT_NAME = 'none.py'\n")
    done = search(tmp_path)
    assert done.returncode == 1 and "there is no script 'none.py'" in done.stderr
    assert not (tmp_path / "out").exists()


def test_existing_folders(tmp_path):
    write_files(tmp_path, {"x": [1]})
    assert search(tmp_path).returncode == 0
    (tmp_path / "out" / "notes.txt").write_text("mine")
    before = (tmp_path / "out" / "search_results.csv").read_bytes()
    refused = search(tmp_path)
    assert refused.returncode == 1 and "--resume" in refused.stderr and "--force" in refused.stderr
    assert (tmp_path / "out" / "search_results.csv").read_bytes() == before
    first = rows(tmp_path)[0]["out_dir"]
    assert search(tmp_path, "--dont_force_new_dir").returncode == 0
    assert (tmp_path / first).exists() and len(rows(tmp_path)) == 1
    assert rows(tmp_path)[0]["out_dir"] != first  # also within the second that names it
    (tmp_path / first / "old").touch()  # the folder's name may be taken anew within a second
    assert search(tmp_path, "--force").returncode == 0
    assert not (tmp_path / first / "old").exists() and len(rows(tmp_path)) == 1
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


def test_a_full_disk(tmp_path, monkeypatch, capsys):
    write_files(tmp_path, {"x": [1, 2, 3]})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    monkeypatch.delitem(sys.modules, "my_config", raising=False)

    def full(*_):
        raise OSError(28, "No space left on device")

    options = ["--grid_module=my_config", "--out_dir=out", "--force_out_dir", "--visible_gpus=-1"]
    with monkeypatch.context() as patch:
        patch.setattr(_results, "write_csv", full)
        hpsearch.run(options)
    assert not (tmp_path / "out" / "search_results.csv").exists()
    assert capsys.readouterr().err.count("No space left") == 1
    assert hpsearch.run([*options, "--resume"]) == "out/search_results.csv"
    assert len(rows(tmp_path)) == 3


def test_gpus(tmp_path, monkeypatch):
    """Runs are assigned to GPUs that are not busy, as nvidia-smi has it."""
    write_files(tmp_path, {"x": [1, 2, 3, 4], "seconds": [0.1]})
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho '0, 10, 100, 1000'\necho '1, 90, 100, 1000'\necho '2, [N/A], 0, 1000'\n")
    smi.chmod(0o755)
    (tmp_path / "pynvml.py").write_text("raise ImportError\n")
    done = search(
        tmp_path, "--sim_startup_time=0", "--visible_gpus=0,1,2", cpu=False, PYTHONPATH=str(tmp_path)
    )
    assert done.returncode == 0, done.stderr
    logs = [(tmp_path / row["hpsearch_log"]).read_text() for row in rows(tmp_path)]
    assert {line for log in logs for line in log.splitlines() if line.startswith("gpu")} == {"gpu 0", "gpu 2"}


def test_gpus_through_pynvml(monkeypatch):
    class NVMLError(Exception):
        pass

    def rates(index):
        if index == 1:  # a part of a GPU
            raise NVMLError
        return SimpleNamespace(gpu=25)

    module = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetMemoryInfo=lambda index: SimpleNamespace(used=1, total=4),
        nvmlDeviceGetUtilizationRates=rates,
    )
    monkeypatch.setitem(sys.modules, "pynvml", module)
    assert _gpus.list_gpus() == [_gpus.Gpu(0, 0.25, 0.25), _gpus.Gpu(1, 0.0, 0.25)]


def test_a_pickled_grid(tmp_path):
    write_files(tmp_path, {"x": [1]})
    grid = {"grid": {"x": [3, 4], "text": ['"a b"']}, "conditions": [({"x": [3]}, {"flag": [True]})]}
    (tmp_path / "grid.pickle").write_bytes(pickle.dumps(grid))
    assert search(tmp_path, "--grid_config=grid.pickle").returncode == 0
    assert {(row["x"], row["flag"]) for row in rows(tmp_path)} == {("3", "True"), ("4", "")}
    (tmp_path / "grid.pickle").write_bytes(pickle.dumps({"grid": os.system}))
    done = search(tmp_path, "--grid_config=grid.pickle", "--force")
    assert done.returncode == 1 and "refers to" in done.stderr


def test_tpe_and_its_dashboard(tmp_path):
    optuna = pytest.importorskip("optuna")
    write_files(
        tmp_path, {"x": [1, 2, 3], "flag": [False, True], "text": ["a"]}, [({"x": [3]}, {"text": ["b", "c"]})]
    )
    options = ["--num_searches=5", "--study=shared.db"]
    first = search(tmp_path, "--sampler=tpe", *options)
    assert first.returncode == 0, first.stderr
    assert [row["hpsearch_state"] for row in rows(tmp_path)] == ["finished"] * 5
    assert all(row["text"] in ("bc" if row["x"] == "3" else "a") for row in rows(tmp_path))
    options[1] = f"--study={tmp_path / 'shared.db'}"
    second = search(tmp_path, "--sampler=random", "--force", *options)
    assert second.returncode == 0, second.stderr
    study = optuna.load_study(study_name="hnetfast", storage=f"sqlite:///{tmp_path / 'shared.db'}")
    good = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    assert len({trial.user_attrs["search"] for trial in good}) == 2
    assert len({trial.user_attrs.get("folder") for trial in good} - {None}) == 10
    assert study.best_value == 2 * study.best_params["x"]
    assert len(pickle.loads((tmp_path / "out" / "commands.pickle").read_bytes())) == 5


def test_pruning(tmp_path):
    optuna = pytest.importorskip("optuna")
    write_files(
        tmp_path,
        {"x": [9, 8, 7, 6, 5, 1], "mode": ["steps"]},
        [({"x": [1]}, {"mode": ["slow"]})],
    )
    # The pruner compares with runs that have ended, of which it wants five.
    options = ["--pruner=median", "--deterministic_search", "--num_cpu_jobs=5", "--timeout=60"]
    done = search(tmp_path, *options, cpu=False)
    assert done.returncode == 0, done.stderr
    states = {row["x"]: row["hpsearch_state"] for row in rows(tmp_path)}
    assert states == dict.fromkeys("98765", "finished") | {"1": "pruned"}
    assert "6/6 done, 0 running, 0 failed" in done.stderr
    study = optuna.load_study(study_name="hnetfast", storage=f"sqlite:///{tmp_path / 'out' / 'study.db'}")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 5 + ["PRUNED"]
    assert study.trials[0].user_attrs["options"] == {"x": 9, "mode": "steps"}


def test_optuna_is_needed_by_samplers_only(tmp_path, monkeypatch):
    write_files(tmp_path, {"x": [1, 2]})
    (tmp_path / "optuna.py").write_text("raise ImportError\n")
    done = search(tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    done = search(tmp_path, "--sampler=tpe", "--num_searches=1", "--force", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1 and "hnetfast[hpsearch]" in done.stderr


def test_the_search_needs_neither_torch_nor_numpy():
    code = "import sys, hnetfast.hpsearch._search as s, json; print(json.dumps(list(sys.modules)))"
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert not {"torch", "numpy", "optuna", "submitit", "pandas"} & set(loaded)


@pytest.mark.parametrize(
    ("grid", "conditions", "message"),
    [
        ({}, [], "at least one option"),
        ({"a": []}, [], "at least one value for 'a'"),
        ({"a": 3}, [], "list of values for 'a'"),
        ({"a": "xy"}, [], "list of values for 'a'"),
        ([1], [], "dictionary"),
        ({"out_dir": ["x"]}, [], "'out_dir' is set by the search"),
        ({"a": [1]}, [({"a": [1]},)], "pair"),
        ({"a": [1]}, [({"a": [1]}, {})], "to be set on the right"),
        ({"a": [1]}, [({"a": [1]}, {"b": []})], "at least one value for 'b'"),
        ({"a": [1]}, {"a": 1}, "list of pairs"),
    ],
)
def test_grids_that_are_refused(grid, conditions, message):
    with pytest.raises(ValueError, match=message):
        _grid.check_conditions(conditions, _grid.check_grid(grid, "out_dir"), "out_dir")


def test_conditions_that_never_hold():
    with pytest.warns(UserWarning, match="number 1 never holds: 'b'"):
        _grid.check_conditions([({"b": [1]}, {"a": [2]})], {"a": [1]}, "out_dir")


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0\n\r"), max_size=12))
def test_a_command_means_the_same_to_a_shell(value):
    options = {"text": value, "flag": True, "no": False, "out_dir": "a b"}
    words = _commands.words("script.py", options)
    line = _commands.text("script.py", options)
    done = subprocess.run(
        ["sh", "-c", line.replace("python3 ", "printf '%s\\0' ", 1)],
        capture_output=True, env={"x": "y", "PATH": "/bin:/usr/bin"}, check=True,
    )  # fmt: skip
    assert done.stdout.decode().split("\0")[:-1] == list(words[1:])


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("acc 2.25e-05", "2.25e-05"),
        ("acc -1", "-1"),
        ("acc: .5", ".5"),
        ("acc nan", "nan"),
        ("acc = -inf", "-inf"),
        ("acc 1E5", "1E5"),
        ("acc 5.", "5"),
        ("acc [1, -2.5]", '"1,-2.5"'),
        ("acc 1-2", '"1,2"'),
        ("acc hello", '""'),
    ],
)
def test_numbers_of_summaries(tmp_path, line, value):
    path = tmp_path / "summary.txt"
    path.write_text(f"finished 1\naccuracy 7\n  {line}\n")
    assert read_summary(path, ["acc", "finished"]) == {"acc": [value], "finished": ["1"]}
    with pytest.raises(SummaryError, match="'loss'") as caught:
        read_summary(path, ["acc", "loss"])
    assert caught.value.values == {"acc": [value]}


def test_configuration_modules(tmp_path, monkeypatch):
    write_files(tmp_path, {"x": [1]}, more="_SUMMARY_KEYWORDS = ['acc']\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_config", raising=False)
    module = import_config("my_config.py")
    with pytest.raises(ValueError, match="'finished' among them"):
        hpsearch._read_config(module)
    module._SUMMARY_KEYWORDS = ["acc", "finished"]
    with pytest.raises(ValueError, match="_ARGPARSE_HANDLE"):
        hpsearch._read_config(module, require_argparse_handle=True)
    module._PERFORMANCE_KEY = "loss"
    with pytest.raises(ValueError, match=r"_PERFORMANCE_KEY.*'loss'"):
        hpsearch._read_config(module)
    module._PERFORMANCE_KEY = None
    hpsearch._read_config(module)
    assert hpsearch._PERFORMANCE_KEY == "acc" and hpsearch._SCRIPT_NAME == "script.py"
    (tmp_path / "performance_overview.txt").write_text("acc 3\nfinished 1\n")
    assert hpsearch._SUMMARY_PARSER_HANDLE(str(tmp_path), 0) == {"acc": ["3"], "finished": ["1"]}


@pytest.mark.parametrize("scheduler", ["slurm", "lsf"])
def test_on_a_cluster(tmp_path, request, scheduler):
    if scheduler == "slurm":
        pytest.importorskip("submitit")
    cluster = request.getfixturevalue(f"fake_{scheduler}")
    cluster.set(held=True)
    write_files(tmp_path, {"x": [1, 2, 3]})
    options = ["--run_cluster", f"--scheduler={scheduler}", "--num_jobs=2"]
    process = subprocess.Popen(
        command(*options, cpu=False),
        cwd=tmp_path, env=environment(tmp_path), stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while len(list((tmp_path / "out" / ".jobs").glob("*/job.sh"))) < 2:
        time.sleep(0.02)
    process.kill()
    process.wait()
    cluster.set(held=False)
    done = search(tmp_path, *options, "--resume", cpu=False)
    assert done.returncode == 0, done.stderr
    assert [(row["acc"], row["hpsearch_state"]) for row in rows(tmp_path)] == [
        ("6.0", "finished"),
        ("4.0", "finished"),
        ("2.0", "finished"),
    ]
    assert all((path / "started").read_text() == "once\n" for path in (tmp_path / "out").glob("sim_*"))
