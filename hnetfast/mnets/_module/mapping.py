"""Calls of a module for many sets of weights by ``torch.vmap``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from hnetfast._failures import is_about_vmap, is_out_of_memory
from hnetfast.mnets._module.calling import BufferState
from hnetfast.mnets._module.structures import Rebuild, flatten


class CannotVmap(Exception):
    """The module can't be evaluated for so many sets at once.

    Args:
        is_permanent: Whether it does something that must be done for one set of weights after the other.
        lacks_memory: Whether there was not enough memory.
    """

    def __init__(self, is_permanent: bool, lacks_memory: bool = False) -> None:
        super().__init__()
        self.is_permanent, self.lacks_memory = is_permanent, lacks_memory


def compute_mapped(
    compute: Callable[..., Any],
    inputs: Sequence[Tensor],
    rebuild: Rebuild,
    weights: Sequence[Tensor],
    statistics: Sequence[Tensor] | None,
    state: BufferState | None,
) -> Any:
    """Call a module for many sets of weights at once.

    Args:
        compute: Calls it for one set: gets its input, ``weights`` and ``statistics``.
        inputs: ``[B, ...]``, of stride 0 in the first dimension where all sets share one.
        rebuild: Makes the module's input of them.
        weights: ``[B, *shape]``.
        statistics: Running statistics ``[B, channels]`` or ``[channels]``, or None.
        state: The buffers of the module, None if it is known that it does not change them.

    Returns:
        What the module returns, every tensor ``[B, ...]``.

    Raises:
        CannotVmap: It could not be called so.
    """
    rebuild_output: list[Rebuild] = []

    def compute_one(
        inputs: list[Tensor], weights: list[Tensor], statistics: list[Tensor] | None
    ) -> list[Tensor]:
        output = compute(rebuild(inputs), weights=weights, statistics=statistics)
        tensors, rebuild_one = flatten(output, is_output=True)
        rebuild_output[:] = [rebuild_one]
        return tensors

    shared = [tensor.stride(0) == 0 for tensor in inputs]
    in_dims = (
        [None if is_shared else 0 for is_shared in shared],
        [0] * len(weights),
        None if statistics is None else [0 if stat.ndim == 2 else None for stat in statistics],
    )
    one_input = [t[0] if is_shared else t for t, is_shared in zip(inputs, shared, strict=True)]
    try:
        with _mappable_attention(weights[0].device.type):
            tensors = torch.vmap(compute_one, in_dims, randomness="different")(
                one_input, list(weights), None if statistics is None else list(statistics)
            )
    except Exception as error:
        # Whatever it is that vmap cannot do; if the input is wrong, the loop will tell.
        if state is not None:
            state.restore()
        raise CannotVmap(is_about_vmap(error), is_out_of_memory(error)) from None
    if state is not None and state.has_changed():
        state.restore()
        raise CannotVmap(is_permanent=True)
    return rebuild_output[0](tensors)


@contextmanager
def _mappable_attention(device_type: str) -> Iterator[None]:
    """Keep attention from fused functions without a batching rule.

    One of them has no derivative either, but is chosen because inside of vmap no tensor seems to need one.
    """
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH) if device_type == "cpu" else nullcontext():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
