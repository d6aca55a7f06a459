"""Points in the plane that are drawn from Gaussian distributions, a data set for each of them.

The means are those of Dumoulin et al., 2017 (``DEFAULT_MEANS``), Metz et al., 2017 (``METZ_MEANS``) and
Che et al., 2017 (``CHE_MEANS``).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from hnetfast._errors import InputError
from hnetfast.data import _plotting
from hnetfast.data._arguments import check_count, check_finite, random_source
from hnetfast.data.special._functions import check_callable, function_values
from hnetfast.data.special._regression import FunctionRegression

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.contour import QuadContourSet
    from matplotlib.figure import Figure

__all__ = ["GaussianData", "get_gmm_tasks"]

DEFAULT_MEANS = [np.array(mean) for mean in itertools.product(range(-4, 5, 2), range(-4, 5, 2))]
DEFAULT_VARIANCES = [0.05**2 * np.eye(2) for _ in DEFAULT_MEANS]

METZ_ANGLES = [i / 8 * 2 * np.pi for i in range(8)]
METZ_MEANS = [2 * np.array([np.sin(angle), np.cos(angle)]) for angle in METZ_ANGLES]
METZ_VARIANCES = [0.02**2 * np.eye(2) for _ in METZ_MEANS]

CHE_ANGLES = [(i + 0.5) / 6 * 2 * np.pi for i in range(6)]
CHE_MEANS = [5 * np.array([np.sin(angle), np.cos(angle)]) for angle in CHE_ANGLES]
CHE_VARIANCES = [0.1**2 * np.eye(2) for _ in CHE_MEANS]

_AXES = ("x1", "x2")


class GaussianData(FunctionRegression):
    """Regression of a function at points that are drawn from a Gaussian distribution.

    Args:
        mean: Mean of the points ``[2]``.
        cov: Their covariance ``[2, 2]``.
        num_train: Number of training samples.
        num_test: Number of test samples.
        map_function: Turns inputs ``[n, 2]`` into outputs ``[n, 1]``; by default the density of the points.
        rseed: Seed of the samples; None: they are drawn from numpy's global generator.

    Raises:
        ValueError: If mean or covariance are none or the function returns something else.
    """

    _axes_labels = _AXES

    def __init__(
        self,
        mean: np.ndarray = np.array([0, 0]),  # noqa: B008
        cov: np.ndarray = 0.05**2 * np.eye(2),  # noqa: B008
        num_train: int = 100,
        num_test: int = 100,
        map_function: Callable[[np.ndarray], np.ndarray] | None = None,
        rseed: int | None = None,
    ) -> None:
        super().__init__()
        self._mean = _checked_mean(mean)
        self._cov = _checked_cov(cov)
        num_train, num_test = check_count("num_train", num_train), check_count("num_test", num_test)
        if map_function is None:
            map_function = partial(_density, mean=self._mean, cov=self._cov)
        check_callable("map_function", map_function)
        self._map = map_function
        rand = random_source("rseed", rseed)

        parts = [rand.multivariate_normal(self._mean, self._cov, size=size) for size in (num_train, num_test)]
        values = [function_values("map_function", self._map, x) for x in parts]
        data = self._data
        data["classification"] = False
        data["sequence"] = False
        data["in_data"] = np.concatenate(parts)
        data["in_shape"] = [2]
        data["out_data"] = np.concatenate(values)
        data["out_shape"] = [1]
        data["train_inds"] = np.arange(num_train)
        data["test_inds"] = np.arange(num_train, num_train + num_test)

    @property
    def mean(self) -> np.ndarray:
        """Mean of the inputs ``[2]``."""
        return self._mean

    @property
    def cov(self) -> np.ndarray:
        """Covariance of the inputs ``[2, 2]``."""
        return self._cov

    def get_identifier(self) -> str:
        """Return the name of the data set."""
        return "GaussianInputData"

    # Figures

    def plot_dataset(self, show: bool = True) -> Figure:
        """Draw all samples over contours of the function.

        Args:
            show: Whether to show the figure.

        Returns:
            The figure.
        """
        with _plotting.single_axes("Gaussian Input Dataset", _AXES, show) as axes:
            contours = _draw_contours(axes, self._get_function_vals())
            _draw_values(axes, contours, self.get_train_inputs(), self.get_train_outputs(), "r", "train")
            _draw_values(axes, contours, self.get_test_inputs(), self.get_test_outputs(), "b", "test")
            axes.legend()
        return cast("Figure", axes.figure)

    def _get_function_vals(self, grid_size: int = 100) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the function on a square grid around the mean in which all samples lie.

        Args:
            grid_size: Number of points in a row and in a column.

        Returns:
            Both coordinates and the value of each point, float64 ``[grid_size, grid_size]`` each.
        """
        radius = 1.05 * self._radius()
        x1, x2 = np.meshgrid(*(np.linspace(m - radius, m + radius, grid_size) for m in self._mean))
        values = self._map(np.stack([x1.ravel(), x2.ravel()], axis=1))
        return x1, x2, values.reshape(x1.shape)

    def plot_predictions(
        self,
        predictions: tuple[np.ndarray, np.ndarray],
        label: str = "Pred",
        show_train: bool = True,
        show_test: bool = True,
    ) -> None:
        """Draw samples and predictions in pyplot's current axes, and show them.

        Args:
            predictions: Inputs ``[B, 2]`` and a network's outputs for them ``[B]``.
            label: Name of the predictions in the legend.
            show_train: Whether to draw training samples.
            show_test: Whether to draw test samples.
        """
        from matplotlib import pyplot as plt

        axes = plt.gca()
        contours = _draw_contours(axes, self._get_function_vals())
        if show_train:
            _draw_values(axes, contours, self.get_train_inputs(), self.get_train_outputs(), "r", "Train")
        if show_test:
            _draw_values(axes, contours, self.get_test_inputs(), self.get_test_outputs(), "b", "Test")
        _draw_values(axes, contours, *predictions, "g", label)
        axes.legend()
        axes.set(title="Gaussian Input Dataset", xlabel="x1", ylabel="x2")
        plt.show()

    @staticmethod
    def plot_datasets(
        data_handlers: Sequence[GaussianData],
        inputs: Sequence[np.ndarray] | None = None,
        predictions: Sequence[np.ndarray] | None = None,
        labels: Sequence[str] | None = None,
        show: bool = True,
        filename: str | None = None,
        figsize: tuple[float, float] = (10, 6),
    ) -> Figure:
        """Draw predictions for several data sets.

        The contours show at each point the function of the data set whose mean is the nearest.

        Args:
            data_handlers: The data sets.
            inputs: Inputs for each of them ``[B, 2]``.
            predictions: A network's outputs for these inputs ``[B, 1]``; given if inputs are.
            labels: Name of each data set in the legend.
            show: Whether to show the figure.
            filename: Where to store it, if anywhere.
            figsize: Width and height in inches.

        Returns:
            The figure.

        Raises:
            ValueError: If there are no data sets or lists have another length.
        """
        from matplotlib import colormaps
        from scipy.spatial import KDTree

        number = _plotting.check_tasks(data_handlers, inputs=inputs, predictions=predictions, labels=labels)
        means = np.stack([data.mean for data in data_handlers])
        radii = np.array([data._radius() for data in data_handlers])[:, None]
        low, high = (means - radii).min(axis=0), (means + radii).max(axis=0)
        slack = 0.02 * (high - low)
        x1, x2 = np.meshgrid(
            *(np.linspace(*ends, 1000) for ends in zip(low - slack, high + slack, strict=True))
        )
        points = np.stack([x1.ravel(), x2.ravel()], axis=1)
        nearest = KDTree(means).query(points)[1]
        values = np.empty(len(points))
        for i, data in enumerate(data_handlers):
            mine = nearest == i
            if mine.any():
                values[mine] = data._map(points[mine])[:, 0]

        title = "GaussianMixture tasks"
        with _plotting.single_axes(title, _AXES, show, filename, figsize=figsize, size=20) as axes:
            contours = _draw_contours(axes, (x1, x2, values.reshape(x1.shape)))
            colors = colormaps["rainbow"](np.linspace(0, 1, number))
            drawn = []
            if predictions is not None:
                drawn = [
                    _draw_values(axes, contours, x, y, color, None)
                    for x, y, color in zip(inputs or (), predictions, colors, strict=True)
                ]
            names = [f"Predictions {i}" for i in range(number)] if labels is None else labels
            axes.legend(drawn, names[: len(drawn)])
        return cast("Figure", axes.figure)

    def _draw_points(
        self, axes: Axes, inputs: np.ndarray, outputs: np.ndarray | None, predictions: np.ndarray | None
    ) -> None:
        contours = _draw_contours(axes, self._get_function_vals())
        if outputs is not None:
            _draw_values(axes, contours, inputs, outputs, "b", "Targets")
        if predictions is not None:
            _draw_values(axes, contours, inputs, predictions, "r", "Predictions")

    def _radius(self) -> float:
        """Largest distance of a sample from the mean in one of both dimensions."""
        inputs = np.concatenate([self.get_train_inputs(), self.get_test_inputs()])
        return np.abs(inputs - self._mean).max()


