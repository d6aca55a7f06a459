"""AudioSet: sounds from YouTube as sequences of embeddings, one a second.

Gemmeke et al.: *Audio Set: An ontology and human-labeled dataset for audio events*, ICASSP 2017;
https://research.google.com/audioset/download.html
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hnetfast._errors import InputError
from hnetfast.data._arguments import check_count, check_finite, random_source
from hnetfast.data._imports import random_state_kept
from hnetfast.data._samples import Repeated
from hnetfast.data.sequential_dataset import SequentialDataset
from hnetfast.data.timeseries._recordings import read_recordings, recordings_path, shared_array
from hnetfast.data.timeseries._steps import StepTargets

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.gridspec import GridSpecFromSubplotSpec

__all__ = ["AudiosetData"]

FILE = "audioset/audioset_data_balanced.npz"
PAGE = "https://research.google.com/audioset/download.html"
NUM_CLASSES = 100
_SCRIPT = "preprocess_audioset"
_KINDS = {"labels": "iu", "num_steps": "iu", "train_inds": "iu", "test_inds": "iu"}


class AudiosetData(SequentialDataset):
    """Sounds of 100 classes as sequences of ten embeddings.

    Args:
        data_path: The folder of all data sets. Its file ``sequential/audioset/audioset_data_balanced.npz`` is
            made by :mod:`hnetfast.data.timeseries.preprocess_audioset`.
        use_one_hot: Whether outputs are one-hot encoded.
        validation_size: How many of the training samples are for validation instead; they are drawn, with the
            same share of each class. Needs scikit-learn.
        target_per_timestep: Whether every time step has the class as its output; otherwise the whole sequence
            has one.
        rseed: Seed of that draw; None takes numpy's global generator.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it is broken, or there are not enough training samples for validation.
    """

    def __init__(
        self,
        data_path: str,
        use_one_hot: bool = True,
        validation_size: int = 0,
        target_per_timestep: bool = True,
        rseed: int | None = None,
    ) -> None:
        super().__init__()
        check_count("validation_size", validation_size)
        random_source("rseed", rseed)
        arrays = _read(recordings_path(data_path, FILE))
        inputs, labels = arrays["inputs"], arrays["labels"].astype(np.int64)
        total, num_steps = len(inputs), int(arrays["num_steps"])
        self.target_per_timestep = target_per_timestep
        data = self._data
        data["classification"] = True
        data["num_classes"] = NUM_CLASSES
        data["is_one_hot"] = use_one_hot
        data["in_shape"] = [inputs.shape[1] // num_steps]
        data["out_shape"] = [NUM_CLASSES if use_one_hot else 1]
        data["num_time_steps"] = num_steps
        data["in_data"] = Repeated(inputs, np.arange(total))
        data["out_data"] = StepTargets(
            labels[:, None],
            num_steps if target_per_timestep else 1,
            NUM_CLASSES if use_one_hot else None,
            np.float64 if use_one_hot else np.int64,
        )
        data["in_seq_lengths"] = np.full(total, float(num_steps))
        data["out_seq_lengths"] = np.full(total, float(num_steps if target_per_timestep else 1))
        data["train_inds"] = arrays["train_inds"].astype(np.int64)
        data["test_inds"] = arrays["test_inds"].astype(np.int64)
        draw_validation(self, labels, validation_size, rseed)

    def get_identifier(self) -> str:
        """Return the name of the data set."""
        return "audioset"

    def __str__(self) -> str:
        return "Data handler for the audioset dataset."

    def _plot_config(
        self,
        inputs: np.ndarray,
        outputs: np.ndarray | None = None,
        predictions: np.ndarray | None = None,
    ) -> dict[str, Any]:
        config = super()._plot_config(inputs, outputs=outputs, predictions=predictions)
        config["num_inner_rows"] = config["num_inner_plots"] = (
            1 + (outputs is not None) + (predictions is not None)
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
        is_one_hot: bool | None = None,
    ) -> None:
        """Draw embeddings and classes over time.

        Args:
            fig: The figure.
            inner_grid: Grid of the axes for this sample.
            num_inner_plots: How many of them are to be used.
            ind: Number of the sample, from 0.
            inputs: Its input ``[1, D_in]``.
            outputs: Its output ``[1, D_out]``.
            predictions: A network's output ``[1, …]``.
            is_one_hot: Whether outputs and predictions are one-hot encoded, by default as the data set is.
        """
        one_hot = self.is_one_hot if is_one_hot is None else is_one_hot
        shown = [("inputs", np.reshape(inputs, (-1, *self.in_shape)))]
        for name, values in (("outputs", outputs), ("predictions", predictions)):
            if values is not None:
                shown.append((name, _class_steps(values, self.num_classes, one_hot)))
        for i, (name, steps) in enumerate(shown):
            axes = fig.add_subplot(inner_grid[i])
            axes.set_ylabel(name)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.imshow(steps.T, aspect="auto")


def draw_validation(
    handler: SequentialDataset, classes: np.ndarray, validation_size: int, rseed: int | None
) -> None:
    """Make some training samples validation samples, with the same share of each class.

    Args:
        handler: The handler; it is changed.
        classes: The class of every sample, integers ``[N]``.
        validation_size: How many.
        rseed: Seed of the draw; None takes numpy's global generator.

    Raises:
        ValueError: If there are not enough samples of each class.
    """
    data = handler._data
    inds = data["train_inds"]
    if check_count("validation_size", validation_size, 0, max(len(inds) - 1, 0)) == 0:
        return
    with random_state_kept():
        from sklearn.model_selection import train_test_split

    try:
        train, val = train_test_split(
            inds, test_size=validation_size, shuffle=True, random_state=rseed, stratify=classes[inds]
        )
    except ValueError as error:
        raise InputError(
            f"validation_size: samples of every class must be left for both parts, got {validation_size} "
            f"of {len(inds)} training samples ({error})"
        ) from error
    data["train_inds"], data["val_inds"] = train, val


def _class_steps(values: np.ndarray, num_classes: int, one_hot: bool) -> np.ndarray:
    """Return numbers for each class ``[T, num_classes]``."""
    if one_hot:
        return np.reshape(values, (-1, num_classes))
    return np.eye(num_classes)[np.reshape(values, -1).astype(np.int64)]


def _read(path: Path) -> dict[str, np.ndarray]:
    arrays = read_recordings(path, _KINDS, _SCRIPT, PAGE)
    inputs = arrays["inputs"] = shared_array(path, "inputs", "iuf", _SCRIPT, PAGE)
    labels, num_steps = arrays["labels"], arrays["num_steps"]
    if num_steps.shape != () or num_steps < 1 or inputs.ndim != 2 or inputs.shape[1] % num_steps:
        raise InputError(
            f"{path}: inputs [N, T * D] and num_steps T are expected, "
            f"found {list(inputs.shape)} and num_steps {num_steps}"
        )
    if labels.shape != inputs.shape[:1] or not np.isin(labels, np.arange(NUM_CLASSES)).all():
        raise InputError(f"{path}: a label from 0 to {NUM_CLASSES - 1} is expected for each input")
    check_finite(f"inputs of {path}", inputs)
    rows = np.concatenate([arrays["train_inds"], arrays["test_inds"]])
    if len(np.unique(rows)) < len(rows) or not np.isin(rows, np.arange(len(labels))).all():
        raise InputError(f"{path}: indices of different samples out of {len(labels)} are expected")
    return arrays
