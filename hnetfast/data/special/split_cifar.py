"""CIFAR-10 and CIFAR-100 split into tasks of a few classes each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hnetfast._errors import InputTypeError
from hnetfast.data._arguments import check_choice, check_count
from hnetfast.data.cifar10_data import CIFAR10Data
from hnetfast.data.cifar100_data import CIFAR100Data
from hnetfast.data.splitting import check_labels, keep_classes
from hnetfast.data.splitting import transform_split_outputs as _transform_split_outputs

__all__ = ["SplitCIFAR10Data", "SplitCIFAR100Data", "get_split_cifar_handlers"]


class SplitCIFAR100Data(CIFAR100Data):
    """The images of some classes of CIFAR-100.

    Args:
        data_path: Folder of the files; see :class:`hnetfast.data.cifar100_data.CIFAR100Data`.
        use_one_hot: Whether outputs are one-hot encoded.
        validation_size: How many of the training samples, the first ones, are for validation.
        use_data_augmentation: Whether training tensors are augmented.
        use_cutout: Whether a square is cut out of training tensors that are augmented.
        labels: The classes, at least one and none twice.
        full_out_dim: Whether outputs are those of CIFAR-100; otherwise they count the classes from 0, in the
            order of ``labels``, but in ascending order if they are one-hot encoded.

    Raises:
        ValueError: If labels are no classes, or there are too few training samples.
    """

    def __init__(
        self,
        data_path: str,
        use_one_hot: bool = False,
        validation_size: int = 1000,
        use_data_augmentation: bool = False,
        use_cutout: bool = False,
        labels: Sequence[int] = range(10),
        full_out_dim: bool = False,
    ) -> None:
        labels = check_labels(labels, 100)
        super().__init__(
            data_path,
            use_one_hot=use_one_hot,
            validation_size=0,
            use_data_augmentation=use_data_augmentation,
            use_cutout=use_cutout,
        )
        _split_cifar_object(
            self, data_path, use_one_hot, validation_size, use_data_augmentation, labels, full_out_dim
        )

    def transform_outputs(self, outputs: np.ndarray) -> np.ndarray:
        """Turn outputs for all classes of CIFAR-100 into outputs for the classes of this task.

        Args:
            outputs: Classes ``[n, 1]``, or numbers for each class ``[n, 100]`` if outputs are one-hot
                encoded.

        Returns:
            New array ``[n, 1]`` of positions in ``labels``, or ``[n, len(labels)]``.

        Raises:
            NotImplementedError: If this task was made without ``full_out_dim``.
            ValueError: If the outputs have another shape, or a class is none of this task.
        """
        return _transform_split_outputs(self, outputs)

    def get_identifier(self) -> str:
        """Return the name of the data set."""
        return "SplitCIFAR100"


class SplitCIFAR10Data(CIFAR10Data):
    """The images of some classes of CIFAR-10.

    Args:
        data_path: Folder of the files; see :class:`hnetfast.data.cifar10_data.CIFAR10Data`.
        use_one_hot: Whether outputs are one-hot encoded.
        validation_size: How many of the training samples, the first ones, are for validation.
        use_data_augmentation: Whether training tensors are augmented.
        use_cutout: Whether a square is cut out of training tensors that are augmented.
        labels: The classes, at least one and none twice.
        full_out_dim: Whether outputs are those of CIFAR-10; otherwise they count the classes from 0, in the
            order of ``labels``, but in ascending order if they are one-hot encoded.

    Raises:
        ValueError: If labels are no classes, or there are too few training samples.
    """

    def __init__(
        self,
        data_path: str,
        use_one_hot: bool = False,
        validation_size: int = 1000,
        use_data_augmentation: bool = False,
        use_cutout: bool = False,
        labels: Sequence[int] = range(2),
        full_out_dim: bool = False,
    ) -> None:
        labels = check_labels(labels, 10)
        super().__init__(
            data_path,
            use_one_hot=use_one_hot,
            validation_size=0,
            use_data_augmentation=use_data_augmentation,
            use_cutout=use_cutout,
        )
        _split_cifar_object(
            self, data_path, use_one_hot, validation_size, use_data_augmentation, labels, full_out_dim
        )

    def transform_outputs(self, outputs: np.ndarray) -> np.ndarray:
        """Turn outputs for all classes of CIFAR-10 into outputs for those of this task.

        Args:
            outputs: Classes ``[n, 1]``, or numbers for each class ``[n, 10]`` if outputs are one-hot encoded.

        Returns:
            New array ``[n, 1]`` of positions in ``labels``, or ``[n, len(labels)]``.

        Raises:
            NotImplementedError: If this task was made without ``full_out_dim``.
            ValueError: If the outputs have another shape, or a class is none of this task.
        """
        return _transform_split_outputs(self, outputs)

    def get_identifier(self) -> str:
        """Return the name of the data set."""
        return "SplitCIFAR10"


def get_split_cifar_handlers(
    data_path: str,
    use_one_hot: bool = True,
    validation_size: int = 0,
    use_data_augmentation: bool = False,
    use_cutout: bool = False,
    num_classes_per_task: int = 10,
    num_tasks: int = 6,
) -> list[CIFAR10Data | SplitCIFAR10Data | SplitCIFAR100Data]:
    """Split CIFAR-10, then CIFAR-100 into tasks of consecutive classes.

    Args:
        data_path: Folder of both data sets.
        use_one_hot: Whether outputs are one-hot encoded.
        validation_size: Of each task.
        use_data_augmentation: Whether training tensors are augmented.
        use_cutout: Whether a square is cut out of training tensors that are augmented.
        num_classes_per_task: Number of classes of a task: 1, 2, 5 or 10. With 10, the first task is CIFAR-10
            itself.
        num_tasks: Number of tasks, at most all that the 110 classes give.

    Returns:
        The tasks; those of the same data set share the images.

    Raises:
        ValueError: If there are not enough classes or training samples.
    """
    check_choice("num_classes_per_task", num_classes_per_task, (1, 2, 5, 10))
    per_task = num_classes_per_task
    num_tasks = check_count("num_tasks", num_tasks, 1, 110 // per_task)
    options = {
        "use_one_hot": use_one_hot,
        "validation_size": validation_size,
        "use_data_augmentation": use_data_augmentation,
        "use_cutout": use_cutout,
    }
    handlers: list = []
    for first in range(0, num_tasks * per_task, per_task):
        if per_task == 10 and first == 0:
            handlers.append(CIFAR10Data(data_path, **options))
            continue
        kind, first = (SplitCIFAR10Data, first) if first < 10 else (SplitCIFAR100Data, first - 10)
        handlers.append(kind(data_path, labels=range(first, first + per_task), **options))
    return handlers


def _split_cifar_object(
    data: SplitCIFAR10Data | SplitCIFAR100Data,
    data_path: str,
    use_one_hot: bool,
    validation_size: int,
    use_data_augmentation: bool,
    labels: Sequence[int],
    full_out_dim: bool,
) -> None:
    """Leave only the samples of some classes in a handler.

    Args:
        data: One that holds all of them; it is changed.
        data_path: Not used, as ``use_one_hot`` and ``use_data_augmentation``: those of ``data`` count.
        use_one_hot: Not used.
        validation_size: How many of the training samples, the first ones, are for validation.
        use_data_augmentation: Not used.
        labels: The classes.
        full_out_dim: Whether outputs stay what they are.

    Raises:
        TypeError: If ``data`` is no split handler.
        ValueError: If labels are no classes, or there are too few training samples.
    """
    if not isinstance(data, (SplitCIFAR10Data, SplitCIFAR100Data)):
        raise InputTypeError(
            f"data: expected a SplitCIFAR10Data or SplitCIFAR100Data, got {type(data).__name__}"
        )
    keep_classes(data, labels, validation_size, full_out_dim)
