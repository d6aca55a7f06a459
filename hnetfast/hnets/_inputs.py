"""Checks of the tensors that the first layer of a hypernetwork reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hnetfast._errors import InputError, InputTypeError
from hnetfast.hnets._call import Call, require_any_input


def check_input(name: str, value: Any, width: int, dim: int = 2) -> None:
    """Check type and shape of an input ``[B, width]`` (``[B, ..., width]`` for a larger ``dim``).

    Args:
        name: The argument's name.
        value: What was given.
        width: Size of the last dimension; 0 if the hypernetwork has no such input.
        dim: Number of dimensions.

    Raises:
        TypeError: If it is not a tensor.
        ValueError: If the shape does not fit.
    """
    if not isinstance(value, Tensor):
        raise InputTypeError(f"{name}: expected a tensor, got {type(value).__name__}")
    shape = tuple(value.shape)
    if width == 0:
        raise InputError(f"{name}: this hypernetwork was constructed without such inputs, got shape {shape}")
    if len(shape) != dim or shape[-1] != width or shape[0] == 0:
        expected = ", ".join(["batch size", *["..."] * (dim - 2), str(width)])
        hint = "; the batch dimension is missing" if len(shape) == dim - 1 and shape[-1] == width else ""
        raise InputError(f"{name}: expected shape [{expected}], got {list(shape)}{hint}")


def check_complete(call: Call, uncond_in_size: int, cond_in_size: int) -> None:
    """Check that every input that the layers read was given.

    Args:
        call: The call.
        uncond_in_size: Width of the unconditional input.
        cond_in_size: Width of the conditional input.

    Raises:
        ValueError: If one is missing.
    """
    lacks_uncond = uncond_in_size > 0 and call.uncond_input is None
    lacks_cond = cond_in_size > 0 and call.cond_input is None and call.ids is None
    if not lacks_uncond and not lacks_cond:
        return
    require_any_input(call)
    if lacks_uncond:
        raise InputError(f"uncond_input: needed, a tensor of shape [batch size, {uncond_in_size}]")
    raise InputError("cond_input or cond_id: one of them is needed")


def check_placement(names: Sequence[str], inputs: list[Tensor], weights: Sequence[Tensor]) -> list[Tensor]:
    """Check dtype and device of the inputs and of the weights that they meet.

    Inputs of different dtypes are promoted as their concatenation would be.

    Args:
        names: Name of each input for messages.
        inputs: Inputs ``[B or 1, N or 1, width]``.
        weights: Weight matrices and bias vectors of the hypernetwork.

    Returns:
        The inputs, converted where needed.

    Raises:
        ValueError: If an input is on another device, or the dtypes do not fit.
    """
    device, dtype = weights[0].device, weights[0].dtype
    for weight in weights:
        if weight.device != device or (weight.dtype != dtype and not torch.is_autocast_enabled(device.type)):
            raise InputTypeError(
                f"weights: expected one dtype and device, got {dtype} on {device} and {weight.dtype} on "
                f"{weight.device}"
            )
    odd = False
    for name, tensor in zip(names, inputs, strict=True):
        if tensor.device != device:
            raise InputError(f"{name}: is on {tensor.device}, but the hypernetwork's weights are on {device}")
        odd = odd or tensor.dtype != dtype
    if not odd or torch.is_autocast_enabled(device.type):
        return inputs
    promoted = inputs[0].dtype
    for tensor in inputs[1:]:
        promoted = torch.promote_types(promoted, tensor.dtype)
    if promoted != dtype:
        given = ", ".join(f"{n} {p.dtype}" for n, p in zip(names, inputs, strict=True))
        raise InputTypeError(f"inputs: expected dtype {dtype} as of the hypernetwork's weights, got {given}")
    return [tensor.to(dtype) for tensor in inputs]


def check_batch_sizes(names: Sequence[str], inputs: Sequence[Tensor]) -> None:
    """Check that inputs ``[B or 1, ...]`` have one batch size.

    Raises:
        ValueError: If the batch sizes do not agree.
    """
    batch_size = 1
    for tensor in inputs:
        size = tensor.shape[0]
        if size != 1 and batch_size not in (1, size):
            given = ", ".join(f"{name}: {len(tensor)}" for name, tensor in zip(names, inputs, strict=True))
            raise InputError(f"The batch sizes of the hypernetwork's inputs must agree or be 1, got {given}")
        batch_size = size if batch_size == 1 else batch_size
