"""What the pictures of examples share: figures that no window manages, matrices, and PNG files.

matplotlib is imported when a figure is made: examples run without it where nothing is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hnetfast._files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

COLORS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#aa3377", "#66ccee")
"""Colors that differ for all readers, by Paul Tol; the first ones are for tasks or their classes."""


def new_figure(width: float, height: float) -> Figure:
    """A figure that no window manages.

    Args:
        width: In inches.
        height: In inches.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_png(figure: Figure, path: str | Path, dpi: float = 120) -> None:
    """Write a figure as a PNG; the file appears complete or not at all.

    Args:
        figure: The figure.
        path: Where to write; its folder exists.
        dpi: Dots an inch.

    Raises:
        OSError: If the folder can't be written.
    """
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=dpi, facecolor="white")


def draw_matrix(
    axes: Axes,
    rows: Sequence[Sequence[float]],
    *,
    smallest: float,
    largest: float,
    text: str = ".1f",
    cmap: str = "YlGnBu",
    logarithmic: bool = False,
) -> AxesImage:
    """Draw what was measured on each task after each task: a color and a number in every field.

    Args:
        axes: Where to draw.
        rows: A row after each task, with a number for each task so far.
        smallest: What has the lightest color, with all below.
        largest: What has the darkest color, with all above.
        text: How numbers are formatted.
        cmap: Name of the colors, light ones first.
        logarithmic: Whether colors are for logarithms; both limits are positive then.

    Returns:
        The image, for a bar of its colors.
    """
    from matplotlib.colors import LogNorm, Normalize

    size = len(rows)
    grid = [[*row, *[math.nan] * (size - len(row))] for row in rows]
    norm = (LogNorm if logarithmic else Normalize)(smallest, largest)
    image = axes.imshow(grid, norm=norm, cmap=cmap, aspect="auto")
    for i, row in enumerate(rows):
        for j, value in enumerate(row):
            color = "white" if norm(value) > 0.55 else "black"
            axes.text(j, i, format(value, text), ha="center", va="center", color=color, fontsize=9)
    axes.set(xticks=range(size), yticks=range(size), xlabel="task", ylabel="after learning task")
    axes.spines[:].set_visible(False)
    return image
