"""What a handler keeps of its samples: a dictionary whose arrays may be made only when somebody looks.

Images come as bytes and are read as float64 numbers in [0, 1]: eight times the memory, and most of the time
that it takes to build a handler. So handlers keep the bytes (:class:`Pixels`), which several of them may
share, convert the rows that a batch asks for, and all only if ``handler._data["in_data"]`` is read.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from hnetfast._locks import ProcessLock
from hnetfast.ops.pixel_rows import pixel_rows


class Rows(ABC):
    """Rows of numbers that are made when somebody reads them."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """Number of rows and of columns."""

    def __len__(self) -> int:
        return self.shape[0]

    @abstractmethod
    def select(self, indices: np.ndarray) -> Rows:
        """Return some of the rows without copying them.

        Args:
            indices: Which, integers ``[m]``.
        """

    @abstractmethod
    def at(self, indices: Any) -> np.ndarray:
        """Return some rows as numbers.

        Args:
            indices: Which: integers ``[m]`` or a slice.

        Returns:
            New array ``[m, d]``.
        """

    def all(self) -> np.ndarray:
        """Return all rows as numbers ``[n, d]``."""
        return self.at(slice(None))

    def __deepcopy__(self, memo: dict[int, Any]) -> Rows:
        return self  # never written to


class Repeated(Rows):
    """Rows of which many are the same.

    Args:
        distinct: The different ones ``[k, d]``, never written to.
        which: Which of them each row is, integers ``[n]``.
    """

    def __init__(self, distinct: np.ndarray, which: np.ndarray) -> None:
        self.distinct = distinct
        self.which = which

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.which), self.distinct.shape[1]

    def select(self, indices: np.ndarray) -> Repeated:
        return Repeated(self.distinct, self.which[indices])

    def at(self, indices: Any) -> np.ndarray:
        return self.distinct[self.which[indices]]


class Pixels(Rows):
    """Rows of pixels that are kept as bytes and read as float64 numbers.

    Args:
        pixels: Bytes ``[N, D]``, shared and never written to.
        values: The number that each byte stands for, float64 ``[256]``; None, the default: ``byte / 255``.
        rows: Which rows of ``pixels`` are meant, in which order, integers ``[n]``; by default all.
    """

    def __init__(
        self,
        pixels: np.ndarray,
        values: np.ndarray | None = None,
        rows: np.ndarray | None = None,
    ) -> None:
        self.pixels = pixels
        self.values = None if values is None or np.array_equal(values, np.arange(256) / 255) else values
        self.rows = rows
        self._tensor: torch.Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and of columns."""
        num_rows = len(self.pixels) if self.rows is None else len(self.rows)
        return num_rows, self.pixels.shape[1]

    def select(self, indices: np.ndarray) -> Pixels:
        """Return some of the rows without copying them.

        Args:
            indices: Which, integers ``[m]``.

        Returns:
            Rows over the same bytes.
        """
        rows = np.asarray(indices) if self.rows is None else self.rows[indices]
        return Pixels(self.pixels, self.values, rows)

    def bytes_at(self, indices: Any) -> np.ndarray:
        """Return the bytes of some rows.

        Args:
            indices: Which: integers ``[m]`` or a slice.

        Returns:
            Bytes ``[m, d]``, not to be written to.
        """
        rows = indices if self.rows is None else self.rows[indices]
        some = isinstance(rows, np.ndarray) and rows.dtype.kind in "iu"
        return self.pixels.take(rows, axis=0) if some else self.pixels[rows]  # take: half of the time

    def at(self, indices: Any) -> np.ndarray:
        """Return some rows as numbers.

        Args:
            indices: Which: integers ``[m]`` or a slice.

        Returns:
            New array, float64 ``[m, d]``.
        """
        if self.values is not None:
            return self.values.take(self.bytes_at(indices))
        rows = indices if self.rows is None else self.rows[indices]
        some = isinstance(rows, np.ndarray) and rows.ndim == 1 and rows.dtype.kind in "iu"
        if not some:
            return np.divide(self.bytes_at(indices), 255, dtype=np.float64)
        rows = torch.from_numpy(np.array(rows, dtype=np.int64))
        return pixel_rows(self._as_tensor(), rows).numpy()

    def _as_tensor(self) -> torch.Tensor:
        """Return the bytes as a tensor, which nobody writes to either."""
        if self._tensor is None:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
                self._tensor = torch.from_numpy(np.ascontiguousarray(self.pixels))
        return self._tensor

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tensor": None}


_CONVERTING = ProcessLock()


class Samples(dict):
    """The dictionary ``_data`` of a handler.

    An entry may be set to :class:`Rows`. Reading it then turns it into an ordinary array for good, so that
    a change made in place lasts. :meth:`rows` reads a few rows without that.
    """

    def rows(self, key: str, indices: np.ndarray) -> np.ndarray:
        """Return some rows of an array, as a new one.

        Args:
            key: Name of the entry.
            indices: Which rows, integers ``[m]``.

        Returns:
            Array ``[m, d]``.
        """
        value = super().__getitem__(key)
        return value.at(indices) if isinstance(value, Rows) else value[indices]

    def lazily(self, key: str) -> Any:
        """Return what is kept under a name, :class:`Rows` as they are.

        Args:
            key: Name of the entry.
        """
        return super().get(key)

    def __getitem__(self, key: Any) -> Any:
        value = super().__getitem__(key)
        if isinstance(value, Rows):
            with _CONVERTING:  # so that all threads get the same array
                value = super().__getitem__(key)
                if isinstance(value, Rows):
                    value = value.all()
                    self[key] = value
        return value

    def __iter__(self) -> Iterator[Any]:  # with it, `dict(samples)` and `**samples` go through __getitem__
        return super().__iter__()

    def get(self, key: Any, default: Any = None) -> Any:
        return self[key] if key in self else default  # noqa: SIM401

    def setdefault(self, key: Any, default: Any = None) -> Any:
        super().setdefault(key, default)
        return self[key]

    def pop(self, key: Any, *default: Any) -> Any:
        if key in self:
            self[key]
        return super().pop(key, *default)

    def popitem(self) -> tuple[Any, Any]:
        for key in reversed(self.keys()):
            return key, self.pop(key)
        raise KeyError("There are no entries.")

    def items(self) -> list[tuple[Any, Any]]:
        return [(key, self[key]) for key in self]

    def values(self) -> list[Any]:
        return [self[key] for key in self]

    def copy(self) -> Samples:
        return type(self)(zip(self.keys(), map(super().__getitem__, self.keys()), strict=True))

    __copy__ = copy

    def __reduce__(self) -> tuple[Any, ...]:
        return (
            type(self),
            (),
            self.__dict__ or None,
            None,
            iter([(key, super(Samples, self).__getitem__(key)) for key in self]),
        )