def get_gmm_tasks(
    means: Sequence[np.ndarray] = DEFAULT_MEANS,
    covs: Sequence[np.ndarray] = DEFAULT_VARIANCES,
    num_train: int = 100,
    num_test: int = 100,
    map_functions: Sequence[Callable[[np.ndarray], np.ndarray] | None] | None = None,
    rseed: int | None = None,
) -> list[GaussianData]:
    """Make a data set for each of several Gaussian distributions.

    Args:
        means: Mean of each ``[2]``.
        covs: Covariance of each ``[2, 2]``.
        num_train: Number of training samples of each.
        num_test: Number of test samples of each.
        map_functions: Function of each; see :class:`GaussianData`.
        rseed: Seed of the first one, those of the others follow it; None: numpy's global generator.

    Returns:
        The data sets.

    Raises:
        ValueError: If the lists have different lengths, or an entry is not accepted.
    """
    if map_functions is None:
        map_functions = [None] * len(means)
    for name, values in (("covs", covs), ("map_functions", map_functions)):
        if len(values) != len(means):
            raise InputError(f"{name}: expected one for each of {len(means)} means, got {len(values)}")
    return [
        GaussianData(mean, cov, num_train, num_test, function, None if rseed is None else rseed + i)
        for i, (mean, cov, function) in enumerate(zip(means, covs, map_functions, strict=True))
    ]


