"""Handlers of images that are held in memory and belong to one class each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from hnetfast._errors import InputError
from hnetfast.data._arguments import check_validation_size
from hnetfast.data._samples import Pixels
from hnetfast.data.dataset import Dataset

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.gridspec import GridSpecFromSubplotSpec


class Images:
    """Images and their classes, which several handlers may share.

    Args:
        source: Where they come from, for messages.
        pixels: Bytes ``[N, H, W, C]``.
        labels: Classes, integers ``[N]``.
        num_train: How many are training samples, the first ones.
        num_classes: Number of classes.

    Raises:
        ValueError: If there are not as many classes as images, or others than ``0 … num_classes - 1``.
    """

    def __init__(
        self, source: str | Path, pixels: np.ndarray, labels: np.ndarray, num_train: int, num_classes: int
    ) -> None:
        if len(pixels) != len(labels):
            raise InputError(
                f"{source}: as many classes as images are expected, found {len(labels)} and {len(pixels)}"
            )
        wrong = (labels < 0) | (labels >= num_classes)
        if wrong.any():
            raise InputError(
                f"{source}: classes from 0 to {num_classes - 1} are expected, found {labels[wrong][0]}"
            )
        self.shape = list(pixels.shape[1:])
        self.pixels = pixels.reshape(len(pixels), math.prod(self.shape))
        self.pixels.setflags(write=False)
        self.labels = labels.astype(np.int64)[:, None]
        self.num_train = num_train
        self.part_sizes = [num_train, len(labels) - num_train]  # where training samples have several parts

    @classmethod
    def from_arrays(cls, source: str | Path, arrays: dict[str, np.ndarray], num_classes: int) -> Images:
        """Make them of arrays: ``images``, ``labels`` and ``num_train``; see the constructor."""
        return cls(source, arrays["images"], arrays["labels"], int(arrays["num_train"]), num_classes)

    def __deepcopy__(self, memo: dict) -> Images:
        return self


class LabelledImages(Dataset):
    """Images that are held in memory and belong to one class each; see the subclasses.

    Subclasses call :meth:`_take` in their constructor, and set ``_train_transform`` and ``_test_transform``
    if ``_augment_inputs``.
    """

    # Titles of figures of a sample: without its class, with it, with a prediction too.
    _titles = ("Sample", "Label: {label}", "Label: {label}, prediction: {prediction}")
    _augment_inputs = False
    _augmented_shape: Sequence[int] | None = None  # what transforms take images for; None: ``in_shape``

    def _take(self, images: Images, num_classes: int, use_one_hot: bool, validation_size: int) -> None:
        """Fill ``_data``.

        Args:
            images: The images.
            num_classes: Number of classes.
            use_one_hot: Whether outputs are one-hot encoded.
            validation_size: How many training samples, the first ones, are for validation instead.

        Raises:
            ValueError: If there are not more training samples than that.
        """
        num_train = images.num_train
        size = check_validation_size(validation_size, num_train)
        data = self._data
        data["classification"] = True
        data["sequence"] = False
        data["num_classes"] = num_classes
        data["is_one_hot"] = use_one_hot
        data["in_data"] = Pixels(images.pixels)
        data["in_shape"] = list(images.shape)
        data["out_data"] = self._to_one_hot(images.labels) if use_one_hot else images.labels.copy()
        data["out_shape"] = [num_classes if use_one_hot else 1]
        data["train_inds"] = np.arange(size, num_train)
        data["test_inds"] = np.arange(num_train, len(images.labels))
        if size:
            data["val_inds"] = np.arange(size)
        self._images = images  # kept, so that other handlers find it

    def input_to_torch_tensor(
        self,
        x: np.ndarray,
        device: torch.device | int | str,
        mode: str = "inference",
        force_no_preprocessing: bool = False,
        sample_ids: np.ndarray | None = None,
    ) -> Tensor:
        """Turn images into a tensor, normalised and, for training, augmented if the constructor was told so.

        Args:
            x: Images, numbers from 0 to 1 ``[B, H * W * C]``.
            device: Where to put the tensor; augmentation runs there.
            mode: "train" or "inference": whether random augmentation applies.
            force_no_preprocessing: Whether to leave the numbers as they are.
            sample_ids: Of no effect.

        Returns:
            New tensor, float32 ``[B, H * W * C]``.

        Raises:
            ValueError: If images are augmented and the mode is unknown, or numbers are not from 0 to 1.
        """
        if not self._augment_inputs or force_no_preprocessing:
            return super().input_to_torch_tensor(x, device, mode=mode)
        from hnetfast.data._augmentation import augmented_inputs

        return augmented_inputs(self, x, device, mode, self._augmented_shape or self.in_shape)

    def _class_name(self, label: int) -> str:
        """Return how figures name a class."""
        return str(label)

    def _plot_config(
        self,
        inputs: np.ndarray,
        outputs: np.ndarray | None = None,
        predictions: np.ndarray | None = None,
    ) -> dict[str, Any]:
        config = super()._plot_config(inputs, outputs=outputs, predictions=predictions)
        if _are_scores(predictions, self.num_classes):
            config |= {"outer_hspace": 0.6, "inner_hspace": 0.4, "num_inner_rows": 2, "num_inner_plots": 2}
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
        **kwargs: Any,
    ) -> None:
        title = self._titles[0]
        if outputs is not None:
            names = {"label": self._class_name(_label(outputs))}
            if predictions is not None:
                names["prediction"] = self._class_name(_label(predictions))
            title = self._titles[len(names)].format(**names)
        axes = fig.add_subplot(inner_grid[0])
        axes.set_axis_off()
        axes.set_title(title)
        axes.imshow(_shown(inputs, self.in_shape))
        if num_inner_plots == 2:
            axes = fig.add_subplot(inner_grid[1])
            axes.set_title("Predictions")
            classes = range(self.num_classes)
            axes.bar(classes, np.ravel(cast("np.ndarray", predictions)))
            axes.set_xticks(classes)


def plot_image(
    image: np.ndarray,
    in_shape: Sequence[int],
    title: str,
    figsize: tuple[float, float] | None,
    interactive: bool,
    file_name: str | None,
) -> None:
    """Show an image, or store it in a file instead.

    Args:
        image: The image ``[H * W * C]``.
        in_shape: ``[H, W, C]``.
        title: Title of the figure.
        figsize: Width and height in inches, matplotlib's by default.
        interactive: Whether the program goes on while it is shown.
        file_name: Where to store it.
    """
    from hnetfast.data import _plotting

    with _plotting.figure(None, file_name is None, file_name, interactive, figsize) as figure:
        axes = figure.add_subplot()
        axes.set_title(title)
        axes.set_axis_off()
        axes.imshow(_shown(image, in_shape))


def _shown(image: np.ndarray, in_shape: Sequence[int]) -> np.ndarray:
    """Return an image as matplotlib takes it, one of a single channel without that dimension."""
    return np.reshape(image, in_shape[:2] if in_shape[2] == 1 else in_shape)


def _are_scores(predictions: np.ndarray | None, num_classes: int) -> bool:
    return predictions is not None and np.ndim(predictions) == 2 and np.shape(predictions)[1] == num_classes


def _label(output: np.ndarray) -> int:
    """Return the class that an output stands for: itself, or the largest one of several."""
    values = np.ravel(output)
    return int(values[0] if len(values) == 1 else values.argmax())
