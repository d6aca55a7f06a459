"""Stroke MNIST split into tasks of a few digits each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hnetfast.data._arguments import check_count
from hnetfast.data.splitting import check_labels
from hnetfast.data.timeseries._split import ClassesTask, keep_sequences
from hnetfast.data.timeseries._strokes import NUM_DIGITS
from hnetfast.data.timeseries.smnist_data import SMNISTData

__all__ = ["SplitSMNIST", "get_split_smnist_handlers"]


class SplitSMNIST(ClassesTask, SMNISTData):
    """The strokes of some digits.

    Args:
        data_path: The folder of all data sets, see :class:`hnetfast.data.timeseries.smnist_data.SMNISTData`.
        use_one_hot: Whether outputs are one-hot encoded.
        validation_size: How many of the training samples, the first ones, are for validation instead.
        target_per_timestep: Whether every time step has the digit as its output, padding included; otherwise
            the whole sequence has one.
        labels: The digits, at least one and none twice.
        full_out_dim: Whether outputs are those of all ten digits; otherwise they count the digits from 0, in
            the order of ``labels``.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If labels are no digits, or there are too few training samples.
    """

    def __init__(
        self,
        data_path: str,
        use_one_hot: bool = False,
        validation_size: int = 1000,
        target_per_timestep: bool = True,
        labels: Sequence[int] = [0, 1],
        full_out_dim: bool = False,
    ) -> None:
        self._full_out_dim = full_out_dim
        self._labels = check_labels(labels, NUM_DIGITS)
        check_count("validation_size", validation_size)
        super().__init__(data_path, use_one_hot=use_one_hot, target_per_timestep=target_per_timestep)
        keep_sequences(self, self._labels, full_out_dim)
        data = self._data
        num_train = len(data["train_inds"])
        validation_size = check_count("validation_size", validation_size, 0, max(num_train - 1, 0))
        if validation_size:
            data["val_inds"], data["train_inds"] = np.split(data["train_inds"], [validation_size])

    def get_identifier(self) -> str:
        """Return the name of the data set."""
        return "SplitSMNIST"


def get_split_smnist_handlers(
    data_path: str,
    use_one_hot: bool = True,
    validation_size: int = 0,
    target_per_timestep: bool = True,
    num_classes_per_task: int = 2,
    num_tasks: int | None = None,
) -> list[SplitSMNIST]:
    """Split stroke MNIST into tasks of consecutive digits: 0 and 1, 2 and 3, …

    Args:
        data_path: The folder of all data sets.
        use_one_hot: Whether outputs are one-hot encoded.
        validation_size: Of each task.
        target_per_timestep: Whether every time step has the digit as its output; otherwise the whole sequence
            has one.
        num_classes_per_task: Number of digits of a task.
        num_tasks: Number of tasks, by default as many as there can be.

    Returns:
        The tasks, which share the strokes.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If there are not enough digits or training samples.
    """
    per_task = check_count("num_classes_per_task", num_classes_per_task, 1, NUM_DIGITS)
    possible = NUM_DIGITS // per_task
    num_tasks = possible if num_tasks is None else check_count("num_tasks", num_tasks, 1, possible)
    tasks = []  # the first one keeps alive what the next one shares
    for first in range(0, num_tasks * per_task, per_task):
        labels = range(first, first + per_task)
        tasks.append(SplitSMNIST(data_path, use_one_hot, validation_size, target_per_timestep, labels=labels))
    return tasks
