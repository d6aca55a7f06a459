"""Udacity's self-driving car challenge 2: views through the windscreen and angles of the steering wheel.

The files must be fetched by hand, from https://github.com/udacity/self-driving-car/tree/master/datasets/CH2,
and unpacked with https://github.com/rwightman/udacity-driving-reader, so that there are

- ``Ch2_002/center/`` with the images for training and ``Ch2_002/interpolated.csv`` with their angles,
- ``Ch2_001/center/`` with those for testing and, if their angles are known, ``Ch2_001/interpolated.csv``.
"""

from __future__ import annotations

import csv
import io
import math
import os
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch

from hnetfast._errors import InputError, UnsupportedError
from hnetfast.data._arguments import check_count
from hnetfast.data._image_files import require_paths
from hnetfast.data._text import read_text
from hnetfast.data.large_img_dataset import LargeImgDataset

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.gridspec import GridSpec

__all__ = ["UdacityCh2Data"]

_SOURCE = (
    "Fetch Ch2_001 and Ch2_002 from https://github.com/udacity/self-driving-car/tree/master/datasets/CH2 and "
    "unpack them with https://github.com/rwightman/udacity-driving-reader to center/ and interpolated.csv."
)
_CAMERA = "center"


class UdacityCh2Data(LargeImgDataset):
    """Images of the middle camera; inputs are names of files, outputs angles ``[N, 1]``.

    ``torch_train``, ``torch_val`` and ``torch_test`` read and resize the images; see
    :meth:`torch_input_transforms`.

    Args:
        data_path: Folder of the files; see the module.
        num_val: Size of the validation set, which is a random part of the training set, the same every time.

    Raises:
        FileNotFoundError: If files are missing.
        ValueError: If they don't belong together, or there are not more than ``num_val`` images for training.
    """

    def __init__(self, data_path: str, num_val: int = 0) -> None:
        super().__init__("")
        num_val = check_count("num_val", num_val)
        train_dir, test_dir = os.path.join(data_path, "Ch2_002"), os.path.join(data_path, "Ch2_001")
        train_meta, test_meta = (os.path.join(path, "interpolated.csv") for path in (train_dir, test_dir))
        require_paths(
            [os.path.join(train_dir, _CAMERA), train_meta, os.path.join(test_dir, _CAMERA)],
            _SOURCE,
        )
        self._data["classification"] = False
        self._data["sequence"] = False
        self._data["in_shape"] = [192, 256, 3]
        self._data["out_shape"] = [1]
        self._process_dataset(test_dir, test_meta, train_dir, train_meta, num_val)

    @property
    def test_angles_available(self) -> bool:
        """Whether the angles of the test set are known; if not, they are all 0."""
        return self._test_angles_available

    def get_identifier(self) -> str:
        """Return the name of the data set."""
        return "UdacityCh2"

    def tf_input_map(self, mode: str = "inference") -> NoReturn:
        """Not available.

        Args:
            mode: "train" or "inference".

        Raises:
            NotImplementedError: Always.
        """
        raise UnsupportedError("tf_input_map: this handler has none for TensorFlow")

    @staticmethod
    def torch_input_transforms() -> tuple[Callable[[Any], torch.Tensor], Callable[[Any], torch.Tensor]]:
        """Return what the data sets for PyTorch do with images.

        Returns:
            The transforms for training and for testing, which do the same: they bring images to a height of
            256 and a width of 192 pixels, with numbers from 0 to 1.
        """
        from torchvision import transforms

        train, test = (
            transforms.Compose([transforms.Resize((256, 192)), transforms.ToTensor()]) for _ in range(2)
        )
        return train, test

    def _process_dataset(
        self, test_img_dir: str, test_meta_fn: str, train_img_dir: str, train_meta_fn: str, num_val: int
    ) -> None:
        """Read the angles, fill ``_data`` and make the data sets for PyTorch.

        Args:
            test_img_dir: The folder of the folder of the test images.
            test_meta_fn: File of their angles.
            train_img_dir: Likewise for training.
            train_meta_fn: Likewise.
            num_val: See the constructor.
        """
        from hnetfast.data._image_list import ImageList

        train_paths, train_angles = _images_and_angles(train_img_dir, train_meta_fn)
        if np.isnan(train_angles).any():
            path = train_paths[int(np.isnan(train_angles).argmax())]
            raise InputError(f"{train_meta_fn}: has no angle for {path}")
        num_val = check_count("num_val", num_val, 0, len(train_paths) - 1)
        test_paths, test_angles = _images_and_angles(test_img_dir, test_meta_fn)
        unknown = np.isnan(test_angles)
        self._test_angles_available = not unknown.all()
        if not self._test_angles_available:
            warnings.warn(
                f"{test_meta_fn}: has no angles of the test images; they are set to 0.", stacklevel=3
            )
            test_angles = np.zeros(len(test_paths))
        elif unknown.any():
            raise InputError(f"{test_meta_fn}: has no angle for {test_paths[int(unknown.argmax())]}")

        # The split is that of scikit-learn's train_test_split with random_state=42.
        order = np.arange(len(train_paths))
        if num_val > 0:
            order = np.random.RandomState(42).permutation(order)
        train_transform, test_transform = self.torch_input_transforms()

        def chosen(rows: Any, transform: Any) -> ImageList:
            paths, angles = [train_paths[i] for i in rows], [float(train_angles[i]) for i in rows]
            return ImageList(train_img_dir, paths, angles, [_CAMERA], {_CAMERA: 0}, transform)

        self._use_image_lists(
            chosen(order[num_val:], train_transform),
            ImageList(
                test_img_dir, test_paths, test_angles.tolist(), [_CAMERA], {_CAMERA: 0}, test_transform
            ),
            chosen(order[:num_val], test_transform) if num_val else None,
            np.float64,
        )

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
        """Draw an image and the steering wheel; see :meth:`hnetfast.data.dataset.Dataset.plot_samples`."""
        if outputs is None:
            self._draw_image(fig, inner_grid, inputs)
            return
        angle, title = np.asarray(outputs).item(), "Target steering angle:\n"
        if predictions is None:
            axes = self._draw_image(fig, inner_grid, inputs, f"{title}{angle:f}")
        else:
            predicted = np.asarray(predictions).item()
            axes = self._draw_image(fig, inner_grid, inputs, f"{title}{angle:f}\nPrediction: {predicted:f}")
        _draw_wheel(axes, angle, "b")
        if predictions is not None:
            _draw_direction(axes, predicted, "g")


