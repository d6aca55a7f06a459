"""Random draws of the cognitive tasks, many at once, as the same stream gives them one by one."""

from __future__ import annotations

from typing import Any

import numpy as np

_POINTS = 8192  # at once, few enough for the processor's cache


def skip_normals(generator: Any, number: int) -> None:
    """Leave a generator in the state that it has after normally distributed numbers were drawn.

    numpy's legacy generators draw points in a square until one is inside of the unit circle, which then gives
    two numbers. Counting these points is enough; logarithms and square roots are not needed.

    Args:
        generator: ``np.random`` or a ``RandomState``.
        number: How many numbers.
    """
    if generator.get_state(legacy=False)["has_gauss"] and number:
        generator.standard_normal()
        number -= 1
    pairs = number // 2
    while pairs > 0:  # no more points than pairs are missing: never one too many
        points = generator.random_sample((min(pairs, _POINTS), 2))
        points -= 0.5
        points *= points
        squares = points[:, 0] + points[:, 1]  # of distances, rounded as numpy's, which are twice as large
        pairs -= np.count_nonzero(squares < 0.25) - np.count_nonzero(squares == 0)
    if number % 2:
        generator.standard_normal()


def draw_pairs(generator: Any, number: int, choices: int) -> np.ndarray:
    """Draw ``randint(2)`` and ``randint(choices)`` in turns.

    Args:
        generator: ``np.random`` or a ``RandomState``.
        number: How many pairs.
        choices: Upper bound of the second number of a pair.

    Returns:
        Integers ``[number, 2]``.
    """
    if choices > 1 and choices & (choices - 1) == 0:
        # Both are the lowest bits of one word each, so one bound will do for all.
        return generator.randint(choices, size=(number, 2)) & np.array([1, choices - 1])
    drawn = [(generator.randint(2), generator.randint(choices)) for _ in range(number)]
    return np.array(drawn, dtype=np.int64).reshape(number, 2)
