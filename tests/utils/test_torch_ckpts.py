"""Checkpoints where hypnettorch fails or loses some: interruptions, broken files, other networks, ties."""

import os
import pickle
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

from hnetfast.utils import torch_ckpts
from hnetfast.utils.torch_ckpts import (
    get_best_ckpt_path,
    load_checkpoint,
    make_ckpt_list,
    save_checkpoint,
)


@pytest.fixture
def net():
    return torch.nn.Linear(3, 2)


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "nets" / "net")


def save(path, net, score=1.0, train_iter=None, **kwargs):
    kwargs.setdefault("timestamp", train_iter or 0)
    save_checkpoint({"state_dict": net.state_dict()}, path, score, train_iter, **kwargs)


def names(path):
    return sorted(os.listdir(os.path.dirname(path)))


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("no space left on device")])
def test_an_interrupted_save_leaves_the_older_ones(path, net, monkeypatch, error):
    for train_iter in (1, 2):
        save(path, net, train_iter=train_iter)
    before = {name: Path(f"{path}_{name}").read_bytes() for name in "12"}
    complete = torch.save

    def interrupted(content, file):
        complete(content, file)
        file.truncate(500)
        raise error

    monkeypatch.setattr(torch, "save", interrupted)
    for train_iter in (2, 3):  # a checkpoint that would be replaced, and one that would displace another
        with pytest.raises(type(error) if isinstance(error, OSError) else error):
            save(path, net, 9, train_iter, max_ckpts_to_keep=1)
    assert names(path) == [".net_meta", "net_1", "net_2"]
    assert before == {name: Path(f"{path}_{name}").read_bytes() for name in "12"}


def test_what_killed_processes_have_left_is_removed_an_hour_later(path, net):
    save(path, net, 1, 1)
    folder = Path(path).parent
    left, fresh, others = (
        folder / ".net_2.abc_1234.part",
        folder / ".net.abcd1235.part",
        folder / ".net.settings",
    )
    for file in (left, fresh, others):
        file.write_bytes(b"half")
    for file in (left, others):
        os.utime(file, (0, 0))
    save(path, net, 1, 2)
    assert not left.exists() and fresh.exists() and others.exists()


def test_rotation_reads_no_tensors(path, net, monkeypatch):
    read, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda path, **kwargs: read.append(kwargs) or load(path, **kwargs))
    for train_iter in range(6):
        save(path, net, train_iter, train_iter, max_ckpts_to_keep=2)
    make_ckpt_list(path)
    assert len(read) > 6 and all(kwargs["mmap"] and kwargs["weights_only"] for kwargs in read)


def test_of_equal_scores_the_oldest_goes_first(path, net):
    for train_iter in range(10):
        save(path, net, 0.5, train_iter, max_ckpts_to_keep=3)
    assert names(path) == [".net_meta", "net_7", "net_8", "net_9"]
    make_ckpt_list(path)
    assert get_best_ckpt_path(path) == f"{path}_9"


def test_without_a_score_a_checkpoint_is_the_worst(path, net):
    for train_iter, score in enumerate([0.1, None, float("nan"), -5, 0.2]):
        save(path, net, score, train_iter, max_ckpts_to_keep=4)
    assert names(path) == [".net_meta", "net_0", "net_2", "net_3", "net_4"]
    make_ckpt_list(path)
    lines = Path(path).with_name("score_list_net.txt").read_text().splitlines()
    assert lines == ["net_4, 0.200000", "net_0, 0.100000", "net_3, -5.000000", "net_2, nan"]
    assert load_checkpoint(f"{path}_3", net, ret_performance_score=True)[1] == -5


def test_a_checkpoint_that_is_replaced_does_not_count(path, net):
    save(path, net, 0.1, 1)
    for _ in range(3):
        save(path, net, 0.5, 2, max_ckpts_to_keep=2)
    assert names(path) == [".net_meta", "net_1", "net_2"]


def test_names_may_begin_likewise(path, net):
    for name in ("net", "net_b", "net.v2", "netz"):
        for train_iter in range(3):
            save(path.removesuffix("net") + name, net, train_iter, train_iter, max_ckpts_to_keep=1)
    save(path, net, 7, 7, max_ckpts_to_keep=1)
    found = [name for name in names(path) if not name.startswith(".")]
    assert found == ["net.v2_2", "net_7", "net_b_2", "netz_2"]


def test_what_is_passed_stays_as_it_is(path, net):
    content = {
        "state_dict": net.state_dict(),
        "accuracies": [np.float64(0.5), np.float32(1)],
        "name": np.str_("a"),
    }
    keys = list(content)
    for train_iter in range(2):
        save_checkpoint(content, path, np.float64(0.5), train_iter)
    assert list(content) == keys
    checkpoint, score = load_checkpoint(f"{path}_1", net, "cpu", True)
    assert list(checkpoint) == keys and score == 0.5
    assert [type(number) for number in checkpoint["accuracies"]] == [np.float64, np.float32]
    assert checkpoint["accuracies"] == content["accuracies"] and checkpoint["name"] == "a"


