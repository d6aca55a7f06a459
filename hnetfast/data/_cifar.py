"""What the handlers of CIFAR-10 and CIFAR-100 have in common.

Krizhevsky, "Learning multiple layers of features from tiny images", 2009. The files are pickles, which are
read without running what they hold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hnetfast._errors import InputError
from hnetfast._plain_pickle import read_plain_pickle
from hnetfast.data._cache import shared
from hnetfast.data._files import extract_tar, fetch
from hnetfast.data._labelled_images import Images, LabelledImages

SHAPE = (32, 32, 3)
_SIZE = math.prod(SHAPE)
CLASS_TITLES = (
    "Label of shown sample:\n{label}",
    "Label of shown sample:\n{label}\nPrediction: {prediction}",
)


class CIFARData(LabelledImages):
    """Files as CIFAR has them; see the subclasses."""

    _DOWNLOAD_PATH = "https://www.cs.toronto.edu/~kriz/"
    _DOWNLOAD_FILE: str
    _EXTRACTED_FOLDER: str
    _META_DATA_FN: str
    _augmented_shape = SHAPE
    _dataset: str  # name of the data set in torchvision
    _key: str  # of the entry of _data that tells more of the data set,
    _described_by: tuple[str, ...]  # and what it holds, named as in the file
    _class_names: str  # which of these are the names of classes
    _label_entry: str  # where a file has the classes of its images

    def _read(
        self,
        data_path: str | Path,
        train: Sequence[str],
        test: str,
        num_classes: int,
        use_one_hot: bool,
        validation_size: int,
    ) -> None:
        """Fill ``_data`` from files, which are downloaded if they are missing.

        Args:
            data_path: Folder of the folder with the files.
            train: Names of the files of training samples.
            test: Name of that for testing.
            num_classes: Number of classes.
            use_one_hot: Whether outputs are one-hot encoded.
            validation_size: How many training samples, the first ones, are for validation instead.
        """
        folder = Path(data_path) / self._EXTRACTED_FOLDER
        files, meta = [folder / name for name in (*train, test)], folder / self._META_DATA_FN
        if not all(path.is_file() for path in (*files, meta)):
            self._download(Path(data_path), [*files, meta])
        described = read_plain_pickle(meta)
        for name in self._described_by:
            if name not in described:
                raise InputError(f"{meta}: an entry {name!r} is expected, found {sorted(described)}")
        images = shared(
            files, partial(_load, folder, files, labels=self._label_entry, num_classes=num_classes)
        )
        self._take(images, num_classes, use_one_hot, validation_size)
        self._data[self._key] = {name: described[name] for name in self._described_by}

    def _download(self, data_path: Path, files: list[Path]) -> None:
        from torchvision import datasets

        source = getattr(datasets, self._dataset)
        archive = data_path / self._DOWNLOAD_FILE
        if not archive.exists():
            fetch(
                [source.url],
                archive,
                source.tgz_md5,
                f"{self._DOWNLOAD_FILE} of https://www.cs.toronto.edu/~kriz/cifar.html; or extract it, so "
                f"that there is {' and '.join(str(path) for path in files if not path.is_file())}.",
            )
        extract_tar(archive, data_path)
        missing = [str(path) for path in files if not path.is_file()]
        if missing:
            raise FileNotFoundError(f"{', '.join(missing)}: not found, nor in {archive}")

    def _set_augmentation(self, use_data_augmentation: bool, use_cutout: bool, cutout_length: int) -> None:
        """Set the transforms of augmentation, if it is wanted."""
        self._augment_inputs = use_data_augmentation
        if use_data_augmentation:
            self._train_transform, self._test_transform = torch_input_transforms(
                apply_cutout=use_cutout, cutout_length=cutout_length
            )

    def _class_name(self, label: int) -> str:
        return f"{self._data[self._key][self._class_names][label]} ({label})"


def torch_input_transforms(
    apply_rand_hflips: bool = True,
    apply_cutout: bool = False,
    cutout_length: int = 16,
    cutout_n_holes: int = 1,
) -> tuple[Any, Any]:
    """What :meth:`hnetfast.data.cifar10_data.CIFAR10Data.torch_input_transforms` returns."""
    from torchvision import transforms

    from hnetfast.utils.torch_utils import CutoutTransform

    flip = [transforms.RandomHorizontalFlip()] if apply_rand_hflips else []
    shift = [transforms.RandomCrop(32, padding=4)]
    cutout = [CutoutTransform(cutout_n_holes, cutout_length)] if apply_cutout else []

    def pipeline(before: list, after: list) -> transforms.Compose:
        to_image, to_tensor = transforms.ToPILImage("RGB"), transforms.ToTensor()
        normalise = transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
        return transforms.Compose([to_image, *before, to_tensor, normalise, *after])

    return pipeline([*flip, *shift], cutout), pipeline([], [])


def _load(folder: Path, files: list[Path], labels: str, num_classes: int) -> Images:
    # Files are larger than the images in them.
    images = np.empty((sum(path.stat().st_size for path in files) // _SIZE, _SIZE), np.uint8)
    classes: list[np.ndarray] = []
    num_train = total = 0
    for path in files:
        planes, found = _read_batch(path, labels, num_classes)
        num_train, total = total, total + len(found)
        _join_planes(planes, images[num_train:total])
        classes.append(found)
    return Images(folder, images[:total].reshape(-1, *SHAPE), np.concatenate(classes), num_train, num_classes)


def _join_planes(planes: np.ndarray, images: np.ndarray) -> None:
    """Write images whose channels follow each other, ``[n, C * H * W]``, as images ``[n, H * W * C]``."""
    channels = SHAPE[2]
    source, target = planes.reshape(len(planes), channels, -1), images.reshape(len(planes), -1, channels)
    for start in range(0, len(planes), 64):  # blocks that stay in the cache of a core
        block = slice(start, start + 64)
        for channel in range(channels):
            target[block, :, channel] = source[block, channel]


def _read_batch(path: Path, labels: str, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images, bytes ``[n, C * H * W]``, and classes ``[n]``."""
    content = read_plain_pickle(path, ("data", labels))
    images, classes = content.get("data"), content.get(labels)
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape[1:] != (_SIZE,):
        found = (
            f"{images.dtype} {list(images.shape)}"
            if isinstance(images, np.ndarray)
            else type(images).__name__
        )
        raise InputError(f"{path}: an entry 'data' with bytes [n, {_SIZE}] is expected, found {found}")
    if not isinstance(classes, list) or not {*map(type, classes)} <= {int}:
        raise InputError(
            f"{path}: an entry {labels!r} with a list of integers is expected, found {classes!r:.60}"
        )
    if len(classes) != len(images):
        raise InputError(
            f"{path}: as many classes as images are expected, found {len(classes)} and {len(images)}"
        )
    wrong = [
        label for label in (min(classes, default=0), max(classes, default=0)) if not 0 <= label < num_classes
    ]
    if wrong:
        raise InputError(f"{path}: classes from 0 to {num_classes - 1} are expected, found {wrong[0]}")
    return images, np.array(classes, dtype=np.int64)
