"""Tensors whose values are computed whenever an operation needs them, and kept by nobody."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from hnetfast._errors import UnsupportedError


class DeferredTensor(Tensor):
    """Tensor without values: every operation on it computes them anew, and frees them when it is done.

    To autograd it is a tensor as any other, which graphs hold in the place of its values: the backward pass
    computes them once more. Views of it are deferred too; other results are not.

    Args:
        like: Shape, strides and dtype, on any device.
        device: Where the values are computed.
        compute: Computes them, without a graph.
    """

    _compute: Callable[[], Tensor]

    @staticmethod
    def __new__(cls, like: Tensor, device: torch.device, compute: Callable[[], Tensor]) -> DeferredTensor:
        deferred = Tensor._make_wrapper_subclass(  # pyright: ignore[reportAttributeAccessIssue]
            cls,
            like.shape,
            strides=like.stride(),
            storage_offset=like.storage_offset(),
            dtype=like.dtype,
            device=device,
        )
        deferred._compute = compute
        return deferred

    def __repr__(self) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        return f"DeferredTensor(shape={list(self.shape)}, dtype={self.dtype}, device={self.device})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for argument, value in zip(func._schema.arguments, args, strict=False):
            is_written = argument.alias_info is not None and argument.alias_info.is_write
            if is_written and isinstance(value, DeferredTensor):
                raise UnsupportedError(
                    f"lazy: weights generated when they are needed can't be changed in place, by {func}"
                )
        if func.is_view and isinstance(args[0], DeferredTensor):
            return _view(func, args[0], args[1:], kwargs)
        args, kwargs = tree_map_only(DeferredTensor, lambda deferred: deferred._compute(), (args, kwargs))
        return func(*args, **kwargs)


def _view(func: Any, base: DeferredTensor, args: Any, kwargs: Any) -> Any:
    """What a function gives that returns views of its first argument, or one."""
    meta = torch.empty_strided(base.shape, base.stride(), dtype=base.dtype, device="meta")
    found = func(meta, *args, **kwargs)
    if isinstance(found, Tensor):
        return DeferredTensor(found, base.device, lambda: func(base._compute(), *args, **kwargs))

    def entry(i: int) -> Tensor:
        return func(base._compute(), *args, **kwargs)[i]

    return [DeferredTensor(like, base.device, partial(entry, i)) for i, like in enumerate(found)]
