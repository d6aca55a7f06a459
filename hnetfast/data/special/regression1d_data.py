"""Regression of a function of one variable, with Gaussian noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from hnetfast._errors import InputError, InputTypeError
from hnetfast.data import _plotting
from hnetfast.data._arguments import check_count, check_finite, random_source
from hnetfast.data.special._functions import check_callable, function_values
from hnetfast.data.special._regression import FunctionRegression

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["ToyRegression"]

Interval = Sequence[float]

_AXES = ("$x$", "$y$")
_TITLE = "1D-Regression Dataset"
_FUNCTION_LINE = {"linestyle": "dashed", "label": "f(x)", "linewidth": 0.5, "color": "k"}


def _identity(x: np.ndarray) -> np.ndarray:
    return x


class ToyRegression(FunctionRegression):
    """Values of a function at points of the real line.

    Training inputs are drawn uniformly, those for testing and validation have equal distances.

    Args:
        train_inter: Interval of the training inputs, or a list of intervals, which get samples in
            proportion to their lengths.
        num_train: Number of training samples.
        test_inter: Interval of the test inputs.
        num_test: Number of test samples.
        val_inter: Interval of the validation inputs; without it there are none.
        num_val: Number of validation samples; given if ``val_inter`` is.
        map_function: Turns inputs ``[n, 1]`` into outputs ``[n, 1]``.
        std: Standard deviation of the noise that is added to the training outputs, a number or a function of
            the inputs ``[n, 1]``.
        perturb_test_val: Whether the noise is added to the outputs for testing and validation, too.
        rseed: Seed of the samples; None: they are drawn from numpy's global generator.

    Raises:
        ValueError: If an interval is empty, ``std`` negative, only one of ``val_inter`` and ``num_val``
            given, or a function returns something else.
    """

    _axes_labels = _AXES

    def __init__(
        self,
        train_inter: Interval | Sequence[Interval] = [-10, 10],  # noqa: B006
        num_train: int = 20,
        test_inter: Interval = [-10, 10],  # noqa: B006
        num_test: int = 80,
        val_inter: Interval | None = None,
        num_val: int | None = None,
        map_function: Callable[[np.ndarray], np.ndarray] = _identity,
        std: float | Callable[[np.ndarray], Any] = 0.0,
        perturb_test_val: bool = False,
        rseed: int | None = None,
    ) -> None:
        super().__init__()
        if not callable(std):
            check_not_negative("std", std)
        self._draw_samples(
            train_inter,
            num_train,
            test_inter,
            num_test,
            val_inter,
            num_val,
            map_function=map_function,
            noise=_GaussianNoise(std) if callable(std) or std > 0 else None,
            perturb_test_val=perturb_test_val,
            rseed=rseed,
        )
        self._train_inter = tuple(self._train_inter)

    def _draw_samples(
        self,
        train_inter: Interval | Sequence[Interval],
        num_train: int,
        test_inter: Interval,
        num_test: int,
        val_inter: Interval | None,
        num_val: int | None,
        *,
        map_function: Callable[[np.ndarray], np.ndarray],
        noise: Callable[[np.ndarray, Any], np.ndarray] | None,
        perturb_test_val: bool,
        rseed: int | None,
    ) -> None:
        """Draw all samples and set all attributes; the arguments are those of the class.

        But for ``noise``, which returns noise ``[n, 1]`` for inputs ``[n, 1]``, drawn from its second
        argument.
        """
        intervals = _intervals("train_inter", train_inter)
        _check_interval("test_inter", test_inter)
        num_train, num_test = check_count("num_train", num_train), check_count("num_test", num_test)
        if (val_inter is None) != (num_val is None):
            raise InputError(
                f"val_inter, num_val: expected both or none of them, got {val_inter!r} and {num_val!r}"
            )
        if val_inter is not None:
            _check_interval("val_inter", val_inter)
            num_val = check_count("num_val", num_val)
        check_callable("map_function", map_function)
        rand = random_source("rseed", rseed)

        inputs = [
            np.concatenate(
                [
                    rand.uniform(low=start, high=end, size=(size, 1))
                    for (start, end), size in zip(intervals, _shares(intervals, num_train), strict=True)
                ]
            ),
            np.linspace(test_inter[0], test_inter[1], num_test)[:, None],
        ]
        outputs = [function_values("map_function", map_function, x) for x in inputs]
        if noise is not None:
            for i in range(2 if perturb_test_val else 1):
                outputs[i] = _add(outputs[i], noise(inputs[i], rand))
        if val_inter is not None:
            inputs.append(np.linspace(val_inter[0], val_inter[1], num_val or 0)[:, None])
            outputs.append(function_values("map_function", map_function, inputs[2]))
            if noise is not None and perturb_test_val:
                outputs[2] = _add(outputs[2], noise(inputs[2], rand))

        data = self._data
        data["classification"] = False
        data["sequence"] = False
        data["in_data"] = np.concatenate(inputs)
        data["in_shape"] = [1]
        data["out_data"] = np.concatenate(outputs)
        data["out_shape"] = [1]
        data["train_inds"] = np.arange(num_train)
        data["test_inds"] = np.arange(num_train, num_train + num_test)
        if val_inter is not None:
            data["val_inds"] = np.arange(num_train + num_test, num_train + num_test + (num_val or 0))
        self._map = map_function
        starts, ends = zip(*intervals, strict=True)
        self._train_inter: Any = (
            copy(train_inter) if intervals[0] is train_inter else (min(starts), max(ends))
        )
        self._test_inter = copy(test_inter)
        self._val_inter = copy(val_inter)

    @property
    def train_x_range(self) -> Interval:
        """Interval of the training inputs, from the first to the last of several."""
        return self._train_inter

    @property
    def test_x_range(self) -> Interval:
        """Interval of the test inputs."""
        return self._test_inter

    @property
    def val_x_range(self) -> Interval | None:
        """Interval of the validation inputs, None without them."""
        return self._val_inter

    def get_identifier(self) -> str:
        """Return the name of the data set."""
        return "1DRegression"

    # Figures

    def _get_function_vals(
        self, num_samples: int = 100, x_range: Interval | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the function without noise at points of equal distances.

        Args:
            num_samples: Number of points.
            x_range: Interval that they exceed by a twentieth on both sides; by default the least one that
                holds those for training, testing and validation.

        Returns:
            Points and values, ``[num_samples, 1]`` each.
        """
        ranges: list[Any] = [x_range]
        if x_range is None:
            ranges = [self._train_inter, self._test_inter]
            if self.num_val_samples > 0 and self._val_inter is not None:
                ranges.append(self._val_inter)
        start, end = min(ends[0] for ends in ranges), max(ends[1] for ends in ranges)
        slack = 0.05 * abs(end - start)
        x = np.linspace(start - slack, end + slack, num_samples)[:, None]
        return x, self._map(x)

    def plot_dataset(self, show: bool = True) -> None:
        """Draw all samples and the function.

        Args:
            show: Whether to show the figure.
        """
        with _plotting.single_axes(_TITLE, _AXES, show) as axes:
            axes.plot(*self._get_function_vals(), **_FUNCTION_LINE)
            axes.scatter(self.get_train_inputs(), self.get_train_outputs(), color="r", label="Train")
            axes.scatter(self.get_test_inputs(), self.get_test_outputs(), color="b", label="Test", alpha=0.8)
            if self.num_val_samples > 0:
                axes.scatter(self.get_val_inputs(), self.get_val_outputs(), color="g", label="Val", alpha=0.5)
            axes.legend()
            axes.locator_params(axis="x", nbins=6)
            axes.locator_params(axis="y", nbins=2)

    def plot_predictions(
        self,
        predictions: tuple[np.ndarray, np.ndarray],
        label: str = "Pred",
        show_train: bool = True,
        show_test: bool = True,
    ) -> None:
        """Draw samples and predictions in pyplot's current axes, and show them.

        Args:
            predictions: Inputs and a network's outputs for them, ``[B, 1]`` each.
            label: Name of the predictions in the legend.
            show_train: Whether to draw training samples.
            show_test: Whether to draw test samples.
        """
        from matplotlib import pyplot as plt

        axes = plt.gca()
        axes.plot(*self._get_function_vals(), **_FUNCTION_LINE)
        if show_train:
            axes.scatter(self.get_train_inputs(), self.get_train_outputs(), color="r", label="Train")
        if show_test:
            axes.scatter(self.get_test_inputs(), self.get_test_outputs(), color="b", label="Test")
        axes.scatter(*predictions, color="g", label=label)
        axes.legend()
        axes.set(title=_TITLE, xlabel=_AXES[0], ylabel=_AXES[1])
        plt.show()

    def _draw_points(
        self, axes: Axes, inputs: np.ndarray, outputs: np.ndarray | None, predictions: np.ndarray | None
    ) -> None:
        axes.plot(*self._get_function_vals(), **_FUNCTION_LINE)
        if outputs is not None:
            axes.scatter(inputs, outputs, color="b", label="Targets")
        if predictions is not None:
            axes.scatter(inputs, predictions, color="r", label="Predictions")

    @staticmethod
    def plot_datasets(
        data_handlers: Sequence[ToyRegression],
        inputs: Sequence[np.ndarray] | None = None,
        predictions: Sequence[np.ndarray] | None = None,
        labels: Sequence[str] | None = None,
        fun_xranges: Sequence[Interval] | None = None,
        show: bool = True,
        filename: str | None = None,
        figsize: tuple[float, float] = (10, 6),
        publication_style: bool = False,
    ) -> None:
        """Draw the functions of several data sets and predictions for them.

        Args:
            data_handlers: The data sets.
            inputs: Inputs for each of them ``[B, 1]``.
            predictions: A network's outputs for these inputs ``[B, 1]``; given if inputs are.
            labels: Name of each data set in the legend.
            fun_xranges: Interval in which each function is drawn.
            show: Whether to show the figure.
            filename: Where to store it, if anywhere.
            figsize: Width and height in inches.
            publication_style: Whether to draw for print: thick lines and large text in a figure of 12 by 6
                inches without a legend.

        Raises:
            ValueError: If there are no data sets or lists have another length.
        """
        number = _plotting.check_tasks(
            data_handlers, inputs=inputs, predictions=predictions, labels=labels, fun_xranges=fun_xranges
        )
        text, line, marker = (60, 15, 140) if publication_style else (12, 2, 15)
        size = (12, 6) if publication_style else figsize
        names = [f"Function {i}" for i in range(number)] if labels is None else labels
        font: dict[str, Any] = {"size": text, "pad": text}
        with _plotting.single_axes("1D regression", _AXES, show, filename, figsize=size, **font) as axes:
            drawn, legend = [], []
            for i, (data, color) in enumerate(
                zip(data_handlers, _plotting.class_colors(number), strict=False)
            ):
                values = data._get_function_vals(x_range=None if fun_xranges is None else fun_xranges[i])
                drawn += axes.plot(*values, color=color, linestyle="dashed", linewidth=line / 3)
                legend.append(names[i])
                if predictions is not None:
                    drawn.append(axes.scatter(cast("Any", inputs)[i], predictions[i], color=color, s=marker))
                    legend.append("Predictions")
            if publication_style:
                _style_for_print(axes, number, text, line)
            else:
                axes.legend(drawn, legend)
            for label in (axes.xaxis.label, axes.yaxis.label):
                label.set_fontsize(text)
            cast("Any", axes.figure).tight_layout()


