"""Grids, commands, summaries, results and options of the search against those of hypnettorch."""

import argparse
import csv
import io
import itertools
import os
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hnetfast.hpsearch import _commands, _grid, _results, hpsearch
from hnetfast.hpsearch import hpsearch_config_template as template
from hnetfast.hpsearch._summary import SummaryError, read_summary
from tests.hpsearch.scripts import write_files

pytest.importorskip("hypnettorch")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # differs: The search needs no package `bsub`
    oracle = pytest.importorskip("hypnettorch.hpsearch.hpsearch")
    from hypnettorch.hpsearch import hpsearch_config_template as oracle_template

NAMES = st.sampled_from(["a", "b", "lr", "num_layers"])
VALUES = st.one_of(
    st.integers(-3, 1000),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.none(),
    st.sampled_from(["x", "", "1,2", "relu", '"a b"', "0.1", "sgd_", "path/to:x"]),
)
GRIDS = st.dictionaries(NAMES, st.lists(VALUES, min_size=1, max_size=3), min_size=1, max_size=3)


@given(GRIDS)
def test_combinations(grid):
    assert list(_grid.all_combinations(_grid.check_grid(grid, "out_dir"))) == oracle._grid_to_commands(grid)


@given(GRIDS, st.integers(1, 20), st.integers(0, 2**32 - 1))
@settings(max_examples=10)
def test_picked_combinations(grid, number, seed):
    np.random.seed(seed)
    expected = oracle._grid_to_commands_random_pick(grid, number)
    assert _grid.picked_combinations(_grid.check_grid(grid, "out_dir"), number, seed) == expected


@given(st.dictionaries(NAMES, VALUES, min_size=1))
def test_commands(options):
    oracle._SCRIPT_NAME = "run/train.py"
    expected = oracle._args_to_cmd_str(options, out_dir=None)
    assert _commands.text("run/train.py", options) == expected


# differs: Summaries may have their lines in any order
LINES = st.lists(
    st.tuples(
        st.lists(
            st.one_of(st.integers(0, 10**6).map(str), st.floats(-1e3, 1e3).map("{:.4f}".format)), max_size=4
        ),
        st.sampled_from([" ", ", ", " / "]),
        st.sampled_from(["", "[", "about "]),
    ),
    min_size=2,
    max_size=2,
)


@given(LINES)
def test_summaries(tmp_path_factory, lines):
    folder = tmp_path_factory.getbasetemp()
    keywords = ["acc", "finished"]
    oracle._SUMMARY_FILENAME, oracle._SUMMARY_KEYWORDS = "summary.txt", keywords
    texts = [
        f"{key} {start}{sep.join(numbers)}\n"
        for key, (numbers, sep, start) in zip(keywords, lines, strict=True)
    ]
    (folder / "summary.txt").write_text("".join(texts))
    assert read_summary(folder / "summary.txt", keywords) == oracle._get_performance_summary(str(folder), 0)


def test_a_summary_without_a_keyword(tmp_path):
    """hypnettorch goes by the order of lines, takes a word's beginning for it, and accepts short files."""
    # differs: Summaries may have their lines in any order
    oracle._SUMMARY_FILENAME, oracle._SUMMARY_KEYWORDS = "summary.txt", ["acc", "finished"]
    path = tmp_path / "summary.txt"
    path.write_text("finished 1\nacc 2\n")
    with pytest.raises(ValueError, match="does not appear"):
        oracle._get_performance_summary(str(tmp_path), 0)
    assert read_summary(path, ["acc", "finished"]) == {"acc": ["2"], "finished": ["1"]}
    path.write_text("accuracy 1\n")
    assert oracle._get_performance_summary(str(tmp_path), 0) == {"acc": ["1"]}
    with pytest.raises(SummaryError):
        read_summary(path, ["acc", "finished"])


def actions(parser):
    return {
        action.dest: (
            action.option_strings,
            action.default,
            action.type,
            action.choices,
            action.nargs,
            action.metavar,
        )
        for action in parser._actions
    }


@pytest.mark.parametrize("shown", list(itertools.product([True, False], repeat=3)))
def test_options(shown):
    ours, theirs = argparse.ArgumentParser(), argparse.ArgumentParser()
    hpsearch.hpsearch_cli_arguments(ours, *shown)
    oracle.hpsearch_cli_arguments(theirs, *shown)
    expected = actions(theirs)
    if "grid_module" in expected:  # differs: `--grid_module` has no default
        expected["grid_module"] = (expected["grid_module"][0], "", *expected["grid_module"][2:])
    assert actions(ours) == expected
    assert list(actions(ours)) == list(expected)


def test_the_template():
    names = [
        name for name in vars(oracle_template) if not name.startswith("__") and name.strip("_") != "warn"
    ]
    assert {name for name in names if not hasattr(template, name)} == set()
    for name in ("grid", "conditions", *(name for name in names if name[1:2].isupper())):
        assert getattr(template, name) == getattr(oracle_template, name), name


