r"""Points in the plane that are drawn from a mixture of Gaussian distributions.

With mixing coefficients :math:`\pi_k` and components :math:`N_k`, the density of an input is
:math:`p(x) = \sum_k \pi_k N_k(x)`, the probability of its component :math:`p(k | x) = \pi_k N_k(x) / p(x)`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from hnetfast._errors import InputError, InputTypeError
from hnetfast.data import _plotting
from hnetfast.data._arguments import check_choice, check_count, check_finite
from hnetfast.data._imports import random_state_kept
from hnetfast.data.dataset import Dataset
from hnetfast.data.special.gaussian_mixture_data import GaussianData

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.gridspec import GridSpecFromSubplotSpec

__all__ = ["GMMData"]

Mesh = tuple[np.ndarray, np.ndarray, np.ndarray]

_AXES = ("x1", "x2")
_LEAST_PROBABILITY = 1e-5  # in logarithms


class GMMData(Dataset):
    """Several Gaussian data sets in one, whose classes are the data sets.

    Args:
        gaussian_datasets: The data sets, e.g. those of
            :func:`hnetfast.data.special.gaussian_mixture_data.get_gmm_tasks`. The numbers of their samples
            should agree with the mixing coefficients.
        classification: Whether outputs are classes; otherwise they are those of the data sets.
        use_one_hot: Whether classes are one-hot encoded.
        mixing_coefficients: Weight of each component, in sum 1; by default the same for all.

    Raises:
        ValueError: If the data sets do not fit each other or the coefficients are none.
    """

    def __init__(
        self,
        gaussian_datasets: Sequence[GaussianData],
        classification: bool = False,
        use_one_hot: bool = False,
        mixing_coefficients: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if use_one_hot and not classification:
            raise InputError("use_one_hot: expected False unless this is a classification, got True")
        datasets = _checked_datasets(gaussian_datasets)
        if mixing_coefficients is None:
            mixing_coefficients = [1.0 / len(datasets)] * len(datasets)
        _check_coefficients(mixing_coefficients, len(datasets))

        self._num_modes = len(datasets)
        self._means = [dataset.mean.copy() for dataset in datasets]
        self._covs = [dataset.cov.copy() for dataset in datasets]
        self._mixing_coefficients = copy(mixing_coefficients)

        sizes = [[d.num_train_samples for d in datasets], [d.num_test_samples for d in datasets]]
        outputs = [d.get_train_outputs() for d in datasets] + [d.get_test_outputs() for d in datasets]
        data = self._data
        data["classification"] = classification
        data["sequence"] = False
        if classification:
            data["num_classes"] = self._num_modes
            data["is_one_hot"] = use_one_hot
            classes = np.arange(float(self._num_modes))
            labels = np.concatenate([np.repeat(classes, size) for size in sizes])[:, None]
            data["out_data"] = self._to_one_hot(labels) if use_one_hot else labels
            data["out_shape"] = [self._num_modes if use_one_hot else 1]
        else:
            data["out_data"] = np.concatenate(outputs)
            data["out_shape"] = list(datasets[0].out_shape)
        data["in_data"] = np.concatenate(
            [d.get_train_inputs() for d in datasets] + [d.get_test_inputs() for d in datasets]
        )
        data["in_shape"] = list(datasets[0].in_shape)
        data["train_inds"] = np.arange(sum(sizes[0]))
        data["test_inds"] = np.arange(sum(sizes[0]), len(data["in_data"]))

    @property
    def num_modes(self) -> int:
        """Number of components."""
        return self._num_modes

    @property
    def means(self) -> np.ndarray:
        """Mean of each component, new array ``[K, 2]``."""
        return np.array(self._means)

    def get_identifier(self) -> str:
        """Return the name of the data set."""
        return "GMMData"

    # Densities

    def _compute_responsibilities(
        self, samples: np.ndarray, normalize: bool = False, eps: float | None = None
    ) -> np.ndarray:
        """Return the weighted density of each component at points.

        Args:
            samples: Points ``[n, 2]``.
            normalize: Whether to divide by the density of the mixture, which gives probabilities.
            eps: Added to that density, so that it is never zero.

        Returns:
            float64 ``[n, K]``.
        """
        from scipy.stats import multivariate_normal

        samples = self._checked_points("samples", samples)
        weighted = np.empty((len(samples), self.num_modes))
        components = zip(self._mixing_coefficients, self._means, self._covs, strict=True)
        for k, (weight, mean, cov) in enumerate(components):
            weighted[:, k] = weight * multivariate_normal.pdf(samples, mean, cov)
        if normalize:
            total = weighted.sum(axis=1, keepdims=True)
            weighted /= total if eps is None else total + eps
        return weighted

    def estimate_mode_coverage(
        self, fake: np.ndarray, responsibilities: np.ndarray | None = None
    ) -> tuple[int, np.ndarray]:
        """Count the components that samples of a model belong to, as in Dumoulin et al., 2017.

        A sample belongs to the component with the largest responsibility.

        Args:
            fake: Samples ``[n, 2]``.
            responsibilities: Responsibilities of the components for them ``[n, K]``, in any scale; by
                default they are computed.

        Returns:
            The number of components, and the responsibilities, if computed the weighted densities.

        Raises:
            ValueError: If the arrays have other shapes.
        """
        fake = self._checked_points("fake", fake)
        if responsibilities is None:
            responsibilities = self._compute_responsibilities(fake)
        self._check_per_component("responsibilities", responsibilities, len(fake))
        return len(np.unique(np.argmax(responsibilities, axis=1))), responsibilities

    def estimate_distance(
        self,
        fake: np.ndarray,
        component_densities: np.ndarray | None = None,
        density_estimation: str = "hist",
        eps: float = 1e-05,
    ) -> float:
        """Estimate the symmetric Kullback-Leibler divergence of samples of a model from the mixture.

        It is the sum of two means of differences of log densities: over the samples, and over as many
        training samples, the same ones in each call. The density of the model is estimated from its samples.

        Args:
            fake: Samples of the model ``[n, 2]``.
            component_densities: Weighted densities of the components for them ``[n, K]``, as
                :meth:`estimate_mode_coverage` returns them; by default they are computed.
            density_estimation: "hist": histogram with as many bins in a dimension as the square root of n;
                "gaussian": density estimation with Gaussian kernels by scikit-learn.
            eps: Least density. That of the mixture is divided by the number of components before.

        Returns:
            The divergence.

        Raises:
            ValueError: If arrays have other shapes or the kind of estimation is unknown.
        """
        check_choice("density_estimation", density_estimation, ("hist", "gaussian"))
        fake = self._checked_points("fake", fake)
        if len(fake) == 0:
            raise InputError("fake: expected at least one sample, got none")
        if component_densities is None:
            component_densities = self._compute_responsibilities(fake)
        self._check_per_component("component_densities", component_densities, len(fake))
        real = self.get_train_inputs()
        real = real[np.random.RandomState(42).permutation(len(real))[: len(fake)]]
        if len(real) == 0:
            raise InputError("fake: can't be compared with training samples, there are none")

        true_fake = _log(np.mean(component_densities, axis=1), eps)
        true_real = _log(np.mean(self._compute_responsibilities(real), axis=1), eps)
        if density_estimation == "hist":
            self._check_plane()
            model_fake, model_real = (_log(values, eps) for values in _histogram_densities(fake, real))
        else:
            with random_state_kept():
                from sklearn.neighbors import KernelDensity

            model = KernelDensity(kernel="gaussian").fit(fake)
            model_fake, model_real = model.score_samples(fake), model.score_samples(real)
        return np.mean(model_fake - true_fake) + np.mean(true_real - model_real)

    # Figures

    def get_input_mesh(
        self,
        x1_range: Sequence[float] | None = None,
        x2_range: Sequence[float] | None = None,
        grid_size: int | Sequence[int] = 1000,
    ) -> Mesh:
        """Return a grid of points.

        Args:
            x1_range: Smallest and largest first coordinate; by default all samples lie in the grid.
            x2_range: Likewise for the second one.
            grid_size: Number of points in a row and in a column, or one number for both.

        Returns:
            The first and the second coordinate of all points ``[m2, m1]`` each, and both of them
            ``[m1 * m2, 2]``.

        Raises:
            ValueError: If the data are no points in a plane, a range is empty or a size less than 1.
        """
        self._check_plane()
        sizes: list[Any] = [grid_size] * 2 if not isinstance(grid_size, Iterable) else list(grid_size)
        if len(sizes) != 2:
            raise InputError(f"grid_size: expected one integer or two, got {grid_size!r}")
        sizes = [check_count("grid_size", size, 1) for size in sizes]
        data = self._data["in_data"]
        low, high = data.min(axis=0), data.max(axis=0)
        slack = 0.02 * (high - low)
        ranges: list[Any] = list(zip(low - slack, high + slack, strict=True))
        for i, (name, given) in enumerate((("x1_range", x1_range), ("x2_range", x2_range))):
            if given is not None:
                if len(given) != 2 or not -np.inf < given[0] < given[1] < np.inf:
                    raise InputError(f"{name}: expected a pair of numbers, start < end, got {given!r}")
                ranges[i] = given
        x1, x2 = np.meshgrid(
            *(np.linspace(ends[0], ends[1], n) for ends, n in zip(ranges, sizes, strict=True))
        )
        return x1, x2, np.stack([x1.ravel(), x2.ravel()], axis=1)

    def plot_samples(
        self,
        title: str,
        inputs: np.ndarray,
        outputs: np.ndarray | None = None,
        predictions: np.ndarray | None = None,
        show: bool = True,
        filename: str | None = None,
        interactive: bool = False,
        figsize: tuple[float, float] = (10, 6),
    ) -> None:
        """Draw samples, all in the same axes.

        Their colour is that of the prediction, with the output at the edge, or that of the one given.

        Args:
            title: Title of the axes.
            inputs: Inputs ``[B, 2]``.
            outputs: Outputs ``[B, 1]``; classes in any encoding.
            predictions: Outputs of a network, likewise.
            show: Whether to show the figure.
            filename: Where to store it, if anywhere.
            interactive: Whether the program goes on while the figure is shown.
            figsize: Width and height in inches.

        Raises:
            ValueError: If the data are no points in a plane.
        """
        self._check_plane()
        with _plotting.single_axes(title, _AXES, show, filename, interactive, figsize, size=20) as axes:
            self._draw_points(axes, inputs, outputs, predictions)

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

    def plot_real_fake(
        self,
        title: str,
        real: np.ndarray,
        fake: np.ndarray,
        show: bool = True,
        filename: str | None = None,
        interactive: bool = False,
        figsize: tuple[float, float] = (10, 6),
    ) -> None:
        """Draw samples of the data set and of a model.

        Args:
            title: Title of the axes.
            real: Samples of the data set ``[n, 2]``.
            fake: Samples of the model ``[m, 2]``.
            show: Whether to show the figure.
            filename: Where to store it, if anywhere.
            interactive: Whether the program goes on while the figure is shown.
            figsize: Width and height in inches.

        Raises:
            ValueError: If the data are no points in a plane.
        """
        self._check_plane()
        colors = _plotting.class_colors(2)
        with _plotting.single_axes(title, _AXES, show, filename, interactive, figsize, size=20) as axes:
            axes.scatter(real[:, 0], real[:, 1], color=colors[0], label="real")
            axes.scatter(fake[:, 0], fake[:, 1], color=colors[1], label="fake")
            axes.legend()

    def plot_uncertainty_map(
        self,
        title: str = "Uncertainty Map",
        input_mesh: Mesh | None = None,
        uncertainties: np.ndarray | None = None,
        use_generative_uncertainty: bool = False,
        use_ent_joint_uncertainty: bool = False,
        sample_inputs: np.ndarray | None = None,
        sample_modes: np.ndarray | None = None,
        sample_label: str | None = None,
        sketch_components: bool = False,
        norm_eps: float | None = None,
        show: bool = True,
        filename: str | None = None,
        figsize: tuple[float, float] = (10, 6),
    ) -> None:
        """Draw how uncertain the class of each point is.

        Args:
            title: Title of the axes.
            input_mesh: The points, as :meth:`get_input_mesh` returns them by default.
            uncertainties: The uncertainties ``[m1 * m2]``; by default the entropies of :math:`p(k | x)`
                divided by the largest possible one. NaN is drawn as 0, with a warning.
            use_generative_uncertainty: Whether the default is the density :math:`p(x)`.
            use_ent_joint_uncertainty: Whether the default is the entropy of :math:`p(k, x)` at each point,
                where :math:`p(x)` is divided by its maximum in the mesh.
            sample_inputs: Samples to draw as well ``[n, 2]``.
            sample_modes: Their components ``[n]``, which choose their colours.
            sample_label: Their name in the legend.
            sketch_components: Whether to draw mean and covariance of each component.
            norm_eps: Added to :math:`p(x)` before it divides anything, so that it is never zero.
            show: Whether to show the figure.
            filename: Where to store it, if anywhere.
            figsize: Width and height in inches.

        Raises:
            ValueError: If both kinds of uncertainty are asked for, or one and ``uncertainties``, or arrays
                have other shapes.
        """
        x1, x2, points = self._checked_mesh(input_mesh)
        if use_generative_uncertainty and use_ent_joint_uncertainty:
            raise InputError(
                "use_generative_uncertainty, use_ent_joint_uncertainty: expected one of them, got both"
            )
        if uncertainties is not None and (use_generative_uncertainty or use_ent_joint_uncertainty):
            raise InputError("uncertainties: expected None where a kind to compute is chosen")
        self._check_samples(sample_inputs, sample_modes)
        if uncertainties is not None:
            values = _per_point("uncertainties", uncertainties, len(points))
        elif use_generative_uncertainty:
            values = self._compute_responsibilities(points).sum(axis=1)
        else:
            with np.errstate(invalid="ignore"):
                probabilities = self._compute_responsibilities(points, normalize=True, eps=norm_eps)
            values = -np.sum(probabilities * _log(probabilities, _LEAST_PROBABILITY), axis=1)
            if use_ent_joint_uncertainty:
                density = self._compute_responsibilities(points).sum(axis=1)
                density /= density.max()
                values = density * values - density * _log(density, _LEAST_PROBABILITY)
            elif self.num_modes > 1:
                values /= -np.log(1.0 / self.num_modes)
        if np.isnan(values).any():
            warnings.warn("NaN among the uncertainties, drawn as 0.", UserWarning, stacklevel=2)
            values = np.where(np.isnan(values), 0, values)
        with _plotting.single_axes(title, _AXES, show, filename, figsize=figsize, size=20) as axes:
            contours = axes.contourf(x1, x2, values.reshape(x1.shape))
            axes.figure.colorbar(contours, ax=axes)
            self._draw_overlay(axes, sample_inputs, sample_modes, sample_label, sketch_components)

    def plot_optimal_classification(
        self,
        title: str = "Classification Map",
        input_mesh: Mesh | None = None,
        mesh_modes: np.ndarray | None = None,
        sample_inputs: np.ndarray | None = None,
        sample_modes: np.ndarray | None = None,
        sample_label: str | None = None,
        sketch_components: bool = False,
        show: bool = True,
        filename: str | None = None,
        figsize: tuple[float, float] = (10, 6),
    ) -> None:
        """Draw the component that each point most probably belongs to.

        Args:
            title: Title of the axes.
            input_mesh: The points, as :meth:`get_input_mesh` returns them by default.
            mesh_modes: Another choice of their components ``[m1 * m2]``.
            sample_inputs: Samples to draw as well; see :meth:`plot_uncertainty_map`.
            sample_modes: Their components.
            sample_label: Their name in the legend.
            sketch_components: Whether to draw mean and covariance of each component.
            show: Whether to show the figure.
            filename: Where to store it, if anywhere.
            figsize: Width and height in inches.

        Raises:
            ValueError: If arrays have other shapes or components do not exist.
        """
        points = self._checked_mesh(input_mesh)[2]
        self._check_samples(sample_inputs, sample_modes)
        if mesh_modes is None:
            modes = np.argmax(self._compute_responsibilities(points), axis=1)
        else:
            modes = self._checked_modes("mesh_modes", mesh_modes, len(points))
        with _plotting.single_axes(title, _AXES, show, filename, figsize=figsize, size=20) as axes:
            colors = _plotting.class_colors(self.num_modes)[modes]
            axes.scatter(points[:, 0], points[:, 1], s=1, facecolor=colors)
            self._draw_overlay(axes, sample_inputs, sample_modes, sample_label, sketch_components, "k")

    def _draw_components(self, label: str | None = None) -> None:
        """Draw mean and covariance of each component in pyplot's current axes.

        Args:
            label: Name of the means in the legend.
        """
        from matplotlib import pyplot as plt
        from matplotlib.patches import Ellipse

        axes = plt.gca()
        axes.scatter(*np.transpose(self._means), color="k", label=label)
        for mean, cov in zip(self._means, self._covs, strict=True):
            (minor, major), vectors = np.linalg.eigh(cov)
            angle = np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1])) % 180
            axes.add_artist(Ellipse(mean, major, minor, angle=angle, facecolor="none", edgecolor="k"))

    # Internals

    def _draw_points(
        self, axes: Axes, inputs: np.ndarray, outputs: np.ndarray | None, predictions: np.ndarray | None
    ) -> None:
        x1, x2 = inputs[:, 0], inputs[:, 1]
        named = {"Targets": outputs, "Predictions": predictions}
        given = {name: values for name, values in named.items() if values is not None}
        if not given:
            axes.scatter(x1, x2, color="k", label="Inputs")
            return
        *edges, faces = self._colors(axes, list(given.values()))
        options: dict[str, Any] = {"edgecolors": edges[0]} if edges else {}
        axes.scatter(x1, x2, label="+".join(given), facecolor=faces, **options)

    def _colors(self, axes: Axes, several: list[np.ndarray]) -> list[np.ndarray]:
        """Return the colours of outputs, in regression with a bar beside the axes that explains them."""
        if self.classification:
            palette = _plotting.class_colors(self.num_modes)
            return [
                palette[y.argmax(axis=1) if y.shape[1] > 1 else y[:, 0].astype(int)]
                for y in (np.reshape(y, (len(y), -1)) for y in several)
            ]
        from matplotlib import colormaps
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize

        known = self._data["out_data"]
        mappable = ScalarMappable(Normalize(known.min(), known.max()), colormaps["viridis"])
        axes.figure.colorbar(mappable, ax=axes)
        return [np.asarray(mappable.cmap(mappable.norm(np.reshape(y, -1)))) for y in several]

    def _draw_overlay(
        self,
        axes: Axes,
        inputs: np.ndarray | None,
        modes: np.ndarray | None,
        label: str | None,
        sketch_components: bool,
        edge: str | None = None,
    ) -> None:
        if inputs is not None:
            colors: dict[str, Any] = {"color": "b"}
            if modes is not None:
                found = self._checked_modes("sample_modes", modes, len(inputs))
                colors = {"facecolor": _plotting.class_colors(self.num_modes)[found], "edgecolor": edge}
            axes.scatter(inputs[:, 0], inputs[:, 1], label=label, **colors)
        if sketch_components:
            self._draw_components(label="Means")
        if sketch_components or (inputs is not None and label is not None):
            axes.legend()

    def _check_plane(self) -> None:
        if self.in_shape != [2]:
            raise InputError(f"This data set holds no points in a plane, its inputs are {self.in_shape}.")

    def _checked_points(self, name: str, points: Any) -> np.ndarray:
        points = np.asarray(points)
        if points.ndim != 2 or points.shape[1] != self._data["in_data"].shape[1]:
            raise InputError(
                f"{name}: expected points [n, {self._data['in_data'].shape[1]}], "
                f"got an array {list(points.shape)}"
            )
        check_finite(name, points)
        return points

    def _check_per_component(self, name: str, values: Any, number: int) -> None:
        if np.shape(values) != (number, self.num_modes):
            raise InputError(
                f"{name}: expected an array [{number}, {self.num_modes}], got {list(np.shape(values))}"
            )

    def _checked_mesh(self, mesh: Mesh | None) -> Mesh:
        self._check_plane()
        if mesh is None:
            return self.get_input_mesh()
        if len(mesh) != 3 or np.shape(mesh[0]) != np.shape(mesh[1]) or len(mesh[2]) != np.size(mesh[0]):
            raise InputError("input_mesh: expected what get_input_mesh returns, got something else")
        return mesh

    def _check_samples(self, inputs: np.ndarray | None, modes: np.ndarray | None) -> None:
        if inputs is not None:
            self._checked_points("sample_inputs", inputs)
            if modes is not None:
                self._checked_modes("sample_modes", modes, len(inputs))

    def _checked_modes(self, name: str, modes: Any, number: int) -> np.ndarray:
        modes = _per_point(name, modes, number)
        known = (modes >= 0) & (modes < self.num_modes) & (modes == np.floor(modes))
        if not known.all():
            raise InputError(
                f"{name}: expected integers from 0 to {self.num_modes - 1}, got {modes[~known][0]}"
            )
        return modes.astype(int)


def _checked_datasets(given: Any) -> list[GaussianData]:
    datasets: list[Any] = list(given)
    if not datasets:
        raise InputError("gaussian_datasets: expected at least one data set, got none")
    for dataset in datasets:
        mean, cov = getattr(dataset, "mean", None), getattr(dataset, "cov", None)
        if not isinstance(dataset, Dataset) or mean is None or cov is None:
            raise InputTypeError(f"gaussian_datasets: expected GaussianData objects, got {dataset!r}")
        dimension = datasets[0].in_shape
        shapes = [dataset.in_shape, dataset.out_shape, list(mean.shape), list(cov.shape)]
        if shapes != [dimension, datasets[0].out_shape, dimension, dimension * 2]:
            raise InputError(
                "gaussian_datasets: expected inputs, outputs, means and covariances of the same dimensions, "
                f"got {', '.join(map(str, shapes))} beside inputs {dimension}"
            )
    return datasets


def _check_coefficients(coefficients: Any, number: int) -> None:
    values = np.asarray(coefficients, dtype=np.float64)
    if values.shape != (number,) or not (values >= 0).all() or not np.isclose(values.sum(), 1):
        raise InputError(
            f"mixing_coefficients: expected {number} numbers of at least 0 with sum 1, got {coefficients!r}"
        )


def _per_point(name: str, values: Any, number: int) -> np.ndarray:
    """Return one value for each point, however they are arranged."""
    if np.size(values) != number:
        raise InputError(f"{name}: expected one value for each of {number} points, got {np.size(values)}")
    return np.reshape(values, -1)


def _log(values: np.ndarray, least: float) -> np.ndarray:
    return np.log(np.maximum(values, least))


def _histogram_densities(samples: np.ndarray, others: np.ndarray) -> list[np.ndarray]:
    """Return the density, by a histogram of samples, at themselves and at other points ``[n, 2]``."""
    bins = int(np.ceil(np.sqrt(len(samples))))
    density, *edges = np.histogram2d(*samples.T, bins=bins, density=True)
    padded = np.pad(density, 1)  # outside of the histogram
    found = []
    for points in (samples, others):
        cells = []
        for values, edge in zip(points.T, edges, strict=True):
            cell = np.searchsorted(edge, values, side="right")
            cells.append(np.where(values == edge[-1], bins, cell))  # the last cell has its upper end, too
        found.append(padded[tuple(cells)])
    return found
