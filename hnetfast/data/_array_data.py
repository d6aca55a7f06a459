"""A handler of samples that come as arrays."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from hnetfast._errors import InputError
from hnetfast.data._arguments import check_count, check_finite, check_validation_size
from hnetfast.data._samples import Pixels
from hnetfast.data.dataset import Dataset

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.gridspec import GridSpecFromSubplotSpec


class ArrayData(Dataset):
    """Samples that come as arrays.

    Args:
        name: Name of the data set.
        inputs: Inputs ``[N, *in_shape]``; bytes are read as numbers from 0 to 1.
        outputs: Classes, integers ``[N]`` or ``[N, 1]``, or numbers ``[N, *out_shape]``.
        train_inds: Which samples are for training, integers ``[n]``.
        test_inds: Which are for testing, integers ``[m]``.
        validation_size: How many of those for training, the first ones, are for validation instead.
        classification: Whether outputs are classes.
        num_classes: How many classes there are; by default the largest one + 1.
        use_one_hot: Whether classes are one-hot encoded.
        values: Which number each byte stands for, float64 ``[256]``.

    Raises:
        ValueError: If numbers are not finite, outputs are no classes, or there are not enough training
            samples.
    """

    def __init__(
        self,
        name: str,
        inputs: np.ndarray,
        outputs: np.ndarray,
        train_inds: np.ndarray,
        test_inds: np.ndarray,
        validation_size: int = 0,
        *,
        classification: bool = True,
        num_classes: int | None = None,
        use_one_hot: bool = False,
        values: np.ndarray | None = None,
    ) -> None:
        super().__init__()
        validation_size = check_validation_size(validation_size, len(train_inds))
        check_finite("inputs", inputs)
        check_finite("outputs", outputs)
        self._name = name
        data = self._data
        data["classification"], data["sequence"] = bool(classification), False
        rows = inputs.reshape(len(inputs), math.prod(inputs.shape[1:]))
        data["in_data"] = Pixels(rows, values) if rows.dtype == np.uint8 else _numbers(rows)
        data["in_shape"] = list(inputs.shape[1:]) or [1]
        if classification:
            classes = _classes(outputs)
            largest = int(classes.max(initial=0))
            if num_classes is None:
                num_classes = largest + 1
            data["num_classes"] = check_count("num_classes", num_classes, largest + 1)
            data["is_one_hot"] = bool(use_one_hot)
            data["out_data"] = self._to_one_hot(classes) if use_one_hot else classes
            data["out_shape"] = [num_classes if use_one_hot else 1]
        else:
            data["out_data"] = _numbers(outputs.reshape(len(outputs), math.prod(outputs.shape[1:])))
            data["out_shape"] = list(outputs.shape[1:]) or [1]
        data["test_inds"] = test_inds
        data["train_inds"] = train_inds[validation_size:]
        data["val_inds"] = train_inds[:validation_size] if validation_size else None

    def get_identifier(self) -> str:
        """Return the name of the data set."""
        return self._name

    def _plot_sample(
        self,
        fig: Figure,
        inner_grid: GridSpecFromSubplotSpec,
        num_inner_plots: int,
        ind: int,
        inputs: np.ndarray,
        outputs: np.ndarray | None = None,
        predictions: np.ndarray | None = None,
        **kwargs: Any,
    ) -> None:
        axes = fig.add_subplot(inner_grid[0])
        shown = [("label", outputs), ("prediction", predictions)]
        axes.set_title("\n".join(f"{kind}: {self._text(y)}" for kind, y in shown if y is not None))
        if self.is_image_dataset()[0]:
            axes.set_axis_off()
            height, width, channels = self.in_shape
            image = np.reshape(inputs, (height, width, channels)[: 2 if channels == 1 else 3])
            axes.imshow(image, cmap="gray" if channels == 1 else None)
        else:
            axes.plot(np.ravel(inputs))

    def _text(self, output: np.ndarray) -> str:
        """Return an output, or a network's, as text."""
        values = np.ravel(output)
        if self.classification:
            return str(int(values.argmax() if len(values) > 1 else values[0]))
        return np.array2string(values, precision=3, threshold=4)


def _numbers(rows: np.ndarray) -> np.ndarray:
    if rows.dtype.kind != "f":
        return rows.astype(np.float64)
    return rows.astype(np.float32) if rows.dtype.itemsize < 4 else rows


def _classes(outputs: np.ndarray) -> np.ndarray:
    """Return classes as integers ``[N, 1]``."""
    if math.prod(outputs.shape[1:]) != 1:
        raise InputError(f"outputs: expected one class a sample, got {list(outputs.shape[1:])}")
    classes = outputs.reshape(-1, 1).astype(np.int64)
    wrong = (classes < 0) | (classes != outputs.reshape(-1, 1))
    if wrong.any():
        raise InputError(f"outputs: expected classes 0, 1, …, got {outputs.reshape(-1, 1)[wrong][0]} too")
    return classes
