"""The digits of MNIST as strokes of a pen: what all handlers of stroke MNIST read and draw.

A time step is how far the pen moves to the right and down, whether a stroke ends and whether the digit ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hnetfast._errors import InputError
from hnetfast.data.timeseries._recordings import (
    check_parts,
    read_recordings,
    recordings_path,
    shared_array,
)

FILE = "smnist/ss_mnist_data.npz"
PAGE = "https://github.com/edwin-de-jong/mnist-digits-stroke-sequence-data"
MAX_STEPS = 117
NUM_DIGITS = 10
_SCRIPT = "preprocess_smnist"


class Strokes:
    """All digits, those for training first.

    Args:
        steps: Time steps of all digits one after the other ``[S, 4]``; never written to.
        lengths: Number of time steps of each, integers ``[n]``.
        labels: The digits that were written, integers ``[n]``.
        num_train: How many are for training.
    """

    def __init__(self, steps: np.ndarray, lengths: np.ndarray, labels: np.ndarray, num_train: int) -> None:
        self.steps = steps
        self.lengths = lengths.astype(np.int64)
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.labels = labels.astype(np.int64)
        self.num_train = num_train


def read_strokes(data_path: str | Path) -> Strokes:
    """Read all digits; handlers that live at the same time share their time steps.

    Args:
        data_path: The folder of all data sets.

    Raises:
        FileNotFoundError: If their file is missing.
        ValueError: If it is broken.
    """
    path = recordings_path(data_path, FILE)
    kinds = {"lengths": "iu", "labels": "iu", "num_train": "iu"}
    arrays = read_recordings(path, kinds, _SCRIPT, PAGE)
    steps = shared_array(path, "steps", "iuf", _SCRIPT, PAGE)
    lengths, labels, num_train = (arrays[name] for name in kinds)
    check_strokes(path, steps, lengths, labels)
    if num_train.shape != () or not 0 <= num_train <= len(labels):
        raise InputError(f"{path}: a number of training digits up to {len(labels)} is expected")
    return Strokes(steps, lengths, labels, int(num_train))


def check_strokes(path: Path, steps: np.ndarray, lengths: np.ndarray, labels: np.ndarray) -> None:
    """Refuse what are no digits: too long, with an end elsewhere than in the end, or with other labels.

    Args:
        path: The file that they come from.
        steps: Time steps of all digits one after the other ``[S, 4]``.
        lengths: Number of time steps of each, integers ``[n]``.
        labels: The digits, integers ``[n]``.

    Raises:
        ValueError: If they are none.
    """
    if steps.ndim != 2 or steps.shape[1] != 4 or not np.isfinite(steps).all():
        raise InputError(f"{path}: finite time steps [S, 4] are expected, found an array {list(steps.shape)}")
    check_parts(path, len(steps), lengths)
    if lengths.max(initial=0) > MAX_STEPS:
        raise InputError(
            f"{path}: digits of at most {MAX_STEPS} time steps are expected, found one of {lengths.max()}"
        )
    if labels.shape != lengths.shape or not np.isin(labels, np.arange(NUM_DIGITS)).all():
        raise InputError(f"{path}: a digit from 0 to 9 is expected for each of {len(lengths)} sequences")
    if not np.array_equal(np.flatnonzero(steps[:, 3]), np.cumsum(lengths) - 1):
        raise InputError(f"{path}: the last time step of each digit, and no other, must be its end")


def stroke_image(steps: np.ndarray) -> np.ndarray:
    """Draw where the pen was at each time step before the digit ends.

    Args:
        steps: Time steps ``[n, 4]``.

    Returns:
        Image ``[28, 28]``: 255 where the pen was, elsewhere 0.
    """
    image = np.zeros((28, 28))
    x = y = -1
    for right, down, _, end in steps.tolist():
        if end:
            break
        x, y = (min(max(position, 0), 27) for position in (x + int(right), y + int(down)))
        image[y, x] = 255
    return image


def digits_image(steps: np.ndarray) -> np.ndarray:
    """Draw digits side by side.

    Args:
        steps: Time steps of several digits ``[n, 4]``.

    Returns:
        Image ``[28, 28 * number of digits]``.
    """
    parts: Sequence[np.ndarray] = np.split(steps, np.flatnonzero(steps[:, 3]) + 1)[:-1]
    return np.hstack([stroke_image(part) for part in parts or [steps]])
