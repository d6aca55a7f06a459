"""The figure of the example: how the hypernetwork learns, and what it reaches on each held-out task."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from hnetfast.examples._pictures import COLORS, new_figure, save_png
from hnetfast.examples.text_to_adapter._experiment import GROUPS, LEARNERS

_LEARNER_COLORS = dict(zip(LEARNERS, ("0.6", COLORS[3], COLORS[0], COLORS[2]), strict=True))


def _draw_curve(axes: Axes, result: Mapping[str, Any]) -> None:
    steps = [0, *(step for step, _ in result["curve"])]
    base = result["scores"]["base"]
    for group, color in zip(GROUPS, COLORS, strict=False):
        first = statistics.fmean(base[group.partition(",")[0]]["exact"])
        shares = [first, *(means[group] for _, means in result["curve"])]
        axes.plot(steps, [100 * share for share in shares], color=color, label=GROUPS[group], linewidth=1.8)
    axes.set(xlabel="training step", ylabel="exact answers, %", ylim=(0, 102), xlim=(0, steps[-1]))
    axes.set_title("Adapters from descriptions, while the hypernetwork learns", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_bars(axes: Axes, names: list[str], shares: Mapping[str, list[float]], title: str) -> None:
    height = 0.8 / len(shares)
    for j, (learner, values) in enumerate(shares.items()):
        places = [i + (j - (len(shares) - 1) / 2) * height for i in range(len(names))]
        percent = [100 * value for value in values]
        axes.barh(places, percent, height, color=_LEARNER_COLORS[learner], label=LEARNERS[learner])
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set(xlabel="exact answers, %", xlim=(0, 100))
    axes.set_title(title, fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)


def save_figure(path: Path, result: Mapping[str, Any]) -> None:
    """Draw a run and write it as a PNG; the file appears complete or not at all.

    Args:
        path: Where to write; its folder exists.
        result: What is stored of the run.

    Raises:
        OSError: If the folder can't be written.
    """
    figure = new_figure(13, 5.2)
    curve, new = figure.subplots(1, 2, width_ratios=(1, 1.15))
    _draw_curve(curve, result)
    names = result["tasks"][result["num_seen"] :]
    shares = {learner: result["scores"][learner]["new"]["exact"] for learner in LEARNERS}
    _draw_bars(new, names, shares, "Tasks that training never sees")
    for axes, side in ((curve, "left"), (new, "right")):
        handles, labels = axes.get_legend_handles_labels()
        place: Any = f"outside lower {side}"  # not in the types of matplotlib
        figure.legend(handles, labels, loc=place, ncols=2, frameon=False)
    save_png(figure, path)
