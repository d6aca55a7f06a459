"""What is asked of a hypernetwork, parsed once from the arguments of ``forward``."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hnetfast._errors import InputError, InputTypeError, UnsupportedError

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
        raise InputError(f"{name}: expected one of {', '.join(map(repr, RET_FORMATS))}, got {ret_format!r}")


class Call(NamedTuple):
    """A call of a hypernetwork.

    Attributes:
        uncond_input: Unconditional input as it was given.
        cond_input: Conditional input as it was given.
        ids: The conditions, see :func:`parse_cond_ids`; None if none were given.
        uncond_weights: All unconditional parameters; None stands for the hypernetwork's own ones.
        cond_weights: All conditional parameters, or None likewise.
        further: What a dictionary ``weights`` had under keys that only some hypernetworks know.
        condition: What selects context-dependent state.
        ret_format: Format to return.
        only_ids: Whether nothing but conditions was given, so that all tensors are the hypernetwork's own.
    """

    uncond_input: Any
    cond_input: Any
    ids: list[int] | Tensor | None
    uncond_weights: list[Tensor] | None
    cond_weights: list[Tensor] | None
    further: dict[str, Any] | None
    condition: Any
    ret_format: str
    only_ids: bool


def parse_call(
    hnet: HyperNetInterface,
    uncond_input: Any,
    cond_input: Any,
    cond_id: Any,
    weights: Any,
    condition: Any = None,
    ret_format: str = "flattened",
    *,
    exclusive: bool = True,
) -> Call:
    """Parse the arguments of ``forward``; what the input tensors are is left to be checked.

    Args:
        hnet: The hypernetwork.
        uncond_input: Arguments of ``forward``, like all that follows.
        cond_input: Conditional input.
        cond_id: The conditions.
        weights: Weights instead of the network's own.
        condition: What selects context-dependent state.
        ret_format: What to return.
        exclusive: Whether only one of ``cond_input`` and ``cond_id`` may be given.

    Returns:
        The call.

    Raises:
        TypeError, ValueError: If an argument is not accepted; it is named.
    """
    if ret_format not in RET_FORMATS:
        check_ret_format(ret_format)
    if exclusive and cond_input is not None and cond_id is not None:
        raise InputError("cond_input and cond_id exclude each other, both were given")
    uncond_weights = cond_weights = further = None
    if weights is not None:
        uncond_weights, cond_weights, further = _sort_weights(hnet, weights)
    return Call(
        uncond_input,
        cond_input,
        None if cond_id is None else parse_cond_ids(cond_id, hnet._num_known_conds),
        uncond_weights,
        cond_weights,
        further,
        condition,
        ret_format,
        weights is None and uncond_input is None and cond_input is None,
    )


def require_any_input(call: Call) -> None:
    """Refuse a call without any input.

    Raises:
        ValueError: If it is one.
    """
    if call.uncond_input is None and call.cond_input is None and call.ids is None:
        raise InputError("No input was given: pass cond_id, cond_input or uncond_input")


def refuse_distilled_params(distilled_params: Any) -> None:
    """Refuse the argument where it would have no effect.

    Raises:
        NotImplementedError: If it is given (also a ``ValueError``).
    """
    if distilled_params is not None:
        raise UnsupportedError("distilled_params: expected None, this hypernetwork does not support them")


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
                f"cond_id: expected an array of integers with at most one dimension, got {cond_id.dtype} "
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
        f"cond_id: condition {cond_id} does not exist, expected 0 to {num_conditions - 1} "
        "(see add_conditions())"
    )


def _as_index(value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise InputTypeError(f"cond_id: expected integers, got {value!r} ({type(value).__name__})") from None


def _parse_id_tensor(cond_id: Tensor, num_conditions: int) -> list[int] | Tensor:
    dtype = cond_id.dtype
    if dtype.is_floating_point or dtype.is_complex or dtype == torch.bool or cond_id.dim() > 1:
        raise InputTypeError(
            f"cond_id: expected a tensor of integers with at most one dimension, got {dtype} "
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
        ((ids >= 0) & (ids < num_conditions)).all(), f"cond_id: expected 0 to {num_conditions - 1}"
    )
    return ids


# --- weights ------------------------------------------------------------------------------------------


def _sort_weights(
    hnet: HyperNetInterface, weights: Any
) -> tuple[list[Tensor] | None, list[Tensor] | None, dict[str, Any] | None]:
    """Split the argument ``weights`` into unconditional and conditional ones, and what else there is.

    Args:
        hnet: The hypernetwork that the weights are for.
        weights: A list as long as ``hyper_shapes_learned`` or ``param_shapes``, or a dictionary with the keys
            ``uncond_weights`` and ``cond_weights``, and those that the hypernetwork knows besides.

    Returns:
        Unconditional and conditional ones, None for the hypernetwork's own ones; what is under other keys.

    Raises:
        TypeError: If the type is wrong.
        ValueError: If length, keys or shapes are wrong.
    """
    if isinstance(weights, dict):
        keys = ("uncond_weights", "cond_weights", *hnet._further_keys)
        unknown = [key for key in weights if key not in keys]
        if unknown or not weights:
            raise InputError(
                f"weights: expected a dictionary with the keys {', '.join(map(repr, keys))}, got "
                f"{list(weights)}"
            )
        uncond = _given(weights, "uncond_weights", hnet.unconditional_param_shapes)
        cond = _given(weights, "cond_weights", hnet.conditional_param_shapes)
        if len(weights) == (uncond is not None) + (cond is not None):
            return uncond, cond, None
        return uncond, cond, {key: weights[key] for key in hnet._further_keys if key in weights}
    if isinstance(weights, (Tensor, np.ndarray, str)) or not hasattr(weights, "__len__"):
        raise InputTypeError(f"weights: expected a list or a dictionary, got {type(weights).__name__}")
    weights = list(weights)
    shapes, learned = hnet.param_shapes, hnet.hyper_shapes_learned
    if len(weights) == len(shapes):
        full: list[Any] = weights
    elif learned is not None and len(weights) == len(learned):
        if not weights:
            return None, None, None
        full = [None] * len(shapes)
        params = list(hnet.internal_params or ())
        for i, meta in enumerate(hnet.param_shapes_meta):
            if meta["index"] != -1:
                full[i] = params[meta["index"]]
        for i, weight in zip(hnet.hyper_shapes_learned_ref or (), weights, strict=True):
            full[i] = weight
    else:
        lengths = sorted({len(shapes), len(learned)} if learned else {len(shapes)})
        raise InputError(
            f"weights: expected a list of {' or '.join(map(str, lengths))} tensors, got {len(weights)}"
        )
    check_weights("weights", full, shapes)
    uncond_ref = hnet.unconditional_param_shapes_ref
    uncond = [full[i] for i in uncond_ref]
    return uncond, [full[i] for i in hnet.conditional_param_shapes_ref], None


def _given(weights: dict[str, Any], key: str, shapes: Sequence[Sequence[int]]) -> list[Tensor] | None:
    if key not in weights:
        return None
    values = weights[key]
    if values is None or isinstance(values, (Tensor, str)) or not hasattr(values, "__len__"):
        raise InputTypeError(f"weights[{key!r}]: expected a list of tensors, got {type(values).__name__}")
    values = list(values)
    check_weights(f"weights[{key!r}]", values, shapes)
    return values


def check_weights(name: str, weights: Sequence[Any], shapes: Sequence[Sequence[int | None]]) -> None:
    """Check that a list of tensors has the wanted shapes.

    Raises:
        TypeError: If an entry is not a tensor.
        ValueError: If the length or a shape is wrong.
    """
    if len(weights) != len(shapes):
        raise InputError(f"{name}: expected {len(shapes)} tensors, got {len(weights)}")
    for i, (weight, shape) in enumerate(zip(weights, shapes, strict=True)):
        if not isinstance(weight, Tensor):
            raise InputTypeError(f"{name}[{i}]: expected a tensor, got {type(weight).__name__}")
        if list(weight.shape) != list(shape):
            raise InputError(f"{name}[{i}]: expected shape {list(shape)}, got {list(weight.shape)}")
