"""Many sets of weights, in any of the formats that a hypernetwork returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from hnetfast._errors import InputError, InputTypeError
from hnetfast.ops.split_targets import split_stacked, split_targets

Shapes = Sequence[Sequence[int]]


class WeightSets:
    """The sets of weights given to ``forward_batched``.

    Args:
        network: The network.
        weights: A tensor ``[B, n]``, B lists of tensors, a list of tensors ``[B, *shape]``, or a dictionary
            of these.

    Raises:
        TypeError: If ``weights`` is nothing of that.
        ValueError: If a number of weights or of sets does not fit.
    """

    def __init__(self, network: Any, weights: Any) -> None:
        self._keys: list[str] | None = None
        all_shapes = network.param_shapes
        if isinstance(weights, Tensor) and weights.ndim == 2 and weights.shape[1] == network.num_params:
            self._parts = [_FlatSets(weights, all_shapes)]
        else:
            self._sort(network, all_shapes, weights)
        counts = [part.num_sets for part in self._parts]
        if any(count != counts[0] for count in counts):
            raise InputError(f"weights: the entries have different numbers of sets, {counts}")
        self.num_sets = counts[0]
        if self.num_sets == 0:
            raise InputError("weights: expected at least one set, got none")

    def _sort(self, network: Any, all_shapes: Shapes, weights: Any) -> None:
        """Find out what the weights are weights of."""
        learned = network.hyper_shapes_learned
        num_mod = sum(len(layer.param_shapes) for layer in network.context_mod_layers or ())
        plan = getattr(network, "_plan", None)
        if plan is not None and plan.order is not None:
            sorted_shapes = plan.shapes
        else:
            sorted_shapes = all_shapes
        mod, internal = sorted_shapes[:num_mod], sorted_shapes[num_mod:]
        if isinstance(weights, Mapping):
            given = {key: value for key, value in weights.items() if value is not None}
            self._keys = list(given)
            accepted = {"mod_weights": [mod], "internal_weights": [internal]}
            # Which other keys there may be is for the network to say.
            self._parts = [
                _part(f"weights[{key!r}]", value, accepted.get(key, [all_shapes]))
                for key, value in given.items()
            ]
            if not given:
                raise InputError("weights: expected at least one entry that is not None, got none")
        else:
            candidates = [shapes for shapes in (all_shapes, learned, mod) if shapes]
            self._parts = [_part("weights", weights, candidates)]

    def singly(self) -> list[Any]:
        """What to pass to ``forward`` for every set."""
        return self._assemble([part.singly() for part in self._parts])

    def chunks(self, size: int) -> list[Any]:
        """The same for several sets at once, whose tensors have one more dimension in front.

        Args:
            size: Number of sets, fewer in the last entry.
        """
        return self._assemble([part.chunks(size) for part in self._parts])

    def _assemble(self, parts: list[list[Any]]) -> list[Any]:
        if self._keys is None:
            return parts[0]
        return [dict(zip(self._keys, entries, strict=True)) for entries in zip(*parts, strict=True)]


class _FlatSets:
    """The rows of a tensor ``[B, n]``."""

    def __init__(self, flat: Tensor, shapes: Shapes) -> None:
        self.num_sets = flat.shape[0]
        self._flat, self._shapes = flat, shapes

    def singly(self) -> list[list[Tensor]]:
        return split_targets(self._flat.contiguous(), self._shapes)

    def chunks(self, size: int) -> list[list[Tensor]]:
        rows = self._flat.split(size) if size < self.num_sets else [self._flat]
        return [split_stacked(row, self._shapes) for row in rows]


class _NestedSets:
    """B lists of tensors."""

    def __init__(self, sets: Sequence[Sequence[Tensor]]) -> None:
        self.num_sets = len(sets)
        self._sets = [list(tensors) for tensors in sets]

    def singly(self) -> list[list[Tensor]]:
        return self._sets

    def chunks(self, size: int) -> list[list[Tensor]]:
        return [
            [torch.stack(tensors) for tensors in zip(*self._sets[i : i + size], strict=True)]
            for i in range(0, self.num_sets, size)
        ]


class _StackedSets:
    """A list of tensors ``[B, *shape]``."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.num_sets = tensors[0].shape[0]
        self._tensors = list(tensors)

    def singly(self) -> list[list[Tensor]]:
        return [list(tensors) for tensors in zip(*(t.unbind(0) for t in self._tensors), strict=True)]

    def chunks(self, size: int) -> list[list[Tensor]]:
        if size >= self.num_sets:
            return [self._tensors]
        return [list(tensors) for tensors in zip(*(t.split(size) for t in self._tensors), strict=True)]


def _part(name: str, value: Any, candidates: Sequence[Shapes]) -> _FlatSets | _NestedSets | _StackedSets:
    if isinstance(value, Tensor):
        for shapes in candidates:
            if value.ndim == 2 and value.shape[1] == sum(prod(shape) for shape in shapes):
                return _FlatSets(value, shapes)
        sizes = [sum(prod(shape) for shape in shapes) for shapes in candidates]
        accepted = " or ".join(dict.fromkeys(f"[B, {size}]" for size in sizes))
        raise InputError(f"{name}: expected the shape {accepted}, got {list(value.shape)}")
    if not isinstance(value, (list, tuple, nn.ParameterList)) or len(value) == 0:
        raise InputTypeError(
            f"{name}: expected a tensor [B, n], a list of B lists of tensors or a list of tensors "
            f"[B, *shape], got {type(value).__name__ if not isinstance(value, list) else 'an empty list'}"
        )
    if isinstance(value[0], (list, tuple, nn.ParameterList)):
        for b, tensors in enumerate(value):
            if not isinstance(tensors, (list, tuple, nn.ParameterList)) or len(tensors) != len(value[0]):
                raise InputError(
                    f"{name}[{b}]: expected a list of {len(value[0])} tensors like {name}[0], "
                    f"got {tensors!r:.80}"
                )
            _check_tensors(f"{name}[{b}]", tensors)
            _check_shapes(f"{name}[{b}]", tensors, candidates)
        return _NestedSets(value)
    _check_tensors(name, value)
    shapes = next((shapes for shapes in candidates if len(shapes) == len(value)), None)
    if shapes is not None and all(t.shape == tuple(s) for t, s in zip(value, shapes, strict=True)):
        return _NestedSets([value])  # what a hypernetwork returns for one condition, "squeezed"
    if any(tensor.ndim == 0 or tensor.shape[0] != value[0].shape[0] for tensor in value):
        counts = [tensor.shape[0] if tensor.ndim else None for tensor in value]
        raise InputError(
            f"{name}: the tensors must have the number of sets as first dimension, got sizes {counts}"
        )
    return _StackedSets(value)


def _check_tensors(name: str, tensors: Sequence[Any]) -> None:
    for i, tensor in enumerate(tensors):
        if not isinstance(tensor, Tensor):
            raise InputTypeError(f"{name}[{i}]: expected a tensor, got {type(tensor).__name__}")


def _check_shapes(name: str, tensors: Sequence[Tensor], candidates: Sequence[Shapes]) -> None:
    """Refuse shapes that cannot be stacked; parameters of context modulation may have one more dimension."""
    shapes = next((shapes for shapes in candidates if len(shapes) == len(tensors)), None)
    for i, (tensor, shape) in enumerate(zip(tensors, shapes or (), strict=False)):
        if tensor.shape != tuple(shape) and tensor.shape[1:] != tuple(shape):
            raise InputError(f"{name}[{i}]: expected the shape {list(shape)}, got {list(tensor.shape)}")
