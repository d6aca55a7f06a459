"""The continual-learning example, SplitMNIST with three tasks: ``pytest bench/test_bench_hypercl.py``.

Ours is the command with all that it does: it logs, evaluates, draws a figure and saves checkpoints. The other
side is a plain loop with the same networks, data, steps and evaluations and nothing else, with hypnettorch's
classes, since its own example is not part of its package.
"""

from __future__ import annotations

import contextlib
import importlib
import io

import pytest
import torch
from torch.nn import functional as F

from bench.tables import Table, field, times, times_as_fast
from hnetfast._comparison import import_hypnettorch, libraries
from hnetfast.examples.hypercl import run
from hnetfast.examples.hypercl._task_weights import TaskWeights
from tests.data.made_data import write_mnist

_NUM_TASKS, _ITERATIONS, _BATCH = 3, 500, 32
_OPTIONS = f"--cl_exp=splitmnist --num_tasks={_NUM_TASKS} --n_iter={_ITERATIONS} --no_cuda --force"


@pytest.fixture
def folder(tmp_path):
    write_mnist(tmp_path / "MNIST", (6000, 1000))
    return tmp_path


def _networks(library: str):
    """The networks of the example's default options."""
    torch.manual_seed(42)
    mnet = importlib.import_module(f"{library}.mnets").MLP(
        n_in=784, n_out=2, hidden_layers=[100, 100], no_weights=True, verbose=False
    )
    hnet = importlib.import_module(f"{library}.hnets").ChunkedHMLP(
        mnet.param_shapes,
        750,
        chunk_emb_size=8,
        layers=[100, 100],
        cond_in_size=8,
        num_cond_embs=_NUM_TASKS,
        verbose=False,
    )
    return mnet, hnet


def _loop(folder, library: str) -> list[float]:
    """Train on all tasks; returns the accuracies of each after the last."""
    split = importlib.import_module(f"{library}.data.special.split_mnist")
    tasks = split.get_split_mnist_handlers(str(folder), use_one_hot=True, num_tasks=_NUM_TASKS)
    mnet, hnet = _networks(library)
    regulariser = importlib.import_module(f"{library}.utils.hnet_regularizer")
    device = torch.device("cpu")

    def accuracy(task: int) -> float:
        data = tasks[task]
        with torch.no_grad():
            inputs = data.input_to_torch_tensor(data.get_test_inputs(), device)
            labels = data.output_to_torch_tensor(data.get_test_outputs(), device).argmax(1)
            return (mnet(inputs, weights=hnet(cond_id=task)).argmax(1) == labels).float().mean().item()

    for task, data in enumerate(tasks):
        optimizer = torch.optim.Adam(hnet.parameters(), lr=1e-4)
        targets = regulariser.get_current_targets(task, hnet) if task else None
        for _ in range(_ITERATIONS):
            batch = data.next_train_batch(_BATCH)
            inputs = data.input_to_torch_tensor(batch[0], device, mode="train")
            labels = data.output_to_torch_tensor(batch[1], device, mode="train").argmax(1)
            optimizer.zero_grad()
            loss = F.cross_entropy(mnet(inputs, weights=hnet(cond_id=task)), labels)
            if task > 0:
                loss = loss + 0.01 * regulariser.calc_fix_target_reg(hnet, task, targets=targets)
            loss.backward()
            optimizer.step()
        accuracies = [accuracy(earlier) for earlier in range(task + 1)]
    return accuracies


def test_whole_run(folder, bench, monkeypatch):
    monkeypatch.chdir(folder)

    def ours():
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            run.run([*_OPTIONS.split(), f"--data_dir={folder}", "--out_dir=run"])

    calls = {"hnetfast": ours}
    if import_hypnettorch("data.special.split_mnist") is not None:
        calls["hypnettorch"] = lambda: _loop(folder, "hypnettorch")
    what = f"whole run, {_NUM_TASKS} tasks of {_ITERATIONS} iterations"
    bench.add(TABLE, bench.time(calls), what=what, threads=torch.get_num_threads())


@pytest.mark.parametrize("task", range(_NUM_TASKS))
def test_iteration(task, bench):
    """A step of the optimiser, without data: generation, the batch, the penalty, all gradients."""
    inputs, labels = torch.randn(_BATCH, 784), torch.randint(2, (_BATCH,))
    calls = {}
    for library in libraries():
        mnet, hnet = _networks(library)
        fused = {"fused": True} if library == "hnetfast" else {}  # as in the examples
        optimizer = torch.optim.Adam(hnet.parameters(), lr=1e-4, **fused)
        if library == "hnetfast":
            penalised = TaskWeights(hnet, task).generate_with_penalty
        else:
            regulariser = importlib.import_module("hypnettorch.utils.hnet_regularizer")
            targets = regulariser.get_current_targets(task, hnet) if task else None

            def penalised(hnet=hnet, regulariser=regulariser, targets=targets):
                weights = hnet(cond_id=task)
                if task == 0:
                    return weights, 0
                return weights, regulariser.calc_fix_target_reg(hnet, task, targets=targets)

        def step(mnet=mnet, optimizer=optimizer, penalised=penalised):
            optimizer.zero_grad()
            weights, penalty = penalised()
            loss = F.cross_entropy(mnet(inputs, weights=weights), labels) + 0.01 * penalty
            loss.backward()
            optimizer.step()

        calls[library] = step
    durations = bench.time(calls, minimum=7, turn=30e-3)
    bench.add(TABLE, durations, what=f"an iteration of task {task + 1}", threads=torch.get_num_threads())


TABLE = Table(
    key="trainings",
    title="Continual-learning example",
    intro=(
        "SplitMNIST with an MLP 784-100-100-2 and a chunked hypernetwork (the default options of "
        "`examples.hypercl.run`), in milliseconds. *whole run*: ours is the command with its log, "
        "evaluations, figure and checkpoints, the other side a bare loop with hypnettorch's classes. "
        "*iteration*: all of a step of the optimiser but the data."
    ),
    columns={
        "what": field("what"),
        "threads": field("threads"),
        **times("hnetfast", "hypnettorch", digits=1),
        "× hypnettorch": times_as_fast(),
    },
    place=80,
)
