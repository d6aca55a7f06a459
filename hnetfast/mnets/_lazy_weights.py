"""Weights that main networks have a hypernetwork generate when they need them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor

from hnetfast._errors import InputError, InputTypeError, UnsupportedError

_INPUTS = ("uncond_input", "cond_input", "cond_id")


def is_hypernetwork(value: Any) -> bool:
    """Whether something is a hypernetwork, or one with its arguments."""
    return hasattr(value.func if isinstance(value, partial) else value, "_output_ranges")


class LazyWeightSets:
    """The sets of weights that a hypernetwork generates, one tensor at a time.

    Args:
        network: The main network.
        weights: The hypernetwork, or a :func:`functools.partial` of it.
        arguments: Its inputs, none with a partial.

    Raises:
        TypeError: If ``weights`` is something else.
        ValueError: If the number of generated weights does not fit, or weights cannot be generated tensor by
            tensor here.
    """

    def __init__(self, network: Any, weights: Any, arguments: Mapping[str, Any]) -> None:
        if not is_hypernetwork(weights):
            raise InputTypeError(
                "weights: expected a hypernetwork, or functools.partial of one, with lazy=True, got "
                f"{type(weights).__name__}"
            )
        if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
            raise UnsupportedError(
                "lazy: expected False in torch.compile and transforms of torch.func, got True"
            )
        bound = weights if isinstance(weights, partial) else partial(weights, **arguments)
        hnet: Any = bound.func
        self._shapes = self._shapes_of(network, hnet.num_outputs)
        self._ranges = hnet._output_ranges(*bound.args, **bound.keywords)
        self.num_sets = self._ranges.num_conditions

    @staticmethod
    def _shapes_of(network: Any, num_outputs: int) -> list[tuple[int, ...]]:
        mod = [shape for layer in network.context_mod_layers or () for shape in layer.param_shapes]
        candidates = [
            shapes for shapes in (network.param_shapes, network.hyper_shapes_learned, mod) if shapes
        ]
        sizes = [sum(prod(shape) for shape in shapes) for shapes in candidates]
        if num_outputs not in sizes:
            accepted = " or ".join(map(str, dict.fromkeys(sizes)))
            raise InputError(
                f"weights: expected a hypernetwork that generates {accepted} weights, got one that "
                f"generates {num_outputs}"
            )
        return [tuple(shape) for shape in candidates[sizes.index(num_outputs)]]

    def singly(self) -> list[list[Tensor]]:
        """What to pass to ``forward`` for every set."""
        return [self._ranges.tensors(self._shapes, b, b + 1, stacked=False) for b in range(self.num_sets)]

    def chunks(self, size: int) -> list[list[Tensor]]:
        """The same for several sets at once, whose tensors have one more dimension in front.

        Args:
            size: Number of sets, fewer in the last entry.
        """
        starts = range(0, self.num_sets, size)
        return [
            self._ranges.tensors(self._shapes, start, min(start + size, self.num_sets), stacked=True)
            for start in starts
        ]


def split_arguments(weights: Any, kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tell the hypernetwork's inputs from further arguments of the main network's ``forward``.

    Args:
        weights: The hypernetwork; a partial of one has all its inputs.
        kwargs: Both.

    Raises:
        TypeError: If there are inputs besides a partial.
    """
    given = {name: value for name, value in kwargs.items() if name in _INPUTS}
    if given and isinstance(weights, partial):
        raise InputTypeError(f"{next(iter(given))}: give it in the functools.partial of the hypernetwork")
    return given, {name: value for name, value in kwargs.items() if name not in given}
