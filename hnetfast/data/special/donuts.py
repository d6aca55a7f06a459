"""Annuli in the plane, one for each class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hnetfast._errors import InputError
from hnetfast.data import _plotting
from hnetfast.data._arguments import check_count, check_finite, random_source
from hnetfast.data.dataset import Dataset

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.gridspec import GridSpecFromSubplotSpec

__all__ = ["Donuts"]


class Donuts(Dataset):
    """Classification of points by the annulus that they were drawn from.

    Args:
        centers: Centre of each annulus, ``[K, 2]``.
        radii: Inner and outer radius of each, ``[K, 2]``.
        num_train: Number of training samples of each.
        num_test: Number of test samples of each.
        use_one_hot: Whether the outputs are one-hot encoded.
        rseed: Seed of the samples; None: they are drawn from numpy's global generator.

    Raises:
        ValueError: If centres and radii do not fit each other or a number is out of range.
    """

    def __init__(
        self,
        centers: Sequence[Sequence[float]] = ((0, 0), (0, 0)),
        radii: Sequence[Sequence[float]] = ((3, 4), (9, 10)),
        num_train: int = 100,
        num_test: int = 100,
        use_one_hot: bool = True,
        rseed: int | None = 42,
    ) -> None:
        super().__init__()
        _check_pairs("centers", centers)
        _check_pairs("radii", radii)
        if len(centers) != len(radii):
            raise InputError(f"radii: expected one pair for each of {len(centers)} centers, got {len(radii)}")
        for inner, outer in radii:
            _check_radii(inner, outer)
        sizes = [check_count("num_train", num_train), check_count("num_test", num_test)]
        rand = random_source("rseed", rseed)

        num_classes = len(centers)
        drawn = [
            [self.sample_annulus(*center, *radius, num=size, rand=rand) for size in sizes]
            for center, radius in zip(centers, radii, strict=True)
        ]
        labels = np.concatenate([np.repeat(np.arange(float(num_classes)), size) for size in sizes])[:, None]
        num_train = num_classes * sizes[0]
        data = self._data
        data["classification"] = True
        data["sequence"] = False
        data["num_classes"] = num_classes
        data["is_one_hot"] = use_one_hot
        data["in_data"] = np.concatenate([points for part in zip(*drawn, strict=True) for points in part])
        data["in_shape"] = [2]
        data["out_data"] = self._to_one_hot(labels) if use_one_hot else labels
        data["out_shape"] = [num_classes if use_one_hot else 1]
        data["train_inds"] = np.arange(num_train)
        data["test_inds"] = np.arange(num_train, len(labels))

    def get_identifier(self) -> str:
        """Return the name of the data set."""
        return "DonutsDataset"

    @staticmethod
    def sample_annulus(
        x_c: float, y_c: float, r_inner: float, r_outer: float, num: int = 1, rand: Any = None
    ) -> np.ndarray:
        """Draw points from an annulus, uniformly.

        Args:
            x_c: First coordinate of the centre.
            y_c: Second coordinate of the centre.
            r_inner: Inner radius.
            r_outer: Outer radius.
            num: Number of points.
            rand: ``RandomState`` to draw from, by default numpy's global generator.

        Returns:
            Points, float64 ``[num, 2]``.

        Raises:
            ValueError: If the radii are negative or in the wrong order.
        """
        _check_radii(r_inner, r_outer)
        rand = np.random if rand is None else rand
        radius = np.sqrt(rand.uniform(low=r_inner**2, high=r_outer**2, size=num))  # uniform in the area
        angle = rand.uniform(low=-np.pi, high=np.pi, size=num)
        return np.stack([x_c + radius * np.cos(angle), y_c + radius * np.sin(angle)], axis=1)

    def plot_dataset(
        self,
        title: str,
        show: bool = True,
        filename: str | None = None,
        interactive: bool = False,
        figsize: tuple[float, float] = (10, 6),
    ) -> None:
        """Draw all samples.

        Args:
            title: Title of the figure.
            show: Whether to show the figure.
            filename: Where to store it, if anywhere.
            interactive: Whether the program goes on while the figure is shown.
            figsize: Width and height in inches.
        """
        with _plotting.single_axes(title, ("", ""), show, filename, interactive, figsize, size=30) as axes:
            self._draw_points(axes, self.get_train_inputs(), self.get_train_outputs(), "o", 1, "train")
            self._draw_points(axes, self.get_test_inputs(), self.get_test_outputs(), "s", 0.6, "test")
            axes.legend(loc=2, fontsize=30)

    def _plot_sample(
        self,
        fig: Figure,
        inner_grid: GridSpecFromSubplotSpec,
        num_inner_plots: int,
        ind: int,
        inputs: np.ndarray,
        outputs: np.ndarray | None = None,
        predictions: np.ndarray | None = None,
    ) -> None:
        axes = fig.add_subplot(inner_grid[0])
        classes = {"label": outputs, "prediction": predictions}
        axes.set_title(
            ", ".join(f"{name} {self._classes(y)[0]}" for name, y in classes.items() if y is not None)
        )
        axes.set(xlim=self._limits(0), ylim=self._limits(1))
        self._draw_points(axes, inputs, outputs, "o", 1, None)

    def _draw_points(
        self,
        axes: Axes,
        inputs: np.ndarray,
        outputs: np.ndarray | None,
        marker: str,
        alpha: float,
        label: str | None,
    ) -> None:
        colors: dict[str, Any] = {"color": "k"}
        if outputs is not None:
            palette = np.array(["#FF0000", "#0000FF"])
            if self.num_classes > len(palette):
                palette = _plotting.class_colors(self.num_classes)
            colors = {"facecolor": palette[self._classes(outputs)], "edgecolor": "k"}
        axes.scatter(inputs[:, 0], inputs[:, 1], alpha=alpha, marker=marker, s=50, label=label, **colors)

    def _classes(self, outputs: np.ndarray) -> np.ndarray:
        """Classes ``[n]`` of outputs in any encoding."""
        return outputs.argmax(axis=1) if outputs.shape[1] > 1 else outputs[:, 0].astype(int)

    def _limits(self, dimension: int) -> tuple[float, float]:
        values = self._data["in_data"][:, dimension]
        return values.min() - 1, values.max() + 1


def _check_pairs(name: str, pairs: Any) -> None:
    try:
        values = np.asarray(pairs, dtype=np.float64)
    except (TypeError, ValueError):
        values: Any = np.empty(0)
    if values.ndim != 2 or values.shape[1] != 2 or len(values) == 0:
        raise InputError(f"{name}: expected a pair of numbers for each donut, got {pairs!r}")
    check_finite(name, values)


def _check_radii(inner: float, outer: float) -> None:
    if not 0 <= inner <= outer:
        raise InputError(f"radii: expected 0 <= inner <= outer radius, got {inner} and {outer}")
