"""Random seeds gathered by searches that are executed."""

import os
import shlex
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path

import pytest

from hnetfast.hpsearch import gather_random_seeds as gather
from hnetfast.hpsearch import hpsearch_postprocessing
from tests.hpsearch.toy_search import rows, run

TEXT = 'it\'s "a" $b'


@pytest.fixture
def in_process(monkeypatch):
    """Searches that are started run in this process, each in a second of its own, which names its runs."""
    strftime, searches = time.strftime, []

    def later(format, *moment):
        return strftime(format, *(moment or [time.localtime(time.time() + len(searches))]))

    def call(command, env):
        assert command[:3] == [sys.executable, "-m", "hnetfast.hpsearch"]
        searches.append(command)
        gather.hpsearch.run(command[3:])
        return 0

    monkeypatch.setattr(subprocess, "call", call)
    monkeypatch.setattr(time, "strftime", later)


def execute(*options):
    subprocess.run([sys.executable, "toy.py", *options], check=True)


def gathered(folder):
    """The options of all runs in a folder, by seed."""
    options = map(gather.get_single_run_config, gather._runs.run_folders(Path(folder)))
    return {one.random_seed: one for one in options}


def start(*argv, **arguments):
    with pytest.raises(SystemExit) as ended:
        run("--num_seeds=4", "--start_gathering", "--visible_gpus=-1", *argv, **arguments)
    assert ended.value.code == 0


def test_gather_seeds_of_a_run(place, in_process):
    execute("--out_dir=out/base", f"--text={TEXT}", "--num=-3", "--random_seed=1", "--data_random_seed=1")
    start("--run_dir=out/base", "--vary_data_seed")
    found = gathered("out/random_seeds/base")
    assert sorted(found) == [0, 1, 2, 3]
    for seed, options in found.items():
        expected = {"text": TEXT, "num": -3, "note": None, "flag": False, "lr": 0.1, "data_random_seed": seed}
        assert {name: getattr(options, name) for name in expected} == expected
    summary = Path("out/random_seeds/base/seeds_summary_text.txt")
    assert summary.read_text().startswith("acc (mean +/- std): 1.00 +- 0.00\nNumber of seeds: 4 \n")

    # More seeds, later: those that are there stay.
    start("--run_dir=out/base", "--vary_data_seed", "--num_seeds=6", "--config_name=more")
    assert sorted(gathered("out/random_seeds/base")) == [0, 1, 2, 3, 4, 5]
    assert "Number of seeds: 6 \n" in summary.read_text()
    hpsearch_postprocessing.run(["out/random_seeds/base", "--grid_module=toy_config"])
    assert sorted(row["random_seed"] for row in rows(summary.parent)) == list("012345")


def test_gather_seeds_of_the_best_run_of_a_search(place, in_process):
    search = ["--grid_module=toy_config", "--visible_gpus=-1", "--out_dir=out/search", "--force_out_dir"]
    gather.hpsearch.run(search)
    start("--run_dir=out/search")
    [folder] = Path("out/random_seeds").iterdir()
    found = gathered(folder)
    assert sorted(found) == [0, 1, 2, 42]
    assert {options.lr for options in found.values()} == {0.2}
    hpsearch_postprocessing.run(["out/search", "--grid_module=toy_config", "--performance_criteria=1.5"])
    assert [row["lr"] for row in rows(Path("out/search"))] == ["0.2", "0.2", "0.1", "0.1"]
    assert len(os.listdir("out/search/TO_BE_DELETED")) == 2


def test_gather_seeds_of_a_configuration(place, in_process):
    config = Namespace(out_dir="x", random_seed=3, lr=0.3, text=TEXT, flag=True, note=None)
    start(
        config=config, forced_params={"num": 5}, results_dir="seeds", summary_keys=["loss"], summary_precs=1
    )
    [folder] = Path("seeds").iterdir()
    found = gathered(folder)
    assert sorted(found) == [0, 1, 2, 3]
    assert {(one.lr, one.text, one.flag, one.note, one.num) for one in found.values()} == {
        (0.3, TEXT, True, None, 5)
    }
    assert (folder / "seeds_summary_text.txt").read_text().startswith("loss (mean +/- std): -2.0 +- 0.0\n")


def test_the_last_line_starts_the_search_through_a_pipe(place):
    execute("--out_dir=out/base", f"--text={TEXT}")
    environment = os.environ | {"TMPDIR": tempfile.gettempdir(), "OMP_NUM_THREADS": "1"}
    python = shlex.quote(sys.executable)
    command = (
        f"{python} -m hnetfast.hpsearch.gather_random_seeds --grid_module=toy_config --run_dir=out/base "
        "--num_seeds=3 | awk 'END{print}' | xargs bash -c 'echo --grid_module=$0 --grid_config=$1 "
        f"--force_out_dir --dont_force_new_dir --out_dir=$2' | xargs {python} -m hnetfast.hpsearch "
        "--visible_gpus=-1"
    )
    subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], check=True, env=environment)
    found = gathered("out/random_seeds/base")
    assert sorted(found) == [0, 1, 42]
    assert {options.text for options in found.values()} == {TEXT}