def run_both(folder, options):
    """Run hypnettorch's search and ours in the same folder; returns what each has written."""
    environment = os.environ | {
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONHASHSEED": "0",
    }
    # Theirs sleeps for a second or so for each run.
    start = (
        "import runpy, sys, time; sleep = time.sleep; time.sleep = lambda s: sleep(min(s, 0.02)); "
        "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
    )
    found = []
    for library in ("hypnettorch", "hnetfast"):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", start, f"{library}.hpsearch.hpsearch",
             "--grid_module=my_config",
             f"--out_dir={library}", "--force_out_dir", "--visible_gpus=-1", *options],
            cwd=folder, env=environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        commands = pickle.loads((folder / library / "commands.pickle").read_bytes())
        for options_of_run in commands:
            options_of_run["out_dir"] = options_of_run["out_dir"].rpartition("_")[2]
        scripts = [
            [line.partition(" --out_dir")[0] for line in (folder / library / name).read_text().splitlines()]
            for name in ("commands.sh", "commands_wo_dirs.sh")
        ]
        rows = list(
            csv.reader(io.StringIO((folder / library / "search_results.csv").read_text()), delimiter=";")
        )
        found.append((commands, [line for s in scripts for line in s if line.startswith("python3")], rows))
    return found


def comparable(rows):
    """Returns the rows without hypnettorch's missing columns and without the time in folders' names."""
    width = sum(column not in _results.EXTRA_COLUMNS for column in rows[0])
    assert all(column in _results.EXTRA_COLUMNS for column in rows[0][width:])
    out_dir = rows[0].index("out_dir")
    return [
        [cell.rpartition("_")[2] if i == out_dir else cell for i, cell in enumerate(row[:width])]
        for row in rows
    ]


SEARCHES = {
    "numbers": ({"x": [1, 2.5, 3], "flag": [False, True]}, [], []),
    "conditions": (
        {"x": [4, 1, 2], "text": ["u", '"v w"'], "flag": [False, True]},
        [
            ({"x": [1, 2], "flag": [True]}, {"text": ["z"], "seconds": [0, 0.01]}),
            ({"text": ["z"]}, {"x": [7]}),
        ],
        ["--num_searches=7"],
    ),
    "picked": (
        {"x": list(range(40)), "text": ["a", "c", "b"]},
        [],
        ["--dont_generate_full_grid", "--num_searches=4"],
    ),
    "in order": (
        {"x": [10, 9, -3, 0.5], "text": ["1"]},
        [],
        ["--deterministic_search", "--random_seed=3"],
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", SEARCHES)
def test_searches(tmp_path, case):
    """Same commands in the same order, and the same results, where hashes are fixed."""
    grid, conditions, options = SEARCHES[case]
    write_files(tmp_path, grid, conditions)
    theirs, ours = run_both(tmp_path, options)
    assert ours[0] == theirs[0]
    assert ours[1] == theirs[1]
    results, expected = comparable(ours[2]), comparable(theirs[2])
    assert sorted(results) == sorted(expected)
    # differs: Runs that are equally good
    best = results[0].index("acc")
    assert [row[best] for row in results] == [row[best] for row in expected]


@given(GRIDS, st.booleans())
def test_order_without_fixed_hashes(grid, shuffle):
    """It is that of the grid, whatever the hashes, and each configuration is there once."""
    found, total = _grid.order(_grid.check_grid(grid, "out_dir"), [], shuffle=shuffle)
    expected = list({_grid.identity(options): options for options in oracle._grid_to_commands(grid)}.values())
    assert len(found) == total == len(expected)
    if shuffle:
        found, expected = (
            {_grid.identity(options) for options in options_of} for options_of in (found, expected)
        )
    assert found == expected


# As pandas reads and writes the results again for each run.
CELLS = st.one_of(
    st.integers(-5, 5), st.floats(-10, 10), st.none(), st.sampled_from(["x", "1,2", "2.50", "3", "1e-3"])
)


@given(st.lists(st.tuples(CELLS, st.sampled_from(["1", "2.5", "-0.50"])), min_size=1, max_size=6))
@settings(max_examples=60)
def test_results_as_pandas_leaves_them(columns):
    pandas = pytest.importorskip("pandas")
    rows, table = [], None
    for i, (value, acc) in enumerate(columns):
        rows.append(_results.make_row({"a": value}, {"acc": [acc], "n": [str(i)]}, "finished", {}))
        new = pandas.DataFrame({"a": [value], "acc": [acc], "n": [str(i)]})
        if table is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)
                new = pandas.concat([pandas.read_csv(io.StringIO(table), sep=";"), new], ignore_index=True)
        table = new.to_csv(sep=";", index=False)
    ours = csv.DictReader(io.StringIO(_results.to_csv(rows, "acc", False)), delimiter=";")
    theirs = {row["n"]: row for row in csv.DictReader(io.StringIO(table), delimiter=";")}
    for row in ours:
        expected = theirs[row["n"]]
        assert {key: row[key] for key in expected} == expected
