"""The postprocessing of searches."""

import os
import pickle
from pathlib import Path

import pytest

from hnetfast._plain_pickle import read_plain_list
from hnetfast.hpsearch import hpsearch_postprocessing
from tests.hpsearch.toy_search import Bomb, made_run, rows


@pytest.fixture
def search(place):
    """The folder of a search with four runs; the last one has not finished."""
    commands = []
    for i, acc in enumerate(["9.5", "10.0", "0.5", "-1.5"]):
        options = {"lr": i / 10, "flag": i == 1, "text": "a b"}
        made_run(f"out/search/sim_{i}", acc=acc, finished=int(i != 3), **options)
        commands.append(options | {"text": '"a b"', "out_dir": f"elsewhere/search/sim_{i}"})
    folder = Path("out/search")
    (folder / "commands.pickle").write_bytes(pickle.dumps(commands))
    return folder


def post(*argv, module="toy_config"):
    hpsearch_postprocessing.run(["out/search", f"--grid_module={module}", *argv])


def jobs(folder, which):
    return read_plain_list(folder / f"postprocessing_{which}_jobs.pickle")


def names(listed):
    return [os.path.basename(row["out_dir"]) for row in listed]


@pytest.mark.parametrize("module", ["toy_config", "toy_config_asc"])
def test_every_run_with_a_summary_is_listed(search, module, capsys):
    post(module=module)
    found = rows(search)
    order = ["sim_1", "sim_0", "sim_2", "sim_3"]  # by number, not by text
    assert names(found) == (order if module == "toy_config" else order[::-1])
    assert found[names(found).index("sim_1")] == {
        "acc": "10.0", "finished": "1", "flag": "True", "loss": "0.5", "lr": "0.1",
        "out_dir": "out/search/sim_1", "text": '"a b"',
    }  # fmt: skip
    assert names(jobs(search, "finished")) == ["sim_0", "sim_1", "sim_2"]
    assert names(jobs(search, "unfinished")) == ["sim_3"]
    assert jobs(search, "missing") == []
    assert not (search / "TO_BE_DELETED").exists()


def test_runs_that_left_no_summary_are_missing_and_stay(search):
    (search / "sim_0" / "performance_overview.txt").unlink()
    for path in (search / "sim_2").iterdir():
        path.unlink()
    (search / "sim_2").rmdir()
    (search / "notes").mkdir()
    with pytest.warns(UserWarning, match="Command") as warned:
        post("--performance_criteria=-100")
    assert sorted(str(warning.message) for warning in warned) == [
        "Command 0 (sim_0) has no summary that can be read.",
        "Command 2 (sim_2) has no folder.",
    ]
    assert names(rows(search)) == ["sim_1", "sim_3"]
    assert names(jobs(search, "missing")) == ["sim_0", "sim_2"]
    assert (search / "sim_0").is_dir() and (search / "notes").is_dir()


def test_runs_of_renamed_folders_and_of_no_command(search):
    (search / "sim_1").rename(search / "my_favourite")
    made_run(search / "first", acc="50", lr=7.0, flag=True, other=3)
    made_run(search / "unfinished", acc="60", lr=8.0, finished=0)
    post()
    assert names(rows(search)) == ["first", "my_favourite", "sim_0", "sim_2", "sim_3"]
    first, favourite, *_ = rows(search)
    assert (first["lr"], first["flag"], first["text"]) == ("7.0", "True", "")
    assert favourite["text"] == '"a b"'
    assert "other" not in first


def test_criteria_move_finished_runs(search):
    post("--performance_criteria=9.9")
    assert sorted(os.listdir(search / "TO_BE_DELETED")) == ["sim_0", "sim_2"]
    assert (search / "sim_1").is_dir()
    assert (search / "sim_3").is_dir()  # it may still run
    assert len(rows(search)) == 4
    # A folder of that name is there already.
    made_run(search / "sim_0", acc="1")
    with pytest.warns(UserWarning, match="sim_2"):
        post("--performance_criteria=9.9")
    assert sorted(os.listdir(search / "TO_BE_DELETED")) == ["sim_0", "sim_0_2", "sim_2"]


def test_earlier_results_are_kept(search):
    post()
    post()
    kept = sorted(path.name for path in search.iterdir() if path.name.startswith("postprocessing_results"))
    assert len(kept) == 2 and kept[0] == "postprocessing_results.csv"


def test_nothing_is_moved_out_of_the_folder(search, place):
    outside = made_run(place / "outside", acc="0")
    for path in (search / "sim_2").iterdir():
        path.unlink()
    (search / "sim_2").rmdir()
    (search / "sim_2").symlink_to(outside)
    with pytest.warns(UserWarning, match="sim_2 stays, since it is a link"):
        post("--performance_criteria=9.9")
    assert os.listdir(search / "TO_BE_DELETED") == ["sim_0"]
    assert (search / "sim_2").is_symlink() and len(os.listdir(outside)) == 2

    (search / "TO_BE_DELETED").rename(place / "kept")
    (search / "TO_BE_DELETED").symlink_to(place / "kept")
    with (
        pytest.warns(UserWarning, match="sim_0"),
        pytest.raises(ValueError, match="TO_BE_DELETED: expected a folder"),
    ):
        post("--performance_criteria=100")
    assert (search / "sim_1").is_dir()


def test_nothing_is_moved_where_criteria_can_not_be_evaluated(search):
    with pytest.raises(ValueError, match="performance_criteria: toy_config_no_criteria has no"):
        post("--performance_criteria=9.9", module="toy_config_no_criteria")
    assert not (search / "postprocessing_results.csv").exists()
    with pytest.warns(
        UserWarning, match=r"sim_2 stays, since the criteria could not be evaluated .ZeroDivision"
    ):
        post("--performance_criteria=9.9", module="toy_config_raises")
    assert os.listdir(search / "TO_BE_DELETED") == ["sim_0"]


def test_results_that_are_no_number_come_last(search):
    text = (search / "sim_1" / "performance_overview.txt").read_text()
    (search / "sim_1" / "performance_overview.txt").write_text(text.replace("10.0", "nan"))
    post()
    assert names(rows(search)) == ["sim_0", "sim_2", "sim_3", "sim_1"]


def test_no_run_has_a_summary(search):
    for i in range(4):
        (search / f"sim_{i}" / "performance_overview.txt").unlink()
    with pytest.warns(UserWarning, match="no summary"):
        post()
    assert rows(search) == []
    assert len(jobs(search, "missing")) == 4


def test_folders_that_are_no_search(search, place, monkeypatch):
    with pytest.raises(FileNotFoundError, match="out_dir: there is no folder nowhere"):
        hpsearch_postprocessing.run(["nowhere", "--grid_module=toy_config"])
    (search / "commands.pickle").write_bytes(pickle.dumps([Bomb(place / "bang")]))
    with pytest.raises(ValueError, match=r"commands.pickle: a list of plain values is expected"):
        post()
    (search / "commands.pickle").write_bytes(pickle.dumps([1]))
    with pytest.raises(ValueError, match=r"commands.pickle: expected a list of dictionaries"):
        post()
    (search / "commands.pickle").unlink()
    with pytest.raises(FileNotFoundError, match=r"no commands.pickle"):
        post()
    assert not (place / "bang").exists()


def test_folders_of_runs_elsewhere(search, place, monkeypatch):
    (place / "sub").mkdir()
    monkeypatch.chdir(place / "sub")
    post("--run_cwd=..")
    assert names(rows(place / "out" / "search")) == ["sim_1", "sim_0", "sim_2", "sim_3"]
    assert os.getcwd() == str(place / "sub")
