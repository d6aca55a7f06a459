"""Stroke MNIST: the digits as movements of a pen.

Edwin D. de Jong: *Incremental Sequence Learning*, 2016; https://github.com/edwin-de-jong/mnist-digits-stroke-sequence-data
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hnetfast._errors import InputError
from hnetfast.data._arguments import check_count
from hnetfast.data.sequential_dataset import SequentialDataset
from hnetfast.data.timeseries._steps import PaddedSteps, StepTargets
from hnetfast.data.timeseries._strokes import MAX_STEPS, NUM_DIGITS, read_strokes, stroke_image

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.gridspec import GridSpecFromSubplotSpec

__all__ = ["SMNISTData"]


class SMNISTData(SequentialDataset):
    """The digits of MNIST as movements of a pen.

    A time step is how far the pen moves to the right and down, whether a stroke ends and whether the digit
    ends.

    Args:
        data_path: The folder of all data sets. Its file ``sequential/smnist/ss_mnist_data.npz`` is made by
            :mod:`hnetfast.data.timeseries.preprocess_smnist`.
        use_one_hot: Whether outputs are one-hot encoded.
        validation_size: How many of the training samples, the first ones, are for validation instead.
        target_per_timestep: Whether every time step has the digit as its output, padding included; otherwise
            the whole sequence has one.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it is broken, or ``validation_size`` is not less than the number of training samples.
    """

    def __init__(
        self,
        data_path: str,
        use_one_hot: bool = False,
        validation_size: int = 0,
        target_per_timestep: bool = True,
    ) -> None:
        super().__init__()
        strokes = read_strokes(data_path)
        num_train, total = strokes.num_train, len(strokes.labels)
        validation_size = check_count("validation_size", validation_size, 0, max(num_train - 1, 0))
        self.target_per_timestep = target_per_timestep
        data = self._data
        data["classification"] = True
        data["num_classes"] = NUM_DIGITS
        data["is_one_hot"] = use_one_hot
        data["in_shape"] = [4]
        data["out_shape"] = [NUM_DIGITS if use_one_hot else 1]
        data["num_time_steps"] = MAX_STEPS
        data["in_data"] = PaddedSteps(
            strokes.steps, strokes.starts[:, None], strokes.lengths[:, None], MAX_STEPS
        )
        data["out_data"] = StepTargets(
            strokes.labels[:, None],
            MAX_STEPS if target_per_timestep else 1,
            NUM_DIGITS if use_one_hot else None,
            np.int64,
        )
        data["in_seq_lengths"] = strokes.lengths.astype(np.float64)
        data["out_seq_lengths"] = data["in_seq_lengths"].copy() if target_per_timestep else np.ones(total)
        data["val_inds"] = np.arange(validation_size) if validation_size else None
        data["train_inds"] = np.arange(validation_size, num_train)
        data["test_inds"] = np.arange(num_train, total)

    def get_identifier(self) -> str:
        """Return the name of the data set."""
        return "SMNIST"

    def __str__(self) -> str:
        return "Data handler for stroke MNIST"

    def _plot_config(
        self,
        inputs: np.ndarray,
        outputs: np.ndarray | None = None,
        predictions: np.ndarray | None = None,
    ) -> dict[str, Any]:
        config = super()._plot_config(inputs, outputs=outputs, predictions=predictions)
        width = self.max_num_ts_out * self.num_classes
        if self.is_one_hot and predictions is not None and predictions.shape[1] == width:
            config.update(
                outer_hspace=0.6, inner_hspace=0.4, num_inner_rows=2, num_inner_cols=1, num_inner_plots=2
            )
        return config

    def _plot_sample(
        self,
        fig: Figure,
        inner_grid: GridSpecFromSubplotSpec,
        num_inner_plots: int,
        ind: int,
        inputs: np.ndarray,
        outputs: np.ndarray | None = None,
        predictions: np.ndarray | None = None,
        sample_ids: np.ndarray | None = None,
        is_one_hot: bool | None = None,
    ) -> None:
        """Draw a digit, and how sure a network is of each class.

        Args:
            fig: The figure.
            inner_grid: Grid of the axes for this sample.
            num_inner_plots: How many of them are to be used.
            ind: Number of the sample, from 0.
            inputs: Its input ``[1, D_in]``.
            outputs: Its output ``[1, D_out]``.
            predictions: A network's output ``[1, …]``; of several time steps the last before padding counts.
            sample_ids: IDs of all samples that are drawn, integers ``[B]``; needed where predictions have
                several time steps.
            is_one_hot: Whether outputs and predictions are one-hot encoded, by default as the data set is.
        """
        width = self.num_classes if (self.is_one_hot if is_one_hot is None else is_one_hot) else 1
        title, last = "SMNIST Sample", None
        if outputs is not None:
            title = f"SMNIST sample with\nlabel: {_class(np.reshape(outputs, (-1, width))[0])}"
        if predictions is not None:
            last = self._last_step(np.reshape(predictions, (-1, width)), ind, sample_ids)
            if outputs is not None:
                title += f" (prediction: {_class(last)})"
        axes = fig.add_subplot(inner_grid[0])
        axes.set_axis_off()
        axes.set_title(title)
        axes.imshow(stroke_image(np.reshape(inputs, (-1, 4))))
        if num_inner_plots == 2 and last is not None and len(last) == self.num_classes:
            axes = fig.add_subplot(inner_grid[1])
            axes.set_title("Predictions")
            axes.bar(range(self.num_classes), last)
            axes.set_xticks(range(self.num_classes))

    def _last_step(self, steps: np.ndarray, ind: int, sample_ids: np.ndarray | None) -> np.ndarray:
        if len(steps) == 1:
            return steps[0]
        if sample_ids is None:
            raise InputError("sample_ids: needed for predictions of several time steps, got None")
        length = int(self.get_in_seq_lengths(np.asarray(sample_ids)[[ind]])[0])
        return steps[min(length, len(steps)) - 1]


def _class(output: np.ndarray) -> int:
    return int(output.argmax() if len(output) > 1 else output[0])