class _GaussianNoise:
    """Noise with a standard deviation that is a number or a function of the inputs."""

    def __init__(self, std: float | Callable[[np.ndarray], Any]) -> None:
        self._std = std

    def __call__(self, x: np.ndarray, rand: Any) -> np.ndarray:
        std = self._std
        if callable(std):
            std = np.asarray(std(x.copy()))
            if std.shape not in ((), (1,), (1, 1), x.shape):
                raise InputError(
                    f"std: expected a function that returns {list(x.shape)}, "
                    f"got one that returns {list(std.shape)}"
                )
            check_finite("std", std)
            if (std < 0).any():
                raise InputError(f"std: expected a function with values >= 0, got {std.min()}")
        return rand.normal(loc=0.0, scale=std, size=x.shape)


def check_not_negative(name: str, value: Any) -> None:
    """Refuse what is no finite number of at least 0.

    Args:
        name: The argument's name.
        value: What was given.

    Raises:
        TypeError: If it is no number.
        ValueError: If it is negative, infinite or NaN.
    """
    try:
        accepted = 0 <= float(value) < np.inf
    except (TypeError, ValueError):
        raise InputTypeError(f"{name}: expected a number of at least 0, got {value!r}") from None
    if not accepted:
        raise InputError(f"{name}: expected a finite number of at least 0, got {value!r}")


