"""Figures of handlers. Matplotlib is imported where one is drawn."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hnetfast._errors import InputError
from hnetfast._files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.gridspec import GridSpecFromSubplotSpec


@contextmanager
def figure(
    title: str | None,
    show: bool,
    filename: str | None,
    interactive: bool,
    figsize: tuple[float, float] | None,
) -> Iterator[Figure]:
    """Open a figure, which is stored and shown when the block ends.

    Args:
        title: Its title, if it has one.
        show: Whether to show it.
        filename: Where to store it, if anywhere.
        interactive: Whether the program goes on while it is shown.
        figsize: Width and height in inches, by default matplotlib's.

    Yields:
        The figure, pyplot's current one.
    """
    from matplotlib import pyplot as plt

    drawn = plt.figure(figsize=figsize)
    if title is not None:
        drawn.suptitle(title, size=20)
    if interactive:
        plt.ion()
    try:
        yield drawn
    except BaseException:
        plt.close(drawn)
        raise
    if filename is not None:
        save(drawn, filename)
    if show:
        plt.show()


@contextmanager
def single_axes(
    title: str,
    labels: tuple[str, str],
    show: bool,
    filename: str | None = None,
    interactive: bool = False,
    figsize: tuple[float, float] | None = None,
    **font: Any,
) -> Iterator[Axes]:
    """Open a figure with one pair of axes; see :func:`figure`.

    Args:
        title: Title of the axes.
        labels: Their labels.
        show: Whether to show the figure.
        filename: Where to store it, if anywhere.
        interactive: Whether the program goes on while it is shown.
        figsize: Width and height in inches, by default matplotlib's.
        **font: Properties of the title's text.

    Yields:
        The axes, pyplot's current ones.
    """
    with figure(None, show, filename, interactive, figsize) as drawn:
        axes = drawn.add_subplot()
        axes.set_title(title, **font)
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        yield axes


def check_tasks(data_handlers: Sequence[Any], **lists: Sequence[Any] | None) -> int:
    """Check what is drawn for each of several data sets.

    Args:
        data_handlers: The data sets.
        **lists: Arguments that are None or hold an entry for each of them, ``inputs`` and ``predictions``
            among them, which belong together.

    Returns:
        The number of data sets.

    Raises:
        ValueError: If there are none, a list has another length or one of both is missing.
    """
    number = len(data_handlers)
    if number == 0:
        raise InputError("data_handlers: expected at least one, got none")
    if (lists["inputs"] is None) != (lists["predictions"] is None):
        missing = "inputs" if lists["inputs"] is None else "predictions"
        raise InputError(f"inputs, predictions: expected both or none of them, got no {missing}")
    for name, values in lists.items():
        if values is not None and len(values) != number:
            raise InputError(f"{name}: expected one for each of {number} data handlers, got {len(values)}")
    return number


def class_colors(number: int) -> np.ndarray:
    """Return a colour for each of several classes.

    Args:
        number: How many classes there are.

    Returns:
        Colours in the first dimension: hexadecimal strings for up to eight classes, otherwise
        RGBA values of a rainbow ``[number, 4]``.
    """
    from matplotlib import colormaps

    from hnetfast.utils.misc import get_colorbrewer2_colors

    palette = np.array(get_colorbrewer2_colors("Dark2"))
    return palette if number <= len(palette) else colormaps["rainbow"](np.linspace(0, 1, number))


def save(drawn: Figure, filename: str) -> None:
    """Store a figure, all of it or nothing.

    Args:
        drawn: The figure.
        filename: Where to; the suffix chooses the format, by default that of matplotlib, which is appended.
    """
    from matplotlib import rcParams

    path = Path(filename)
    if not path.suffix:
        path = path.with_name(f"{path.name}.{rcParams['savefig.format']}")
    content = io.BytesIO()
    drawn.savefig(content, format=path.suffix[1:], bbox_inches="tight")
    write_atomically(path, content.getvalue())


def sample_grids(
    drawn: Figure, num_samples: int, per_row: int, config: dict[str, Any]
) -> Iterator[GridSpecFromSubplotSpec]:
    """Divide a figure into a place for each sample, and each into axes.

    Args:
        drawn: The figure.
        num_samples: How many samples there are.
        per_row: Largest number of them in a row.
        config: What ``Dataset._plot_config`` returns.

    Yields:
        The grid of the axes of one sample after the other.
    """
    from matplotlib import gridspec

    columns = min(num_samples, per_row) or 1
    outer = gridspec.GridSpec(
        max(-(-num_samples // columns), 1),
        columns,
        wspace=config["outer_wspace"],
        hspace=config["outer_hspace"],
    )
    for i in range(num_samples):
        yield gridspec.GridSpecFromSubplotSpec(
            config["num_inner_rows"],
            config["num_inner_cols"],
            subplot_spec=outer[i],
            wspace=config["inner_wspace"],
            hspace=config["inner_hspace"],
        )
