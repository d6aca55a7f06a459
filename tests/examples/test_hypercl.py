"""The continual-learning example: its figures, its options, and runs that go on after they were killed."""

import json
import os
import pickle
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from hnetfast.examples.hypercl import _results, _run_state, _task_weights, hpsearch_config_hypercl, run
from hnetfast.examples.hypercl._command_line import parse_arguments
from hnetfast.examples.hypercl._task_weights import TaskWeights
from hnetfast.hnets import ChunkedHMLP
from hnetfast.utils import sim_utils
from hnetfast.utils.hnet_regularizer import calc_fix_target_reg, get_current_targets
from tests.data.made_data import write_idx

DIGITS = ["--cl_exp=splitdigits", "--num_tasks=3", "--val_set_size=20", "--val_iter=10"]
DIGITS += ["--no_cuda", "--mlp_arch=20,20", "--hmlp_arch=20", "--chmlp_chunk_size=100"]


class _Writer:
    """Stands for TensorBoard's writer."""

    def __init__(self, folder):
        self.scalars = {}
        _Writer.last = self

    def add_scalar(self, tag, value, step):
        self.scalars.setdefault(tag, []).append((step, value))

    def close(self):
        pass


@pytest.fixture(autouse=True)
def _no_tensorboard(monkeypatch):
    monkeypatch.setattr(sim_utils, "_writer_class", lambda: _Writer)


@pytest.fixture
def _no_figures(monkeypatch):
    monkeypatch.setattr(_results, "save_figure", lambda *args: None)


def _blobs(count, classes, side, channels, seed):
    """Labels ``[n]`` and learnable images ``[n, channels, side, side]``, bytes: blobs placed by class."""
    rand = np.random.RandomState(seed)
    labels = rand.permutation(np.arange(count) % classes)
    grid = int(np.ceil(np.sqrt(classes)))
    centre = (np.stack(np.divmod(np.arange(classes), grid), 1) + 0.5) * side / grid
    at = centre[labels] + rand.normal(0, side / 40, (count, 2))
    axis = np.arange(side) + 0.5
    rows, columns = (np.exp(-(((axis - at[:, d, None]) / (side / 9)) ** 2)) for d in (0, 1))
    images = rows[:, None, :, None] * columns[:, None, None, :]
    colour = np.ones((count, 1))
    if channels > 1:
        colour = np.random.RandomState(7).uniform(0.3, 1, (classes, channels))[labels]
    images = 220 * images * colour[:, :, None, None] + rand.uniform(0, 35, (count, channels, side, side))
    return labels.astype(np.uint8), images.astype(np.uint8)


def _write_mnist(root):
    for name, count, seed in (("train", 2000, 0), ("t10k", 500, 1)):
        labels, images = _blobs(count, 10, 28, 1, seed)
        write_idx(root / "MNIST" / f"{name}-labels-idx1-ubyte.gz", labels)
        write_idx(root / "MNIST" / f"{name}-images-idx3-ubyte.gz", images[:, 0])


