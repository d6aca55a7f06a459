"""Checks of arguments, with one wording: the argument, what was expected, what was passed."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hnetfast._errors import InputError, InputTypeError


def check_integer(name: str, value: Any, minimum: int, stop: int | None = None) -> int:
    """Check an integer.

    Args:
        name: Name of the argument.
        value: What was passed.
        minimum: The smallest that is accepted.
        stop: The first that is too large, None for none.

    Returns:
        The value as a plain integer.

    Raises:
        TypeError: It is not an integer.
        ValueError: It is too small or too large.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise InputTypeError(f"{name}: expected {_integer(minimum, stop)}, got {value!r}") from None
    if number < minimum or (stop is not None and number >= stop):
        raise InputError(f"{name}: expected {_integer(minimum, stop)}, got {value!r}")
    return number


def _integer(minimum: int, stop: int | None) -> str:
    if stop is not None:
        return f"an integer in [{minimum}, {stop})"
    return "a positive integer" if minimum == 1 else f"an integer of at least {minimum}"


def check_integers(name: str, values: Any, minimum: int, count: int | None = None) -> list[int]:
    """Check a list of integers.

    Args:
        name: Name of the argument.
        values: What was passed.
        minimum: The smallest entry that is accepted.
        count: How many there must be, None for any number.

    Returns:
        The values as plain integers.

    Raises:
        TypeError: It is no list, or an entry is not an integer.
        ValueError: An entry is too small, or their number differs.
    """
    expected = "a list of integers" if count is None else f"{count} integers"
    try:
        entries = None if isinstance(values, (str, Mapping)) else list(values)
    except TypeError:
        entries = None
    if entries is None:
        raise InputTypeError(f"{name}: expected {expected}, got {values!r}")
    if count is not None and len(entries) != count:
        raise InputError(f"{name}: expected {expected}, got {values!r}")
    return [check_integer(f"{name}[{i}]", value, minimum) for i, value in enumerate(entries)]


def check_positive(name: str, value: Any, *, zero: bool = False) -> float:
    """Return a finite number above 0.

    Args:
        name: Name of the argument.
        value: What was passed; a tensor of one element counts if it needs no gradient.
        zero: Whether 0 is accepted too.

    Raises:
        TypeError: It is not a number.
        ValueError: It is too small or not finite.
    """
    expected = "a number of at least 0" if zero else "a positive number"
    if isinstance(value, Tensor) and value.requires_grad:
        raise InputTypeError(f"{name}: expected {expected}, got a tensor whose gradient would be lost")
    try:
        number = float("no number" if isinstance(value, (str, bytes, bool)) else value)
    except (TypeError, ValueError, RuntimeError):
        raise InputTypeError(f"{name}: expected {expected}, got {value!r:.100}") from None
    if not math.isfinite(number) or number < 0 or (number == 0 and not zero):
        raise InputError(f"{name}: expected {expected}, got {value!r}")
    return number


def check_dropout_rate(rate: Any, maximum: float = 1) -> None:
    """Refuse what is neither -1 nor a probability.

    Args:
        rate: Argument ``dropout_rate``.
        maximum: The largest that is accepted.

    Raises:
        TypeError: It is not a number.
        ValueError: It is another one.
    """
    expected = f"dropout_rate: expected -1 (no dropout) or a number in [0, {maximum}], got {rate!r}"
    try:
        accepted = rate == -1 or 0 <= rate <= maximum
    except TypeError:
        raise InputTypeError(expected) from None
    if not accepted:
        raise InputError(expected)


def check_function(name: str, value: Any) -> Any:
    """Return what is a function or None.

    Args:
        name: Name of the argument.
        value: What was passed.

    Raises:
        TypeError: It cannot be called.
    """
    if value is not None and not callable(value):
        raise InputTypeError(f"{name}: expected a function or None, got {value!r}")
    return value


def check_tensor(name: str, value: Any) -> None:
    """Refuse what is not a tensor.

    Args:
        name: Name of the argument.
        value: What was passed.

    Raises:
        TypeError: It is something else.
    """
    if not isinstance(value, Tensor):
        raise InputTypeError(f"{name}: expected a tensor, got {type(value).__name__}")


def check_tensors(
    name: str, tensors: Any, shapes: Sequence[Sequence[int]], labels: Sequence[str] = ()
) -> None:
    """Refuse tensors of a wrong number, type or shape.

    Args:
        name: Name of the argument.
        tensors: What was passed.
        shapes: Their shapes.
        labels: What each of them is.

    Raises:
        ValueError: The number or a shape is wrong.
        TypeError: Something is not a tensor.
    """
    if not hasattr(tensors, "__len__") or len(tensors) != len(shapes):
        listed = f" ({', '.join(labels)})" if labels else ""
        got = len(tensors) if hasattr(tensors, "__len__") else type(tensors).__name__
        raise InputError(f"{name}: expected {len(shapes)} tensors{listed}, got {got}")
    for i, (tensor, shape) in enumerate(zip(tensors, shapes, strict=True)):
        entry = f"{name}[{i}] ({labels[i]})" if labels else f"{name}[{i}]"
        check_tensor(entry, tensor)
        if list(tensor.shape) != list(shape):
            raise InputError(f"{entry}: expected the shape {list(shape)}, got {list(tensor.shape)}")


def check_placement(x: Tensor, weights: Sequence[Tensor], describe: Callable[[int], str]) -> None:
    """Refuse an input of another dtype or device than the weights', before any layer changes its statistics.

    Args:
        x: The input.
        weights: The weights.
        describe: Names a weight, given by its index, in the message.

    Raises:
        ValueError, RuntimeError: A device differs.
        TypeError: A dtype differs, and autocast is off.
    """
    device, dtype = x.device, x.dtype
    for i, weight in enumerate(weights):
        if device == weight.device and dtype == weight.dtype:
            continue
        if device == weight.device and torch.is_autocast_enabled(device.type):
            continue
        if any(device == other.device and dtype == other.dtype for other in weights):
            name, others, expected, got = describe(i), "input", x, weight
        else:
            name, others, expected, got = "x", "weights", weight, x
        if device != weight.device:
            raise InputError(
                f"{name}: expected to be on the device of the {others}, {expected.device}, got {got.device}"
            )
        raise InputTypeError(f"{name}: expected the dtype of the {others}, {expected.dtype}, got {got.dtype}")
