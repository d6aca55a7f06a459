"""Trials of the cognitive tasks: a few numbers for each, and the arrays that they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Stimulus:
    """What the motion-tuned units see in some of the time steps, for each of B trials.

    Args:
        start: First time step, integers ``[B]``.
        stop: The one after the last, integers ``[B]``.
        seen: Which row of ``patterns`` is seen, integers ``[B]``.
        patterns: Activities of the units, float64 ``[P, num_motion_tuned]``.
    """

    start: np.ndarray
    stop: np.ndarray
    seen: np.ndarray
    patterns: np.ndarray


@dataclass(frozen=True)
class Trials:
    """B trials of a task.

    Args:
        stimuli: What is seen, one after the other.
        fixate_until: The time step where the fixation signal ends, integers ``[B]``.
        respond_at: The time step from which on an answer is due, integers ``[B]``.
        response: Index of the output that is the answer, integers ``[B]``; the last output means to go on
            fixating.
        dtype: That of desired outputs and masks.
    """

    stimuli: Sequence[Stimulus]
    fixate_until: np.ndarray
    respond_at: np.ndarray
    response: np.ndarray
    dtype: type

    @classmethod
    def concatenate(cls, parts: Sequence[Trials]) -> Trials:
        """Return the trials of several parts, one after the other; all of the same task."""
        stimuli = []
        for same in zip(*(part.stimuli for part in parts), strict=True):
            begins = np.cumsum([0] + [len(one.patterns) for one in same[:-1]])
            seen = [one.seen + begin for one, begin in zip(same, begins, strict=True)]
            start, stop = (np.concatenate([getattr(one, name) for one in same]) for name in ("start", "stop"))
            patterns = np.concatenate([one.patterns for one in same])
            stimuli.append(Stimulus(start, stop, np.concatenate(seen), patterns))
        fixate_until, respond_at, response = (
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("fixate_until", "respond_at", "response")
        )
        return cls(stimuli, fixate_until, respond_at, response, parts[0].dtype)

    def distinct(self) -> tuple[Trials, np.ndarray]:
        """Drop repetitions.

        Returns:
            The distinct trials, and which of them each trial is, integers ``[B]``.
        """
        columns = [self.fixate_until, self.respond_at, self.response]
        for stimulus in self.stimuli:
            columns += [stimulus.start, stimulus.stop, stimulus.seen]
        number = np.zeros(len(self.response), dtype=np.int64)
        for column in columns:  # numbers them by one column more each time
            values, place = np.unique(column, return_inverse=True)
            number = np.unique(number * len(values) + place, return_inverse=True)[1]
        _, first, which = np.unique(number, return_index=True, return_inverse=True)
        return self.at(first), which

    def inputs(self, num_steps: int, num_units: int, num_fix: int, height: float) -> np.ndarray:
        """Return what the input units get, without noise and rule.

        Args:
            num_steps: T, the number of time steps.
            num_units: Number of all units: first those that are tuned to motion.
            num_fix: Number of the next ones, which are active during fixation.
            height: Activity of these.

        Returns:
            float64 ``[B, num_units, T]``.
        """
        found = np.zeros((len(self.response), num_units, num_steps))
        num_motion = self.stimuli[0].patterns.shape[1]
        for stimulus in self.stimuli:
            for start, stop in np.unique(np.stack([stimulus.start, stimulus.stop], 1), axis=0):
                rows = np.flatnonzero((stimulus.start == start) & (stimulus.stop == stop))
                found[rows, :num_motion, start:stop] = stimulus.patterns[stimulus.seen[rows], :, None]
        found[:, num_motion : num_motion + num_fix] = (
            height * self._before(self.fixate_until, num_steps)[:, None]
        )
        return found

    def outputs(self, num_steps: int, num_outputs: int) -> np.ndarray:
        """Return what a network should answer: the last output until it is asked.

        Returns:
            One-hot in every time step, ``dtype [B, num_outputs, T]``.
        """
        waiting = self._before(self.respond_at, num_steps)
        right = np.where(waiting, num_outputs - 1, self.response[:, None])
        return (np.arange(num_outputs)[:, None] == right[:, None]).astype(self.dtype)

    def mask(self, num_steps: int, dead_steps: int, masked_steps: int) -> np.ndarray:
        """Return which time steps count, zeros and ones ``dtype [B, T]``.

        Args:
            num_steps: T, the number of time steps.
            dead_steps: How many at the beginning do not.
            masked_steps: How many do not from the moment on that an answer is due.
        """
        passed = np.arange(num_steps) - self.respond_at[:, None]
        masked = (passed >= 0) & (passed < masked_steps)
        masked[:, :dead_steps] = True
        return (~masked).astype(self.dtype)

    def rewards(
        self, num_steps: int, num_outputs: int, early: float, wrong: float, right: float
    ) -> np.ndarray:
        """Return the reward of every output in every time step.

        Args:
            num_steps: T, the number of time steps.
            num_outputs: Number of outputs.
            early: For an answer before it is due, and for none in the end.
            wrong: For a wrong one.
            right: For the right one.

        Returns:
            float32 ``[B, num_outputs, T]``.
        """
        found = np.full((len(self.response), num_outputs, num_steps), wrong, dtype=np.float32)
        waiting = self._before(self.respond_at, num_steps)
        found[np.arange(len(found)), self.response] = right
        np.copyto(found, np.float32(early), where=waiting[:, None])
        found[:, -1] = 0
        found[:, -1, -1:] = early
        # Where nothing is to be answered, only the end of the trial counts.
        silent = (self.response == num_outputs - 1) | (self.respond_at >= num_steps)
        found[silent] = 0
        found[silent, :, -1:] = wrong
        found[silent, -1, -1:] = right
        return found

    def at(self, rows: np.ndarray) -> Trials:
        """Return some of the trials.

        Args:
            rows: Which, integers ``[m]``.
        """
        stimuli = [
            Stimulus(one.start[rows], one.stop[rows], one.seen[rows], one.patterns) for one in self.stimuli
        ]
        changes: dict[str, Any] = {
            name: getattr(self, name)[rows] for name in ("fixate_until", "respond_at", "response")
        }
        return replace(self, stimuli=stimuli, **changes)

    @staticmethod
    def _before(step: np.ndarray, num_steps: int) -> np.ndarray:
        """Whether each time step is before that of the trial, bool ``[B, T]``."""
        return np.arange(num_steps) < step[:, None]