def _write_cifar(root):
    for folder, classes, key, counts in (
        ("cifar-10-batches-py", 10, b"labels", (1000, 300)),
        ("cifar-100-python", 100, b"fine_labels", (2000, 500)),
    ):
        (root / folder).mkdir()
        names = [f"class {i}" for i in range(classes)]
        meta = {"num_vis": 3072, "label_names": names, "num_cases_per_batch": counts[0] // 5}
        if classes == 100:
            meta = {"fine_label_names": names, "coarse_label_names": names[:20]}
        labels, images = _blobs(counts[0], classes, 32, 3, 2)
        parts = {f"data_batch_{i + 1}": (labels[i::5], images[i::5]) for i in range(5)}
        parts = parts | {"test_batch": _blobs(counts[1], classes, 32, 3, 3)}
        if classes == 100:
            parts = {"train": (labels, images), "test": parts["test_batch"]}
        for name, (of_part, pictures) in parts.items():
            content = {key: of_part.tolist(), b"data": pictures.reshape(len(pictures), -1)}
            (root / folder / name).write_bytes(pickle.dumps(content, 2))
        meta_name = "batches.meta" if classes == 10 else "meta"
        (root / folder / meta_name).write_bytes(pickle.dumps(meta, 2))


def _check_figures(figures):
    """Number, mean and last value of each tag, to three digits."""
    found = {tag: [value for _, value in pairs] for tag, pairs in _Writer.last.scalars.items()}
    assert list(found) == list(figures)
    for tag, (count, mean, last) in figures.items():
        assert len(found[tag]) == count, tag
        assert [np.mean(found[tag]), found[tag][-1]] == pytest.approx([mean, last], rel=2e-3), tag


def test_figures_of_split_mnist(tmp_path):
    _write_mnist(tmp_path)
    options = "--cl_exp=splitmnist --num_tasks=3 --n_iter=101 --val_iter=50 --val_set_size=50 --no_cuda"
    accuracies = run.run([*options.split(), f"--data_dir={tmp_path}", f"--out_dir={tmp_path / 'run'}"])
    assert accuracies == [[100], [100, 100], [100, 100, 100]]
    _check_figures(
        {
            "eval/task_0/accuracy": (3, 82, 100),
            "train/task_0/loss": (3, 0.354037, 0.00069109),
            "train/task_0/loss_task": (3, 0.354037, 0.00069109),
            "train/task_0/regularizer": (3, 0, 0),
            "train/task_0/accuracy": (3, 25.3333, 32),
            "test/task_0/accuracy": (3, 100, 100),
            "eval/task_1/accuracy": (3, 75.3333, 100),
            "train/task_1/loss": (3, 0.326051, 0.00492248),
            "train/task_1/loss_task": (3, 0.322477, 0.00141475),
            "train/task_1/regularizer": (3, 0.357447, 0.350773),
            "train/task_1/accuracy": (3, 23.3333, 32),
            "test/task_1/accuracy": (2, 100, 100),
            "eval/task_2/accuracy": (3, 82.6667, 100),
            "train/task_2/loss": (3, 0.373484, 0.012199),
            "train/task_2/loss_task": (3, 0.365947, 0.00580109),
            "train/task_2/regularizer": (3, 0.753717, 0.639795),
            "train/task_2/accuracy": (3, 25.6667, 32),
            "test/task_2/accuracy": (1, 100, 100),
        }
    )
    assert (tmp_path / "run" / "accuracies.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("_no_figures")
def test_figures_of_split_cifar(tmp_path):
    _write_cifar(tmp_path)
    options = "--cl_exp=splitcifar --num_classes_per_task=10 --num_tasks=2 --net_type=resnet"
    options += " --resnet_block_depth=1 --n_iter=11 --val_iter=10 --val_set_size=50 --no_cuda"
    run.run([*options.split(), f"--data_dir={tmp_path}", f"--out_dir={tmp_path / 'run'}"])
    _check_figures(
        {
            "eval/task_0/accuracy": (2, 11, 12),
            "train/task_0/loss": (1, 77.1606, 77.1606),
            "train/task_0/loss_task": (1, 77.1606, 77.1606),
            "train/task_0/regularizer": (1, 0, 0),
            "train/task_0/accuracy": (1, 1, 1),
            "test/task_0/accuracy": (2, 9.83333, 10.3333),
            "eval/task_1/accuracy": (2, 9, 6),
            "train/task_1/loss": (1, 6.54033, 6.54033),
            "train/task_1/loss_task": (1, 6.54033, 6.54033),
            "train/task_1/regularizer": (1, 0, 0),
            "train/task_1/accuracy": (1, 3, 3),
            "test/task_1/accuracy": (1, 10, 10),
        }
    )


@pytest.mark.usefixtures("_no_figures")
def test_permuted_mnist_has_ten_classes_a_task(tmp_path, capsys):
    _write_mnist(tmp_path)
    options = "--cl_exp=permmnist --num_tasks=2 --n_iter=2 --net_type=lenet --val_set_size=0 --no_cuda"
    run.run([*options.split(), f"--data_dir={tmp_path}", f"--out_dir={tmp_path / 'run'}"])
    assert json.loads((tmp_path / "run" / "config.json").read_text())["num_classes_per_task"] == 10
    assert not any(tag.startswith("eval") for tag in _Writer.last.scalars)  # there is no validation set
    with pytest.raises(SystemExit):
        parse_arguments(["--cl_exp=permmnist", "--num_classes_per_task=2"])
    assert "--num_classes_per_task: tasks of permmnist have 10 classes" in capsys.readouterr().err


def test_digits_are_learned_where_there_are_no_data(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run.run(["--n_iter=2", "--num_tasks=2", "--out_dir=out/run"])
    assert "no data of MNIST" in capsys.readouterr().out.splitlines()[0]
    assert json.loads(Path("out/run/config.json").read_text())["cl_exp"] == "splitdigits"
    # What was asked for is never replaced by something else.
    assert parse_arguments(["--cl_exp=splitmnist"])[0].cl_exp == "splitmnist"
    assert parse_arguments(["--data_dir=elsewhere"])[0].cl_exp == "splitmnist"
    _write_mnist(tmp_path / "datasets")
    assert parse_arguments([])[0].cl_exp == "splitmnist"


def _outcome(out_dir):
    """All that a run has computed."""
    paths = (out_dir / "checkpoints").glob("run_*")
    newest = max(paths, key=lambda path: int(path.name.split("_")[1]))
    content = torch.load(newest, weights_only=True)
    summary = (out_dir / "performance_overview.txt").read_bytes()
    return _Writer.last.scalars, summary, content["state_dict"], content["mnet"], content["random"]


def _assert_same(first, second):
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    elif isinstance(first, (dict, list, tuple)):
        assert len(first) == len(second)
        pairs = zip(first.items(), second.items(), strict=True) if isinstance(first, dict) else None
        for one, other in pairs or zip(first, second, strict=True):
            _assert_same(one, other)
    else:
        assert first == second


@pytest.mark.usefixtures("_no_figures")
@pytest.mark.parametrize(
    "more",
    [
        "--batchnorm --hnet_reg_batch_size=1 --epochs=3",
        "--hnet_dropout_rate=0.2 --dropout_rate=0.1",
        "--calc_hnet_reg_targets_online --net_type=wrn --wrn_block_depth=1 --wrn_widening_factor=1",
    ],
)
def test_a_run_that_is_stopped_anywhere_ends_with_the_same_numbers(more, tmp_path, monkeypatch):
    options = [*DIGITS, *more.split(), "--n_iter=12"]
    run.run([*options, f"--out_dir={tmp_path / 'whole'}"])
    whole = _outcome(tmp_path / "whole")

    class Stop(Exception):
        pass

    monkeypatch.setattr(_run_state, "_SHARE_OF_TIME", float("inf"))  # a checkpoint in every iteration
    step, left = torch.optim.Adam.step, [0]

    def step_or_stop(*args, **kwargs):
        left[0] -= 1
        if left[0] == 0:
            raise Stop
        return step(*args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", step_or_stop)
    stopped = [f"--out_dir={tmp_path / 'stopped'}", "--resume", "--checkpoint_every=0"]
    for _ in range(3):
        left[0] = random.randint(2, 10)
        with pytest.raises(Stop):
            run.run([*options, *stopped])
    run.run(stopped)  # the options are those of the run
    _assert_same(whole, _outcome(tmp_path / "stopped"))
    run.run(stopped)  # there is nothing left to be done
    _assert_same(whole, _outcome(tmp_path / "stopped"))


@pytest.mark.usefixtures("_no_figures")
def test_a_run_that_is_killed_goes_on(tmp_path):
    options = [*DIGITS, "--n_iter=31"]
    run.run([*options, f"--out_dir={tmp_path / 'whole'}"])
    whole = _outcome(tmp_path / "whole")
    killed = tmp_path / "killed"
    command = [sys.executable, "-m", "hnetfast.examples.hypercl.run", *options, f"--out_dir={killed}"]
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*command, "--checkpoint_every=0"], stdout=subprocess.DEVNULL, env=environment
    ) as process:
        while not list(killed.glob("checkpoints/run_*")) and process.poll() is None:
            time.sleep(0.01)
        process.kill()
    run.run([f"--out_dir={killed}", "--resume"])
    _assert_same(whole, _outcome(killed))


@pytest.mark.usefixtures("_no_figures")
def test_a_broken_checkpoint_is_no_reason_to_start_again(tmp_path, monkeypatch):
    options = [*DIGITS, "--n_iter=3", f"--out_dir={tmp_path / 'run'}"]
    run.run(options)
    whole = _outcome(tmp_path / "run")
    newest = tmp_path / "run" / "checkpoints" / "run_9"
    newest.write_bytes(newest.read_bytes()[:1000])
    with pytest.warns(UserWarning, match="run_9: is no complete checkpoint"):
        run.run([*options, "--resume"])
    _assert_same(whole, _outcome(tmp_path / "run"))


def test_summary_holds_every_keyword_of_the_search(tmp_path):
    _results.write_summary(tmp_path, [], 10, 5, False)
    accuracies = [[90.0], [80.0, 70.0]]
    for rows, finished in (([], False), (accuracies, True)):
        _results.write_summary(tmp_path, rows, 10, 5, finished)
        lines = (tmp_path / hpsearch_config_hypercl._SUMMARY_FILENAME).read_text().splitlines()
        values = {line.split()[0]: [float(value) for value in line.split()[1:]] for line in lines}
        assert list(values) == hpsearch_config_hypercl._SUMMARY_KEYWORDS
        assert values["finished"] == [finished] and all(values.values())
    assert values["acc_final"] == [80, 70] and values["acc_during"] == [90, 70]
    assert values["acc_mean"] == [75] and values["acc_forgotten"] == [5]
    assert values["compression_ratio"] == [0.5]
    assert hpsearch_config_hypercl._PERFORMANCE_KEY in values


def test_search_knows_the_options():
    defaults = vars(hpsearch_config_hypercl._ARGPARSE_HANDLE())
    assert set(hpsearch_config_hypercl.grid) <= set(defaults)
    assert Path(hpsearch_config_hypercl._SCRIPT_NAME).is_file()
    assert defaults["chunk_emb_size"] == "8" and defaults["lr"] == 1e-4


@pytest.mark.parametrize("batch_size", [-1, 2])
@pytest.mark.parametrize("way", ["together", "without generating", "kept"])
def test_each_way_to_the_penalty_gives_the_same(way, batch_size, monkeypatch):
    torch.manual_seed(0)
    hnet = ChunkedHMLP([[7, 3], [5]], 8, chunk_emb_size=4, cond_in_size=3, layers=(6,), num_cond_embs=5)
    if way == "without generating":
        monkeypatch.setattr(_task_weights, "_GENERATED_AT_MOST", 0)
    elif way == "kept":
        monkeypatch.setattr(hnet, "_is_plain", lambda: False)
    task = TaskWeights(hnet, 4, batch_size)
    targets = get_current_targets(4, hnet)
    weights, penalty = task.generate_with_penalty()
    assert penalty == 0
    penalty.backward()
    assert not any(p.grad is not None and p.grad.any() for p in hnet.parameters())
    with torch.no_grad():
        for parameter in hnet.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    np.random.seed(1)
    weights, penalty = task.generate_with_penalty()
    np.random.seed(1)
    expected = calc_fix_target_reg(hnet, 4, targets=targets, batch_size=batch_size)
    parameters = list(hnet.parameters())
    torch.testing.assert_close(penalty, expected)
    for found, wanted in zip(
        torch.autograd.grad(penalty, parameters, allow_unused=True, materialize_grads=True),
        torch.autograd.grad(expected, parameters, allow_unused=True, materialize_grads=True),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted)
    for found, wanted in zip(weights, hnet.forward(cond_id=4), strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.usefixtures("_no_figures")
def test_each_task_has_its_own_statistics_of_batch_normalisation(tmp_path):
    for more, number in (([], 3), (["--bn_no_stats_checkpointing"], 1), (["--bn_no_running_stats"], 0)):
        out_dir = tmp_path / str(number)
        run.run([*DIGITS, "--n_iter=2", "--batchnorm", *more, f"--out_dir={out_dir}"])
        content = torch.load(out_dir / "checkpoints" / "run_6", weights_only=True)
        assert content["num_stats"] == [number, number]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--resume"], "--out_dir of the run that is to go on is needed"),
        (["--epochs=0"], "--epochs: expected a number of at least 1, or -1, got 0"),
        (["--lr=0"], "--lr: expected a positive number"),
        (["--beta=nan"], "--beta: expected a number of at least 0"),
        (["--val_iter=0"], "--val_iter: expected a number of at least 1"),
        (["--test_with_val_set", "--val_set_size=0"], "--test_with_val_set: needs a validation set"),
        (
            ["--batchnorm", "--bn_no_running_stats", "--bn_no_stats_checkpointing"],
            "expected one of them at most",
        ),
    ],
)
def test_options_that_make_no_sense_are_explained(arguments, message, capsys):
    with pytest.raises(SystemExit):
        parse_arguments(["--cl_exp=splitdigits", *arguments])
    assert message in capsys.readouterr().err


@pytest.mark.usefixtures("_no_figures")
def test_a_run_goes_on_with_its_own_options_only(tmp_path, capsys):
    out_dir = tmp_path / "run"
    run.run([*DIGITS, "--n_iter=2", f"--out_dir={out_dir}"])
    with pytest.raises(SystemExit):
        parse_arguments([f"--out_dir={out_dir}", "--resume", "--beta=3"])
    assert "--beta: the run in" in capsys.readouterr().err
    (out_dir / "config.json").write_text('{"beta": "__import__(\'os\')"}')
    with pytest.raises(SystemExit):
        parse_arguments([f"--out_dir={out_dir}", "--resume"])
    assert "which is no option of this script" in capsys.readouterr().err
    (out_dir / "config.json").unlink()
    with pytest.raises(SystemExit):
        parse_arguments([f"--out_dir={out_dir}", "--resume"])
    assert "config.json, the options of the run, is missing" in capsys.readouterr().err
    with pytest.raises(FileExistsError, match="exists"):
        run.run([*DIGITS, f"--out_dir={out_dir}"])
    assert (
        parse_arguments(["--momentum=0.5", "--cl_exp=splitdigits"])[1].notes[0].startswith("--momentum has")
    )
