"""The ``hnetfast`` operator namespace, and what every op needs to register itself in it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, MutableMapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from hnetfast import _ext

LIBRARY = torch.library.Library("hnetfast", "DEF")
EXTENSION_LOADED = _ext.load()


def check_dense(op: str, name: str, tensor: Tensor) -> None:
    """Check that an argument of an op is a tensor, and no sparse one.

    Raises:
        TypeError: If not.
    """
    if not isinstance(tensor, Tensor):  # None, which the dispatcher lets pass
        raise TypeError(f"{op}: {name} is {tensor!r}, expected a tensor")
    if tensor.layout != torch.strided:
        raise TypeError(f"{op}: {name} has layout {tensor.layout}, expected a dense tensor")


def check_tensor(op: str, name: str, tensor: Tensor, shape: tuple[int, ...], like: Tensor) -> None:
    """Check that a tensor has a shape, and dtype and device of another.

    Raises:
        ValueError: If not.
    """
    check_dense(op, name, tensor)
    if tuple(tensor.shape) != shape or tensor.dtype != like.dtype or tensor.device != like.device:
        raise ValueError(
            f"{op}: {name} is {tensor.dtype} {tuple(tensor.shape)} on {tensor.device}, expected {like.dtype} "
            f"{shape} on {like.device}"
        )


def is_forward_mode() -> bool:
    """Returns whether tensors may carry tangents (forward-mode differentiation), which no kernel knows of."""
    return forward_ad._current_level >= 0


def without_autocast(device_type: str) -> AbstractContextManager:
    """Turn automatic mixed precision off, on a kind of device that may not have it."""
    if device_type == "meta" or not torch.is_autocast_enabled(device_type):
        return nullcontext()
    return torch.autocast(device_type, enabled=False)


def may_remember() -> bool:
    """Returns whether tensors that are made now may be kept for later calls.

    Those of a traced graph, of a transform of :mod:`torch.func` and fake ones mean nothing outside of it.
    """
    return not (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is not None
    )


def remembered(known: MutableMapping, key: Hashable, find: Callable[[], Any]) -> Any:
    """Look something up, or find it out and, if that may be, keep it."""
    if key in known:
        return known[key]
    with torch.inference_mode(False):  # autograd could not save tensors made in it
        found = find()
    if may_remember():
        known[key] = found
    return found


def takes_plain_tensors() -> bool:
    """Returns whether an op whose gradient is part of its C++ may be called.

    Tracing, :mod:`torch.func` and forward-mode differentiation need operations that they know.
    """
    return not (
        torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active() or is_forward_mode()
    )


def loop_over_batch(op: Callable, info, in_dims: Sequence, *args):
    """A ``vmap`` rule that calls ``op`` once for every element of the batch and stacks the results.

    For arguments whose batching cannot be folded into the op's own dimensions (batched weights, mostly).

    Args:
        op: The operator; its results are a tensor or a (nested) sequence of tensors.
        info: What ``vmap`` passes to its rules (``info.batch_size``).
        in_dims: For each argument, the batched dimension, ``None``, or a list of those for a list argument.
        *args: The arguments.

    Returns:
        The stacked results and their batch dimensions (all 0).
    """

    def pick(argument, dim, i: int):
        if isinstance(dim, (list, tuple)):
            return [pick(a, d, i) for a, d in zip(argument, dim, strict=True)]
        if dim is None:
            return argument
        if info.batch_size == 0:  # any element, of a batch that has none
            return argument.new_zeros(argument.movedim(dim, 0).shape[1:])
        return argument.select(dim, i)

    def stack(results):
        if isinstance(results[0], Tensor):
            return torch.stack(results)[: info.batch_size]
        return type(results[0])(stack(list(column)) for column in zip(*results, strict=True))

    def zeros(results):
        return 0 if isinstance(results, Tensor) else type(results)(zeros(r) for r in results)

    results = [
        op(*(pick(a, d, i) for a, d in zip(args, in_dims, strict=True)))
        for i in range(max(info.batch_size, 1))
    ]
    stacked = stack(results)
    return stacked, zeros(stacked)
