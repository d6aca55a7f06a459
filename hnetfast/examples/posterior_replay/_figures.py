"""Pictures of what was learned: decision regions, uncertainty, accuracy after each task, calibration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from hnetfast.examples._pictures import COLORS, draw_matrix, new_figure, save_png
from hnetfast.examples.posterior_replay._learners import Learner, Task
from hnetfast.examples.posterior_replay._training import Measurements
from hnetfast.probabilistic import infer_tasks, predictive_entropy, predictive_probabilities

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EXTENT = 9.0  # pictures of the plane show [-9, 9]^2
RESOLUTION = 100  # points of a map in each direction
NUM_SAMPLES = 100  # of a posterior


def draw_classes(
    learner: Learner, tasks: Sequence[Task], measured: Measurements, folder: Path, stem: str
) -> list[Path]:
    """Draw the accuracy on each task after each task, and how far confidence is to be trusted.

    Args:
        learner: What has learned the tasks; not looked at.
        tasks: The tasks; not looked at.
        measured: What :func:`~hnetfast.examples.posterior_replay._training.learn_tasks` returned.
        folder: Where to write.
        stem: What names of files begin with.

    Returns:
        The files.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    rows = measured.details["after"]
    lowest = min(min(row) for row in rows)
    figure = new_figure(10, 4.6)
    matrix, diagram = figure.subplots(1, 2)
    image = draw_matrix(matrix, rows, smallest=min(lowest, 90), largest=100)
    figure.colorbar(image, ax=matrix)
    matrix.set_title(f"test accuracy with the task given, %\nmean in the end: {_mean(rows[-1]):.2f}")
    _draw_reliability(diagram, measured)
    return [_save(figure, folder / f"{stem}_accuracy.png")]


def _draw_reliability(axes: Axes, measured: Measurements) -> None:
    """Accuracy in bins of confidence, over all tasks, with how many samples there are in each."""
    by_task = measured.details["reliability"]
    count, confidence, right = (
        np.sum([entry[name] for entry in by_task], axis=0) for name in ("count", "confidence", "right")
    )
    used = count > 0
    width = 1 / len(count)
    centers = (np.arange(len(count)) + 0.5) * width
    axes.bar(
        centers,
        count / count.sum(),
        width,
        color="0.88",
        edgecolor="white",
        label="part of the test samples",
    )
    axes.plot((0, 1), (0, 1), color="0.5", linestyle="--", linewidth=1, label="perfect calibration")
    axes.plot(
        confidence[used] / count[used],
        right[used] / count[used],
        color=COLORS[0],
        marker="o",
        linewidth=1.6,
        label="accuracy",
    )
    first = used.argmax() * width  # at least one in the number of classes
    axes.set(xlim=(min(first, 0.5), 1.01), ylim=(0, 1.02), xlabel="confidence", ylabel="accuracy")
    axes.set_title(f"calibration, task given\nexpected error {measured.figures['calibration error']:.3f}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left")


