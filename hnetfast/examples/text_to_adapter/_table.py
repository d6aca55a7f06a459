"""Results of runs as a table."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from hnetfast.examples.text_to_adapter._experiment import GROUPS, LEARNERS

_MEASURES = {"exact": "exact answers, %", "accuracy": "characters, %", "loss": "loss"}


def summarize(result: Mapping[str, Any], learner: str, group: str, measure: str) -> float | None:
    """The mean over tasks of what a run measured, in percent if it is a share.

    Args:
        result: What was stored.
        learner: One of :data:`LEARNERS`.
        group: One of :data:`GROUPS`. Only the hypernetwork reads descriptions: of all others, groups with
            phrases of the training are those of the tasks.
        measure: "exact", "accuracy" or "loss".
    """
    if group.endswith("anew") and learner != "hnet":
        return None
    mean = statistics.fmean(result["scores"][learner][group][measure])
    return mean if measure == "loss" else 100 * mean


def format_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Put runs of several seeds into one table.

    Args:
        results: What was stored, an entry a seed.

    Returns:
        Markdown; a cell has the mean over seeds and, if there are several, the standard deviation.
    """
    header = ["", "", *GROUPS.values()]
    lines = [header, ["---", "---", *["---:"] * len(GROUPS)]]
    for measure, label in _MEASURES.items():
        for learner, title in LEARNERS.items():
            values = [[summarize(r, learner, group, measure) for r in results] for group in GROUPS]
            cells = [_cell([v for v in some if v is not None], measure) for some in values]
            lines.append([label, title, *cells])
            if learner == "hnet":
                same = _cell([_on_compared_tasks(result, measure) for result in results], measure)
                lines.append([label, "Hypernetwork, on the tasks of the next line", same, "–", cells[2], "–"])
    return _aligned(lines)


def _on_compared_tasks(result: Mapping[str, Any], measure: str) -> float:
    """What the hypernetwork reaches on the seen tasks that have an adapter trained alone."""
    values = result["scores"]["hnet"]["seen"][measure]
    mean = statistics.fmean(values[i] for i in result["compared"] if i < result["num_seen"])
    return mean if measure == "loss" else 100 * mean


def _cell(values: Sequence[float], measure: str) -> str:
    if not values:
        return "–"
    digits = 2 if measure == "loss" else 1
    mean = f"{statistics.fmean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def format_new_tasks(results: Sequence[Mapping[str, Any]]) -> str:
    """The share of exact answers in each held-out task, described by phrases of the training.

    Args:
        results: What was stored, an entry a seed.

    Returns:
        Markdown; a cell has the mean over seeds, in percent.
    """
    first = results[0]
    lines = [["held-out task", *LEARNERS.values()], ["---", *["---:"] * len(LEARNERS)]]
    for i, task in enumerate(first["tasks"][first["num_seen"] :]):
        shares = [
            statistics.fmean(result["scores"][learner]["new"]["exact"][i] for result in results)
            for learner in LEARNERS
        ]
        lines.append([task, *(f"{100 * share:.0f}" for share in shares)])
    return _aligned(lines)


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    rule = lines[1]
    texts = []
    for line in lines:
        cells = []
        for cell, width, kind in zip(line, widths, rule, strict=True):
            if line is rule:
                cells.append("-" * (width - 1) + ("-" if kind == "---" else ":"))
            else:
                cells.append(cell.ljust(width) if kind == "---" else cell.rjust(width))
        texts.append("| " + " | ".join(cells) + " |")
    return "\n".join(texts)
