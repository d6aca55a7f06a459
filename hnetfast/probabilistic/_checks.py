"""Checks of arguments that several modules of this package take."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from hnetfast._checks import check_tensor
from hnetfast._errors import InputError, InputTypeError


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
        number = float("no number" if isinstance(value, (str, bytes)) else value)
    except (TypeError, ValueError, RuntimeError):
        raise InputTypeError(f"{name}: expected {expected}, got {value!r:.100}") from None
    if not math.isfinite(number) or number < 0 or (number == 0 and not zero):
        raise InputError(f"{name}: expected {expected}, got {value!r}")
    return number


def check_matrix(name: str, tensor: Any, columns: int | None = None, rows: int = 1) -> None:
    """Refuse what is not a floating-point tensor ``[M, n]``.

    Args:
        name: Name of the argument.
        tensor: What was passed.
        columns: n, None for any.
        rows: The smallest M that is accepted.

    Raises:
        TypeError: It is no tensor of floating-point numbers.
        ValueError: Its shape is another one.
    """
    check_floating(name, tensor)
    if tensor.ndim != 2 or tensor.shape[0] < rows or columns not in (None, tensor.shape[1]):
        expected = f"[at least {rows}, {'n' if columns is None else columns}]"
        raise InputError(f"{name}: expected the shape {expected}, got {list(tensor.shape)}")


def check_floating(name: str, tensor: Any) -> None:
    """Refuse what is not a floating-point tensor.

    Args:
        name: Name of the argument.
        tensor: What was passed.

    Raises:
        TypeError: It is something else.
    """
    check_tensor(name, tensor)
    if not torch.is_floating_point(tensor):
        raise InputTypeError(f"{name}: expected floating-point numbers, got {tensor.dtype}")


def check_logits(name: str, logits: Any) -> Tensor:
    """Return logits of samples ``[S, N, C]``; ``[N, C]`` counts as one sample.

    Args:
        name: Name of the argument.
        logits: What was passed.

    Raises:
        TypeError: It is no tensor of floating-point numbers.
        ValueError: Its shape is another one.
    """
    check_floating(name, logits)
    if logits.ndim == 2:
        logits = logits.unsqueeze(0)
    if logits.ndim != 3 or 0 in (logits.shape[0], logits.shape[2]):
        raise InputError(f"{name}: expected the shape [S, N, C] or [N, C], got {list(logits.shape)}")
    return logits