def draw_plane(
    learner: Learner, tasks: Sequence[Task], measured: Measurements, folder: Path, stem: str
) -> list[Path]:
    """Draw what :func:`draw_classes` does, and decision regions and entropies of tasks in the plane.

    There is a column for every task, for the predictions of its posterior, and one for what is predicted if
    the task is inferred.

    Args:
        learner: What has learned the tasks.
        tasks: The tasks, of inputs ``[N, 2]`` and two classes.
        measured: What :func:`~hnetfast.examples.posterior_replay._training.learn_tasks` returned.
        folder: Where to write.
        stem: What names of files begin with.

    Returns:
        The files.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    axis = torch.linspace(-EXTENT, EXTENT, RESOLUTION)
    points = torch.cartesian_prod(axis, axis).flip(1)  # rows are y
    logits = [learner.predict(t, points, NUM_SAMPLES) for t in range(len(tasks))]
    entropies = torch.stack([predictive_entropy(entry) for entry in logits])  # [T, points]
    classes = torch.stack([predictive_probabilities(entry).argmax(1) for entry in logits])
    inferred = learner.predict_class(points, len(tasks))
    if inferred is None:
        surest = infer_tasks(logits)
        inferred = 2 * surest + classes.gather(0, surest.unsqueeze(0))[0]
    figure = new_figure(2.6 * (len(tasks) + 1) + 1.1, 5.6)
    axes = figure.subplots(2, len(tasks) + 1, sharex=True, sharey=True, squeeze=False)
    for t, task in enumerate(tasks):
        _draw_regions(axes[0, t], 2 * t + classes[t], len(tasks))
        _draw_entropy(axes[1, t], entropies[t])
        axes[0, t].set_title(f"posterior of task {t}")
        for row in axes[:, t]:
            _draw_points(row, [task], first=t)
    _draw_regions(axes[0, -1], inferred, len(tasks))
    image = _draw_entropy(axes[1, -1], entropies.amin(0))
    axes[0, -1].set_title("task inferred")
    for row in axes[:, -1]:
        _draw_points(row, tasks, first=0)
    axes[0, 0].set_ylabel("class predicted")
    axes[1, 0].set_ylabel("entropy of the prediction")
    figure.colorbar(image, ax=axes[1, :], label="nats", pad=0.01)
    drawn = _save(figure, folder / f"{stem}_regions.png", dpi=100)
    return [drawn, *draw_classes(learner, tasks, measured, folder, stem)]


def _draw_regions(axes: Axes, classes: Tensor, num_tasks: int) -> None:
    from matplotlib.colors import ListedColormap

    colors = [COLORS[i % len(COLORS)] for i in range(2 * num_tasks)]
    _draw_map(axes, classes, cmap=ListedColormap(colors), vmin=-0.5, vmax=2 * num_tasks - 0.5, alpha=0.45)


def _draw_entropy(axes: Axes, entropy: Tensor):
    return _draw_map(axes, entropy, cmap="Greys", vmin=0, vmax=torch.tensor(2.0).log().item())


def _draw_map(axes: Axes, values: Tensor, **options):
    axes.set(xticks=(-5, 0, 5), yticks=(-5, 0, 5))
    return axes.imshow(
        values.view(RESOLUTION, RESOLUTION).numpy(),
        origin="lower",
        extent=(-EXTENT, EXTENT, -EXTENT, EXTENT),
        interpolation="nearest",
        **options,
    )


def _draw_points(axes: Axes, tasks: Sequence[Task], first: int) -> None:
    """Test points, in colors of the classes of all tasks."""
    for t, task in enumerate(tasks, first):
        colors = [COLORS[(2 * t + int(y)) % len(COLORS)] for y in task.y_test]
        axes.scatter(*task.x_test.T.numpy(), s=9, c=colors, edgecolors="white", linewidths=0.3)


def draw_functions(
    learner: Learner, tasks: Sequence[Task], measured: Measurements, folder: Path, stem: str
) -> list[Path]:
    """Draw what posteriors predict about functions of one input, and the errors after each task.

    Bands are one and two standard deviations, over samples of the posterior, around the mean.

    Args:
        learner: What has learned the tasks.
        tasks: The tasks, of inputs ``[N, 1]`` and outputs ``[N, 1]``.
        measured: What :func:`~hnetfast.examples.posterior_replay._training.learn_tasks` returned.
        folder: Where to write.
        stem: What names of files begin with.

    Returns:
        The files.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    figure = new_figure(11, 4.6)
    functions, matrix = figure.subplots(1, 2, width_ratios=(1.7, 1))
    for t, task in enumerate(tasks):
        _draw_function(functions, learner, t, task)
    outputs = torch.cat([task.y for task in tasks])
    margin = 0.25 * float(outputs.max() - outputs.min())
    functions.set_ylim(float(outputs.min()) - margin, float(outputs.max()) + margin)
    functions.set(xlabel="input", ylabel="output")
    functions.set_title(
        "mean, bands of 1 and 2 standard deviations,\ntraining data and test targets (dashed)"
    )
    functions.spines[["top", "right"]].set_visible(False)
    functions.legend(frameon=False, ncols=len(tasks), loc="upper left")
    image = draw_matrix(
        matrix,
        measured.details["after"],
        smallest=1e-3,
        largest=1,
        text=".2g",
        cmap="YlOrRd",
        logarithmic=True,
    )
    figure.colorbar(image, ax=matrix, extend="both")
    matrix.set_title("mean squared error on test sets")
    return [_save(figure, folder / f"{stem}_functions.png")]


def _draw_function(axes: Axes, learner: Learner, t: int, task: Task) -> None:
    """One task: its data, and predictions in their interval and around it."""
    color = COLORS[t % len(COLORS)]
    first, last = float(task.x.min()), float(task.x.max())
    around = 0.2 * (last - first)
    x = torch.linspace(first - around, last + around, 200).unsqueeze(1)
    samples = learner.predict(t, x, NUM_SAMPLES)[..., 0]  # [S, 200]
    mean, std = samples.mean(0), samples.std(0, correction=0)
    x, mean, std = x[:, 0].numpy(), mean.numpy(), std.numpy()
    for width, alpha in ((2, 0.15), (1, 0.25)):
        axes.fill_between(x, mean - width * std, mean + width * std, color=color, alpha=alpha, linewidth=0)
    axes.scatter(task.x.numpy(), task.y.numpy(), s=8, color=color, edgecolors="white", linewidths=0.3)
    axes.plot(x, mean, color=color, linewidth=1.8, label=f"task {t}")
    order = task.x_test[:, 0].argsort()
    axes.plot(
        task.x_test[order].numpy(), task.y_test[order].numpy(), color="black", linestyle="--", linewidth=1
    )


def _save(figure, path: Path, dpi: float = 120) -> Path:
    save_png(figure, path, dpi)
    return path


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
