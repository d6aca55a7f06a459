"""Evaluation of main networks for many sets of weights, in any of the formats that a hypernetwork returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, cast

import torch
from torch import Tensor, nn

from hnetfast._checks import check_integer, check_tensor
from hnetfast._errors import InputError, InputTypeError
from hnetfast.mnets._layer_functions import ManySets
from hnetfast.mnets._lazy_weights import LazyWeightSets, is_hypernetwork, split_arguments
from hnetfast.mnets._module.structures import flatten, join_outputs
from hnetfast.ops.split_targets import split_stacked, split_targets

Shapes = Sequence[Sequence[int]]


def forward_batched(
    network: Any,
    x: Any,
    weights: Any,
    x_per_set: bool | None,
    chunk_size: int | None,
    lazy: bool,
    kwargs: dict[str, Any],
) -> Any:
    """Compute the outputs of a network for B sets of weights.

    Args:
        network: The network.
        x: One input for all sets, or ``[B, ...]``.
        weights: The sets, as :class:`WeightSets` takes them, or with ``lazy`` as
            :class:`~hnetfast.mnets._lazy_weights.LazyWeightSets` does.
        x_per_set: Whether ``x`` is ``[B, ...]``, None to tell it from the number of dimensions.
        chunk_size: How many sets to evaluate at a time, None for as many as suits.
        lazy: Whether weights are generated when they are needed.
        kwargs: Further arguments of the network's ``forward``, and with ``lazy`` the hypernetwork's inputs.

    Returns:
        What ``forward`` returns, every tensor with an additional first dimension of size B.
    """
    if lazy:
        arguments, kwargs = split_arguments(weights, kwargs)
        sets = LazyWeightSets(network, weights, arguments)
        chunk_size = chunk_size if network._computes_by_layers else 1
    else:
        sets = WeightSets(network, weights)
    return _evaluate_sets(network, x, sets, x_per_set, chunk_size, kwargs)


def _evaluate_sets(
    network: Any,
    x: Any,
    sets: WeightSets | LazyWeightSets,
    x_per_set: bool | None,
    chunk_size: int | None,
    kwargs: dict[str, Any],
) -> Any:
    """Compute the outputs of a network for sets of weights; see :func:`forward_batched`."""
    if "rows" in kwargs and can_evaluate(network):
        raise InputTypeError(
            f"rows: expected a network of from_module, got {type(network).__name__}, which "
            "evaluates the whole batch with every set"
        )
    inputs, rebuild = flatten(x)
    if x_per_set is None:
        ndims = network._input_ndims
        x_per_set = isinstance(x, Tensor) and x.ndim not in ndims and x.ndim - 1 in ndims
    for tensor in inputs if x_per_set else ():
        if tensor.ndim == 0 or tensor.shape[0] != sets.num_sets:
            raise InputError(
                f"x: expected one input for each of {sets.num_sets} sets of weights in the first dimension, "
                f"got the shape {list(tensor.shape)}"
            )
    if chunk_size is None:
        x_of_one = rebuild([tensor[0] for tensor in inputs]) if x_per_set else x
        size = network._sets_at_once(x_of_one, sets.num_sets)
    else:
        size = check_integer("chunk_size", chunk_size, 1)
    slices = _Slices(sets.num_sets, network.hyper_shapes_distilled, kwargs) if kwargs else _NO_ARGUMENTS
    if size == 1 or slices.have_conditions or not can_evaluate(network):
        outputs = []
        pieces = [tensor.unbind(0) for tensor in inputs] if x_per_set else []
        for b, weights_b in enumerate(sets.singly()):
            x_b = rebuild([piece[b] for piece in pieces]) if x_per_set else x
            outputs.append(network.forward(x_b, weights=weights_b, **slices.one(b)))
        return join_outputs(outputs, _stack)
    if not x_per_set:
        inputs = [tensor.expand(sets.num_sets, *tensor.shape) for tensor in inputs]
    size = min(size, sets.num_sets)
    outputs = []
    pieces = [tensor.split(size) if size < sets.num_sets else (tensor,) for tensor in inputs]
    for i, weights_chunk in enumerate(sets.chunks(size)):
        start, stop = i * size, min((i + 1) * size, sets.num_sets)
        x_chunk = rebuild([piece[i] for piece in pieces])
        layers = ManySets(stop - start)
        outputs.append(network._evaluate(layers, x_chunk, weights_chunk, **slices.many(start, stop)))
    return outputs[0] if len(outputs) == 1 else join_outputs(outputs, torch.cat)


def can_evaluate(network: Any) -> bool:
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
                f"condition: expected one entry for each of {num_sets} sets of weights, "
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
            kwargs["distilled_params"] = [stat[index] for stat in self._stats or ()]
        if self._conditions is not None:
            kwargs["condition"] = self._conditions[index]
        return kwargs

    def many(self, start: int, stop: int) -> dict[str, Any]:
        """For a range of sets."""
        if not self._stats_are_per_set:
            return self._kwargs
        return self._kwargs | {"distilled_params": [stat[start:stop] for stat in self._stats or ()]}


_NO_ARGUMENTS = _Slices(0, None, {})


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(tensors)) if len(tensors) > 1 else tensors[0].unsqueeze(0)


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
            self._entries = [_FlatSets(weights, all_shapes)]
        else:
            self._sort(network, all_shapes, weights)
        counts = [entry.num_sets for entry in self._entries]
        if any(count != counts[0] for count in counts):
            raise InputError(f"weights: expected the same number of sets in all entries, got {counts}")
        self.num_sets = counts[0]
        if self.num_sets == 0:
            raise InputError("weights: expected at least one set, got none")

    def _sort(self, network: Any, all_shapes: Shapes, weights: Any) -> None:
        """Find out what the weights are weights of."""
        if is_hypernetwork(weights):
            raise InputTypeError(
                "weights: expected what a hypernetwork returns, got a hypernetwork; call it, or pass "
                "lazy=True"
            )
        learned = network.hyper_shapes_learned
        num_mod = sum(len(layer.param_shapes) for layer in network.context_mod_layers or ())
        plan = getattr(network, "_plan", None)
        sorted_shapes = all_shapes if plan is None or plan.order is None else plan.shapes
        mod, internal = sorted_shapes[:num_mod], sorted_shapes[num_mod:]
        if isinstance(weights, Mapping):
            given = {key: value for key, value in weights.items() if value is not None}
            self._keys = list(given)
            accepted = {"mod_weights": [mod], "internal_weights": [internal]}
            # Which other keys there may be is for the network to say.
            self._entries = [
                _entry(f"weights[{key!r}]", value, accepted.get(key, [all_shapes]))
                for key, value in given.items()
            ]
            if not given:
                raise InputError("weights: expected at least one entry that is not None, got none")
        else:
            candidates = [shapes for shapes in (all_shapes, learned, mod) if shapes]
            self._entries = [_entry("weights", weights, candidates)]

    def singly(self) -> list[Any]:
        """What to pass to ``forward`` for every set."""
        return self._assemble([entry.singly() for entry in self._entries])

    def chunks(self, size: int) -> list[Any]:
        """The same for several sets at once, whose tensors have one more dimension in front.

        Args:
            size: Number of sets, fewer in the last entry.
        """
        return self._assemble([entry.chunks(size) for entry in self._entries])

    def _assemble(self, entries: list[list[Any]]) -> list[Any]:
        if self._keys is None:
            return entries[0]
        return [dict(zip(self._keys, of_keys, strict=True)) for of_keys in zip(*entries, strict=True)]


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


def _entry(name: str, value: Any, candidates: Sequence[Shapes]) -> _FlatSets | _NestedSets | _StackedSets:
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
    value = cast("Sequence[Any]", value)  # or a parameter list, which does as well
    if isinstance(value[0], (list, tuple, nn.ParameterList)):
        for b, tensors in enumerate(value):
            if not isinstance(tensors, (list, tuple, nn.ParameterList)) or len(tensors) != len(value[0]):
                raise InputError(
                    f"{name}[{b}]: expected a list of {len(value[0])} tensors like {name}[0], "
                    f"got {tensors!r:.80}"
                )
            tensors = cast("Sequence[Tensor]", tensors)
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
            f"{name}: expected tensors with the number of sets as first dimension, got the sizes {counts}"
        )
    return _StackedSets(value)


def _check_tensors(name: str, tensors: Sequence[Any]) -> None:
    for i, tensor in enumerate(tensors):
        check_tensor(f"{name}[{i}]", tensor)


def _check_shapes(name: str, tensors: Sequence[Tensor], candidates: Sequence[Shapes]) -> None:
    """Refuse shapes that cannot be stacked; parameters of context modulation may have one more dimension."""
    shapes = next((shapes for shapes in candidates if len(shapes) == len(tensors)), None)
    for i, (tensor, shape) in enumerate(zip(tensors, shapes or (), strict=False)):
        if tensor.shape != tuple(shape) and tensor.shape[1:] != tuple(shape):
            raise InputError(f"{name}[{i}]: expected the shape {list(shape)}, got {list(tensor.shape)}")
