"""Sequences that are kept without padding, and the same target for all time steps."""

from __future__ import annotations

from typing import Any

import numpy as np

from hnetfast.data._samples import Rows


class PaddedSteps(Rows):
    """Sequences of different lengths, read as rows of one length that are padded with zeros, float64.

    Args:
        steps: Time steps of all recordings one after the other ``[S, D]``, never written to.
        starts: Which is the first one of each recording that a row is made of, integers ``[n, k]``.
        lengths: How many time steps each of these has, integers ``[n, k]``; in no row more than ``num_steps``
            together.
        num_steps: Number of time steps of a row.
    """

    def __init__(self, steps: np.ndarray, starts: np.ndarray, lengths: np.ndarray, num_steps: int) -> None:
        self.steps = np.ascontiguousarray(steps)
        self.starts = starts
        self.lengths = lengths
        self.num_steps = num_steps

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.starts), self.num_steps * self.steps.shape[1]

    def select(self, indices: np.ndarray) -> PaddedSteps:
        return PaddedSteps(self.steps, self.starts[indices], self.lengths[indices], self.num_steps)

    def at(self, indices: Any) -> np.ndarray:
        starts, lengths = self.starts[indices], self.lengths[indices]
        rows = np.zeros((len(starts), self.num_steps, self.steps.shape[1]), dtype=self.steps.dtype)
        # numpy is several times faster at moving single items, of any size, than at moving rows of them.
        step = np.dtype((np.void, self.steps.dtype.itemsize * self.steps.shape[1]))
        inside = np.arange(self.num_steps) < lengths.sum(axis=1, keepdims=True)
        rows.view(step)[..., 0][inside] = self.steps.view(step)[:, 0].take(_ranges(starts, lengths))
        return rows.reshape(len(starts), self.num_steps * self.steps.shape[1]).astype(np.float64)


class StepTargets(Rows):
    """A class for every time step.

    Args:
        classes: Classes, integers ``[n, num_steps]``, or ``[n, 1]`` if all time steps of a row have the same.
        num_steps: Number of time steps of a row.
        num_classes: Number of classes if they are read one-hot encoded, otherwise None.
        dtype: Type of the numbers that are read.
    """

    def __init__(self, classes: np.ndarray, num_steps: int, num_classes: int | None, dtype: Any) -> None:
        self.classes = classes
        self.num_steps = num_steps
        self.num_classes = num_classes
        self.dtype = dtype

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.classes), self.num_steps * (self.num_classes or 1)

    def select(self, indices: np.ndarray) -> StepTargets:
        return StepTargets(self.classes[indices], self.num_steps, self.num_classes, self.dtype)

    def at(self, indices: Any) -> np.ndarray:
        classes = self.classes[indices]
        targets = classes.astype(self.dtype)
        if self.num_classes is not None:
            targets = np.zeros((classes.size, self.num_classes), dtype=self.dtype)
            targets[np.arange(classes.size), classes.reshape(-1)] = 1
            targets = targets.reshape(len(classes), classes.shape[1] * self.num_classes)
        return targets if classes.shape[1] == self.num_steps else np.tile(targets, (1, self.num_steps))


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return all integers of ranges one after the other."""
    starts, lengths = starts.reshape(-1).astype(np.int64), lengths.reshape(-1).astype(np.int64)
    offsets = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
    return offsets + np.arange(len(offsets))
