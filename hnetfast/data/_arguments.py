"""Checks of arguments that data handlers share. They run before anything is read, drawn or changed."""

from __future__ import annotations

from typing import Any

import numpy as np

from hnetfast._checks import check_integer
from hnetfast._errors import InputError, InputTypeError


def check_count(name: str, value: Any, minimum: int = 0, maximum: int | None = None) -> int:
    """Check an integer argument.

    Args:
        name: The argument's name.
        value: What was given: anything that counts as an integer.
        minimum: Smallest accepted value.
        maximum: Largest accepted value, if there is one.

    Returns:
        The value as a plain integer.

    Raises:
        TypeError: If it is not an integer.
        ValueError: If it is too small or too large.
    """
    return check_integer(name, value, minimum, None if maximum is None else maximum + 1)


def check_validation_size(validation_size: int, num_train: int) -> int:
    """Check how many of the training samples are to be for validation.

    Args:
        validation_size: How many.
        num_train: Number of training samples.

    Returns:
        How many, as a plain integer.

    Raises:
        ValueError: If none would be left.
    """
    size = check_count("validation_size", validation_size)
    if size > 0 and size >= num_train:
        raise InputError(
            f"validation_size: expected less than the {num_train} training samples, got {validation_size}"
        )
    return size


def check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Refuse a value that is none of the accepted ones.

    Args:
        name: The argument's name.
        value: What was given.
        choices: What is accepted.

    Raises:
        ValueError: If it is something else.
    """
    if value not in choices:
        raise InputError(f"{name}: expected one of {', '.join(map(repr, choices))}, got {value!r}")


def check_finite(name: str, values: np.ndarray) -> None:
    """Refuse an array that holds NaN or infinity.

    Args:
        name: The argument's name.
        values: Array of numbers.

    Raises:
        ValueError: If it does.
    """
    if np.issubdtype(values.dtype, np.inexact) and not np.isfinite(values).all():
        bad = values[~np.isfinite(values)]
        raise InputError(f"{name}: expected finite numbers, got {bad.size} others, e.g. {bad.flat[0]}")


def random_source(name: str, seed: Any) -> Any:
    """Return what random numbers are drawn from.

    Args:
        name: The argument's name.
        seed: Seed of a generator of its own, or None for numpy's global one.

    Returns:
        A ``RandomState``, or the module ``numpy.random``, whose functions are those of the global one.

    Raises:
        TypeError: If the seed is no integer.
        ValueError: If it is out of range.
    """
    if seed is None:
        return np.random
    try:
        return np.random.RandomState(seed)
    except (TypeError, ValueError) as error:
        kind = InputTypeError if isinstance(error, TypeError) else InputError
        raise kind(f"{name}: expected None or an integer from 0 to 2**32 - 1, got {seed!r}") from None
