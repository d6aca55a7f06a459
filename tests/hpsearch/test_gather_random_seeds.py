"""Gathering random seeds."""

import argparse
import json
import os
import pickle
import shlex
import subprocess
import sys
import tempfile
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hnetfast._plain_pickle import read_pickled_namespace
from hnetfast.hpsearch import gather_random_seeds as gather
from tests.hpsearch.toy_search import Bomb, made_run, run


@pytest.fixture
def calls(monkeypatch):
    """The commands that would be executed, each with its folder."""
    commands = []
    monkeypatch.setattr(subprocess, "call", lambda command, env: commands.append((command, os.getcwd())) or 0)
    return commands


def grid_of(name="hpsearch_random_seeds"):
    with open(Path(tempfile.gettempdir()) / f"{name}.pickle", "rb") as file:
        return pickle.load(file)


def read_module(name="toy_config"):
    gather._runs.read_config_module(name)


# The grid


def passed(grid, name):
    """What the script gets for an option."""
    [value] = grid[name]
    [word] = shlex.split(f"--{name}={value}")
    return word.split("=", 1)[1]


TEXTS = [
    "", " ", "a b", "it's", 'say "hi"', '"quoted"', "'quoted'", "$HOME", "`ls`", "\\", "a\\nb", "a\nb", "-1",
    "--x=1", "None", "ä ☃", "*", "~", "!", "#", "a;b", "&", "$(ls) '\" \\",
]  # fmt: skip


def build(seeds=(1, 2), vary_data_seed=False, **options):
    return gather.build_grid_and_conditions(
        Namespace(vary_data_seed=vary_data_seed), Namespace(**options), seeds
    )


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
@settings(max_examples=200)
def test_text_arrives_as_it_was(text):
    assert passed(build(text=text)[0], "text") == text


def test_a_shell_passes_text_as_it_was():
    grid, _ = build(**{f"option{i}": text for i, text in enumerate(TEXTS)})
    words = " ".join(str(grid[f"option{i}"][0]) for i in range(len(TEXTS)))
    done = subprocess.run(["bash", "-c", f"printf '%s\\0' {words}"], capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:-1] == TEXTS


@given(st.one_of(st.integers(), st.floats(allow_nan=False)))
def test_numbers_arrive_as_they_were(number):
    grid, _ = build(number=number)
    assert type(number)(passed(grid, "number")) == number


def test_grid_of_flags_numbers_text_and_none():
    grid, conditions = build(seeds=[3, 4], flag=True, off=False, random_seed=1, name="a", none=None, lr=0.1)
    assert grid == {"flag": [True], "off": [False], "random_seed": [3, 4], "name": ['"a"'], "lr": [0.1]}
    assert list(grid) == ["flag", "off", "random_seed", "name", "lr"]
    assert conditions == []


def test_data_seeds_vary_with_the_seeds():
    grid, conditions = build(vary_data_seed=True, data_random_seed=7)
    assert grid == {"data_random_seed": [7], "random_seed": [1, 2]}
    assert conditions == [
        ({"random_seed": [1]}, {"data_random_seed": [1]}),
        ({"random_seed": [2]}, {"data_random_seed": [2]}),
    ]
    grid, _ = build(vary_data_seed=True, data_random_seed=None)
    assert grid["data_random_seed"] == [1]  # there has to be an option for the conditions to replace
    with pytest.raises(ValueError, match=r"vary_data_seed: .* no data_random_seed"):
        build(vary_data_seed=True, lr=1)


def test_values_that_options_may_not_take():
    with pytest.warns(UserWarning, match=r"layers: \[10, 'a'\] is passed .* forced_params"):
        grid, _ = build(layers=[10, "a"])
    assert passed(grid, "layers") == "[10, 'a']"
    grid, _ = build(number=np.float64(0.5), count=np.int64(3), flag=np.bool_(True))
    assert grid == {"number": [0.5], "count": [3], "flag": [True], "random_seed": [1, 2]}
    assert type(grid["flag"][0]) is bool
    with pytest.raises(ValueError, match=r"text: a command line can't hold 'a\\x00'"):
        build(text="a\0")


# Which seeds


