"""One-hot encoding of classes."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from hnetfast._errors import InputError, InputTypeError
from hnetfast.data._imports import random_state_kept


class OneHotEncoding:
    """Encodes classes ``0 … num_classes - 1``, or as an encoder of scikit-learn does it.

    Args:
        encoder: The encoder; by default there is none.
        num_classes: The number of classes, without an encoder.
    """

    def __init__(self, encoder: Any = None, num_classes: int | None = None) -> None:
        self._encoder = encoder
        self._num_classes: int | Any = num_classes  # None where there is an encoder

    def __bool__(self) -> bool:
        return self._encoder is not None or self._num_classes is not None

    @property
    def encoder(self) -> Any:
        """An ``OneHotEncoder`` of scikit-learn, None if neither that nor a number of classes was given."""
        if self._encoder is None and self._num_classes is not None:
            with random_state_kept():
                from sklearn.preprocessing import OneHotEncoder

            encoder = OneHotEncoder(categories=cast("Any", [range(self._num_classes)]))
            encoder.fit(np.zeros((1, 1), dtype=int))
            return encoder
        return self._encoder

    def encode(self, labels: np.ndarray) -> np.ndarray:
        """Encode classes.

        Args:
            labels: Classes ``[n, 1]``.

        Returns:
            float64 ``[n, num_classes]``.

        Raises:
            ValueError: If the labels have another shape or are no classes.
            TypeError: If they are no numbers.
        """
        if self._encoder is not None:
            encoded = self._encoder.transform(labels)
            return encoded.toarray() if hasattr(encoded, "toarray") else np.asarray(encoded)
        labels = np.asarray(labels)
        if labels.ndim != 2 or labels.shape[1] != 1:
            raise InputError(f"labels: expected classes [n, 1], got an array {list(labels.shape)}")
        if labels.dtype.kind not in "biuf":
            raise InputTypeError(f"labels: expected integers, got an array of {labels.dtype}")
        known = (labels >= 0) & (labels < self._num_classes) & (labels == np.floor(labels))
        if not known.all():
            raise InputError(
                f"labels: expected integers from 0 to {self._num_classes - 1}, got {labels[~known].flat[0]}"
            )
        encoded = np.zeros((len(labels), self._num_classes))
        encoded[np.arange(len(labels)), labels[:, 0].astype(np.int64)] = 1
        return encoded


def decode(encoded: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the class that each row stands for.

    Args:
        encoded: One-hot rows ``[n, num_classes]``.
        num_classes: Number of classes.

    Returns:
        Integers ``[n, 1]``.

    Raises:
        ValueError: If the rows have another length.
    """
    encoded = np.asarray(encoded)
    if encoded.ndim != 2 or encoded.shape[1] != num_classes:
        raise InputError(
            f"labels: expected one-hot rows [n, {num_classes}], got an array {list(encoded.shape)}"
        )
    return encoded.argmax(axis=1)[:, None]
