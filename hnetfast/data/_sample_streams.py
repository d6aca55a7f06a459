"""Random numbers that belong to samples: the same for a sample whatever batch it is in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class SampleStreams:
    """A stream of random numbers for each of several samples.

    Args:
        seed: Of all of them.
        epoch: Number of the epoch.
        sample_ids: IDs of the samples, integers ``[n]``.
    """

    def __init__(self, seed: int, epoch: int, sample_ids: np.ndarray) -> None:
        state = np.zeros(1, dtype=np.uint64)
        for number in (seed & (2**64 - 1), seed >> 64 & (2**64 - 1), epoch):
            state = _mixed(state ^ np.uint64(number))
        self._states = _mixed(state ^ np.asarray(sample_ids).astype(np.uint64))
        self._used = 0

    def __len__(self) -> int:
        return len(self._states)

    def words(self, number: int) -> np.ndarray:
        """Return the next numbers of each sample.

        Args:
            number: How many.

        Returns:
            32 random bits each, uint32 ``[n, number]``.
        """
        counters = np.arange(self._used + 1, self._used + 1 + number, dtype=np.uint64)
        self._used += number
        return (_mixed(self._states[:, None] + counters * _GOLDEN) >> np.uint64(32)).astype(np.uint32)


def _mixed(values: np.ndarray) -> np.ndarray:
    """The output function of SplitMix64: Steele et al., "Fast splittable pseudorandom number generators"."""
    values = values + _GOLDEN
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


_current: ContextVar[SampleStreams | None] = ContextVar("sample_streams", default=None)


@contextmanager
def drawn_from(streams: SampleStreams) -> Iterator[None]:
    """Have augmentation draw from streams instead of the global generators.

    Args:
        streams: One for each image of the batches that are augmented meanwhile.
    """
    token = _current.set(streams)
    try:
        yield
    finally:
        _current.reset(token)


def streams_for(number: int) -> SampleStreams | None:
    """Return the streams that a batch is to be drawn from, None for the global generators.

    Args:
        number: Size of the batch.
    """
    streams = _current.get()
    return streams if streams is not None and len(streams) == number else None