def test_a_configuration(place, capsys):
    config = Namespace(random_seed=5, out_dir="x", lr=0.1, name="n", flag=True)
    ignored, forced = ["flag"], {"lr": 3, "new": "a b", "quoted": '"a b"', "none": None}
    run("--num_seeds=3", config=config, ignore_kwds=ignored, forced_params=forced)
    grid = {"random_seed": [0, 1, 2], "lr": [3], "name": ['"n"'], "new": ['"a b"'], "quoted": ['"a b"']}
    assert grid_of() == {"grid": grid, "conditions": []}
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"toy_config {tempfile.gettempdir()}/hpsearch_random_seeds.pickle"
    # What the caller passed is the caller's.
    assert config == Namespace(random_seed=5, out_dir="x", lr=0.1, name="n", flag=True)
    assert ignored == ["flag"] and len(forced) == 4


def test_the_output_folder_is_no_part_of_the_grid(place):
    run("--num_seeds=1", module="toy_config_out", config=Namespace(output="x", out_dir="y"))
    assert grid_of()["grid"] == {"out_dir": ['"y"'], "random_seed": [0]}
    with pytest.raises(ValueError, match="forced_params: out_dir is set by the search, got 'x'"):
        run(config=Namespace(a=1), forced_params={"out_dir": "x"})
    with pytest.warns(UserWarning, match="random_seed is what varies; 3 is ignored"):
        run("--num_seeds=2", "--config_name=b", config=Namespace(a=1), forced_params={"random_seed": 3})
    assert grid_of("b")["grid"] == {"a": [1], "random_seed": [0, 1]}


@pytest.mark.parametrize(
    ("argv", "arguments", "error", "message"),
    [
        ([], {}, ValueError, "run_dir: expected the folder of a run or a search"),
        (["--run_dir=nowhere"], {}, ValueError, "run_dir: there is no folder 'nowhere'"),
        (["--run_dir=."], {}, RuntimeError, r"\.: a search with finished runs is expected"),
        (["--run_dir=x"], {"config": Namespace()}, ValueError, "run_dir: expected none"),
        ([], {"config": {"a": 1}}, TypeError, "config: expected the namespace that parse_args"),
        ([], {"config": Namespace(), "ignore_kwds": ["a"]}, AttributeError, "ignore_kwds: .* no option 'a'"),
        ([], {"config": Namespace(a=1), "ignore_kwds": "a"}, TypeError, "ignore_kwds: expected a list"),
        (["--num_seeds=0"], {"config": Namespace()}, ValueError, "num_seeds: .* positive number, got 0"),
        (["--seeds_list=1,a"], {"config": Namespace()}, ValueError, "seeds_list: expected integers.* '1,a'"),
        (["--seeds_list=,"], {"config": Namespace()}, ValueError, "seeds_list: expected integers.* ','"),
        (["--config_name=a/b"], {"config": Namespace()}, ValueError, "config_name: .* got 'a/b'"),
        ([], {"config": Namespace(), "hpmod_path": "nowhere"}, FileNotFoundError, "hpmod_path: .* nowhere"),
        ([], {"config": Namespace(), "summary_keys": "acc"}, TypeError, "summary_keys: .* got 'acc'"),
        ([], {"config": Namespace(), "summary_precs": [1, 2]}, ValueError, r"summary_precs: .* \[1, 2\]"),
        ([], {"config": Namespace(), "summary_precs": -1}, ValueError, "summary_precs: .* -1"),
        ([], {"config": Namespace(), "summary_precs": 1.0}, TypeError, "summary_precs: .* 1.0"),
        (["--seeds_dir=nowhere"], {}, FileNotFoundError, "nowhere"),
    ],
)  # fmt: skip
def test_bad_input_of_the_script(place, argv, arguments, error, message):
    with pytest.raises(error, match=message):
        run(*argv, **arguments)
    assert os.listdir(tempfile.gettempdir()) == []
    assert not (place / "out").exists()


def test_a_configuration_module_is_needed(place):
    with pytest.raises(ValueError, match=r"grid_module: .* got none"):
        gather.run(argv=[], config=Namespace(a=1))
    with pytest.raises((ModuleNotFoundError, ValueError), match="no_such_module"):
        run(module="no_such_module", config=Namespace(a=1))
    gather.run(argv=["--num_seeds=1"], grid_module="toy_config", config=Namespace(a=1))
    assert grid_of()["grid"]["a"] == [1]


def test_seeds_of_a_list_are_run_once(place):
    with pytest.warns(UserWarning, match="seeds_list: '5,3,5' has seeds more than once"):
        run("--seeds_list=5,3,5", config=Namespace(a=1))
    assert grid_of()["grid"]["random_seed"] == [5, 3]