def _check_interval(name: str, interval: Any) -> None:
    try:
        start, end = interval
        accepted = bool(-np.inf < start < end < np.inf)
    except (TypeError, ValueError):
        accepted = False
    if not accepted:
        raise InputError(f"{name}: expected a pair of finite numbers, start < end, got {interval!r}")


def _intervals(name: str, value: Any) -> list[Interval]:
    """Return one interval or several as a list."""
    try:
        several = len(value) > 0 and np.ndim(value[0]) > 0
    except TypeError:
        several = False
    intervals = list(value) if several else [value]
    for interval in intervals:
        _check_interval(name, interval)
    return intervals


def _shares(intervals: list[Interval], number: int) -> list[int]:
    """Distribute samples over intervals in proportion to their lengths."""
    lengths = np.array([end - start for start, end in intervals], dtype=np.float64)
    shares = np.round(lengths / lengths.sum() * number).astype(int)  # in this order, as in hypnettorch
    missing = number - shares.sum()
    if missing > 0:
        shares[:missing] += 1
    elif missing < 0:
        shares[np.flatnonzero(shares)[:-missing]] -= 1
    return shares.tolist()


def _add(outputs: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Add noise to outputs; floating point numbers keep their precision."""
    total = outputs + noise
    return total.astype(outputs.dtype) if outputs.dtype.kind == "f" else total


def _style_for_print(axes: Axes, number: int, text: float, line: float) -> None:
    axes.grid(False)
    left, right = axes.get_xlim()
    bottom, top = axes.get_ylim()
    axes.set_xbound(left, right)
    axes.set_ylim(bottom, top)
    axes.axhline(y=bottom, color="k", lw=line)
    axes.axvline(x=left, color="k", lw=line)
    if number == 3:  # the three tasks of von Oswald et al., 2020, figure 2
        axes.set_yticks([-1, 0, 1])
        axes.set_xticks([-2.5, 0, 2.5])
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        label.set_fontsize(text)
    axes.tick_params(axis="both", length=line, direction="out", width=line / 2)
