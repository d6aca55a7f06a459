"""Gathering random seeds, and the postprocessing of searches, against hypnettorch."""

import io
import os
import pickle
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tempfile
import warnings
from argparse import ArgumentParser, Namespace
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import pytest

from hnetfast.hpsearch import gather_random_seeds as ours
from hnetfast.hpsearch import hpsearch as our_hpsearch
from hnetfast.hpsearch import hpsearch_postprocessing as our_postprocessing

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it misses a package that nothing here needs
    from hypnettorch.hpsearch import gather_random_seeds as theirs
    from hypnettorch.hpsearch import hpsearch as their_hpsearch

MODULE = """
import argparse
grid = {"lr": [0.1, 0.2], "flag": [False, True]}
conditions = []
_SCRIPT_NAME = "toy.py"
_SUMMARY_FILENAME = "performance_overview.txt"
_SUMMARY_KEYWORDS = ["acc", "loss", "finished"]
_OUT_ARG = "out_dir"
_SUMMARY_PARSER_HANDLE = None
def _performance_criteria(summary, criteria):
    return float(summary["acc"][0]) > criteria
_PERFORMANCE_EVAL_HANDLE = _performance_criteria
_PERFORMANCE_KEY = "acc"
_PERFORMANCE_SORT_ASC = False
def _parse(argv=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--out_dir")
    parser.add_argument("--random_seed", type=int, default=42)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--flag", action="store_true")
    parser.add_argument("--text", default="a b")
    return parser.parse_args(argv)
_ARGPARSE_HANDLE = _parse
"""
CONFIG = Namespace(random_seed=5, out_dir="x/y", lr=0.1, name="n", flag=True, big=-1.5e-9)


def made_run(folder, seed=42, acc="1.5", finished=1, loss="0.5", **options):
    folder = Path(folder)
    folder.mkdir(parents=True)
    values = Namespace(**{"out_dir": str(folder), "random_seed": seed, "lr": 0.1, "text": "a b"} | options)
    (folder / "config.pickle").write_bytes(pickle.dumps(values))
    (folder / "performance_overview.txt").write_text(f"acc {acc}\nloss {loss}\nfinished {finished}\n")