@pytest.mark.parametrize(
    ("argv", "seeds"),
    [
        (["--num_seeds=4"], [0, 1, 2]),
        (["--num_seeds=44"], [*range(42), 43]),
        (["--seeds_list=7,42,8"], [7, 8]),
        (["--seeds_list=7,8,9"], [7, 8]),
    ],
)
def test_a_run_is_its_own_first_repetition(place, capsys, argv, seeds):
    base = made_run("out/base", note=None, text="a b")
    (base / "link").symlink_to("performance_overview.txt")
    run("--run_dir=out/base/", *argv)
    assert grid_of()["grid"] == {"random_seed": seeds, "lr": [0.1], "text": ['"a b"']}
    out_dir = place / "out" / "random_seeds" / "base"
    copied = sorted(path.name for path in (out_dir / "base").iterdir())
    assert copied == ["config.pickle", "link", "performance_overview.txt"]
    assert os.listdir(out_dir) == ["base"]
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"toy_config {tempfile.gettempdir()}/hpsearch_random_seeds.pickle {out_dir}"


def test_a_run_that_has_not_finished_is_repeated(place, capsys):
    made_run("out/base", finished=0, seed=1)
    with pytest.warns(UserWarning, match="base: the run has not finished"):
        run("--run_dir=out/base", "--num_seeds=3")
    assert grid_of()["grid"]["random_seed"] == [0, 1, 2]
    assert not Path("out/random_seeds").exists()
    assert len(capsys.readouterr().out.splitlines()[-1].split()) == 2


def test_repetitions_that_are_there_count(place, capsys):
    made_run("out/base")
    folder = Path("results/base")
    made_run(folder / "a", seed=3, acc=1)
    made_run(folder / "b", seed=42, acc=2)
    made_run(folder / "c", seed=1, acc=3, finished=0)
    with pytest.warns(UserWarning, match="c: the run has not finished"):
        run("--run_dir=out/base", "--num_seeds=5", results_dir="results")
    assert grid_of()["grid"]["random_seed"] == [0, 1, 2]
    assert "acc (mean +/- std): 1.50 +- 0.50\n" in (folder / "seeds_summary_text.txt").read_text()
    assert not (folder / "base").exists()

    capsys.readouterr()
    with pytest.warns(UserWarning, match="c: the run"), pytest.raises(SystemExit) as ended:
        run("--run_dir=out/base", "--seeds_list=7,8", results_dir="results")
    assert ended.value.code == 0
    with pytest.warns(UserWarning, match="c: the run"):
        run("--run_dir=out/base", "--seeds_list=7,8,9,3", "--config_name=b", results_dir="results")
    assert "Seed 9 is left out, since seed 42 has been gathered already." in capsys.readouterr().out
    assert grid_of("b")["grid"]["random_seed"] == [7, 8]


def test_one_seed_is_there_already(place):
    made_run("out/base")
    with pytest.raises(SystemExit) as ended:
        run("--run_dir=out/base", "--num_seeds=1")
    assert ended.value.code == 0
    assert Path("out/random_seeds/base/base/config.pickle").is_file()


def test_repetitions_of_another_run_of_that_name(place):
    made_run("out/base")
    made_run("other/base", lr=0.7)
    run("--run_dir=out/base")
    run("--run_dir=out/base")
    with pytest.raises(ValueError, match=r"results_dir: .* repetitions of another run called base"):
        run("--run_dir=other/base", "--config_name=b")


def test_repetitions_can_not_be_in_the_run(place):
    made_run("out/base")
    with pytest.raises(ValueError, match=r"results_dir: .* is in the folder of the run"):
        run("--run_dir=out/base", results_dir="out/base/seeds")
    assert len(os.listdir("out/base")) == 2


def test_a_run_without_a_seed(place):
    made_run("out/base")
    Path("out/base/config.pickle").write_bytes(pickle.dumps(Namespace(lr=1)))
    with pytest.raises(AttributeError, match="base: the run's options have no random_seed"):
        run("--run_dir=out/base")
    assert not Path("out/random_seeds").exists()


