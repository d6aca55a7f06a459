"""The figure of the split-digits example: accuracy matrices and learning curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from hnetfast.examples._pictures import COLORS, draw_matrix, new_figure, save_png


def _draw_matrix(axes: Axes, matrix: Sequence[Sequence[float]], names: Sequence[str]):
    percent = [[100 * value for value in row] for row in matrix]
    image = draw_matrix(axes, percent, smallest=40, largest=100)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), [f"{i + 1} ({name})" for i, name in enumerate(names)])
    axes.set_xlabel("accuracy on task, %")
    return image


def _draw_curves(
    axes: Axes, curves: Sequence[tuple[int, Sequence[float]]], names: Sequence[str], steps: int
) -> None:
    for task, name in enumerate(names):
        points = [(step, values[task]) for step, values in curves if task < len(values)]
        x, y = zip(*points, strict=True)
        axes.plot(x, [100 * value for value in y], color=COLORS[task], linewidth=1.8, label=name)
    lowest = min(38, 100 * min(min(values) for _, values in curves) - 2)
    for task in range(len(names)):
        if task % 2:
            axes.axvspan(task * steps, (task + 1) * steps, color="0.95", zorder=0)
        axes.text((task + 0.5) * steps, 102, f"task {task + 1}", ha="center", fontsize=9, color="0.35")
    axes.axhline(50, color="0.6", linewidth=0.8, linestyle=":")
    axes.set_xlim(0, len(names) * steps)
    axes.set_ylim(lowest, 104 + 0.05 * (104 - lowest))
    axes.set_yticks([tick for tick in range(0, 101, 10) if tick >= lowest])
    axes.set_xlabel("training step")
    axes.set_ylabel("test accuracy, %")
    axes.spines[["top", "right"]].set_visible(False)


def save_figure(path: Path, results: Mapping[str, Any], names: Sequence[str], steps: int) -> None:
    """Draw both runs and write them as a PNG; the file appears complete or not at all.

    Args:
        path: Where to write; its folder exists.
        results: By title, objects with ``accuracies`` (one row after each task, one value in [0, 1] for each
            task seen so far) and ``curves`` (pairs of a step and such a row).
        names: Names of the tasks.
        steps: Training steps a task.
    """
    figure = new_figure(12, 8.2)
    axes = figure.subplots(2, len(results), height_ratios=(1.1, 1.0))
    for column, (title, result) in enumerate(results.items()):
        mean = 100 * sum(result.accuracies[-1]) / len(names)
        axes[0, column].set_title(f"{title}\nmean final accuracy {mean:.1f} %", fontsize=12)
        image = _draw_matrix(axes[0, column], result.accuracies, names)
        _draw_curves(axes[1, column], result.curves, names, steps)
    figure.colorbar(image, ax=axes[0, :], label="test accuracy, %", shrink=0.9)
    handles, labels = axes[1, 0].get_legend_handles_labels()
    figure.legend(
        handles, labels, title="test set of", loc="outside lower center", ncols=len(names), frameon=False
    )
    save_png(figure, path)
