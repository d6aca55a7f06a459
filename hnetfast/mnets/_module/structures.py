"""Tensors inside of tuples, lists, dictionaries and dataclasses."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hnetfast._errors import InputTypeError

Rebuild = Callable[[Sequence[Tensor]], Any]

_CONSTANTS = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device)


def flatten(value: Any, is_output: bool = False) -> tuple[list[Tensor], Rebuild]:
    """Take a structure apart.

    Unlike PyTorch's own function it needs no registration of dataclasses and of subclasses of dictionaries.

    Args:
        value: A tensor, or tuples (also named ones), lists, dictionaries and dataclasses with such values;
            everything else counts as part of the structure.
        is_output: Refuse objects that may hide tensors.

    Returns:
        The tensors, and a function that puts the structure together from as many others.

    Raises:
        TypeError: If there is such an object.
    """
    if isinstance(value, Tensor):
        return [value], lambda tensors: tensors[0]
    if is_dataclass(value) and not isinstance(value, type):
        entries = {field.name: getattr(value, field.name) for field in fields(value) if field.init}
        return _flatten_entries(
            list(entries.values()),
            lambda new: replace(value, **dict(zip(entries, new, strict=True))),
            is_output,
        )
    if isinstance(value, Mapping):
        return _flatten_entries(list(value.values()), lambda new: _with_values(value, new), is_output)
    if isinstance(value, (tuple, list)):
        cls = type(value)
        build = (lambda new: cls(*new)) if hasattr(value, "_fields") else cls
        return _flatten_entries(value, build, is_output)
    if is_output and not isinstance(value, _CONSTANTS):
        raise InputTypeError(
            "forward_batched: expected outputs to be tensors, numbers, strings, and tuples, lists, "
            f"dictionaries and dataclasses of these, got {type(value).__name__}; tell the module to return "
            "none (those of transformers: use_cache=False)"
        )
    return [], lambda tensors: value


def join_outputs(outputs: Sequence[Any], join: Callable[[tuple[Tensor, ...]], Tensor]) -> Any:
    """Join what a network returned for some sets of weights after the others.

    Args:
        outputs: Structures with as many tensors each.
        join: Joins the tensors of one place.

    Returns:
        Such a structure; what is not a tensor is that of the first.
    """
    flattened, rebuilds = zip(*(flatten(output, is_output=True) for output in outputs), strict=True)
    return rebuilds[0]([join(tensors) for tensors in zip(*flattened, strict=True)])


def _flatten_entries(
    entries: Sequence[Any], build: Callable[[list[Any]], Any], is_output: bool
) -> tuple[list[Tensor], Rebuild]:
    flattened = [flatten(entry, is_output) for entry in entries]

    def rebuild(tensors: Sequence[Tensor]) -> Any:
        remaining = iter(tensors)
        return build([rebuild_entry([next(remaining) for _ in own]) for own, rebuild_entry in flattened])

    return [tensor for own, _ in flattened for tensor in own], rebuild


def _with_values(mapping: Any, values: Sequence[Any]) -> Any:
    new = copy.copy(mapping)
    new.update(zip(mapping, values, strict=True))
    return new
