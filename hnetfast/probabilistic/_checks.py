"""Checks of arguments that several modules of this package take."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hnetfast._checks import check_tensor
from hnetfast._errors import InputError, InputTypeError


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
