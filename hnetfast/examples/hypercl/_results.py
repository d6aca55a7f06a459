"""What a run over all tasks leaves behind: a table, a figure, and a summary for searches."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from hnetfast._files import write_atomically
from hnetfast.examples._pictures import draw_matrix, new_figure, save_png

SUMMARY_FILENAME = "performance_overview.txt"
SUMMARY_KEYWORDS = [
    "acc_mean",
    "acc_final",
    "acc_during",
    "acc_forgotten",
    "num_weights_main",
    "num_weights_hyper",
    "compression_ratio",
    "finished",
]
"""Entries of the summary.

``acc_mean``           mean of ``acc_final``; what a search maximises
``acc_final``          test accuracy in percent on every task after the last one was learned
``acc_during``         likewise, on every task right after it was learned
``acc_forgotten``      mean of their differences: how much was forgotten
``num_weights_main``   number of the main network's weights
``num_weights_hyper``  number of the hypernetwork's parameters
``compression_ratio``  the latter divided by the former
``finished``           1 when all tasks have been learned, otherwise 0; accuracies are those so far then
"""


def write_summary(
    out_dir: str, accuracies: Sequence[Sequence[float]], num_main: int, num_hyper: int, finished: bool
) -> None:
    """Write the summary: a line for each of ``SUMMARY_KEYWORDS``, followed by its numbers.

    Args:
        out_dir: The folder.
        accuracies: After each task, the test accuracy in percent on every task learned so far.
        num_main: Number of the main network's weights.
        num_hyper: Number of the hypernetwork's parameters.
        finished: Whether all tasks have been learned.
    """
    final = list(accuracies[-1]) if accuracies else []
    during = [row[-1] for row in accuracies]
    values = {
        "acc_mean": [_mean(final)],
        "acc_final": final or [-1],
        "acc_during": during or [-1],
        "acc_forgotten": [_mean([a - b for a, b in zip(during, final, strict=True)])],
        "num_weights_main": [num_main],
        "num_weights_hyper": [num_hyper],
        "compression_ratio": [num_hyper / num_main],
        "finished": [int(finished)],
    }
    lines = [f"{name} {' '.join(f'{value:.10g}' for value in values[name])}\n" for name in SUMMARY_KEYWORDS]
    write_atomically(os.path.join(out_dir, SUMMARY_FILENAME), "".join(lines).encode())


def format_table(accuracies: Sequence[Sequence[float]]) -> str:
    """Return a table of the accuracies, and of their means.

    Args:
        accuracies: After each task, the test accuracy in percent on every task learned so far.
    """
    count = len(accuracies)
    lines = [f"{'after learning':<16}" + "".join(f"{f'task {i}':>9}" for i in range(count)) + f"{'mean':>9}"]
    for i, row in enumerate(accuracies):
        cells = [f"{value:9.2f}" for value in row] + [f"{'–':>9}"] * (count - len(row))
        lines.append(f"{f'task {i}':<16}" + "".join(cells) + f"{_mean(row):9.2f}")
    return "\n".join(lines)


def save_figure(
    path: str, accuracies: Sequence[Sequence[float]], scalars: Mapping[str, Sequence[tuple[int, float]]]
) -> None:
    """Draw the test accuracies after each task, and those on the validation sets during training, as a PNG.

    Args:
        path: Where to write.
        accuracies: After each task, the test accuracy in percent on every task learned so far.
        scalars: What was logged: for each tag pairs of an iteration and a number.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    count = len(accuracies)
    size = max(4.0, 1.5 + 0.6 * count)
    figure = new_figure(size + 6, size)
    matrix, curves = figure.subplots(1, 2, width_ratios=(size, 6))

    lowest = min(min(row) for row in accuracies)
    image = draw_matrix(matrix, accuracies, smallest=min(lowest, 99), largest=100)
    matrix.set_title(f"test accuracy, %\nmean in the end: {_mean(accuracies[-1]):.2f}")
    figure.colorbar(image, ax=matrix, shrink=0.8)

    for task_id in range(count):
        points = scalars.get(f"eval/task_{task_id}/accuracy", ())
        if points:
            curves.plot(*zip(*points, strict=True), marker=".", label=f"task {task_id}")
    curves.set(xlabel="iteration of the task", ylabel="validation accuracy, %")
    curves.spines[["top", "right"]].set_visible(False)
    if curves.lines:
        curves.legend(frameon=False, fontsize=8, ncols=1 + count // 8)
    save_png(figure, path)


def _mean(values: Sequence[float]) -> float:
    """The mean, -1 of nothing."""
    return sum(values) / len(values) if values else -1
