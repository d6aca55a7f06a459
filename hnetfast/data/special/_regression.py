"""Regression of a function: figures of samples in one pair of axes."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

import numpy as np

from hnetfast._errors import InputError
from hnetfast.data import _plotting
from hnetfast.data.dataset import Dataset

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.gridspec import GridSpecFromSubplotSpec


class FunctionRegression(Dataset):
    """Points and the values that a function has there. Subclasses draw them over the function."""

    _axes_labels: tuple[str, str]

    def plot_samples(
        self,
        title: str,
        inputs: np.ndarray,
        outputs: np.ndarray | None = None,
        predictions: np.ndarray | None = None,
        num_samples_per_row: int = 4,
        show: bool = True,
        filename: str | None = None,
        interactive: bool = False,
        figsize: tuple[float, float] = (10, 6),
    ) -> None:
        """Draw samples, all in the same axes, over the function.

        Args:
            title: Title of the axes.
            inputs: Inputs ``[B, D_in]``.
            outputs: Outputs ``[B, 1]``; these or predictions must be given.
            predictions: Outputs of a network ``[B, 1]``.
            num_samples_per_row: Has no meaning here.
            show: Whether to show the figure.
            filename: Where to store it, if anywhere.
            interactive: Whether the program goes on while the figure is shown.
            figsize: Width and height in inches.

        Raises:
            ValueError: If there are neither outputs nor predictions.
        """
        if outputs is None and predictions is None:
            raise InputError("outputs, predictions: at least one of them is needed, got None for both")
        with _plotting.single_axes(
            title, self._axes_labels, show, filename, interactive, figsize, size=20
        ) as axes:
            self._draw_points(axes, inputs, outputs, predictions)
            axes.legend()

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
        self._draw_points(fig.add_subplot(inner_grid[0]), inputs, outputs, predictions)

    @abstractmethod
    def _draw_points(
        self, axes: Axes, inputs: np.ndarray, outputs: np.ndarray | None, predictions: np.ndarray | None
    ) -> None:
        """Draw the function and samples, which a legend may name.

        Args:
            axes: Where to.
            inputs: Inputs ``[B, D_in]``.
            outputs: Outputs ``[B, 1]``.
            predictions: Outputs of a network ``[B, 1]``.
        """