def test_in_this_folder(net, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save("net", net, 1, 1)
    make_ckpt_list("net")
    assert get_best_ckpt_path("net") == "net_1"
    load_checkpoint("net_1", net)


class _Command:
    def __reduce__(self):
        return os.mkdir, ("made",)


@pytest.mark.parametrize(
    "content", [np.zeros(2), Namespace(lr=0.1), _Command(), np.datetime64("2020-01-01"), np.array([None])[:0]]
)
def test_what_could_not_be_read_is_not_saved(path, net, content):
    save(path, net, 1, 1)
    with pytest.raises(TypeError, match="ckpt_dict"):
        save_checkpoint({"state_dict": net.state_dict(), "more": [content]}, path, 2, 2, 1)
    assert names(path) == [".net_meta", "net_1"]


@pytest.mark.filterwarnings("ignore:Detected pickle protocol", "ignore:net_2")
def test_code_in_a_file_does_not_run(tmp_path, net, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": _Command()}, "net_1")
    with open("net_2", "wb") as file:
        pickle.dump({"state_dict": _Command()}, file)
    for train_iter in (1, 2):
        with pytest.raises(ValueError, match=f"net_{train_iter}"):
            load_checkpoint(f"net_{train_iter}", net)
    with pytest.warns(UserWarning, match=r"mkdir.*left alone"):
        save("net", net, 1, 3)
    assert not os.path.exists("made")


@pytest.mark.parametrize("length", [0, 10, 700, -30])
def test_a_truncated_checkpoint_and_the_one_before_are_named(path, net, length):
    for train_iter in (9, 10):
        save(path, net, -train_iter, train_iter)
    last = Path(f"{path}_10")
    last.write_bytes(last.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"net_10: is no complete checkpoint.*net_9$") as caught:
        load_checkpoint(f"{path}_10", net)
    assert isinstance(caught.value, RuntimeError)
    # Training goes on, and the file stays.
    with pytest.warns(UserWarning, match="net_10: is no complete checkpoint"):
        save(path, net, 5, 11, max_ckpts_to_keep=1)
    assert names(path) == [".net_meta", "net_10", "net_11"]
    with pytest.warns(UserWarning, match="net_10"):
        make_ckpt_list(path)
    assert get_best_ckpt_path(path) == f"{path}_11"


def test_files_of_other_kinds(path, net):
    save(path, net, 1, 1)
    for content, error, message in (
        ([1], ValueError, "list"),
        ({"weight": 1}, KeyError, "state_dict.*weight"),
        ({"state_dict": 3}, KeyError, "state_dict"),
    ):
        torch.save(content, f"{path}_2")
        with pytest.raises(error, match=f"net_2.*{message}.*net_1"):
            load_checkpoint(f"{path}_2", net)
    torch.save({"state_dict": net.state_dict()}, f"{path}_2", _use_new_zipfile_serialization=False)
    assert list(load_checkpoint(f"{path}_2", net)) == ["state_dict"]
    with pytest.raises(KeyError, match=r"net_2.*score"):
        load_checkpoint(f"{path}_2", net, ret_performance_score=True)
    with pytest.raises(FileNotFoundError, match="net_3"):
        load_checkpoint(f"{path}_3", net)
    save(f"{path}x", net)
    os.rename(f"{path}x", f"{path}y")
    Path(f"{path}y").write_bytes(b"")
    with pytest.raises(ValueError, match=r"nety.*no other"):
        load_checkpoint(f"{path}y", net)


def test_another_network_stays_as_it_was(path):
    net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 2))
    other = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    save(path, net)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(RuntimeError, match=r"(?s)nets/net: .*2\.weight.*1\.weight"):
        load_checkpoint(path, other)
    assert all(torch.equal(before[name], value) for name, value in other.state_dict().items())
    load_checkpoint(path, net)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ckpt_dict", [1]),
        ("ckpt_dict", {"weights": 1}),
        ("ckpt_dict", {"state_dict": {}, "_ckpt_internal": {}}),
        ("file_path", ""),
        ("file_path", "folder/"),
        ("file_path", None),
        ("performance_score", "good"),
        ("performance_score", [1]),
        ("performance_score", torch.zeros(2)),
        ("train_iter", "last"),
        ("train_iter", float("nan")),
        ("max_ckpts_to_keep", 0),
        ("max_ckpts_to_keep", None),
        ("keep_cktp_every", 0),
        ("keep_cktp_every", -1),
        ("timestamp", float("inf")),
        ("timestamp", "now"),
    ],
)
def test_bad_arguments(tmp_path, monkeypatch, name, value):
    monkeypatch.chdir(tmp_path)
    arguments = {"ckpt_dict": {"state_dict": {}}, "file_path": "a/b", "performance_score": 1, name: value}
    with pytest.raises(ValueError, match=name):
        save_checkpoint(**arguments)
    assert not os.listdir(tmp_path)


def test_lists_that_are_not_there(path, net, tmp_path):
    with pytest.raises(ValueError, match="folder"):
        make_ckpt_list(path)
    with pytest.raises(ValueError, match="make_ckpt_list"):
        get_best_ckpt_path(path)
    make_ckpt_list(tmp_path / "net")
    with pytest.raises(IndexError, match="no checkpoint"):
        get_best_ckpt_path(tmp_path / "net")
    with pytest.raises(TypeError, match="net"):
        load_checkpoint(path, None)
    save(path, net)
    Path(path).with_name(".net_meta").write_text('{"init_')
    with pytest.raises(ValueError, match=r"\.net_meta"):
        save(path, net, 2)


def test_files_have_the_usual_permissions(path, net):
    save(path, net)
    mask = os.umask(0)
    os.umask(mask)
    assert os.stat(path).st_mode & 0o777 == 0o666 & ~mask


def test_the_name_of_the_internal_entry():
    assert torch_ckpts._INTERNAL_KEY == "_ckpt_internal"
