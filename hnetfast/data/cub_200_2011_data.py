"""Caltech-UCSD Birds-200-2011: 11,788 photographs of birds of 200 kinds.

Wah et al., "The Caltech-UCSD Birds-200-2011 Dataset", California Institute of Technology, 2011,
https://data.caltech.edu/records/65de6-vp158
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from hnetfast._errors import InputError, UnsupportedError
from hnetfast.data._arguments import check_count
from hnetfast.data._files import download, extract_tar
from hnetfast.data._image_files import (
    first_of_each_class,
    read_numbers,
    read_pairs,
    require_paths,
    rows_of,
)
from hnetfast.data.ilsvrc2012_data import ILSVRC2012Data
from hnetfast.data.large_img_dataset import LargeImgDataset

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.gridspec import GridSpec

__all__ = ["CUB2002011"]


class CUB2002011(LargeImgDataset):
    """The birds; inputs are names of files, outputs classes from 0.

    ``torch_train``, ``torch_val`` and ``torch_test`` treat images as those of
    :class:`hnetfast.data.ilsvrc2012_data.ILSVRC2012Data` do.

    Args:
        data_path: Folder of the data set. Where it does not hold ``cub_200_2011/CUB_200_2011``, that is
            extracted from ``cub_200_2011/CUB_200_2011.tgz``, which is downloaded first if it is not there.
        use_one_hot: Whether outputs are one-hot encoded, ``[N, num_classes]``, not ``[N, 1]``. Targets of the
            data sets for PyTorch are integers anyway.
        num_val_per_class: How many images of each class, the first ones of its training images, make the
            validation set.

    Raises:
        FileNotFoundError: If files are missing and can't be downloaded.
        ValueError: If they don't belong together, or a class has fewer than ``num_val_per_class`` images.
    """

    _DOWNLOAD_PATH = "https://data.caltech.edu/records/65de6-vp158/files/"
    _IMG_ANNO_FILE = "CUB_200_2011.tgz"
    _SEGMENTATION_FILE = "segmentations.tgz"
    _SUBFOLDER = "cub_200_2011"
    _REL_BASE = "CUB_200_2011"
    _IMG_DIR = "images"
    _CLASSES_FILE = "classes.txt"
    _IMG_CLASS_LBLS_FILE = "image_class_labels.txt"
    _IMG_FILE = "images.txt"
    _TRAIN_TEST_SPLIT_FILE = "train_test_split.txt"

    def __init__(self, data_path: str, use_one_hot: bool = False, num_val_per_class: int = 0) -> None:
        super().__init__("")
        num_val_per_class = check_count("num_val_per_class", num_val_per_class)
        base = os.path.join(data_path, self._SUBFOLDER, self._REL_BASE)
        if not os.path.exists(base):
            self._fetch(os.path.join(data_path, self._SUBFOLDER))
        images_dir = os.path.join(base, self._IMG_DIR)
        names = (self._CLASSES_FILE, self._IMG_CLASS_LBLS_FILE, self._IMG_FILE, self._TRAIN_TEST_SPLIT_FILE)
        files = [os.path.join(base, name) for name in names]
        source = f"Remove {base}, then it is extracted from {self._IMG_ANNO_FILE} again."
        require_paths([images_dir, *files], source)
        classes, paths, labels, training = _read_annotations(images_dir, *files)

        self._label_to_name = classes
        self._data["classification"] = True
        self._data["sequence"] = False
        self._data["num_classes"] = len(classes)
        self._data["is_one_hot"] = use_one_hot
        self._data["in_shape"] = [224, 224, 3]
        self._data["out_shape"] = [len(classes) if use_one_hot else 1]

        from hnetfast.data._image_list import ImageList

        held_out = np.zeros(len(paths), dtype=bool)
        held_out[training] = first_of_each_class(labels[training], num_val_per_class)
        train_transform, test_transform = ILSVRC2012Data.torch_input_transforms()
        class_to_idx = {name: label for label, name in sorted(classes.items())}

        def chosen(mask: np.ndarray, transform: Callable[[Any], Any]) -> ImageList:
            chosen_paths, targets = paths[mask].tolist(), labels[mask].tolist()
            return ImageList(images_dir, chosen_paths, targets, list(class_to_idx), class_to_idx, transform)

        self._use_image_lists(
            chosen(training & ~held_out, train_transform),
            chosen(~training, test_transform),
            chosen(held_out, test_transform) if num_val_per_class > 0 else None,
            np.int64,
        )

    def get_identifier(self) -> str:
        """Return the name of the data set."""
        return "CUB-200-2011"

    def tf_input_map(self, mode: str = "inference") -> NoReturn:
        """Not available.

        Args:
            mode: "train" or "inference".

        Raises:
            NotImplementedError: Always.
        """
        raise UnsupportedError("tf_input_map: this handler has none for TensorFlow")

    def _fetch(self, folder: str) -> None:
        """Extract the archive, and download it first if it is not there."""
        os.makedirs(folder, exist_ok=True)
        archive = os.path.join(folder, self._IMG_ANNO_FILE)
        if not os.path.exists(archive):
            try:
                download(self._DOWNLOAD_PATH + self._IMG_ANNO_FILE, archive)
            except OSError as error:
                raise FileNotFoundError(
                    f"{archive}: not found, and the download failed ({error}). Fetch {self._IMG_ANNO_FILE} "
                    f"from https://data.caltech.edu/records/65de6-vp158 and put it there."
                ) from error
        extract_tar(archive, folder)

    def _plot_sample(
        self,
        fig: Figure,
        inner_grid: GridSpec,
        num_inner_plots: int,
        ind: int,
        inputs: np.ndarray,
        outputs: np.ndarray | None = None,
        predictions: np.ndarray | None = None,
    ) -> None:
        """Draw an image below its class; see :meth:`hnetfast.data.dataset.Dataset.plot_samples`."""
        title = self._class_title(self._label_to_name, outputs, predictions)
        self._draw_image(fig, inner_grid, inputs, title)


def _read_annotations(
    images_dir: str, classes_file: str, labels_file: str, images_file: str, split_file: str
) -> tuple[dict[int, str], np.ndarray, np.ndarray, np.ndarray]:
    """Read which images there are and what they show, sorted by the names of their folders and their own.

    Returns:
        Names of the classes by their numbers, which start at 0 here and at 1 in the files; of ``n`` images
        the paths, str objects ``[n]``, the classes, int64 ``[n]``, and whether they are for training, bool
        ``[n]``.

    Raises:
        ValueError: If the files don't belong together.
    """
    numbered = read_pairs(classes_file)
    if not numbered or sorted(numbered) != sorted(str(i + 1) for i in range(len(numbered))):
        raise InputError(f"{classes_file}: numbers from 1 on are expected, found {list(numbered)[:10]}")
    classes = {int(number) - 1: name for number, name in numbered.items()}
    for name in classes.values():
        if name in (".", "..") or os.path.basename(name) != name:
            raise InputError(f"{classes_file}: names of folders in {images_dir} are expected, found {name}")
    images = read_pairs(images_file)
    labels = _numbers_of(labels_file, list(images), images_file, range(1, len(classes) + 1)) - 1
    training = _numbers_of(split_file, list(images), images_file, range(2)) == 1
    names = list(images.values())
    paths = [os.path.join(images_dir, name) for name in names]
    for i, name in enumerate(names):
        if os.path.dirname(name) != classes[labels[i]]:
            raise InputError(
                f"{images_file}, line {i + 1}: {name} is not in the folder of {classes[labels[i]]}"
            )
        if not os.path.isfile(paths[i]):
            raise FileNotFoundError(f"{images_file}, line {i + 1}: there is no image {paths[i]}")
    order = sorted(range(len(paths)), key=lambda i: os.path.split(paths[i]))
    order = np.array(order, dtype=np.int64)
    return classes, np.array(paths, dtype=object)[order], labels[order], training[order]


def _numbers_of(path: str, ids: list[str], source: str, accepted: range) -> np.ndarray:
    """Return the numbers that a file has for the IDs that another lists, int64 ``[n]``."""
    names, numbers = read_numbers(path)
    wrong = np.flatnonzero((numbers < accepted[0]) | (numbers > accepted[-1]))
    if len(wrong):
        raise InputError(
            f"{path}, line {wrong[0] + 1}: a number from {accepted.start} to {accepted.stop - 1} is expected"
        )
    return numbers[rows_of(path, names, ids, source)]