@contextmanager
def inside(folder):
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Two working directories of the same content, for hypnettorch and for hnetfast."""
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "toy_seeds_config.py").write_text(MODULE)
    (modules / "toy_seeds_output.py").write_text(MODULE.replace('"out_dir"', '"output"'))
    for name in ("toy_seeds_config", "toy_seeds_output"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(modules)
    folders = tmp_path / "theirs", tmp_path / "ours"
    for folder in folders:
        (folder / "sub").mkdir(parents=True)
        with inside(folder):
            made_run("out/base")
    return folders


def outcome(module, folder, argv, arguments, monkeypatch, module_name="toy_seeds_config"):
    """Run the script; return what can be seen of it."""
    calls = []
    temporary = folder.with_name(f"{folder.name}_tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(sys, "argv", ["script", f"--grid_module={module_name}", *argv])

    def call(command, **_):
        words = command if isinstance(command, list) else shlex.split(command)
        start = {"python3", "hpsearch.py", sys.executable, "-m", "hnetfast.hpsearch"}
        calls.append(([word for word in words if word not in start], os.getcwd()))
        return 0

    monkeypatch.setattr(theirs, "call", call)
    monkeypatch.setattr(subprocess, "call", call)
    output, ended = io.StringIO(), None
    with inside(folder), redirect_stdout(output), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            module.run(**{name: _copy(value) for name, value in arguments.items()})
        except SystemExit as error:
            ended = error.code
    lines = output.getvalue().splitlines()
    results = folder / "out" / "random_seeds"
    found = {
        "ended": ended,
        "last line": lines[-1] if ended is None else None,
        "calls": [(sorted(words), place) for words, place in calls],
        "grids": {path.name: pickle.loads(path.read_bytes()) for path in temporary.iterdir()},
        "files": sorted(str(path.relative_to(folder)) for path in results.rglob("*")),
        "summaries": [path.read_text() for path in sorted(results.rglob("seeds_summary_text.txt"))],
        "scripts": [path.read_text().splitlines()[:-1] for path in sorted(folder.rglob("*.sh"))],
    }
    return eval(repr(found).replace(str(folder), "PLACE").replace(str(temporary), "TEMPORARY"))


def _copy(value):
    if isinstance(value, Namespace):
        return Namespace(**vars(value))  # differs: `gather_random_seeds.run` leaves
    return value.copy() if isinstance(value, list | dict) else value


def agree(places, argv, arguments, monkeypatch, **more):
    expected = outcome(theirs, places[0], argv, arguments, monkeypatch, **more)
    found = outcome(ours, places[1], argv, arguments, monkeypatch, **more)
    assert found == expected
    return found


@pytest.mark.parametrize(
    "argv",
    [
        "",
        "--num_seeds=3 --vary_data_seed",
        "--num_seeds=60",
        "--seeds_list=1,2,42",
        "--seeds_list=7,8,9",
        "--num_seeds=3 --run_cwd=sub --config_name=foo",
        "--start_gathering",
        "--start_gathering --deterministic_search --dont_generate_full_grid --visible_gpus=0,1 "
        "--allowed_load=.2 --allowed_memory=.25 --sim_startup_time=3 --max_num_jobs_per_gpu=4 --run_cwd=sub",
        "--start_gathering --run_cluster",
        "--start_gathering --run_cluster --hps_resources=abc --resources=def --hps_num_hours=7 --num_jobs=3 "
        "--num_hours=2",
        "--start_gathering --run_cluster --scheduler=slurm",
        "--start_gathering --run_cluster --scheduler=slurm --slurm_mem=9G --slurm_gres=gpu:2 "
        "--slurm_partition=p --slurm_qos=q --slurm_constraint=c --hps_slurm_mem= --hps_num_hours=2",
    ],
)
def test_repetitions_of_a_run(places, monkeypatch, argv):
    for place in places:
        with inside(place):
            shutil.rmtree("out/base")
            made_run("out/base", data_random_seed=42)
    found = agree(places, ["--run_dir=out/base/", *argv.split()], {}, monkeypatch)
    assert found["grids"]


@pytest.mark.parametrize(
    ("argv", "arguments"),
    [
        ("--num_seeds=3", {}),
        ("", {"ignore_kwds": ["lr"], "forced_params": {"name": "a b", "new": 4, "lr": 3}}),
        ("", {"ignore_kwds": ["random_seed"], "forced_params": {"name": '"a b"', "flag": False}}),
        ("--seeds_list=3,1", {"results_dir": "results"}),
    ],
)
def test_a_configuration(places, monkeypatch, argv, arguments):
    agree(places, argv.split(), {"config": CONFIG} | arguments, monkeypatch)


def test_other_names_of_the_output_folder(places, monkeypatch):
    config = Namespace(output="r", out_dir="q", a=1)
    agree(places, [], {"config": config}, monkeypatch, module_name="toy_seeds_output")


@pytest.mark.parametrize(
    "argv",
    [
        "--num_seeds=4",
        "--num_seeds=2",
        "--num_seeds=10",
        "--seeds_list=0,1,2,3,42",
        "--seeds_list=10,11,12,13,14,15",
        "--seeds_list=10,11,12,13 --start_gathering",
    ],
)
@pytest.mark.parametrize("arguments", [{}, {"summary_keys": ["loss", "acc"], "summary_sem": True}])
def test_repetitions_that_are_there(places, monkeypatch, argv, arguments):
    for place in places:
        with inside(place):
            made_run("out/random_seeds/base/s1", seed=3, acc=1.5, loss=-0.25)
            made_run("out/random_seeds/base/s2", seed=0, acc=2.5)
            made_run("out/random_seeds/base/s3", seed=7, acc=9.0, finished=0)
            made_run("out/random_seeds/base/s4", seed=42, acc=3.75, loss=1.0625)
    found = agree(places, ["--run_dir=out/base", *argv.split()], arguments, monkeypatch)
    assert "Number of seeds: 3 " in found["summaries"][0]


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"summary_precs": 0},
        {"summary_keys": ["acc", "loss", "finished"], "summary_precs": [3, 1, 0]},
        {"summary_keys": ["acc", "loss"], "summary_sem": True, "summary_precs": (1, 5)},
        {"summary_keys": []},
    ],
)
def test_summary_of_seeds(places, monkeypatch, arguments):
    for place in places:
        with inside(place):
            for i, acc in enumerate((1.5, 2.25, 3.123456)):
                made_run(f"out/random_seeds/any/{i}", seed=i, acc=acc, loss=100 * acc)
    agree(places, ["--seeds_dir=out/random_seeds/any"], arguments, monkeypatch)


def test_grid_and_conditions_of_plain_options():
    config = Namespace(
        a=1, b=0.5, out_dir="q", random_seed=4, text="x y", empty="", apostrophe="it's", flag=True
    )
    for seeds in ([1, 2], []):
        args = Namespace(vary_data_seed=False)
        expected = theirs.build_grid_and_conditions(args, config, seeds)
        assert ours.build_grid_and_conditions(args, config, seeds) == expected
    args, config.data_random_seed = Namespace(vary_data_seed=True), 3
    expected = theirs.build_grid_and_conditions(args, config, [1, 2])
    assert ours.build_grid_and_conditions(args, config, [1, 2]) == expected


def test_values_that_hypnettorch_passes_as_others():
    """None becomes the text "None", quotes in text are lost."""
    # differs: `gather_random_seeds` leaves options that are None
    args, config = Namespace(vary_data_seed=False), Namespace(none=None, text='a "b" c')
    expected, _ = theirs.build_grid_and_conditions(args, config, [1])
    assert expected == {"none": [None], "text": ['"a "b" c"'], "random_seed": [1]}
    assert shlex.split(expected["text"][0]) == ["a b c"]
    found, _ = ours.build_grid_and_conditions(args, config, [1])
    assert found == {"text": ["'a \"b\" c'"], "random_seed": [1]}


def test_options_of_the_script(monkeypatch):
    def parsed(module):
        parsers = []
        with monkeypatch.context() as patch:
            patch.setattr(ArgumentParser, "parse_args", lambda self, *_: parsers.append(self) or 1 / 0)
            with pytest.raises(ZeroDivisionError):
                module.run()
        return {
            action.option_strings[0]: (
                *(action.dest, action.default, action.type or str),
                *(action.choices and list(action.choices), action.nargs, action.const),
            )
            for action in parsers[0]._actions
        }

    expected, found = parsed(theirs), parsed(ours)
    assert {name: found.get(name) for name in expected} == expected


def test_the_same_errors(places, monkeypatch):
    for argv, arguments in (
        (["--run_dir=nowhere"], {}),
        (["--run_dir=out/base"], {"config": CONFIG}),
        ([], {"config": CONFIG, "ignore_kwds": ["nothing"]}),
        (["--seeds_list=a"], {"config": CONFIG}),
        (["--seeds_dir=sub"], {}),
        (["--seeds_dir=nowhere"], {}),
        (["--seeds_dir=out"], {"summary_keys": ["nothing"]}),
        (["--start_gathering"], {"config": CONFIG, "hpmod_path": "nowhere"}),
    ):
        with pytest.raises((Exception,)) as expected:
            outcome(theirs, places[0], argv, arguments, monkeypatch)
        with pytest.raises(type(expected.value)):
            outcome(ours, places[1], argv, arguments, monkeypatch)
    with inside(places[1]):
        for function in (theirs.get_single_run_config, ours.get_single_run_config):
            with pytest.raises(NotImplementedError):
                function("out")
        for function in (theirs.get_best_hpsearch_config, ours.get_best_hpsearch_config):
            with pytest.raises(FileNotFoundError):
                function("nowhere")


def test_the_best_run_of_a_search_which_hypnettorch_can_not_find(places):
    their_hpsearch._read_config(__import__("toy_seeds_config"))
    our_hpsearch._read_config(__import__("toy_seeds_config"))
    with inside(places[1]):
        # differs: `gather_random_seeds` takes the folder of a search
        with pytest.raises(TypeError):
            theirs.get_best_hpsearch_config("out")
        assert ours.get_best_hpsearch_config("out")[1] == "out/base"


# Postprocessing


def made_search(folder):
    commands = []
    for i, (acc, flag) in enumerate([("9.5", True), ("8.25", False), ("0.5", False), ("-1.5", True)]):
        options = {"lr": i / 10, "flag": flag, "out_dir": f"out/search/sim_{i}"}
        made_run(folder / f"sim_{i}", acc=acc, finished=int(i != 3), **options)
        commands.append(options)
    (folder / "commands.pickle").write_bytes(pickle.dumps(commands))


def postprocessed(folder, run):
    with inside(folder), redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run()
    search = folder / "out" / "search"
    files = {path.name: path.read_bytes() for path in search.iterdir() if path.is_file()}
    moved = sorted(path.name for path in (search / "TO_BE_DELETED").glob("*"))
    jobs = {name: pickle.loads(files.pop(name)) for name in sorted(files) if name.endswith(".pickle")}
    return files, jobs, moved, sorted(path.name for path in search.iterdir())


@pytest.mark.parametrize("criteria", [None, "9"])
def test_postprocessing(places, monkeypatch, criteria):
    argv = ["out/search", "--grid_module=toy_seeds_config"]
    argv += [] if criteria is None else [f"--performance_criteria={criteria}"]
    for place in places:
        made_search(place / "out" / "search")
        if criteria:  # differs: `hpsearch_postprocessing` moves
            summary = place / "out" / "search" / "sim_3" / "performance_overview.txt"
            summary.write_text(summary.read_text().replace("finished 0", "finished 1"))
    monkeypatch.setattr(sys, "argv", ["script", *argv])
    name = "hypnettorch.hpsearch.hpsearch_postprocessing"
    monkeypatch.delitem(sys.modules, name, raising=False)
    expected = postprocessed(places[0], lambda: runpy.run_module(name, run_name="__main__"))
    found = postprocessed(places[1], our_postprocessing.run)
    assert found == expected
    assert found[2] == (["sim_1", "sim_2", "sim_3"] if criteria else [])


def test_what_hypnettorch_moves_without_being_asked(places, monkeypatch):
    """A folder without a summary may be that of a run which has only begun; text is no number."""
    # differs: `hpsearch_postprocessing` moves
    # differs: `hpsearch_postprocessing` sorts by number
    monkeypatch.setattr(sys, "argv", ["script", "out/search", "--grid_module=toy_seeds_config"])
    name = "hypnettorch.hpsearch.hpsearch_postprocessing"
    monkeypatch.delitem(sys.modules, name, raising=False)
    for place in places:
        made_search(place / "out" / "search")
        (place / "out" / "search" / "sim_2" / "performance_overview.txt").unlink()
        summary = place / "out" / "search" / "sim_1" / "performance_overview.txt"
        summary.write_text(summary.read_text().replace("8.25", "10.0"))
    expected = postprocessed(places[0], lambda: runpy.run_module(name, run_name="__main__"))
    found = postprocessed(places[1], our_postprocessing.run)
    assert (expected[2], found[2]) == (["sim_2"], [])
    order = [
        re.findall(r"sim_\d", result[0]["postprocessing_results.csv"].decode())
        for result in (expected, found)
    ]
    assert order == [["sim_0", "sim_1", "sim_3"], ["sim_1", "sim_0", "sim_3"]]
