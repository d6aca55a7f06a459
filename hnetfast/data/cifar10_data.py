"""CIFAR-10: Krizhevsky, "Learning multiple layers of features from tiny images", 2009.

Images of ten kinds of things, 32 × 32 pixels in colour: 50,000 for training, 10,000 for testing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hnetfast.data import _cifar
from hnetfast.data._cifar import CLASS_TITLES, CIFARData
from hnetfast.data._labelled_images import plot_image

__all__ = ["CIFAR10Data"]


class CIFAR10Data(CIFARData):
    """CIFAR-10. Inputs are numbers from 0 to 1.

    Args:
        data_path: Folder of the folder ``cifar-10-batches-py`` with the files, which are downloaded if they
            are missing.
        use_one_hot: Whether outputs are one-hot encoded.
        use_data_augmentation: Whether :meth:`input_to_torch_tensor` normalises images, and shifts and flips
            those for training at random.
        validation_size: How many training samples, the first ones, are for validation instead.
        use_cutout: Whether augmentation also sets a square of 16 × 16 pixels to zero.

    Raises:
        FileNotFoundError: If a file is missing and can't be downloaded.
        ValueError: If a file is broken, or there are not more training samples than ``validation_size``.
    """

    _DOWNLOAD_FILE = "cifar-10-python.tar.gz"
    _EXTRACTED_FOLDER = "cifar-10-batches-py"
    _TRAIN_BATCH_FNS = ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"]
    _TEST_BATCH_FN = "test_batch"
    _META_DATA_FN = "batches.meta"
    _titles = ("CIFAR-10 Sample", *CLASS_TITLES)
    _dataset = "CIFAR10"
    _key = "cifar10"
    _described_by = ("label_names", "num_cases_per_batch")
    _class_names = "label_names"
    _label_entry = "labels"

    def __init__(
        self,
        data_path: str | Path,
        use_one_hot: bool = False,
        use_data_augmentation: bool = False,
        validation_size: int = 5000,
        use_cutout: bool = False,
    ) -> None:
        super().__init__()
        self._read(data_path, self._TRAIN_BATCH_FNS, self._TEST_BATCH_FN, 10, use_one_hot, validation_size)
        self._set_augmentation(use_data_augmentation, use_cutout, 16)

    def get_identifier(self) -> str:
        """Return the name of the data set."""
        return "CIFAR-10"

    @staticmethod
    def torch_input_transforms(
        apply_rand_hflips: bool = True,
        apply_cutout: bool = False,
        cutout_length: int = 16,
        cutout_n_holes: int = 1,
    ) -> tuple[Any, Any]:
        """Return the transforms of single images that augmentation consists of.

        Args:
            apply_rand_hflips: Whether images for training are flipped at random.
            apply_cutout: Whether squares of them are set to zero (DeVries and Taylor, "Improved
                regularization of convolutional neural networks with cutout", 2017).
            cutout_length: Side of such a square in pixels.
            cutout_n_holes: Number of squares.

        Returns:
            Pipelines of torchvision: that for training (flip, shift by up to four pixels, normalisation,
            squares) and that for testing (normalisation), each from bytes ``[32, 32, 3]`` to a tensor
            ``[3, 32, 32]``.
        """
        return _cifar.torch_input_transforms(apply_rand_hflips, apply_cutout, cutout_length, cutout_n_holes)

    @staticmethod
    def torch_augment_images(
        x: np.ndarray,
        device: torch.device | int | str,
        transform: Callable[[Any], Tensor],
        img_shape: Sequence[int] = [32, 32, 3],
    ) -> Tensor:
        """Apply a transform to images; see :func:`hnetfast.data._augmentation.augment_images`.

        Args:
            x: Images, numbers from 0 to 1 ``[B, H * W * C]``.
            device: Where to put the tensor.
            transform: From one image, bytes ``[H, W, C]``, to a tensor ``[C, H, W]``.
            img_shape: ``[H, W, C]``.

        Returns:
            New tensor ``[B, H * W * C]``.
        """
        from hnetfast.data._augmentation import augment_images

        return augment_images(x, device, transform, img_shape)

    def plot_sample(
        self,
        image: np.ndarray,
        label: int | None = None,
        figsize: float = 1.5,
        interactive: bool = False,
        file_name: str | None = None,
    ) -> None:
        """Show an image; :meth:`plot_samples` can do more.

        Args:
            image: The image ``[3072]``.
            label: Its class, for the title.
            figsize: Width and height of the figure in inches.
            interactive: Whether the program goes on while it is shown.
            file_name: Where to store the figure instead of showing it.
        """
        title = "CIFAR-10 Sample"
        if label is not None:
            title = f"Label of shown sample: {self._class_name(int(label))}"
        plot_image(image, _cifar.SHAPE, title, (figsize, figsize), interactive, file_name)

    def _get_batch_identifier(self, index: int) -> int:
        """Return the number of a file of training samples, from 1 on, given its index."""
        return index + 1
