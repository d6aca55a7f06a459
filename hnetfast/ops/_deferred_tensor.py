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

    Autograd calls what came last first. An operation that is to follow what has come before its use, not
    before its creation, is therefore inserted at its use.

    Args:
        like: Shape, strides and dtype, on any device.
        device: Where the values are computed.
        compute: Computes them, without a graph.
        at_use: Called with the tensor before each operation on it, gives what to operate on; None for itself.
    """

    _compute: Callable[[], Tensor]
    _at_use: Callable[[DeferredTensor], Tensor] | None

    @staticmethod
    def __new__(
        cls,
        like: Tensor,
        device: torch.device,
        compute: Callable[[], Tensor],
        at_use: Callable[[DeferredTensor], Tensor] | None = None,
    ) -> DeferredTensor:
        deferred = Tensor._make_wrapper_subclass(  # pyright: ignore[reportAttributeAccessIssue]
            cls,
            like.shape,
            strides=like.stride(),
            storage_offset=like.storage_offset(),
            dtype=like.dtype,
            device=device,
        )
        deferred._compute, deferred._at_use = compute, at_use
        return deferred

    def __repr__(self) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        return f"DeferredTensor(shape={list(self.shape)}, dtype={self.dtype}, device={self.device})"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.is_grad_enabled() and func.__name__ != "__get__":  # attributes are not computed with
            args, kwargs = tree_map_only(DeferredTensor, _used, (args, kwargs))
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

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


def _used(deferred: DeferredTensor) -> Tensor:
    return deferred if deferred._at_use is None else deferred._at_use(deferred)


def _view(func: Any, base: DeferredTensor, args: Any, kwargs: Any) -> Any:
    """What a function gives that returns views of its first argument, or one."""
    size = (
        base.storage_offset() + sum((n - 1) * s for n, s in zip(base.shape, base.stride(), strict=True)) + 1
    )
    memory = torch.empty(max(size, 0), dtype=base.dtype, device="meta")
    meta = memory.as_strided(base.shape, base.stride(), base.storage_offset())
    found = func(meta, *args, **kwargs)
    if isinstance(found, Tensor):
        return DeferredTensor(found, base.device, lambda: func(base._compute(), *args, **kwargs))

    def entry(i: int) -> Tensor:
        return func(base._compute(), *args, **kwargs)[i]

    return [DeferredTensor(like, base.device, partial(entry, i)) for i, like in enumerate(found)]
