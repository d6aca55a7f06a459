"""Pictures of images and of what was made of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from hnetfast.examples._pictures import new_figure, save_png


def save_images(path: Path, rows: Mapping[str, Tensor]) -> None:
    """Draw rows of square images.

    Args:
        path: Where to write; its folder exists.
        rows: By title, values from 0 to 1, ``[N, size·size, channels]``, row by row; others are clamped.

    Raises:
        ImportError: If matplotlib is not installed.
        OSError: If the folder can't be written.
    """
    count = len(next(iter(rows.values())))
    figure = new_figure(1.4 + 0.75 * count, 0.8 * len(rows))
    grid = figure.subplots(len(rows), count, squeeze=False)
    for line, (title, images) in zip(grid, rows.items(), strict=True):
        size = round(images.shape[1] ** 0.5)
        for axes, image in zip(line, images, strict=True):
            pixels = image.clamp(0, 1).view(size, size, -1).squeeze(2).numpy()
            axes.imshow(pixels, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        line[0].set_ylabel(title, rotation=0, ha="right", va="center", fontsize=9)
    save_png(figure, path, dpi=90)
