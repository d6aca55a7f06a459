"""Learn five two-class problems one after another without forgetting, with generated weights.

A ``ChunkedHMLP`` generates the weights of a small classifier from one learned embedding a task. The tasks
(digits 0 and 1, then 2 and 3, …) are learned in turn; only the output regulariser, which holds on to the
weights generated for the earlier tasks, separates the two runs that are compared: von Oswald et al.,
"Continual learning with hypernetworks", 2020. Run it with ``python -m hnetfast.examples.split_digits``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from hnetfast.data import DigitsData, split_by_class
from hnetfast.examples._speed import format_speed_table, measure_regulariser, measure_resnet32
from hnetfast.hnets import ChunkedHMLP
from hnetfast.mnets import MLP
from hnetfast.regularizers import OutputRegularizer

HIDDEN_LAYERS = (100, 100)
BATCH_SIZE = 32


@dataclass(frozen=True)
class Settings:
    """How long to train and to measure.

    Attributes:
        steps: Optimiser steps a task.
        learning_rate: Of Adam.
        strength: Factor of the output regulariser.
        eval_every: Steps between two points of the learning curves.
        num_conditions: Batch sizes in the speed table.
        seconds: Time spent on each entry of the speed table.
    """

    steps: int = 250
    learning_rate: float = 2e-3
    strength: float = 0.1
    eval_every: int = 10
    num_conditions: tuple[int, ...] = (1, 10)
    seconds: float = 0.8


QUICK = Settings(steps=80, num_conditions=(1,), seconds=0.05)


@dataclass(frozen=True)
class Task:
    """Two digits to tell apart: inputs ``[samples, 64]`` in [0, 1], labels ``[samples]`` 0 or 1."""

    name: str
    train_inputs: Tensor
    train_labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor


@dataclass
class Result:
    """What a run over all tasks measured on the test sets.

    Attributes:
        accuracies: After each task, the accuracy (0 to 1) on every task learned so far.
        curves: Pairs of the number of steps taken and such a row of accuracies.
    """

    accuracies: list[list[float]] = field(default_factory=list)
    curves: list[tuple[int, list[float]]] = field(default_factory=list)

    @property
    def mean_final_accuracy(self) -> float:
        """Mean over all tasks after the last one."""
        return sum(self.accuracies[-1]) / len(self.accuracies[-1])


def load_tasks(device: str) -> list[Task]:
    """Split scikit-learn's digits into five tasks; 30 % of each digit are for testing, always the same ones.

    Args:
        device: Where to put the tensors.

    Returns:
        The tasks in the order in which they are learned.
    """
    return [
        Task(
            f"{2 * task} vs {2 * task + 1}",
            handler.input_to_torch_tensor(handler.get_train_inputs(), device),
            torch.as_tensor(handler.get_train_outputs()[:, 0], device=device),
            handler.input_to_torch_tensor(handler.get_test_inputs(), device),
            torch.as_tensor(handler.get_test_outputs()[:, 0], device=device),
        )
        for task, handler in enumerate(split_by_class(DigitsData(), num_classes_per_task=2))
    ]


@torch.no_grad()
def evaluate(hnet: ChunkedHMLP, mnet: MLP, tasks: Sequence[Task]) -> list[float]:
    """Measure the test accuracy on each task, with the weights generated from the task's own embedding.

    Args:
        hnet: The hypernetwork.
        mnet: The main network, without weights of its own.
        tasks: The tasks, in the order of their embeddings.

    Returns:
        The accuracies, from 0 to 1.
    """
    weights = cast(
        "list[list[Tensor]]", hnet.forward(cond_id=list(range(len(tasks))), ret_format="sequential")
    )
    return [
        (mnet.forward(task.test_inputs, weights=w).argmax(dim=1) == task.test_labels).float().mean().item()
        for task, w in zip(tasks, weights, strict=True)
    ]


def train(tasks: Sequence[Task], settings: Settings, seed: int, device: str, regularise: bool) -> Result:
    """Learn all tasks in turn.

    Args:
        tasks: What to learn.
        settings: How long, and how strongly to regularise.
        seed: Decides initial weights and the order of samples; the same seed gives the same result.
        device: Where to run.
        regularise: Whether to hold on to the weights generated for earlier tasks.

    Returns:
        The test accuracies.
    """
    from tqdm import tqdm

    torch.manual_seed(seed)
    samples = torch.Generator().manual_seed(seed)
    mnet = MLP(n_in=64, n_out=2, hidden_layers=HIDDEN_LAYERS, no_weights=True, verbose=False).to(device)
    hnet = ChunkedHMLP(
        mnet.param_shapes,
        chunk_size=200,
        chunk_emb_size=8,
        cond_in_size=8,
        layers=(50,),
        num_cond_embs=len(tasks),
        verbose=False,
    ).to(device)
    regularizer = OutputRegularizer(hnet)
    result = Result()
    title = "with regulariser" if regularise else "without regulariser"
    with tqdm(total=len(tasks) * settings.steps, desc=title, unit="step", disable=None) as bar:
        for task_id, task in enumerate(tasks):
            optimizer = torch.optim.Adam(hnet.parameters(), lr=settings.learning_rate)
            for step in range(1, settings.steps + 1):
                batch = torch.randint(len(task.train_labels), (BATCH_SIZE,), generator=samples).to(device)
                weights = cast("list[Tensor]", hnet.forward(cond_id=task_id))
                logits = mnet.forward(task.train_inputs[batch], weights=weights)
                loss = F.cross_entropy(logits, task.train_labels[batch])
                if regularise:
                    loss = loss + settings.strength * regularizer.loss(task_id)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if step % settings.eval_every == 0 or step in (1, settings.steps):
                    accuracies = evaluate(hnet, mnet, tasks[: task_id + 1])
                    result.curves.append((task_id * settings.steps + step, accuracies))
                    bar.set_postfix_str(f"digits {task.name}, mean accuracy {_mean(accuracies):.3f}")
                bar.update()
            regularizer.snapshot()
            result.accuracies.append(result.curves[-1][1])
    return result


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def format_accuracies(result: Result, tasks: Sequence[Task]) -> str:
    """Format the accuracy on every task after every task.

    Args:
        result: The accuracies.
        tasks: The tasks.

    Returns:
        A table, in percent.
    """
    lines = [f"{'after learning':<20}" + "".join(f"{task.name:>9}" for task in tasks) + f"{'mean':>9}"]
    for i, row in enumerate(result.accuracies):
        cells = [f"{100 * value:9.1f}" for value in row] + [f"{'–':>9}"] * (len(tasks) - len(row))
        lines.append(f"{f'task {i + 1} ({tasks[i].name})':<20}" + "".join(cells) + f"{100 * _mean(row):9.1f}")
    return "\n".join(lines)


def _seed(text: str) -> int:
    try:
        seed = int(text)
    except ValueError:
        seed = -1
    if not 0 <= seed < 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer from 0 to 2**63 - 1")
    return seed


def _device(text: str) -> str:
    try:
        torch.empty(1, device=torch.device(text))
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise argparse.ArgumentTypeError(f"{text!r} cannot be used here: {reason}") from None
    if torch.device(text).type == "meta":
        raise argparse.ArgumentTypeError("'meta' holds no values; choose cpu or cuda")
    return text


def _png_path(text: str) -> Path:
    path = Path(text)
    if path.is_dir():
        path = path / "split_digits.png"
    if path.suffix.lower() != ".png":
        raise argparse.ArgumentTypeError(f"{text!r} is neither a folder nor a name that ends in .png")
    return path


def _make_folder(folder: Path) -> None:
    """Make sure that a file can be written in a folder.

    Raises:
        OSError: It cannot.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hnetfast.examples.split_digits",
        description="Learn five two-class problems of scikit-learn's digits one after another, with weights "
        "generated by a hypernetwork: once with the output regulariser, once without. Prints the accuracy on "
        "every task after every task and how fast weights are generated, and draws both runs.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--seed", type=_seed, default=0, help="seed of initial weights and sample order")
    parser.add_argument("--device", type=_device, default="cpu", help="where to run, such as cpu or cuda")
    parser.add_argument(
        "--out",
        type=_png_path,
        default="out/split_digits.png",
        help="the figure's file name, or a folder for it",
    )
    parser.add_argument("--quick", action="store_true", help="train and measure a few seconds only")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the example.

    Args:
        arguments: Command line arguments; those of the process by default.

    Returns:
        Exit status: 0, or 1 where a package that only the example needs is missing.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        _make_folder(options.out.parent)
    except OSError as error:
        parser.error(f"argument --out: cannot write in {str(options.out.parent)!r}: {error.strerror}")
    try:
        from hnetfast.examples._split_digits_figure import save_figure

        tasks = load_tasks(options.device)
        import tqdm  # noqa: F401 - found missing now rather than in the middle
    except ImportError as error:
        print(f"This example needs {error.name}: pip install 'hnetfast[examples]'", file=sys.stderr)
        return 1
    settings = QUICK if options.quick else Settings()
    start = time.perf_counter()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # Networks this small gain nothing from more, and lose on a busy machine.
    results: dict[str, Result] = {}
    for regularise in (True, False):
        result = train(tasks, settings, options.seed, options.device, regularise)
        title = "with the output regulariser" if regularise else "without a regulariser"
        results[title.capitalize()] = result
        print(f"\nAccuracy {title}, in percent of the test images of each task:\n")
        print(format_accuracies(result, tasks), flush=True)
    save_figure(options.out, results, [task.name for task in tasks], settings.steps)
    kept, forgotten = (result.mean_final_accuracy for result in results.values())
    print(f"\nMean final accuracy: {kept:.3f} with the regulariser, {forgotten:.3f} without.")
    print(f"Trained in {time.perf_counter() - start:.0f} s. Figure: {options.out.resolve()}\n")
    torch.set_num_threads(threads)
    print(f"Time to generate ResNet-32 (468,540 weights) on {options.device}, median:\n", flush=True)
    rows = measure_resnet32(options.device, settings.num_conditions, settings.seconds)
    rows.append(measure_regulariser(options.device, settings.seconds))
    print(format_speed_table(rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
