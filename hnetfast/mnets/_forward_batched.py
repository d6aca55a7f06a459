"""Evaluation of main networks for many sets of weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hnetfast._errors import InputError
from hnetfast.mnets._layer_functions import ManySets
from hnetfast.mnets._structures import flatten, join_outputs
from hnetfast.mnets._weight_sets import WeightSets


def forward_batched(
    network: Any,
    x: Any,
    weights: Any,
    x_per_set: bool | None,
    chunk_size: int | None,
    kwargs: dict[str, Any],
) -> Any:
    """See :meth:`hnetfast.mnets.mnet_interface.MainNetInterface.forward_batched`."""
    sets = WeightSets(network, weights)
    inputs, rebuild = flatten(x)
    if x_per_set is None:
        ndims = network._input_ndims
        x_per_set = isinstance(x, Tensor) and x.ndim not in ndims and x.ndim - 1 in ndims
    for part in inputs if x_per_set else ():
        if part.ndim == 0 or part.shape[0] != sets.num_sets:
            raise InputError(
                f"x: expected one input for each of {sets.num_sets} sets of weights in the first dimension, "
                f"got the shape {list(part.shape)}"
            )
    if chunk_size is None:
        x_of_one = rebuild([part[0] for part in inputs]) if x_per_set else x
        chunk_size = network._sets_at_once(x_of_one, sets.num_sets)
    elif chunk_size <= 0:
        raise ValueError(f"chunk_size: expected a positive number of sets or None, got {chunk_size}")
    slices = _Slices(sets.num_sets, network.hyper_shapes_distilled, kwargs) if kwargs else _NO_ARGUMENTS
    if chunk_size == 1 or slices.have_conditions or not _can_evaluate(network):
        outputs = []
        pieces = [part.unbind(0) for part in inputs] if x_per_set else []
        for b, weights_b in enumerate(sets.singly()):
            x_b = rebuild([piece[b] for piece in pieces]) if x_per_set else x
            outputs.append(network.forward(x_b, weights=weights_b, **slices.one(b)))
        return join_outputs(outputs, _stack)
    if not x_per_set:
        inputs = [part.expand(sets.num_sets, *part.shape) for part in inputs]
    chunk_size = min(chunk_size, sets.num_sets)
    outputs = []
    pieces = [part.split(chunk_size) for part in inputs]
    for i, weights_chunk in enumerate(sets.chunks(chunk_size)):
        start, stop = i * chunk_size, min((i + 1) * chunk_size, sets.num_sets)
        x_chunk = rebuild([piece[i] for piece in pieces])
        layers = ManySets(stop - start)
        outputs.append(network._evaluate(layers, x_chunk, weights_chunk, **slices.many(start, stop)))
    return outputs[0] if len(outputs) == 1 else join_outputs(outputs, torch.cat)


def _can_evaluate(network: Any) -> bool:
    """Whether the network's ``forward`` is one of this package, which only calls its ``_evaluate``."""
    owner = next(cls for cls in type(network).__mro__ if "forward" in vars(cls))
    is_ours = hasattr(network, "_evaluate") and owner.__module__.startswith("hnetfast.")
    return is_ours and not getattr(network, "_takes_one_set", False)


class _Slices:
    """Keyword arguments of ``forward`` for some of the sets.

    ``distilled_params`` may have tensors with an additional first dimension, one entry a set, and
    ``condition`` may be a list of one entry a set; everything else is shared.
    """

    def __init__(
        self, num_sets: int, distilled_shapes: Sequence[Sequence[int]] | None, kwargs: Mapping[str, Any]
    ) -> None:
        self._num_sets = num_sets
        self._kwargs = dict(kwargs)
        self._stats = self._kwargs.get("distilled_params")
        self._stats_are_per_set = False
        if self._stats is not None and distilled_shapes is not None:
            ndims = [len(shape) for shape in distilled_shapes]
            self._stats_are_per_set = any(
                stat.ndim == ndim + 1 for stat, ndim in zip(self._stats, ndims, strict=False)
            )
        conditions = self._kwargs.get("condition")
        self._conditions = conditions if isinstance(conditions, (list, tuple)) else None
        if self._conditions is not None and len(self._conditions) != num_sets:
            raise InputError(
                f"condition: a list must have an entry for each of {num_sets} sets of weights, "
                f"got {len(self._conditions)}"
            )

    @property
    def have_conditions(self) -> bool:
        """Whether the sets have conditions of their own."""
        return self._conditions is not None

    def one(self, index: int) -> dict[str, Any]:
        """For one set."""
        if not self._stats_are_per_set and self._conditions is None:
            return self._kwargs
        kwargs = dict(self._kwargs)
        if self._stats_are_per_set:
            kwargs["distilled_params"] = [stat[index] for stat in self._stats]
        if self._conditions is not None:
            kwargs["condition"] = self._conditions[index]
        return kwargs

    def many(self, start: int, stop: int) -> dict[str, Any]:
        """For a range of sets."""
        if not self._stats_are_per_set:
            return self._kwargs
        return self._kwargs | {"distilled_params": [stat[start:stop] for stat in self._stats]}


_NO_ARGUMENTS = _Slices(0, None, {})


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(tensors)) if len(tensors) > 1 else tensors[0].unsqueeze(0)
