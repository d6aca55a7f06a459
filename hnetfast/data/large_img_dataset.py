"""The base class of handlers whose inputs are images in files: names are held in memory, images are not.

A subclass fills ``self._data`` as :mod:`hnetfast.data.dataset` tells. ``in_data`` holds names of files, a
``numpy.char.chararray`` ``[N, 1]``, relative to the folder that the constructor got; ``in_shape`` is the
shape that images are brought to, ``[height, width, 3]``. Data sets for PyTorch's ``DataLoader`` go to
``self._torch_ds_train``, ``self._torch_ds_test`` and ``self._torch_ds_val``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch

from hnetfast._errors import InputError, UnsupportedError
from hnetfast.data._arguments import check_choice
from hnetfast.data._image_files import file_names, load_image
from hnetfast.data.dataset import Dataset

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.gridspec import GridSpec

    from hnetfast.data._image_list import ImageList

__all__ = ["LargeImgDataset"]


class LargeImgDataset(Dataset):
    """A data set of images that stay in their files until they are needed.

    Args:
        imgs_path: Folder of the images, to which the names in ``in_data`` are relative.
        png_format: Whether the images are PNG files, not JPEG.
    """

    def __init__(self, imgs_path: str, png_format: bool = False) -> None:
        super().__init__()
        self._imgs_path = imgs_path
        self._png_format_used = png_format
        self._torch_ds_train: torch.utils.data.Dataset | None = None
        self._torch_ds_test: torch.utils.data.Dataset | None = None
        self._torch_ds_val: torch.utils.data.Dataset | None = None

    @property
    def imgs_path(self) -> str:
        """Folder of the images."""
        return self._imgs_path

    @property
    def png_format_used(self) -> bool:
        """Whether the images are PNG files."""
        return self._png_format_used

    @property
    def torch_train(self) -> torch.utils.data.Dataset:
        """The training samples as a data set of PyTorch.

        Raises:
            NotImplementedError: If this handler has none.
        """
        return self._require_torch_dataset(self._torch_ds_train, "train")

    @property
    def torch_test(self) -> torch.utils.data.Dataset:
        """The test samples as a data set of PyTorch; see :attr:`torch_train`."""
        return self._require_torch_dataset(self._torch_ds_test, "test")

    @property
    def torch_val(self) -> torch.utils.data.Dataset | None:
        """The validation samples as a data set of PyTorch, or None."""
        return self._torch_ds_val

    def read_images(self, inputs: np.ndarray) -> np.ndarray:
        """Read images.

        Args:
            inputs: Names of files as this handler returns them, ``[B, 1]`` or ``[B]``.

        Returns:
            New array, float32 ``[B, prod(in_shape)]``: images of the size ``in_shape``, resized bilinearly,
            with numbers from 0 to 1, but to 255 if :attr:`png_format_used`.

        Raises:
            FileNotFoundError: If a file is not there.
            ValueError: If one is no image.
        """
        names = np.asarray(inputs)
        if names.dtype.kind not in "US" or names.size != len(np.atleast_1d(names)):
            raise InputError(f"inputs: expected names of files [B, 1], got {names.dtype} {list(names.shape)}")
        if len(self.in_shape) != 3 or self.in_shape[2] != 3:
            raise InputError(f"in_shape: images are read to [height, width, 3], not to {self.in_shape}")
        from PIL.Image import Resampling

        height, width, _ = self.in_shape
        images = np.empty((names.size, height * width * 3), dtype=np.float32)
        for image, name in zip(images, names.ravel().astype(str).tolist(), strict=True):
            found = load_image(os.path.join(self._imgs_path, name))
            image[:] = np.asarray(found.resize((width, height), Resampling.BILINEAR)).ravel()
        if not self._png_format_used:
            images /= 255
        return images

    def tf_input_map(self, mode: str = "inference") -> Callable[[Any], Any]:
        """Return the function that ``tf.data.Dataset.map`` applies to inputs: it reads an image.

        Args:
            mode: "train" or "inference".

        Returns:
            Function from the name of a file to the image, resized to ``in_shape`` and flattened, numbers from
            0 to 1.

        Raises:
            ImportError: If TensorFlow is not installed.
        """
        try:
            import tensorflow as tf
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "tf_input_map: TensorFlow is not installed; torch_train and the like are for PyTorch",
                name="tensorflow",
            ) from error
        folder, size = os.path.join(self._imgs_path, ""), self.in_shape[:2]
        decode = tf.io.decode_png if self._png_format_used else tf.io.decode_jpeg

        def read(name: Any) -> Any:
            image = decode(tf.io.read_file(folder + tf.squeeze(name)), channels=3)
            image = tf.image.resize(tf.image.convert_image_dtype(image, tf.float32), size)
            return tf.reshape(image, [-1])

        return read

    def input_to_torch_tensor(
        self,
        x: np.ndarray,
        device: torch.device | int | str,
        mode: str = "inference",
        force_no_preprocessing: bool = False,
        sample_ids: np.ndarray | None = None,
    ) -> NoReturn:
        """Names of files are no tensors: use ``torch_train``, ``torch_test`` and ``torch_val``.

        Args:
            x: Inputs as this handler returns them, names of files ``[B, 1]``.
            device: Of no effect, like all that follows.
            mode: "train" or "inference".
            force_no_preprocessing: Whether to leave the numbers as they are.
            sample_ids: IDs of the samples, integers ``[B]``.

        Raises:
            NotImplementedError: Always.
        """
        raise UnsupportedError(
            "input_to_torch_tensor: inputs of this handler are names of files; torch_train, torch_test and "
            "torch_val are data sets for PyTorch's DataLoader, and read_images returns arrays"
        )

    def torch_dataset(self, part: str, **options: Any) -> torch.utils.data.Dataset:
        """Return a part as a data set for PyTorch's ``DataLoader``.

        Args:
            part: "train", "val" or "test".
            **options: None are accepted: the data sets do to images what they were made to do.

        Returns:
            :attr:`torch_train`, :attr:`torch_val` or :attr:`torch_test`.

        Raises:
            ValueError: If the part is unknown or there is none, or an option is given.
        """
        check_choice("part", part, ("train", "val", "test"))
        if options:
            raise InputError(f"torch_dataset: this handler has no options, got {', '.join(options)}")
        return self._require_torch_dataset(getattr(self, f"torch_{part}"), part)

    def _use_image_lists(
        self, train: ImageList, test: ImageList, val: ImageList | None, dtype: np.dtype | type
    ) -> None:
        """Make samples of images whose targets are numbers: first those for training, then validation, test.

        Args:
            train: Those for training, which become ``torch_train``.
            test: Those for testing.
            val: Those for validation, if there are any.
            dtype: What the outputs become, unless they are one-hot encoded.
        """
        self._torch_ds_train, self._torch_ds_test, self._torch_ds_val = train, test, val
        parts = [train, test] if val is None else [train, val, test]
        self._data["in_data"] = file_names([path for part in parts for path, _ in part.samples])
        outputs = np.array([target for part in parts for target in part.targets], dtype=dtype).reshape(-1, 1)
        self._data["out_data"] = self._to_one_hot(outputs) if self.is_one_hot else outputs
        ends = np.cumsum([len(part) for part in parts])
        indices = np.split(np.arange(ends[-1]), ends[:-1])
        self._data["train_inds"], self._data["test_inds"] = indices[0], indices[-1]
        self._data["val_inds"] = None if val is None else indices[1]

    def _require_torch_dataset(
        self, dataset: torch.utils.data.Dataset | None, part: str
    ) -> torch.utils.data.Dataset:
        if dataset is None:
            raise UnsupportedError(
                f"{self.get_identifier()}: has no {part} samples as a data set for PyTorch"
            )
        return dataset

    def _draw_image(
        self, fig: Figure, inner_grid: GridSpec, inputs: np.ndarray, title: str | None = None
    ) -> Axes:
        """Draw the image of one sample.

        Args:
            fig: The figure.
            inner_grid: Grid of the axes for this sample; the first of them are used.
            inputs: Name of its file ``[1, 1]``.
            title: What to write above it; by default what kind of sample it is.

        Returns:
            The axes.
        """
        axes = fig.add_subplot(inner_grid[0])
        axes.set_axis_off()
        axes.set_title(f"{self.get_identifier()} Sample" if title is None else title)
        image = self.read_images(inputs).reshape(self.in_shape)
        axes.imshow(image / 255 if self._png_format_used else image)
        return axes

    def _class_title(
        self, names: dict[int, str], outputs: np.ndarray | None, predictions: np.ndarray | None
    ) -> str | None:
        """Return the title of a classified image.

        Args:
            names: The names of the classes.
            outputs: Its class ``[1, 1]`` or ``[1, num_classes]``.
            predictions: A network's outputs ``[1, num_classes]``, or a class.

        Returns:
            Class and, if there is one, prediction; None without a class.
        """
        if outputs is None:
            return None
        label = _class_of(outputs)
        title = f"Label of shown sample:\n{names[label]} ({label})"
        if predictions is not None:
            predicted = _class_of(predictions)
            title += f"\nPrediction: {names[predicted]} ({predicted})"
        return title


def _class_of(output: np.ndarray) -> int:
    return int(np.argmax(output) if np.size(output) > 1 else np.ravel(output)[0])
