"""AudioSet split into tasks of a few classes each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hnetfast.data._arguments import check_count, random_source
from hnetfast.data.splitting import check_labels
from hnetfast.data.timeseries._split import ClassesTask, keep_sequences
from hnetfast.data.timeseries.audioset_data import NUM_CLASSES, AudiosetData, draw_validation

__all__ = ["SplitAudioset", "get_split_audioset_handlers"]


class SplitAudioset(ClassesTask, AudiosetData):
    """The sounds of some classes.

    Args:
        data_path: The folder of all data sets, see
            :class:`hnetfast.data.timeseries.audioset_data.AudiosetData`.
        use_one_hot: Whether outputs are one-hot encoded.
        validation_size: How many of this task's training samples are for validation instead; they are drawn,
            with the same share of each class.
        target_per_timestep: Whether every time step has the class as its output; otherwise the whole sequence
            has one.
        rseed: Seed of that draw; None takes numpy's global generator.
        labels: The classes, at least one and none twice.
        full_out_dim: Whether outputs are those of all classes; otherwise they count the classes from 0, in
            the order of ``labels``.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If labels are no classes, or there are too few training samples.
    """

    def __init__(
        self,
        data_path: str,
        use_one_hot: bool = True,
        validation_size: int = 1000,
        target_per_timestep: bool = True,
        rseed: int | None = None,
        labels: Sequence[int] = [0, 1],
        full_out_dim: bool = False,
    ) -> None:
        self._full_out_dim = full_out_dim
        self._labels = check_labels(labels, NUM_CLASSES)
        check_count("validation_size", validation_size)
        super().__init__(
            data_path, use_one_hot=use_one_hot, target_per_timestep=target_per_timestep, rseed=rseed
        )
        classes = keep_sequences(self, self._labels, full_out_dim)
        draw_validation(self, classes, validation_size, rseed)

    def get_identifier(self) -> str:
        """Return the name of the data set."""
        return "SplitAudioset"


def get_split_audioset_handlers(
    data_path: str,
    use_one_hot: bool = True,
    validation_size: int = 0,
    target_per_timestep: bool = True,
    num_classes_per_task: int = 10,
    num_tasks: int = 5,
    rseed: int | None = None,
) -> list[SplitAudioset]:
    """Split AudioSet into tasks of random classes, none of them in two tasks.

    Args:
        data_path: The folder of all data sets.
        use_one_hot: Whether outputs are one-hot encoded.
        validation_size: Of each task.
        target_per_timestep: Whether every time step has the class as its output; otherwise the whole sequence
            has one.
        num_classes_per_task: Number of classes of a task.
        num_tasks: Number of tasks.
        rseed: Seed of the order of classes, and of what is drawn for validation in each task; None takes
            numpy's global generator.

    Returns:
        The tasks, which share the sounds.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If there are not enough classes or training samples.
    """
    per_task = check_count("num_classes_per_task", num_classes_per_task, 1, NUM_CLASSES)
    num_tasks = check_count("num_tasks", num_tasks, 1, NUM_CLASSES // per_task)
    order = random_source("rseed", rseed).permutation(np.arange(NUM_CLASSES))
    tasks = []  # the first one keeps alive what the next one shares
    for first in range(0, num_tasks * per_task, per_task):
        labels = order[first : first + per_task]
        tasks.append(
            SplitAudioset(
                data_path, use_one_hot, validation_size, target_per_timestep, rseed=rseed, labels=labels
            )
        )
    return tasks
