"""MNIST split into tasks of a few digits each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hnetfast._errors import InputError
from hnetfast.data._arguments import check_count
from hnetfast.data.mnist_data import MNISTData
from hnetfast.data.splitting import check_labels, keep_classes, pad_targets
from hnetfast.data.splitting import transform_split_outputs as _transform_split_outputs

__all__ = ["SplitMNIST", "get_split_mnist_handlers"]


class SplitMNIST(MNISTData):
    """The images of some digits of MNIST.

    Args:
        data_path: Folder of MNIST's files; see :class:`hnetfast.data.mnist_data.MNISTData`.
        use_one_hot: Whether outputs are one-hot encoded.
        validation_size: How many of the training samples, the first ones, are for validation.
        use_torch_augmentation: Whether training tensors are augmented.
        labels: The digits, at least one and none twice.
        full_out_dim: Whether outputs are those of MNIST; otherwise they count the digits from 0, in the
            order of ``labels``, but in ascending order if they are one-hot encoded.
        trgt_padding: How many classes without samples are added.

    Raises:
        ValueError: If labels are no digits, or there are too few training samples.
    """

    def __init__(
        self,
        data_path: str,
        use_one_hot: bool = False,
        validation_size: int = 1000,
        use_torch_augmentation: bool = False,
        labels: Sequence[int] = [0, 1],
        full_out_dim: bool = False,
        trgt_padding: int | None = None,
    ) -> None:
        self._full_out_dim = full_out_dim
        self._labels = check_labels(labels, 10)
        super().__init__(
            data_path,
            use_one_hot=use_one_hot,
            validation_size=0,
            use_torch_augmentation=use_torch_augmentation,
        )
        keep_classes(self, self._labels, validation_size, full_out_dim)
        pad_targets(self, trgt_padding)

    def transform_outputs(self, outputs: np.ndarray) -> np.ndarray:
        """Turn outputs for all ten digits into outputs for the digits of this task.

        Args:
            outputs: Digits ``[n, 1]``, or numbers for each class ``[n, num_classes]`` if outputs are one-hot
                encoded.

        Returns:
            New array ``[n, 1]`` of positions in ``labels``, or ``[n, len(labels)]``.

        Raises:
            NotImplementedError: If this task was made without ``full_out_dim``.
            ValueError: If the outputs have another shape, or a digit is none of this task.
        """
        return _transform_split_outputs(self, outputs)

    def get_identifier(self) -> str:
        """Return the name of the data set."""
        return "SplitMNIST"


def get_split_mnist_handlers(
    data_path: str,
    use_one_hot: bool = True,
    validation_size: int = 0,
    use_torch_augmentation: bool = False,
    num_classes_per_task: int = 2,
    num_tasks: int | None = None,
    trgt_padding: int | None = None,
) -> list[SplitMNIST]:
    """Split MNIST into tasks of consecutive digits: 0 and 1, 2 and 3, …

    Args:
        data_path: Folder of MNIST's files.
        use_one_hot: Whether outputs are one-hot encoded.
        validation_size: Of each task.
        use_torch_augmentation: Whether training tensors are augmented.
        num_classes_per_task: Number of digits of a task.
        num_tasks: Number of tasks, by default as many as there can be.
        trgt_padding: How many classes without samples are added to each task.

    Returns:
        The tasks, which share the images.

    Raises:
        ValueError: If there are not enough digits or training samples.
    """
    per_task = check_count("num_classes_per_task", num_classes_per_task, 1)
    possible = 10 // per_task
    num_tasks = possible if num_tasks is None else check_count("num_tasks", num_tasks, 1)
    if not 0 < num_tasks <= possible:
        raise InputError(
            f"num_tasks: MNIST has {possible} tasks of {per_task} digits each, "
            f"got num_tasks={num_tasks} and num_classes_per_task={per_task}"
        )
    return [
        SplitMNIST(
            data_path,
            use_one_hot=use_one_hot,
            validation_size=validation_size,
            use_torch_augmentation=use_torch_augmentation,
            labels=list(range(i * per_task, (i + 1) * per_task)),
            trgt_padding=trgt_padding,
        )
        for i in range(num_tasks)
    ]
