"""Handwritten digits of 8 x 8 pixels that come with scikit-learn: nothing needs to be fetched."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np

from hnetfast._errors import InputError
from hnetfast.data._array_data import ArrayData
from hnetfast.data._imports import random_state_kept

__all__ = ["DigitsData"]


class DigitsData(ArrayData):
    """The 1,797 images of ``sklearn.datasets.load_digits``, numbers from 0 to 1.

    The same share of each digit is for testing.

    Args:
        use_one_hot: Whether outputs are one-hot encoded.
        validation_size: How many of the training samples, the first ones, are for validation.
        test_fraction: Which share of the images is for testing, from 0 to 1 without these.
        seed: Decides which ones and in which order; the same seed gives the same ones.

    Raises:
        ValueError: If the share leaves no sample of a digit, or there are too few training samples.

    Example:
        >>> data = DigitsData(use_one_hot=True)
        >>> inputs, outputs = data.next_train_batch(32)
        >>> inputs.shape, outputs.shape
        ((32, 64), (32, 10))
        >>> data.input_to_torch_tensor(inputs, "cpu").shape
        torch.Size([32, 64])
    """

    def __init__(
        self,
        use_one_hot: bool = False,
        validation_size: int = 0,
        *,
        test_fraction: float = 0.3,
        seed: int = 0,
    ) -> None:
        with random_state_kept():
            from sklearn.datasets import load_digits
            from sklearn.model_selection import train_test_split

        if not isinstance(test_fraction, Real) or not 0 < test_fraction < 1:
            raise InputError(f"test_fraction: expected a number between 0 and 1, got {test_fraction!r}")
        digits: Any = load_digits()
        train, test = train_test_split(
            np.arange(len(digits.target)), test_size=test_fraction, stratify=digits.target, random_state=seed
        )
        super().__init__(
            "Digits",
            digits.images[..., None].astype(np.uint8),
            digits.target,
            np.asarray(train),
            np.asarray(test),
            validation_size,
            num_classes=10,
            use_one_hot=use_one_hot,
            values=np.arange(256) / 16,
        )
