"""Checking and sorting what is given to ``forward`` of a hypernetwork."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hnetfast._errors import InputError, InputTypeError

if TYPE_CHECKING:
    from hnetfast.hnets.hnet_interface import HyperNetInterface

RET_FORMATS = ("flattened", "sequential", "squeezed")


def check_ret_format(ret_format: Any, name: str = "ret_format") -> None:
    """Refuse a format that no hypernetwork can return.

    Args:
        ret_format: What was given.
        name: The argument's name for the message.

    Raises:
        ValueError: If it is none of :data:`RET_FORMATS`.
    """
    if ret_format not in RET_FORMATS:
        raise InputError(
            f"{name}: {ret_format!r} is unknown, accepted are {', '.join(map(repr, RET_FORMATS))}"
        )


# --- conditions ---------------------------------------------------------------------------------------


def parse_cond_ids(cond_id: Any, num_conditions: int) -> list[int] | Tensor:
    """Bring the argument ``cond_id`` into one of two forms.

    Args:
        cond_id: An integer, or a list, tuple, range, numpy array or tensor of integers.
        num_conditions: Number of existing conditions.

    Returns:
        A list of integers, or, for a tensor on an accelerator and while a graph is traced, a tensor ``[B]``
        whose range the device checks without stopping the host.

    Raises:
        TypeError: If it is not made of integers.
        ValueError: If it is empty or names a condition that does not exist.
    """
    if type(cond_id) is int:
        cond_id = [cond_id]
    elif isinstance(cond_id, Tensor):
        cond_id = _parse_id_tensor(cond_id, num_conditions)
        if isinstance(cond_id, Tensor):
            return cond_id
    elif isinstance(cond_id, np.ndarray):
        if cond_id.ndim > 1 or cond_id.dtype.kind not in "iu":
            raise InputTypeError(
                f"cond_id: an array of integers with at most one dimension is accepted, got {cond_id.dtype} "
                f"with shape {cond_id.shape}"
            )
        cond_id = cond_id.reshape(-1).tolist()
    elif isinstance(cond_id, (list, tuple, range)):
        cond_id = [_as_index(i) for i in cond_id]
    else:
        cond_id = [_as_index(cond_id)]
    if not cond_id:
        raise InputError("cond_id: at least one condition is needed, got none")
    for i in cond_id:
        if not 0 <= i < num_conditions:
            raise no_such_condition(i, num_conditions)
    return cond_id


def no_such_condition(cond_id: int, num_conditions: int) -> InputError:
    """The error that tells that a condition does not exist."""
    if num_conditions == 0:
        return InputError(
            f"cond_id: condition {cond_id} does not exist, this hypernetwork knows no conditions"
        )
    return InputError(
        f"cond_id: condition {cond_id} does not exist, accepted is 0 to {num_conditions - 1} "
        "(see add_conditions())"
    )


def _as_index(value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise InputTypeError(
            f"cond_id: integers are accepted, got {value!r} ({type(value).__name__})"
        ) from None


def _parse_id_tensor(cond_id: Tensor, num_conditions: int) -> list[int] | Tensor:
    dtype = cond_id.dtype
    if dtype.is_floating_point or dtype.is_complex or dtype == torch.bool or cond_id.dim() > 1:
        raise InputTypeError(
            f"cond_id: a tensor of integers with at most one dimension is accepted, got {dtype} "
            f"with shape {tuple(cond_id.shape)}"
        )
    ids = cond_id.reshape(-1)
    if cond_id.device.type == "cpu" and not torch.compiler.is_compiling():
        return ids.tolist()
    if ids.shape[0] == 0:
        return []
    if num_conditions == 0:
        raise InputError("cond_id: this hypernetwork knows no conditions")
    torch._assert_async(
        ((ids >= 0) & (ids < num_conditions)).all(), f"cond_id: accepted is 0 to {num_conditions - 1}"
    )
    return ids


# --- input tensors ------------------------------------------------------------------------------------


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
        raise InputTypeError(f"{name}: a tensor is accepted, got {type(value).__name__}")
    shape = tuple(value.shape)
    if width == 0:
        raise InputError(f"{name}: this hypernetwork was constructed without such inputs, got shape {shape}")
    if len(shape) != dim or shape[-1] != width or shape[0] == 0:
        expected = ", ".join(["batch size", *["..."] * (dim - 2), str(width)])
        hint = "; the batch dimension is missing" if len(shape) == dim - 1 and shape[-1] == width else ""
        raise InputError(f"{name}: shape [{expected}] is accepted, got {list(shape)}{hint}")


def check_complete(
    uncond_input: Any, cond_input: Any, cond_id: Any, uncond_in_size: int, cond_in_size: int
) -> None:
    """Check that every input that the layers read was given.

    Args:
        uncond_input: Argument of ``forward``, as the next two.
        cond_input: See there.
        cond_id: See there.
        uncond_in_size: Width of the unconditional input.
        cond_in_size: Width of the conditional input.

    Raises:
        ValueError: If one is missing.
    """
    lacks_uncond = uncond_input is None and uncond_in_size > 0
    lacks_cond = cond_input is None and cond_id is None and cond_in_size > 0
    if not lacks_uncond and not lacks_cond:
        return
    if uncond_input is None and cond_input is None and cond_id is None:
        raise InputError("No input was given: pass cond_id, cond_input or uncond_input")
    if lacks_uncond:
        raise InputError(f"uncond_input: needed, a tensor of shape [batch size, {uncond_in_size}]")
    raise InputError("cond_input or cond_id: one of them is needed")


def check_placement(names: Sequence[str], parts: list[Tensor], weights: Sequence[Tensor]) -> list[Tensor]:
    """Check dtype and device of the inputs and of the weights that they meet.

    Inputs of different dtypes are promoted as their concatenation would be.

    Args:
        names: Name of each part for messages.
        parts: Parts of the input.
        weights: Weight matrices and bias vectors of the hypernetwork.

    Returns:
        The parts, converted where needed.

    Raises:
        ValueError: If a part is on another device, or the dtypes do not fit.
    """
    device, dtype = weights[0].device, weights[0].dtype
    for weight in weights:
        if weight.device != device or (weight.dtype != dtype and not torch.is_autocast_enabled(device.type)):
            raise InputTypeError(
                f"weights: one dtype and device is accepted, got {dtype} on {device} and {weight.dtype} on "
                f"{weight.device}"
            )
    odd = False
    for name, part in zip(names, parts, strict=True):
        if part.device != device:
            raise InputError(f"{name}: is on {part.device}, but the hypernetwork's weights are on {device}")
        odd = odd or part.dtype != dtype
    if not odd or torch.is_autocast_enabled(device.type):
        return parts
    promoted = parts[0].dtype
    for part in parts[1:]:
        promoted = torch.promote_types(promoted, part.dtype)
    if promoted != dtype:
        given = ", ".join(f"{n} {p.dtype}" for n, p in zip(names, parts, strict=True))
        raise InputTypeError(
            f"inputs: dtype {dtype} as of the hypernetwork's weights is accepted, got {given}"
        )
    return [part.to(dtype) for part in parts]


def batch_size_of(names: Sequence[str], parts: Sequence[Tensor]) -> int:
    """The batch size that the parts ``[B or 1, ...]`` broadcast to.

    Raises:
        ValueError: If the batch sizes do not agree.
    """
    batch_size = 1
    for part in parts:
        size = part.shape[0]
        if size != batch_size and size != 1:
            if batch_size != 1:
                given = ", ".join(f"{n}: {p.shape[0]}" for n, p in zip(names, parts, strict=True))
                raise InputError(
                    f"The batch sizes of the hypernetwork's inputs must agree or be 1, got {given}"
                )
            batch_size = size
    return batch_size


# --- weights ------------------------------------------------------------------------------------------


def sort_weights(
    hnet: HyperNetInterface, weights: Any, extra_keys: tuple[str, ...] = ()
) -> tuple[list[Tensor] | None, list[Tensor] | None]:
    """Split the argument ``weights`` into unconditional and conditional ones.

    Args:
        hnet: The hypernetwork that the weights are for.
        weights: A list as long as ``hyper_shapes_learned`` or ``param_shapes``, or a dictionary with the keys
            ``uncond_weights`` and ``cond_weights``.
        extra_keys: Further keys that the caller reads from a dictionary.

    Returns:
        The pair ``(unconditional, conditional)``; None stands for the hypernetwork's own ones.

    Raises:
        TypeError: If the type is wrong.
        ValueError: If length, keys or shapes are wrong.
    """
    if isinstance(weights, dict):
        keys = ("uncond_weights", "cond_weights", *extra_keys)
        unknown = [key for key in weights if key not in keys]
        if unknown or not weights:
            raise InputError(
                f"weights: a dictionary with the keys {', '.join(map(repr, keys))} is accepted, got "
                f"{list(weights)}"
            )
        uncond = _given(weights, "uncond_weights", hnet.unconditional_param_shapes)
        cond = _given(weights, "cond_weights", hnet.conditional_param_shapes)
        return uncond, cond
    if isinstance(weights, (Tensor, np.ndarray, str)) or not hasattr(weights, "__len__"):
        raise InputTypeError(f"weights: a list or a dictionary is accepted, got {type(weights).__name__}")
    weights = list(weights)
    shapes, learned = hnet.param_shapes, hnet.hyper_shapes_learned
    if len(weights) == len(shapes):
        full = weights
    elif learned is not None and len(weights) == len(learned):
        if not weights:
            return None, None
        full = [None] * len(shapes)
        params = list(hnet.internal_params or ())
        for i, meta in enumerate(hnet.param_shapes_meta):
            if meta["index"] != -1:
                full[i] = params[meta["index"]]
        for i, weight in zip(hnet.hyper_shapes_learned_ref, weights, strict=True):
            full[i] = weight
    else:
        lengths = sorted({len(shapes), len(learned)} if learned else {len(shapes)})
        raise InputError(
            f"weights: a list of {' or '.join(map(str, lengths))} tensors is accepted, got {len(weights)}"
        )
    check_weights("weights", full, shapes)
    uncond_ref = hnet.unconditional_param_shapes_ref
    uncond = [full[i] for i in uncond_ref]
    return uncond, [full[i] for i in hnet.conditional_param_shapes_ref]


def _given(weights: dict[str, Any], key: str, shapes: list[list[int]]) -> list[Tensor] | None:
    if key not in weights:
        return None
    values = weights[key]
    if values is None or isinstance(values, (Tensor, str)) or not hasattr(values, "__len__"):
        raise InputTypeError(f"weights[{key!r}]: a list of tensors is accepted, got {type(values).__name__}")
    values = list(values)
    check_weights(f"weights[{key!r}]", values, shapes)
    return values


def check_weights(name: str, weights: Sequence[Any], shapes: Sequence[Sequence[int]]) -> None:
    """Check that a list of tensors has the wanted shapes.

    Raises:
        TypeError: If an entry is not a tensor.
        ValueError: If the length or a shape is wrong.
    """
    if len(weights) != len(shapes):
        raise InputError(f"{name}: {len(shapes)} tensors are accepted, got {len(weights)}")
    for i, (weight, shape) in enumerate(zip(weights, shapes, strict=True)):
        if not isinstance(weight, Tensor):
            raise InputTypeError(f"{name}[{i}]: a tensor is accepted, got {type(weight).__name__}")
        if list(weight.shape) != list(shape):
            raise InputError(f"{name}[{i}]: shape {list(shape)} is accepted, got {list(weight.shape)}")
