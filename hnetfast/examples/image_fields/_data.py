"""Small images that need no download: scikit-learn's digits, and patches of its two photographs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hnetfast.data import DigitsData

PATCH = 16  # pixels, height and width
_HELD_OUT_FROM = 512  # of 640 columns


@dataclass(frozen=True)
class Images:
    """Images for training, and others.

    Attributes:
        name: What they are.
        size: Height and width.
        train: Values from 0 to 1, float32 ``[N, size·size, channels]``, row by row.
        held_out: Likewise.
    """

    name: str
    size: int
    train: Tensor
    held_out: Tensor

    @property
    def channels(self) -> int:
        """1 for grey images, 3 for colours."""
        return self.train.shape[2]


def load_digits() -> Images:
    """scikit-learn's 1797 digits, 8×8 pixels; of each digit 30 % are held out.

    Raises:
        ImportError: If scikit-learn is not installed.
    """
    data = DigitsData()
    train, held_out = (
        torch.as_tensor(inputs, dtype=torch.float32).unsqueeze(2)
        for inputs in (data.get_train_inputs(), data.get_test_inputs())
    )
    return Images("digits", 8, train, held_out)


def load_photographs() -> Images:
    """Patches of scikit-learn's two photographs, a temple and a flower, 16×16 pixels in colour.

    Those for training overlap by a half. The right fifth of both photographs is held out.

    Raises:
        ImportError: If scikit-learn or pillow is not installed.
    """
    from sklearn.datasets import load_sample_images

    photographs = [torch.tensor(image) for image in load_sample_images().images]
    train = [_patches(photograph[:, :_HELD_OUT_FROM], PATCH // 2) for photograph in photographs]
    held_out = [_patches(photograph[:, _HELD_OUT_FROM:], PATCH) for photograph in photographs]
    return Images("photographs", PATCH, torch.cat(train), torch.cat(held_out))


def _patches(photograph: Tensor, step: int) -> Tensor:
    """All patches of bytes ``[height, width, channels]``, as :class:`Images` has them."""
    patches = photograph.unfold(0, PATCH, step).unfold(1, PATCH, step)  # [rows, columns, C, PATCH, PATCH]
    return patches.permute(0, 1, 3, 4, 2).reshape(-1, PATCH * PATCH, photograph.shape[2]).float() / 255


LOADERS = {"digits": load_digits, "photographs": load_photographs}
"""What loads the images of a name."""


def pixel_coordinates(size: int) -> Tensor:
    """Centres of the pixels of a square image.

    Args:
        size: Its height and width.

    Returns:
        Tensor ``[size·size, 2]``: row and column in (-1, 1), row by row.
    """
    centers = (2 * torch.arange(size) + 1) / size - 1
    return torch.cartesian_prod(centers, centers)
