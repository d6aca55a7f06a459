"""Regression of a function of one variable, with noise around two values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hnetfast._errors import InputError
from hnetfast.data._arguments import check_finite
from hnetfast.data.special.regression1d_data import (
    Interval,
    ToyRegression,
    _identity,
    check_not_negative,
)

__all__ = ["BimodalToyRegression"]


class BimodalToyRegression(ToyRegression):
    """Values of a function at points of the real line, with noise from a mixture of two Gaussians.

    As in hypnettorch, ``alpha1`` is the probability of the Gaussian around ``dist2``, and 20 numbers are
    drawn from numpy's global generator before the samples are, with a seed too.

    Args:
        train_inter: Interval of the training inputs, or several; see :class:`ToyRegression`.
        num_train: Number of training samples.
        test_inter: Interval of the test inputs.
        num_test: Number of test samples.
        val_inter: Interval of the validation inputs; without it there are none.
        num_val: Number of validation samples; given if ``val_inter`` is.
        map_function: Turns inputs ``[n, 1]`` into outputs ``[n, 1]``.
        alpha1: How probable noise around ``dist2`` is, in [0, 1].
        dist1: The mean of the other noise is ``-dist1``.
        dist2: Mean of the noise that has probability ``alpha1``; by default ``dist1``.
        std1: Standard deviation of the noise around ``-dist1``.
        std2: That around ``dist2``; by default ``std1``.
        rseed: Seed of the samples; None: they are drawn from numpy's global generator.
        perturb_test_val: Whether the outputs for testing and validation have noise, too.

    Raises:
        ValueError: See :class:`ToyRegression`; if ``alpha1`` is no probability.
    """

    def __init__(
        self,
        train_inter: Interval | Sequence[Interval] = [-10, 10],  # noqa: B006
        num_train: int = 20,
        test_inter: Interval = [-10, 10],  # noqa: B006
        num_test: int = 80,
        val_inter: Interval | None = None,
        num_val: int | None = None,
        map_function: Callable[[np.ndarray], np.ndarray] = _identity,
        alpha1: float = 0.5,
        dist1: float = 5,
        dist2: float | None = None,
        std1: float = 1,
        std2: float | None = None,
        rseed: int | None = None,
        perturb_test_val: bool = False,
    ) -> None:
        dist2 = dist1 if dist2 is None else dist2
        std2 = std1 if std2 is None else std2
        if not 0 <= alpha1 <= 1:
            raise InputError(f"alpha1: expected a number from 0 to 1, got {alpha1!r}")
        for name, value in (("dist1", dist1), ("dist2", dist2)):
            check_finite(name, np.asarray(value, dtype=np.float64))
        for name, value in (("std1", std1), ("std2", std2)):
            check_not_negative(name, value)
        super().__init__()
        self._alpha1 = alpha1
        self._dist1 = dist1
        self._dist2 = dist2
        self._std1 = std1
        self._std2 = std2
        self._draw_samples(
            train_inter,
            num_train,
            test_inter,
            num_test,
            val_inter,
            num_val,
            map_function=map_function,
            noise=self._noise,
            perturb_test_val=perturb_test_val,
            rseed=rseed,
        )

    def get_identifier(self) -> str:
        """Return the name of the data set."""
        return "1D Bimodal Regression"

    def _noise(self, x: np.ndarray, rand: Any) -> np.ndarray:
        second = rand.binomial(1, self._alpha1, x.shape) == 1
        mean = np.where(second, self._dist2, -self._dist1)
        return rand.normal(loc=mean, scale=np.where(second, self._std2, self._std1))
