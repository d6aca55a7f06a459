"""Checks of constructor arguments that hypernetworks share. They run before anything is created."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from hnetfast._errors import InputError, InputTypeError


def check_size(name: str, value: Any, minimum: int) -> int:
    """Check an integer argument.

    Args:
        name: The argument's name.
        value: What was given.
        minimum: Smallest accepted value.

    Returns:
        The value as a plain integer.

    Raises:
        TypeError: If it is not an integer.
        ValueError: If it is too small.
    """
    try:
        size = operator.index(value)
    except TypeError:
        raise InputTypeError(
            f"{name}: an integer is accepted, got {value!r} ({type(value).__name__})"
        ) from None
    if size < minimum:
        raise InputError(f"{name}: an integer of at least {minimum} is accepted, got {size}")
    return size


def _check_sequence(name: str, value: Any) -> None:
    is_sequence = hasattr(value, "__len__") and hasattr(value, "__getitem__")
    if isinstance(value, (str, dict, Tensor)) or not is_sequence:
        raise InputTypeError(f"{name}: a list is accepted, got {value!r} ({type(value).__name__})")


def check_sizes(name: str, values: Any, minimum: int) -> list[int]:
    """Check a list of integers.

    Args:
        name: The argument's name.
        values: What was given.
        minimum: Smallest accepted value of an entry.

    Returns:
        The values as plain integers.

    Raises:
        TypeError: If it is not a list or tuple of integers.
        ValueError: If an entry is too small.
    """
    _check_sequence(name, values)
    return [check_size(f"{name}[{i}]", size, minimum) for i, size in enumerate(values)]


def check_target_shapes(target_shapes: Any) -> None:
    """Check the shapes of the tensors to generate.

    Raises:
        TypeError: If it is not a list of lists of integers.
        ValueError: If it is empty or a dimension is not positive.
    """
    _check_sequence("target_shapes", target_shapes)
    if len(target_shapes) == 0:
        raise InputError("target_shapes: at least one shape is needed, got an empty list")
    for i, shape in enumerate(target_shapes):
        _check_sequence(f"target_shapes[{i}]", shape)
        for j, size in enumerate(shape):
            check_size(f"target_shapes[{i}][{j}]", size, 1)


def check_dropout_rate(rate: Any) -> None:
    """Check a dropout rate.

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is neither -1 nor in [0, 1].
    """
    try:
        accepted = rate == -1 or 0 <= float(rate) <= 1
    except (TypeError, ValueError):
        raise InputTypeError(f"dropout_rate: a number is accepted, got {rate!r}") from None
    if not accepted:
        raise InputError(f"dropout_rate: -1 (no dropout) or a number in [0, 1] is accepted, got {rate}")


def check_activation(activation_fn: Any) -> None:
    """Check an activation function.

    Raises:
        TypeError: If it is neither callable nor None.
    """
    if activation_fn is not None and not callable(activation_fn):
        raise InputTypeError(f"activation_fn: a function or None is accepted, got {activation_fn!r}")
    if isinstance(activation_fn, type) and issubclass(activation_fn, nn.Module):
        name = activation_fn.__name__
        raise InputTypeError(
            f"activation_fn: a function or None is accepted, got the class {name}: pass {name}()"
        )


def check_mlp_arguments(
    target_shapes: Sequence[Sequence[int]],
    uncond_in_size: int,
    cond_in_size: int,
    layers: Sequence[int],
    activation_fn: Any,
    num_cond_embs: int,
    dropout_rate: float,
) -> tuple[int, int, list[int], int]:
    """Check the arguments that all MLP hypernetworks have.

    Returns:
        ``uncond_in_size``, ``cond_in_size``, ``layers`` and ``num_cond_embs`` as plain integers.

    Raises:
        TypeError, ValueError: If an argument is not accepted; it is named.
    """
    check_target_shapes(target_shapes)
    uncond_in_size = check_size("uncond_in_size", uncond_in_size, 0)
    cond_in_size = check_size("cond_in_size", cond_in_size, 0)
    layers = check_sizes("layers", layers, 1)
    check_activation(activation_fn)
    num_cond_embs = check_size("num_cond_embs", num_cond_embs, 0)
    check_dropout_rate(dropout_rate)
    return uncond_in_size, cond_in_size, layers, num_cond_embs
