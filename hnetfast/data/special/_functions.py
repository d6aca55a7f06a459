"""Values of functions that users give to handlers of toy problems."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hnetfast._errors import InputError, InputTypeError
from hnetfast.data._arguments import check_finite


def check_callable(name: str, function: Any) -> None:
    """Refuse what can't be called.

    Args:
        name: The argument's name.
        function: What was given.

    Raises:
        TypeError: If it is no function.
    """
    if not callable(function):
        raise InputTypeError(f"{name}: expected a function, got {function!r}")


def function_values(name: str, function: Callable[[np.ndarray], Any], x: np.ndarray) -> np.ndarray:
    """Apply a function to inputs.

    Args:
        name: The argument's name.
        function: The function; it gets a copy of the inputs, whatever it does to them.
        x: Inputs ``[n, d]``.

    Returns:
        Its values ``[n, 1]``.

    Raises:
        ValueError: If it returns anything else, NaN or infinity.
    """
    values = np.asarray(function(x.copy()))
    if values.shape != (len(x), 1):
        raise InputError(
            f"{name}: expected a function that turns inputs {list(x.shape)} into outputs [{len(x)}, 1], "
            f"got one that returns {list(values.shape)}"
        )
    if values.dtype.kind not in "biuf":
        raise InputError(f"{name}: expected a function that returns numbers, got {values.dtype}")
    check_finite(name, values)
    return values
