"""Checkpoints against those of hypnettorch: files, rotation over random histories, lists."""

import json
import os
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hnetfast.utils import torch_ckpts

pytest.importorskip("hypnettorch")
from hypnettorch.utils import torch_ckpts as oracle

HOUR = 3600
BOTH = (torch_ckpts, oracle)


@pytest.fixture(autouse=True, scope="module")
def _disk_may_be_slow():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


# differs: Of checkpoints with equal scores
histories = st.lists(
    st.tuples(
        st.integers(-50, 50).map(lambda score: score / 7),
        st.integers(0, 20).map(lambda tenths: tenths * HOUR / 10 + 7),
        st.sampled_from([1, 2, 2, 3, 5]),
    ),
    min_size=1,
    max_size=12,
    unique_by=lambda entry: entry[0],
)


def save_all(library, folder, history, keep_every, constant):
    timestamp = 1000
    for i, (score, after, n_kept) in enumerate(history):
        timestamp += after
        library.save_checkpoint(
            {"state_dict": {"weight": torch.full((2,), float(i))}, "train_iter": i},
            os.path.join(folder, "nets", "net"),
            score,
            train_iter=i,
            max_ckpts_to_keep=n_kept if constant is None else constant,
            keep_cktp_every=keep_every,
            timestamp=timestamp,
        )


def contents(folder):
    files = {}
    for path in sorted(Path(folder, "nets").iterdir()):
        if path.name.startswith("net"):
            saved = torch.load(path)
            saved["state_dict"] = {name: value.tolist() for name, value in saved["state_dict"].items()}
            files[path.name] = saved
        elif path.name.endswith("meta"):
            files[path.name] = json.loads(path.read_text())
        else:
            files[path.name] = path.read_text()
    return files


@given(histories, st.sampled_from([None, 0.5, 1, 2]), st.sampled_from([None, 1, 3]))
def test_the_same_checkpoints_are_kept(history, keep_every, constant):
    with tempfile.TemporaryDirectory() as ours, tempfile.TemporaryDirectory() as theirs:
        for library, folder in zip(BOTH, (ours, theirs), strict=True):
            save_all(library, folder, history, keep_every, constant)
            assert library.make_ckpt_list(os.path.join(folder, "nets", "net")) is None
        assert contents(ours) == contents(theirs)
        best = [
            os.path.relpath(library.get_best_ckpt_path(os.path.join(folder, "nets", "net")), folder)
            for library, folder in zip(BOTH, (ours, theirs), strict=True)
        ]
        assert best[0] == best[1]


@settings(max_examples=10)
@given(histories, histories, st.booleans())
def test_histories_go_on_in_the_other_library(history, rest, ours_first):
    first, second = BOTH if ours_first else BOTH[::-1]
    history = history + [entry for entry in rest if entry[0] not in [score for score, *_ in history]]
    half = len(history) // 2
    with tempfile.TemporaryDirectory() as mixed, tempfile.TemporaryDirectory() as theirs:
        save_all(first, mixed, history[:half], 1, None)
        timestamp = 1000 + sum(after for _, after, _ in history[:half])
        for i, (score, after, n_kept) in enumerate(history[half:], half):
            timestamp += after
            second.save_checkpoint(
                {"state_dict": {"weight": torch.full((2,), float(i))}, "train_iter": i},
                os.path.join(mixed, "nets", "net"),
                score,
                i,
                n_kept,
                1,
                timestamp,
            )
        save_all(oracle, theirs, history, 1, None)
        assert contents(mixed) == contents(theirs)


@pytest.mark.parametrize("writer", BOTH, ids=["ours", "theirs"])
@pytest.mark.parametrize("device", [None, torch.device("cpu")])
def test_either_reads_what_the_other_wrote(tmp_path, writer, device):
    net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    net[1].running_mean += 2
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.rand(4, 3)).sum().backward()
    optimizer.step()
    writer.save_checkpoint(
        {"state_dict": net.state_dict(), "optimizer": optimizer.state_dict(), "train_iter": 7},
        str(tmp_path / "net"),
        torch.tensor(0.25),
    )
    for reader in BOTH:
        other = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
        checkpoint, score = reader.load_checkpoint(tmp_path / "net", other, device, True)
        assert set(checkpoint) == {"state_dict", "optimizer", "train_iter"}
        assert isinstance(score, torch.Tensor) and score == 0.25
        assert all(
            torch.equal(a, b)
            for a, b in zip(net.state_dict().values(), other.state_dict().values(), strict=True)
        )
        assert set(reader.load_checkpoint(tmp_path / "net", other, device)) == set(checkpoint)