def test_the_grid_of_another_gathering_stays(place, monkeypatch):
    made_run("out/base")
    run("--num_seeds=2", config=Namespace(a=1))
    run("--num_seeds=2", config=Namespace(a=1))  # the same
    with pytest.raises(FileExistsError, match=r"config_name: .*hpsearch_random_seeds.pickle exists"):
        run("--num_seeds=3", "--run_dir=out/base")
    assert grid_of()["grid"]["a"] == [1]
    assert not Path("out/random_seeds").exists()
    source, sink = os.pipe()
    os.write(sink, b"y\n")
    with os.fdopen(source) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        run("--num_seeds=3", "--run_dir=out/base")
    os.close(sink)
    assert grid_of()["grid"]["lr"] == [0.1]


# Reading runs and searches


def test_options_are_read_from_a_pickle_of_plain_values_only(place):
    values = {"a": 1, "b": [1, "x"], "c": None, "d": (True, 0.5), "e": {"f": {1}}, "out_dir": "o"}
    folder = made_run("out/base")
    (folder / "config.pickle").write_bytes(pickle.dumps(Namespace(**values)))
    assert gather.get_single_run_config("out/base") == Namespace(**values)
    for bad in (Namespace(a=Bomb(place / "bang")), Bomb(place / "bang"), Namespace(a=Namespace), {"a": 1}, 3):
        (folder / "config.pickle").write_bytes(pickle.dumps(bad))
        with pytest.raises(ValueError, match=r"config.pickle: .* expected"):
            gather.get_single_run_config(folder)
    (folder / "config.pickle").write_bytes(pickle.dumps(Namespace(a=1))[:-5])
    with pytest.raises(ValueError, match=r"config.pickle: a namespace of plain values is expected"):
        gather.get_single_run_config(folder)
    assert not (place / "bang").exists()


def test_a_pickle_can_not_change_the_class_of_namespaces(tmp_path):
    # Namespace, then a state of slots that is set on the class itself.
    content = b"\x80\x02cargparse\nNamespace\nN}X\x03\0\0\0badK\x01s\x86b."
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match="Namespace is expected"):
        read_pickled_namespace(tmp_path / "file")
    assert not hasattr(argparse.Namespace, "bad")


def test_options_are_read_from_json_where_the_pickle_is_missing_or_refused(place):
    folder = made_run("out/base")
    (folder / "config.json").write_text(json.dumps({"a": 1, "random_seed": 2}))
    (folder / "config.pickle").write_bytes(pickle.dumps(Bomb(place / "bang")))
    with pytest.warns(UserWarning, match=r"The options are read from .*config.json instead"):
        assert gather.get_single_run_config(folder) == Namespace(a=1, random_seed=2)
    (folder / "config.pickle").unlink()
    assert gather.get_single_run_config(folder) == Namespace(a=1, random_seed=2)
    for text in ("[1]", "{"):
        (folder / "config.json").write_text(text)
        with pytest.raises(ValueError, match=r"config.json: the options of a run are expected"):
            gather.get_single_run_config(folder)
    (folder / "config.json").unlink()
    with pytest.raises(NotImplementedError, match=r"found no config.pickle or config.json"):
        gather.get_single_run_config(folder)


@pytest.mark.parametrize(("module", "best"), [("toy_config", "e"), ("toy_config_asc", "c")])
def test_the_best_run_of_a_search(place, module, best):
    for name, acc, finished in (
        ("a", "nan", 1),
        ("b", "9.5", 1),
        ("c", "-2", 1),
        ("d", "99", 0),
        ("e", "10", 1),
    ):
        made_run(f"out/search/{name}", acc=acc, finished=finished, text=name)
    Path("out/search/f").mkdir()
    made_run("out/search/.hidden", acc="1000")
    read_module(module)
    config, folder = gather.get_best_hpsearch_config("out/search")
    assert (config.text, folder) == (best, f"out/search/{best}")
    run("--run_dir=out/search", "--num_seeds=3", module=module)
    assert grid_of()["grid"]["text"] == [f'"{best}"']
    assert Path(f"out/random_seeds/{best}/{best}/config.pickle").is_file()


def test_a_search_without_a_best_run(place):
    read_module()
    made_run("out/search/a", acc="nan")
    made_run("out/search/b", finished=0)
    with pytest.raises(RuntimeError, match="out/search: a search with finished runs is expected"):
        gather.get_best_hpsearch_config("out/search")
    with pytest.raises(FileNotFoundError):
        gather.get_best_hpsearch_config("out/nowhere")
    made_run("out/search/c", config=False)
    with pytest.raises(NotImplementedError, match="c: a run's folder is expected"):
        gather.get_best_hpsearch_config("out/search")


# The summary of seeds