def _draw_wheel(axes: Axes, angle: float, color: str) -> None:
    from matplotlib.patches import Circle

    axes.add_patch(Circle((50, 50), 30, color=color, fill=False))
    _draw_direction(axes, angle, color)


def _draw_direction(axes: Axes, angle: float, color: str) -> None:
    from matplotlib.lines import Line2D

    axes.add_artist(
        Line2D([50, 50 - 30 * math.sin(angle)], [50, 50 - 30 * math.cos(angle)], color=color, linewidth=2)
    )


def _images_and_angles(folder: str, meta_file: str) -> tuple[list[str], np.ndarray]:
    """Find the images in a folder's folder of the middle camera, and their angles.

    Args:
        folder: The folder.
        meta_file: Table of the angles.

    Returns:
        Paths of ``n`` images, sorted, and their angles ``[n]``, NaN where they are unknown.

    Raises:
        ValueError: If the table is broken, or an image is in one of folder and table only.
    """
    from hnetfast.data._image_list import list_images

    paths = [path for path, _ in list_images(folder, {_CAMERA: 0})]
    if not paths:
        raise FileNotFoundError(f"{os.path.join(folder, _CAMERA)}: holds no images. {_SOURCE}")
    if not os.path.exists(meta_file):
        return paths, np.full(len(paths), np.nan)
    angles = _read_angles(meta_file, folder)
    if not angles:
        return paths, np.full(len(paths), np.nan)
    known = set(paths)
    for path, (line, _) in angles.items():
        if path not in known:
            raise FileNotFoundError(f"{meta_file}, line {line}: there is no image {path}")
    for path in paths:
        if path not in angles:
            raise InputError(f"{meta_file}: has no line for the image {path}")
    return paths, np.array([angles[path][1] for path in paths])


def _read_angles(meta_file: str, folder: str) -> dict[str, tuple[int, float]]:
    """Return line and angle of each image of the middle camera in a table, nothing if it has no angles."""
    angles: dict[str, tuple[int, float]] = {}
    rows = csv.reader(io.StringIO(read_text(meta_file)))
    try:
        header = next(rows, [])
        if "filename" not in header:
            raise InputError(f"{meta_file}, line 1: a column named filename is expected, found {header}")
        if "angle" not in header:
            return angles
        i_name, i_angle = header.index("filename"), header.index("angle")
        for row in rows:
            where = f"{meta_file}, line {rows.line_num}"
            if len(row) != len(header):
                raise InputError(f"{where}: {len(header)} columns are expected, found {len(row)}")
            if not row[i_name].startswith(f"{_CAMERA}/"):
                continue
            path = os.path.join(folder, row[i_name])
            if path in angles:
                raise InputError(f"{where}: {row[i_name]} comes a second time")
            angles[path] = rows.line_num, _angle(row[i_angle], where)
    except csv.Error as error:
        raise InputError(f"{meta_file}, line {rows.line_num}: a table is expected ({error})") from None
    return angles


def _angle(text: str, where: str) -> float:
    """Return an angle, NaN if it is not known."""
    try:
        angle = float(text or "nan")
    except ValueError:
        angle = math.inf
    if math.isinf(angle):
        raise InputError(f"{where}: the angle is no finite number: {text!r}")
    return angle
