"""Figures of handlers. Matplotlib is imported where one is drawn."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hnetfast.data._files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.gridspec import GridSpecFromSubplotSpec


@contextmanager
def figure(
    title: str | None,
    show: bool,
    filename: str | None,
    interactive: bool,
    figsize: tuple[float, float],
) -> Iterator[Figure]:
    """Open a figure, which is stored and shown when the block ends.

    Args:
        title: Its title, if it has one.
        show: Whether to show it.
        filename: Where to store it, if anywhere.
        interactive: Whether the program goes on while it is shown.
        figsize: Width and height in inches.

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
