"""The tasks of the experiments on images: CIFAR-10 and -100, split by class, or made images like these."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import numpy as np

from hnetfast.data._cifar import CIFARData
from hnetfast.data._labelled_images import Images
from hnetfast.data.dataset import Dataset
from hnetfast.data.splitting import split_by_class

IN_SHAPE = (32, 32, 3)


class MadeImages(CIFARData):
    """Images of CIFAR's shape that are computed, not read: what a class is can be learned from few of them.

    An image is a plaid of two colours with noise. A class has its colours and the number of waves in either
    direction; where the waves begin is drawn for each image. So shifted and mirrored images, which
    augmentation makes, belong to the same class.

    Args:
        num_classes: Number of classes.
        num_train: Number of training samples of a class.
        num_test: Number of those for testing.
        use_one_hot: Whether outputs are one-hot encoded.
        use_data_augmentation: Whether images become tensors as those of CIFAR do.
        seed: Decides which images there are; colours and waves only depend on the class.
    """

    _titles = ("Made image", "Class {label}", "Class {label}, prediction: {prediction}")

    def __init__(
        self,
        num_classes: int,
        num_train: int,
        num_test: int,
        *,
        use_one_hot: bool = True,
        use_data_augmentation: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        random = np.random.RandomState(seed)
        labels = np.concatenate(
            [random.permutation(np.repeat(np.arange(num_classes), n)) for n in (num_train, num_test)]
        )
        pixels = _plaids(labels, num_classes, random)
        images = Images("made images", pixels, labels, num_classes * num_train, num_classes)
        self._take(images, num_classes, use_one_hot, 0)
        self._set_augmentation(use_data_augmentation, False, 0)

    def get_identifier(self) -> str:
        """Return the name of the data set."""
        return "MadeImages"

    def _class_name(self, label: int) -> str:
        return str(label)


def _plaids(labels: np.ndarray, num_classes: int, random: np.random.RandomState) -> np.ndarray:
    """Return images, bytes ``[N, 32, 32, 3]``."""
    of_class = np.random.RandomState(1)
    colours = of_class.uniform(40, 215, (num_classes, 2, IN_SHAPE[2]))
    num_waves = of_class.randint(1, 7, (num_classes, 2))
    phase = 2 * np.pi * random.uniform(size=(len(labels), 2, 1))
    axis = np.arange(IN_SHAPE[0]) / IN_SHAPE[0]
    waves = np.cos(2 * np.pi * num_waves[labels][..., None] * axis + phase)  # [N, 2, 32]
    pixels = np.empty((len(labels), *IN_SHAPE), dtype=np.uint8)
    for i, label in enumerate(labels):  # one at a time: together they take eight times the memory of bytes
        first, second = colours[label]
        share = 0.5 + 0.25 * (waves[i, 0, :, None] + waves[i, 1])  # [32, 32]
        image = second + share[..., None] * (first - second)
        pixels[i] = np.clip(image + random.normal(0, 12, IN_SHAPE), 0, 255)
    return pixels


def load_tasks(config: Namespace) -> list[Dataset]:
    """Return the data of the tasks.

    The tasks are consecutive classes of CIFAR-10, then of CIFAR-100; with ten classes a task, the first one
    is CIFAR-10 as a whole.

    Args:
        config: The options: ``num_tasks``, ``num_classes_per_task``, ``skip_tasks``, ``val_set_size``,
            ``disable_data_augmentation``, ``data_dir`` and ``synthetic_data``.

    Returns:
        A handler for each of ``num_tasks`` tasks, with one-hot outputs for the classes of the task.

    Raises:
        FileNotFoundError: If files are missing and can't be downloaded.
        ValueError: If there are not enough classes or samples.
    """
    per_task, number = config.num_classes_per_task, config.skip_tasks + config.num_tasks
    augmented = not config.disable_data_augmentation
    handlers: Any
    if config.synthetic_data:
        num_train = config.synthetic_data
        made = MadeImages(
            number * per_task, num_train, max(1, num_train // 10), use_data_augmentation=augmented
        )
        handlers = split_by_class(
            made, num_classes_per_task=per_task, num_tasks=number, validation_size=config.val_set_size
        )
    else:
        from hnetfast.data.special.split_cifar import get_split_cifar_handlers

        try:
            handlers = get_split_cifar_handlers(
                config.data_dir,
                use_one_hot=True,
                validation_size=config.val_set_size,
                use_data_augmentation=augmented,
                num_classes_per_task=per_task,
                num_tasks=number,
            )
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error}\nTo do without: --synthetic_data") from error
    tasks = list(handlers[config.skip_tasks :])
    for task in tasks:  # what several posteriors predict is compared sample by sample
        task.shuffle_test_samples = task.shuffle_val_samples = False
    return tasks