def _density(x: np.ndarray, mean: np.ndarray, cov: np.ndarray) -> np.ndarray:
    """Density of a Gaussian distribution at points ``[n, 2]``, float64 ``[n, 1]``."""
    from scipy.stats import multivariate_normal

    return np.reshape(multivariate_normal.pdf(x, mean, cast("Any", cov)), (-1, 1))


def _checked_mean(mean: Any) -> np.ndarray:
    """Return a copy of a mean, so that a change of the caller's array does not reach the handler."""
    copy = np.array(mean)
    if copy.shape != (2,) or copy.dtype.kind not in "iuf":
        raise InputError(f"mean: expected two numbers, got {mean!r}")
    check_finite("mean", copy)
    return copy


def _checked_cov(cov: Any) -> np.ndarray:
    """Return a copy of a covariance matrix that has an inverse."""
    copy = np.array(cov)
    if copy.shape != (2, 2) or copy.dtype.kind not in "iuf":
        raise InputError(f"cov: expected a matrix [2, 2], got {cov!r}")
    check_finite("cov", copy)
    if abs(copy[0, 1] - copy[1, 0]) > 1e-8 * abs(copy[0, 1]):
        raise InputError(f"cov: expected a symmetric matrix, got {copy.tolist()}")
    small, large = np.linalg.eigvalsh(copy)
    if small <= 1e6 * np.finfo(np.float64).eps * abs(large):  # where scipy finds it singular
        raise InputError(f"cov: expected a matrix with positive eigenvalues, got {copy.tolist()}")
    return copy


def _draw_contours(axes: Axes, grid: tuple[np.ndarray, np.ndarray, np.ndarray]) -> QuadContourSet:
    contours = axes.contourf(*grid)
    axes.figure.colorbar(contours, ax=axes)
    return contours


def _draw_values(
    axes: Axes, contours: QuadContourSet, x: np.ndarray, y: np.ndarray, edge: Any, label: str | None
) -> Any:
    """Draw points filled with the colours that contours have at their values."""
    colors = contours.cmap(contours.norm(np.reshape(y, -1)))
    return axes.scatter(x[:, 0], x[:, 1], edgecolors=edge, label=label, facecolor=colors)