def test_summary_of_seeds(place):
    read_module()
    for i, (acc, loss) in enumerate([("1.5", "100"), ("2.25", "0.5"), ("3.123456", "-2e-3")]):
        made_run(f"seeds/r{i}", seed=10 * i, acc=acc, loss=loss)
    (Path("seeds") / "file").write_text("no run")
    assert gather.write_seeds_summary("seeds", ["acc", "loss"], False, [3, 1]) is None
    assert Path("seeds/seeds_summary_text.txt").read_text() == (
        "acc (mean +/- std): 2.291 +- 0.663\n"
        "loss (mean +/- std): 33.5 +- 47.0\n"
        "Number of seeds: 3 \n\n"
        "Publication tables style: \n"
        "['acc', 'loss'] \n"
        "2.291 $\\pm$  0.663  & 33.5 $\\pm$  47.0  \n\n"
    )
    seeds = gather.write_seeds_summary("seeds", ["acc"], True, None, ret_seeds=True, seeds_summary_fn="s.txt")
    assert seeds == [0, 10, 20]
    assert Path("seeds/s.txt").read_text().startswith("acc (mean +/- sem): 2.29 +- 0.38\nNumber of seeds: 3")
    with pytest.raises(SystemExit) as ended:
        run("--seeds_dir=seeds", summary_keys=["loss"], summary_sem=True, summary_precs=0)
    assert ended.value.code == 0
    assert Path("seeds/seeds_summary_text.txt").read_text().startswith("loss (mean +/- sem): 33 +- 27\n")


def test_runs_that_do_not_count(place):
    read_module()
    made_run("seeds/a", acc="2")
    made_run("seeds/b", finished=0)
    Path("seeds/c").mkdir()
    with pytest.warns(UserWarning, match="count") as warned:
        assert gather.write_seeds_summary("seeds", ["acc"], False, None, ret_seeds=True) == [42]
    assert sorted(str(warning.message).split(":")[0] for warning in warned) == ["seeds/b", "seeds/c"]
    made_run("others/d", acc="nan")
    with pytest.warns(UserWarning, match="others/d: acc is NaN"):
        gather.write_seeds_summary("others", ["acc"], False, None)
    assert "acc (mean +/- std): nan +- nan\n" in Path("others/seeds_summary_text.txt").read_text()


def test_summaries_that_lack_something(place):
    read_module()
    folder = made_run("seeds/a")
    with pytest.raises(KeyError, match=r"seeds/a: the summary has no 'f1', it has acc, loss, finished"):
        gather.write_seeds_summary("seeds", ["f1"], False, None)
    with (
        pytest.warns(UserWarning, match="no summary"),
        pytest.raises(RuntimeError, match="seeds: finished runs are expected"),
    ):
        gather.write_seeds_summary("seeds", ["acc"], False, None, summary_fn="other.txt")
    (folder / "performance_overview.txt").rename(folder / "other.txt")
    gather.write_seeds_summary("seeds", ["acc"], False, None, summary_fn="other.txt")
    with pytest.raises(FileNotFoundError):
        gather.write_seeds_summary("nowhere", ["acc"], False, None)
    read_module("toy_config_reader")
    (folder / "numbers.json").write_text('{"acc": "high", "finished": 1}')
    with pytest.raises(
        ValueError, match="seeds/a: the summary's 'acc' is expected to be a number, is 'high'"
    ):
        gather.write_seeds_summary("seeds", ["acc"], False, None)
    (folder / "numbers.json").write_text('{"acc": 1}')
    with pytest.raises(KeyError, match="no 'finished'"):
        gather.write_seeds_summary("seeds", ["acc"], False, None)
    assert (
        (folder.parent / "seeds_summary_text.txt").read_text().startswith("acc (mean +/- std): 1.50 +- 0.00")
    )


# Commands


def test_commands_of_searches(place, calls, capfd):
    made_run("out/base")
    with pytest.raises(SystemExit) as ended:
        run("--run_dir=out/base", "--num_seeds=3", "--start_gathering", "--visible_gpus=0,1", "--run_cwd=.")
    assert ended.value.code == 0
    [(command, folder)] = calls
    assert command[:3] == [sys.executable, "-m", "hnetfast.hpsearch"]
    assert set(command[3:]) == {
        "--grid_module=toy_config",
        f"--grid_config={tempfile.gettempdir()}/hpsearch_random_seeds.pickle",
        "--run_cwd=.",
        f"--out_dir={place}/out/random_seeds/base",
        "--force_out_dir",
        "--dont_force_new_dir",
        "--visible_gpus=0,1",
        "--allowed_load=0.500000",
        "--allowed_memory=0.500000",
        "--sim_startup_time=60",
        "--max_num_jobs_per_gpu=1",
    }
    assert folder == str(place)
    assert "acc (mean" in (place / "out/random_seeds/base/seeds_summary_text.txt").read_text()


