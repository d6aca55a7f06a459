"""Tasks that hold the sequences of some classes, of data sets with one class a sequence."""

from __future__ import annotations

import numpy as np

from hnetfast._errors import InputError, UnsupportedError
from hnetfast.data._samples import Rows
from hnetfast.data.sequential_dataset import SequentialDataset
from hnetfast.data.timeseries._steps import StepTargets


def keep_sequences(handler: SequentialDataset, labels: list[int], full_out_dim: bool) -> np.ndarray:
    """Leave only the sequences of some classes in a handler; rows, and with them IDs, are counted anew.

    Args:
        handler: A handler without validation samples whose outputs have never been read; it is changed.
        labels: The classes.
        full_out_dim: Whether outputs stay what they are; otherwise they count the classes from 0, in the
            order of ``labels``.

    Returns:
        The class of every sequence that is left, those for training first, integers ``[n]``.
    """
    data = handler._data
    outputs: StepTargets = data.lazily("out_data")
    known = outputs.classes[:, 0]
    parts = map(np.asarray, (data["train_inds"], data["test_inds"]))
    train, test = (inds[np.isin(known[inds], labels)] for inds in parts)
    rows = np.concatenate([train, test])
    inputs: Rows = data.lazily("in_data")
    data["in_data"] = inputs.select(rows)
    outputs = outputs.select(rows)
    if not full_out_dim:
        places = _places(labels, data["num_classes"])
        one_hot = data["is_one_hot"]
        data["num_classes"] = len(labels)
        data["out_shape"] = [len(labels) if one_hot else 1]
        outputs = StepTargets(
            places[outputs.classes], outputs.num_steps, len(labels) if one_hot else None, outputs.dtype
        )
    data["out_data"] = outputs
    for key in ("in_seq_lengths", "out_seq_lengths"):
        data[key] = data[key][rows]
    data["train_inds"] = np.arange(len(train))
    data["test_inds"] = np.arange(len(train), len(rows))
    return known[rows]


class ClassesTask(SequentialDataset):
    """A task that holds the sequences of some classes: ``_labels``. Comes before its data set's handler."""

    _labels: list[int]
    _full_out_dim: bool

    def transform_outputs(self, outputs: np.ndarray) -> np.ndarray:
        """Turn outputs for all classes of the data set into outputs for the classes of this task.

        Args:
            outputs: Classes ``[n, T]``, or numbers ``[n, T * num_classes]`` if outputs are one-hot encoded.

        Returns:
            New array ``[n, T]`` of positions in ``labels``, or ``[n, T * len(labels)]``.

        Raises:
            NotImplementedError: If this task was made without ``full_out_dim``.
            ValueError: If the outputs have another shape, or a class is none of this task.
        """
        if not self._full_out_dim:
            raise UnsupportedError(
                "transform_outputs: outputs for all classes are known to a task made with full_out_dim=True, "
                f"got one with full_out_dim={self._full_out_dim!r}"
            )
        outputs, labels = np.asarray(outputs), self._labels
        width = self.num_classes if self.is_one_hot else 1
        if outputs.ndim != 2 or outputs.shape[1] % width or not outputs.shape[1]:
            raise InputError(
                f"outputs: expected rows of time steps [n, T * {width}], got an array {list(outputs.shape)}"
            )
        if self.is_one_hot:
            steps = outputs.reshape(len(outputs), outputs.shape[1] // width, width)[..., labels]
            return steps.reshape(len(outputs), steps.shape[1] * len(labels))
        known = np.isin(outputs, labels)
        if not known.all():
            raise InputError(f"outputs: expected the classes {labels}, got {outputs[~known].flat[0]} too")
        return _places(labels, self.num_classes)[outputs.astype(np.int64)].astype(outputs.dtype)


def _places(labels: list[int], num_classes: int) -> np.ndarray:
    """Return for each class where it is among labels, 0 for others."""
    places = np.zeros(num_classes, dtype=np.int64)
    places[labels] = np.arange(len(labels))
    return places
