"""Checks of the weights given to a single layer."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hnetfast._errors import InputError, InputTypeError


def check_weights(argument: str, weights: Any, names: Sequence[str], shapes: Sequence[Sequence[int]]) -> None:
    """Refuse weights of a wrong number, type or shape.

    Args:
        argument: Name of the argument.
        weights: What was passed.
        names: What each of the weights is.
        shapes: Their shapes.

    Raises:
        ValueError, RuntimeError: The number or a shape is wrong.
        TypeError: Something is not a tensor.
    """
    if not hasattr(weights, "__len__") or len(weights) != len(shapes):
        got = len(weights) if hasattr(weights, "__len__") else type(weights).__name__
        raise InputError(f"{argument}: expected {len(shapes)} tensors ({', '.join(names)}), got {got}")
    for i, (weight, name, shape) in enumerate(zip(weights, names, shapes, strict=True)):
        if not isinstance(weight, Tensor):
            raise InputTypeError(f"{argument}[{i}] ({name}): expected a tensor, got {type(weight).__name__}")
        if list(weight.shape) != list(shape):
            raise InputError(
                f"{argument}[{i}] ({name}): expected the shape {list(shape)}, got {list(weight.shape)}"
            )


def check_placement(x: Tensor, weights: Sequence[Tensor], names: Sequence[str]) -> None:
    """Refuse weights of another dtype or device than the input's.

    Args:
        x: The input.
        weights: The weights.
        names: What each of them is.

    Raises:
        ValueError, RuntimeError: A device differs.
        TypeError: A dtype differs, and autocast is off.
    """
    for i, (weight, name) in enumerate(zip(weights, names, strict=False)):
        if x.device != weight.device:
            raise InputError(f"x is on the device {x.device}, but weights[{i}] ({name}) on {weight.device}")
        if x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
            raise InputTypeError(f"x has the dtype {x.dtype}, but weights[{i}] ({name}) {weight.dtype}")