def test_the_results_of_a_configuration_go_where_they_should(place, calls):
    (place / "sub").mkdir()
    for _ in range(2):
        calls.clear()
        start = ["--num_seeds=2", "--start_gathering", "--run_cwd=sub", "--config_name=mine"]
        with pytest.raises(FileNotFoundError):  # nothing was executed
            run(*start, config=Namespace(a=1), results_dir="results", hpmod_path="sub")
        [(command, folder)] = calls
        [out_dir] = [word.split("=")[1] for word in command if word.startswith("--out_dir=")]
        assert out_dir.startswith(f"{place}/sub/results/mine_")
        assert folder == f"{place}/sub"
        assert os.getcwd() == str(place)


def test_a_search_that_fails(place, monkeypatch, capsys):
    made_run("out/base")
    monkeypatch.setattr(subprocess, "call", lambda command, env: 3)
    with pytest.raises(SystemExit) as ended:
        run("--run_dir=out/base", "--start_gathering")
    assert ended.value.code == 3
    assert "failed with exit code 3" in capsys.readouterr().out
    assert Path("out/random_seeds/base/seeds_summary_text.txt").is_file()
    with pytest.raises(SystemExit) as ended:
        run("--start_gathering", "--config_name=b", config=Namespace(a=1))
    assert ended.value.code == 3


def test_commands_of_searches_on_clusters(place, calls):
    made_run("out/base")
    start = ["--run_dir=out/base", "--start_gathering", "--run_cluster", "--num_jobs=3", "--hps_num_hours=7"]
    with pytest.raises(SystemExit):
        run(*start, "--run_cwd=a b", "--num_seeds=3", results_dir=str(place / "results"))
    [(command, _)] = calls
    assert command[:10] == [
        *("bsub", "-n", "1", "-W", "7:00", "-e", "random_seeds.err", "-o", "random_seeds.out", "-R"),
    ]  # fmt: skip
    assert command[10] == "rusage[mem=8000]"
    inner = shlex.split(" ".join(command[11:]))  # bsub joins the words for a shell
    assert inner[:3] == [sys.executable, "-m", "hnetfast.hpsearch"]
    assert "--run_cwd=a b" in inner and "--num_searches=2" in inner and "--num_jobs=3" in inner
    assert "--resources=rusage[mem=8000, ngpus_excl_p=1]" in inner

    calls.clear()
    (place / "sub").mkdir()
    more = [
        "--scheduler=slurm",
        "--slurm_mem=9G",
        "--slurm_partition=gpu",
        "--hps_slurm_mem=3G",
        "--config_name=b",
    ]
    with pytest.raises(SystemExit):
        run(*start, *more, "--num_seeds=4", results_dir=str(place / "results"), hpmod_path="sub")
    assert calls == [(["sbatch", "random_seeds_script.sh"], f"{place}/sub")]
    *lines, command = (place / "sub" / "random_seeds_script.sh").read_text().splitlines()
    assert "#SBATCH --mem 3G" in lines and "#SBATCH --time 7:00:00" in lines
    assert "#SBATCH --gres gpu:0" in lines and "#SBATCH --partition gpu" in lines
    words = shlex.split(command)
    assert {
        "--run_cluster",
        "--scheduler=slurm",
        "--slurm_mem=9G",
        "--slurm_gres=gpu:1",
        "--slurm_qos=",
    } < set(words)
    assert "--num_searches=3" in words


def test_options_of_the_search_are_passed_on_where_they_are_given():
    args = gather.seeds_parser().parse_args(["--grid_module=m", "--num_searches=2", "--random_seed=7"])
    assert {"--num_searches=2", "--random_seed=7"} < set(shlex.split(gather.get_hpsearch_call(args, 5, "g")))
    args = gather.seeds_parser().parse_args(["--grid_module=m"])
    assert "num_searches" not in gather.get_hpsearch_call(args, 5, "g")
    assert "out_dir" not in gather.get_hpsearch_call(args, 5, "g")
