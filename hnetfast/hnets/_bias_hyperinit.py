"""Biases with which generation starts at the initial values of a main network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hnetfast._checks import check_tensors
from hnetfast._errors import InputError, InputTypeError
from hnetfast.hnets._hyperfan import describe_targets
from hnetfast.mnets.mnet_interface import MainNetInterface
from hnetfast.mnets.module_target import ModuleTarget

# Bias-HyperInit: Beck et al., "Hypernetworks in Meta-Reinforcement Learning", 2022, section 4.
_CONSTANTS = {"bn_scale": 1.0, "bn_shift": 0.0, "cm_scale": 1.0, "cm_shift": 0.0}

Changes = list[tuple[Tensor, Tensor]]


class Wanted(NamedTuple):
    """What outputs of a hypernetwork, or of a part of it, are to be at first.

    Attributes:
        values: The values, ``[n]``.
        known: Which of them matter, bool ``[n]``.
        free: The number of a set of outputs that may as well have the values of one another, as those that
            are drawn at random and multiplied by zeros; -1 for all others, int32 ``[n]``.
    """

    values: Tensor
    known: Tensor
    free: Tensor

    def __getitem__(self, some: Any) -> Wanted:
        """Some of the outputs."""
        return Wanted(self.values[some], self.known[some], self.free[some])

    def moved(self, sources: Tensor, count: int) -> Wanted:
        """The same for what the outputs are put together from.

        Args:
            sources: For each output the number of its source, int64 ``[n]``.
            count: Number of sources.

        Raises:
            ValueError: If outputs of one source are to be different.
        """
        values, known = self.values.new_zeros(count), self.known.new_zeros(count)
        free = self.free.new_full((count,), -1)
        values[sources], known[sources], free[sources] = self.values, True, self.free
        if not torch.equal(values[sources], self.values):
            raise InputError(
                "target: weights that the hypernetwork generates once for several places have different "
                "initial values there"
            )
        return Wanted(values, known, free)

    def merged(self, chunks: int, name: str) -> Wanted:
        """The same for one of several chunks, which get it from a common bias.

        Args:
            chunks: Number of the chunks, which are together all outputs.
            name: What the message calls them.

        Raises:
            ValueError: If they are to be different.
        """
        values, known, free = (tensor.view(chunks, -1) for tensor in self)
        first = known.int().argmax(0, keepdim=True)
        common, set_of = values.gather(0, first), free.gather(0, first)
        differs = known & (values != common)
        if bool((differs & ((free != set_of) | (free < 0))).any()):
            raise InputError(
                f"target: the initial values of {name} differ, but one bias is what all of them start with; "
                "HMLP has a bias for each weight, and LayerHMLP with use_offsets=True, too"
            )
        return Wanted(common[0], known.any(0), set_of[0])


def wanted_of(shapes: Sequence[Sequence[int]], target: Any) -> Wanted:
    """The initial values of a main network.

    Args:
        shapes: Shapes of the generated tensors.
        target: The main network, or the values.

    Raises:
        TypeError, ValueError: If it is something else, or of other shapes.
    """
    shapes = [list(shape) for shape in shapes]
    meta: Sequence[dict[str, Any]] = [{}] * len(shapes)
    if isinstance(target, MainNetInterface):
        values, meta = _values_of(shapes, target)
    elif isinstance(target, (list, tuple)):
        check_tensors("target", target, shapes)
        values = list(target)
    else:
        raise InputTypeError(
            f"target: expected a main network or a list of tensors, got {type(target).__name__}"
        )
    for i, value in enumerate(values):
        if value.is_meta:
            raise InputError(f"target: tensor {i} is on the device meta, and has no initial value")
    multiplied_by_zeros = _multiplied_by_zeros(values, meta)
    sets: dict[Any, int] = {}
    flat, free = [], []
    for i, (value, entry) in enumerate(zip(values, meta, strict=True)):
        value = value.detach().flatten().to("cpu")
        is_random = i in multiplied_by_zeros and value.numel() > 1 and bool((value != value[0]).any())
        number = sets.setdefault(entry["adapter_kind"], len(sets)) if is_random else -1
        flat.append(value)
        free.append(torch.full(value.shape, number, dtype=torch.int32, device="cpu"))
    joined = torch.cat(flat)
    return Wanted(joined, torch.ones_like(joined, dtype=torch.bool), torch.cat(free))


def _multiplied_by_zeros(values: Sequence[Tensor], meta: Sequence[dict[str, Any]]) -> set[int]:
    """Which tensors belong to adapters that do nothing, because another matrix of theirs is zero."""
    adapters: dict[Any, list[int]] = {}
    for i, entry in enumerate(meta):
        if kind := entry.get("adapter_kind"):
            place = entry["qualified_name"].removesuffix(f".{kind}")
            adapters.setdefault((place, kind.partition("_")[0]), []).append(i)
    zeros = {i for own in adapters.values() for i in own if values[i].ndim > 1 and not values[i].any()}
    return {i for own in adapters.values() for i in own if zeros.intersection(own) - {i}}


def _values_of(
    shapes: list[list[int]], target: MainNetInterface
) -> tuple[list[Tensor], Sequence[dict[str, Any]]]:
    every = range(len(target.param_shapes))
    candidates = [list(target.hyper_shapes_learned_ref or ()), list(every)]
    chosen = next((ref for ref in candidates if [list(target.param_shapes[i]) for i in ref] == shapes), None)
    if chosen is None:
        raise InputError(
            f"target: the hypernetwork generates {len(shapes)} tensors, which are neither "
            "hyper_shapes_learned nor param_shapes of this main network"
        )
    meta = target.param_shapes_meta
    internal: list[Tensor] = list(target.internal_params or ())
    given: dict[int, Tensor] = {}
    if isinstance(target, ModuleTarget):
        given = dict(zip(target.hyper_shapes_learned_ref or (), target.initial_weights, strict=True))
    usual = None
    values = []
    for i, index in enumerate(chosen):
        if meta[index]["index"] != -1:
            values.append(internal[meta[index]["index"]])
        elif index in given:
            values.append(given[index])
        else:
            usual = describe_targets(shapes, target) if usual is None else usual
            values.append(_usual_value(usual[i].name, shapes[i], usual[i].fan_in))
    return values, [meta[i] for i in chosen]


def _usual_value(name: str | None, shape: Sequence[int], fan_in: int) -> Tensor:
    """What PyTorch's layers have at first."""
    value = torch.empty(*shape, device="cpu")
    if name in _CONSTANTS:
        return value.fill_(_CONSTANTS[name])
    if name == "embedding":
        return value.normal_()
    bound = 1 / math.sqrt(max(fan_in, 1))
    return value.uniform_(-bound, bound)


def apply(changes: Changes) -> None:
    """Put new values into parameters.

    Args:
        changes: Parameters and their values.
    """
    with torch.no_grad():
        for param, value in changes:
            param.copy_(value.view(param.shape))


def keep_unknown(param: Tensor, wanted: Wanted) -> tuple[Tensor, Tensor]:
    """The change of a parameter that is to have given values where they are known."""
    values = wanted.values.to(param)
    return param, torch.where(wanted.known.to(param.device), values, param.detach().flatten())
