"""CelebA: 202,599 photographs of faces and 40 attributes of each.

Liu et al., "Deep Learning Face Attributes in the Wild", ICCV 2015,
http://mmlab.ie.cuhk.edu.hk/projects/CelebA.html

The files must be fetched from there by hand, and extracted so that there are

- ``CelebA/Anno/`` with ``identity_CelebA.txt``, ``list_attr_celeba.txt`` and
  ``list_landmarks_align_celeba.txt``,
- ``CelebA/Eval/list_eval_partition.txt``,
- ``CelebA/Img/img_align_celeba/`` with the JPEG files, or ``CelebA/Img/img_align_celeba_png.7z/`` with the
  PNG files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hnetfast._errors import InputError, InputTypeError
from hnetfast.data._arguments import check_count
from hnetfast.data._image_files import file_names, read_numbers, read_table, require_paths, rows_of
from hnetfast.data.large_img_dataset import LargeImgDataset

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.gridspec import GridSpec

__all__ = ["CelebAData"]

_SOURCE = (
    "Fetch the aligned images and the annotations from http://mmlab.ie.cuhk.edu.hk/projects/CelebA.html and "
    "extract them to CelebA/Img/img_align_celeba (or img_align_celeba_png.7z), CelebA/Anno and CelebA/Eval."
)


class CelebAData(LargeImgDataset):
    """The aligned faces; inputs are names of files, outputs whether each attribute is there, 0 or 1.

    Args:
        data_path: The folder that holds ``CelebA``; see the module.
        use_png: Whether to use the PNG files, not the JPEG files.
        shape: Height and width that images are brought to; by default that of the files, 218 × 178.

    Raises:
        FileNotFoundError: If files are missing.
        ValueError: If they don't belong together.
    """

    _ROOT = "CelebA"
    _ANNO = "CelebA/Anno"
    _EVAL = "CelebA/Eval"
    _IMG = "CelebA/Img"
    _IDENTITY = "CelebA/Anno/identity_CelebA.txt"
    _ATTRIBUTES = "CelebA/Anno/list_attr_celeba.txt"
    _BBOX = "CelebA/Anno/list_bbox_celeba.txt"
    _ORIG_LANDMARKS = "CelebA/Anno/list_landmarks_celeba.txt"
    _LANDMARKS = "CelebA/Anno/list_landmarks_align_celeba.txt"
    _PARTITIONS = "CelebA/Eval/list_eval_partition.txt"
    _ORIG_IMGS = "CelebA/Img/img_celeba.7z"
    _PNG_IMGS = "CelebA/Img/img_align_celeba_png.7z"
    _JPG_IMGS = "CelebA/Img/img_align_celeba"

    def __init__(self, data_path: str, use_png: bool = False, shape: Sequence[int] | None = None) -> None:
        imgs_path = os.path.join(data_path, self._PNG_IMGS if use_png else self._JPG_IMGS)
        super().__init__(imgs_path, png_format=use_png)
        files = (self._IDENTITY, self._ATTRIBUTES, self._LANDMARKS, self._PARTITIONS)
        require_paths([imgs_path, *(os.path.join(data_path, name) for name in files)], _SOURCE)
        self._read_dataset(data_path, shape=shape)

    def get_attribute_names(self) -> list[str]:
        """Return the names of the attributes, in the order of the outputs."""
        return self._data["celeba"]["attr_names"]

    def get_identifier(self) -> str:
        """Return the name of the data set."""
        return "CelebA"

    def _read_dataset(self, data_path: str, shape: Sequence[int] | None = None) -> None:
        """Read the annotations and fill ``_data``.

        Args:
            data_path: See the constructor.
            shape: See the constructor.
        """
        in_shape = [218, 178, 3] if shape is None else [*_height_and_width(shape), 3]
        identity_file, attribute_file, landmark_file, partition_file = (
            os.path.join(data_path, name)
            for name in (self._IDENTITY, self._ATTRIBUTES, self._LANDMARKS, self._PARTITIONS)
        )
        attributes, names, present = read_table(attribute_file)
        wrong = np.flatnonzero((np.abs(present) != 1).any(axis=1))
        if len(wrong):
            raise InputError(f"{attribute_file}, line {wrong[0] + 3}: attributes are 1 or -1")
        order, partition = read_numbers(partition_file)
        wrong = np.flatnonzero((partition < 0) | (partition > 2))
        if len(wrong):
            raise InputError(
                f"{partition_file}, line {wrong[0] + 1}: 0 (training), 1 (validation) or 2 (test) is "
                f"expected, found {partition[wrong[0]]}"
            )
        partition = partition[rows_of(partition_file, order, names, attribute_file)]
        persons, identities = read_numbers(identity_file)
        indices = np.argsort(rows_of(identity_file, persons, names, attribute_file))
        columns, points, landmarks = read_table(landmark_file)
        landmarks = landmarks[rows_of(landmark_file, points, persons, identity_file, first=3)]

        if self.png_format_used:
            names, persons = ([name.replace("jpg", "png") for name in found] for found in (names, persons))
        there = set(os.listdir(self.imgs_path))
        for line, name in enumerate(names, 3):
            if name not in there:
                raise FileNotFoundError(
                    f"{attribute_file}, line {line}: there is no image {os.path.join(self.imgs_path, name)}"
                )
        marks = [column.removesuffix("_x") for column in columns[::2]]
        self._data["celeba"] = {
            "attr_names": attributes,
            "landmark_names": marks,
            "anno": Annotations(persons, identities, indices, marks, landmarks),
        }
        self._data["classification"] = False
        self._data["sequence"] = False
        self._data["num_classes"] = len(attributes)
        self._data["is_one_hot"] = False
        self._data["in_data"] = file_names(names)
        self._data["out_data"] = (present > 0).astype(np.float32)
        self._data["in_shape"] = in_shape
        self._data["out_shape"] = [len(attributes)]
        for key, value in (("train_inds", 0), ("val_inds", 1), ("test_inds", 2)):
            self._data[key] = np.flatnonzero(partition == value)

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
        """Draw a face; see :meth:`hnetfast.data.dataset.Dataset.plot_samples`."""
        self._draw_image(fig, inner_grid, inputs)


class Annotations(Mapping):
    """What is known of each image, by the name of its file; made when somebody asks for it.

    Args:
        names: Names of the files, ``n`` of them.
        identities: Number of the person on each, integers ``[n]``.
        indices: Its index in the data set, integers ``[n]``.
        marks: Names of ``k`` places in a face.
        positions: Column and row of each of these, integers ``[n, 2 · k]``.
    """

    def __init__(
        self,
        names: list[str],
        identities: np.ndarray,
        indices: np.ndarray,
        marks: list[str],
        positions: np.ndarray,
    ) -> None:
        self._rows = {name: row for row, name in enumerate(names)}
        self._identities, self._indices, self._marks, self._positions = identities, indices, marks, positions

    def __getitem__(self, name: str) -> dict[str, Any]:
        row = self._rows[name]
        positions = self._positions[row].tolist()
        return {
            "ident": int(self._identities[row]),
            "index": int(self._indices[row]),
            "landmarks": dict(
                zip(self._marks, zip(positions[::2], positions[1::2], strict=True), strict=True)
            ),
        }

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


def _height_and_width(shape: Sequence[int]) -> list[int]:
    if isinstance(shape, str) or not hasattr(shape, "__len__"):
        raise InputTypeError(f"shape: expected height and width, got {shape!r}")
    if len(shape) != 2:
        raise InputError(f"shape: expected height and width, got {shape!r}")
    return [check_count("shape", size, 1) for size in shape]
