"""Street view house numbers: Netzer et al., "Reading digits in natural images", 2011.

Images of the digits 0 to 9, 32 × 32 pixels in colour: 73,257 for training, 26,032 for testing and 531,131
that are easier.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from hnetfast._errors import InputError
from hnetfast.data import _cifar
from hnetfast.data._cache import shared
from hnetfast.data._files import fetch
from hnetfast.data._labelled_images import Images, LabelledImages

__all__ = ["SVHNData"]

_NUM_CLASSES = 10
_TRAIN, _EXTRA, _TEST = 0, 1, 2  # kinds of samples


class SVHNData(LabelledImages):
    """Street view house numbers. Inputs are numbers from 0 to 1.

    ``_data["svhn"]["type"]`` tells which samples are of the training set (0), of the easier ones (1) and of
    the test set (2), float64 ``[N]``.

    Args:
        data_path: Folder of the folder ``SVHN`` with the files, which are downloaded if they are missing.
        use_one_hot: Whether outputs are one-hot encoded.
        validation_size: How many training samples, the first ones, are for validation instead.
        use_torch_augmentation: Whether :meth:`input_to_torch_tensor` normalises images and shifts those for
            training at random.
        use_cutout: Whether augmentation also sets a square of 20 × 20 pixels to zero.
        include_train_extra: Whether the easier samples are training samples as well, after the others.

    Raises:
        FileNotFoundError: If a file is missing and can't be downloaded.
        ValueError: If a file is broken, or there are not more training samples than ``validation_size``.
    """

    _SUBFOLDER = "SVHN"
    _augmented_shape = _cifar.SHAPE
    _titles = (
        "SVHN sample",
        "SVHN sample\nLabel: {label}",
        "SVHN sample\nLabel: {label}, Prediction: {prediction}",
    )

    def __init__(
        self,
        data_path: str | Path,
        use_one_hot: bool = False,
        validation_size: int = 0,
        use_torch_augmentation: bool = False,
        use_cutout: bool = False,
        include_train_extra: bool = False,
    ) -> None:
        super().__init__()
        kinds = {"train": _TRAIN, "extra": _EXTRA, "test": _TEST}
        if not include_train_extra:
            del kinds["extra"]
        files = [Path(data_path) / self._SUBFOLDER / f"{part}_32x32.mat" for part in kinds]
        for part, path in zip(kinds, files, strict=True):
            if not path.is_file():
                _download(part, path)
        images = shared(files, partial(_load, files))
        self._take(images, _NUM_CLASSES, use_one_hot, validation_size)
        types = np.repeat(np.array([*kinds.values()], dtype=np.float64), images.part_sizes)
        self._data["svhn"] = {"type": types}
        self._augment_inputs = use_torch_augmentation
        if use_torch_augmentation:
            transforms = _cifar.torch_input_transforms(
                apply_rand_hflips=False, apply_cutout=use_cutout, cutout_length=20
            )
            self._train_transform, self._test_transform = transforms

    def get_identifier(self) -> str:
        """Return the name of the data set."""
        return "SVHN"

    def __str__(self) -> str:
        return (
            f"SVHN Dataset with {self.num_train_samples} training, {self.num_val_samples} validation and "
            f"{self.num_test_samples} test samples"
        )


def _download(part: str, path: Path) -> None:
    from torchvision import datasets

    url, _, md5 = datasets.SVHN.split_list[part]
    fetch([url], path, md5, "http://ufldl.stanford.edu/housenumbers/, format 2")


def _load(files: list[Path]) -> Images:
    parts = [_read(path) for path in files]
    pixels = np.concatenate([pixels for pixels, _ in parts])
    labels = np.concatenate([labels for _, labels in parts])
    sizes = [len(labels) for _, labels in parts]
    images = Images(files[0].parent, pixels, labels, sum(sizes[:-1]), _NUM_CLASSES)
    images.part_sizes = sizes
    return images


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return images, bytes ``[n, 32, 32, 3]``, and classes ``[n]``."""
    from scipy.io import loadmat

    try:
        content = loadmat(path, variable_names=["X", "y"])
    except Exception as error:  # scipy raises a dozen kinds, depending on which byte is wrong
        raise InputError(f"{path}: is no complete file of MATLAB ({error}); fetch it again") from error
    pixels, labels = content.get("X"), content.get("y")
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[:-1] != (32, 32, 3):
        raise InputError(f"{path}: images X, bytes [32, 32, 3, n], are expected, found {_kind(pixels)}")
    if not isinstance(labels, np.ndarray) or labels.shape != (pixels.shape[-1], 1):
        raise InputError(
            f"{path}: classes y [{pixels.shape[-1]}, 1] are expected, found {_kind(labels)}; fetch it again"
        )
    known = np.isin(labels, np.arange(11))
    if not known.all():
        raise InputError(f"{path}: classes y from 1 to 10 are expected, found {labels[~known][0]}")
    return np.ascontiguousarray(pixels.transpose(3, 0, 1, 2)), labels[:, 0].astype(np.int64) % 10


def _kind(value: object) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__
