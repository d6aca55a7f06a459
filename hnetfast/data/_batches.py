"""The order in which samples come in batches."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np

from hnetfast._errors import InputIndexError


class IndexStream(Iterator[int]):
    """Runs through a set of indices over and over, in a new order every time if asked to.

    Orders are drawn from numpy's global generator, each when its first index is needed: a shuffle of the
    order before.

    Args:
        indices: The indices, integers ``[n]``; copied.
        shuffle: Whether to shuffle them.
    """

    def __init__(self, indices: np.ndarray, shuffle: bool = True) -> None:
        self._indices = np.array(indices, dtype=np.int64)
        number = len(self._indices)
        # Many tasks may be at their own place in an epoch: the order takes as few bytes as possible, and
        # indices that are consecutive are not kept.
        self._order = np.arange(number, dtype=np.min_scalar_type(max(number - 1, 0)))
        if number and np.array_equal(self._indices, np.arange(number) + self._indices[0]):
            self._indices = self._indices[:1].copy()
        self._shuffle = shuffle
        self._position = number

    def take(self, number: int) -> np.ndarray:
        """Return the next indices.

        Args:
            number: How many; may be more than there are, which then come several times.

        Returns:
            New array, int64 ``[number]``.

        Raises:
            IndexError: If there are none at all.
        """
        if number > 0 and len(self._order) == 0:
            raise InputIndexError("There are no samples to take a batch from.")
        parts, missing = [], number
        while missing > 0:
            if self._position == len(self._order):
                if self._shuffle:
                    np.random.shuffle(self._order)
                self._position = 0
            part = self._at(self._order[self._position : self._position + missing])
            parts.append(part)
            self._position += len(part)
            missing -= len(part)
        if not parts:
            return self._indices[:0].copy()
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def __next__(self) -> int:
        return self.take(1)[0]

    def _at(self, positions: np.ndarray) -> np.ndarray:
        if len(self._indices) == len(self._order):
            return self._indices[positions]
        return self._indices[0] + positions.astype(np.int64)


def take_indices(source: Iterator[int], number: int) -> np.ndarray:
    """Return the next indices of any iterator.

    Args:
        source: An :class:`IndexStream`, or what a subclass put in its place.
        number: How many.

    Returns:
        Array ``[number]``.
    """
    if isinstance(source, IndexStream):
        return source.take(number)
    return np.fromiter(islice(source, number), dtype=np.int64)
