"""Interpretation of the argument ``weights`` of main networks with context modulation."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from hnetfast._errors import InputTypeError
from hnetfast.mnets._layer_functions import LayerFunctions

_KEYS = ("internal_weights", "mod_weights")


class WeightPlan(NamedTuple):
    """What a main network expects to be given, worked out once.

    Attributes:
        shapes: Shapes of all parameters: those of context modulation first, then the internal ones.
        num_mod: Number of parameters of context modulation.
        own_mod: Whether the network keeps those itself.
        own_internal: Whether it keeps the internal ones itself.
        order: Index in the network's ``param_shapes`` of each entry of ``shapes``, where they differ.
    """

    shapes: tuple[tuple[int, ...], ...]
    num_mod: int
    own_mod: bool
    own_internal: bool
    order: tuple[int, ...] | None = None


class GivenWeights(NamedTuple):
    """The parameters to compute with.

    Attributes:
        mod: Parameters of context modulation.
        internal: All others.
        mod_given: Whether the former came from outside.
        internal_given: Whether the latter came from outside.
    """

    mod: Sequence[torch.Tensor]
    internal: Sequence[torch.Tensor]
    mod_given: bool
    internal_given: bool


def own_tensors(params: nn.ParameterList | Sequence[torch.Tensor] | None) -> list[torch.Tensor]:
    """The entries of a parameter list, without the cost of its item access."""
    if params is None:
        return []
    if isinstance(params, nn.ParameterList):
        return look_up(params, list(map(str, range(len(params)))))
    return list(params)


def look_up(params: nn.ParameterList, names: Sequence[str]) -> list[torch.Tensor]:
    """Entries of a parameter list by their names.

    Args:
        params: The list.
        names: Indices as strings, under which the list has registered the entries.

    Returns:
        The entries.
    """
    registered = params._parameters
    try:
        return [registered[name] for name in names]
    except KeyError:
        # Pruned, parametrised, or replaced by a tensor that is no parameter.
        return [getattr(params, name) for name in names]


def select_weights(
    plan: WeightPlan,
    weights: Any,
    network: Any,
    layers: LayerFunctions,
    batch_size: int | None,
    cmod_ckpt_id: int | None = None,
) -> GivenWeights:
    """Sort the weights given to a network, and fill what is missing from its own.

    Args:
        plan: What the network expects.
        weights: A sequence or dictionary as documented in :meth:`hnetfast.mnets.mlp.MLP.forward`, or None;
            for many sets of weights all tensors have that additional first dimension.
        network: The network, whose own parameters are in the order of its ``param_shapes``.
        layers: How the network is evaluated: with one set of weights or many.
        batch_size: Number of samples; parameters of context modulation may differ between them. None if there
            is no such dimension.
        cmod_ckpt_id: Index of stored weights of context modulation to use where none are given.

    Returns:
        The parameters to use.

    Raises:
        ValueError: If a number of tensors, a shape or a key is wrong, or a parameter is missing.
        TypeError: If something is not a tensor.
    """
    num_mod, num_all = plan.num_mod, len(plan.shapes)
    mod = internal = None
    if weights is None:
        pass
    elif isinstance(weights, Mapping):
        mod, internal = _from_mapping(plan, weights)
    else:
        weights = _as_sequence("weights", weights)
        count = len(weights)
        if count == num_all:
            if plan.order is not None:
                weights = [weights[i] for i in plan.order]
            mod, internal = (weights[:num_mod], weights[num_mod:]) if num_mod else ((), weights)
        elif count == num_all - num_mod and plan.own_mod and not plan.own_internal:
            internal = weights
        elif num_mod and count == num_mod:
            mod = weights
        else:
            raise ValueError(_count_message(plan, weights))

    if mod is not None:
        _check_mod(plan, network, mod, layers.num_sets, batch_size)
    if internal is not None:
        _check_internal(plan, network, internal, layers.num_sets)
        if mod is not None:
            return GivenWeights(mod, internal, True, True)
    own = own_tensors(network._internal_params)
    if plan.order is not None:
        indices = [network.param_shapes_meta[i]["index"] for i in plan.order]
        own = [own[i] for i in indices if i != -1]
    num_own_mod = num_mod if plan.own_mod else 0
    if internal is None:
        if not plan.own_internal:
            raise ValueError(
                "weights: the network was built without weights (no_weights=True), "
                + (
                    "pass them"
                    if weights is None
                    else "what was passed contains only those of context modulation"
                )
            )
        chosen_internal = _for_each_set(own[num_own_mod:], layers.num_sets)
    else:
        chosen_internal = internal
    if mod is None and cmod_ckpt_id is not None:
        stored = [
            weight
            for layer in network.context_mod_layers or ()
            for weight in layer.get_weights(cmod_ckpt_id)
            if weight is not None
        ]
        chosen_mod = _for_each_set(stored, layers.num_sets)
    elif mod is None:
        if num_mod and not plan.own_mod:
            raise ValueError(
                "weights: the context-modulation layers were built without weights "
                "(context_mod_no_weights=True), pass them"
            )
        chosen_mod = _for_each_set(own[:num_own_mod], layers.num_sets)
    else:
        chosen_mod = mod
    return GivenWeights(chosen_mod, chosen_internal, mod is not None, internal is not None)


def _from_mapping(
    plan: WeightPlan, weights: Mapping[str, Any]
) -> tuple[Sequence[torch.Tensor] | None, Sequence[torch.Tensor] | None]:
    unknown = [key for key in weights if key not in _KEYS]
    if unknown or not weights:
        raise ValueError(f"weights: expected a dictionary with keys from {list(_KEYS)}, got {list(weights)}")
    mod, internal = weights.get("mod_weights"), weights.get("internal_weights")
    num_internal = len(plan.shapes) - plan.num_mod
    if mod is not None:
        mod = _as_sequence("weights['mod_weights']", mod)
        if len(mod) != plan.num_mod:
            raise ValueError(f"weights['mod_weights']: expected {plan.num_mod} tensors, got {len(mod)}")
    if internal is not None:
        internal = _as_sequence("weights['internal_weights']", internal)
        if len(internal) != num_internal:
            raise ValueError(
                f"weights['internal_weights']: expected {num_internal} tensors, got {len(internal)}"
            )
    return mod, internal


def _as_sequence(name: str, value: Any) -> Sequence[torch.Tensor]:
    if isinstance(value, (list, tuple)):
        return value
    if isinstance(value, nn.ParameterList):
        return own_tensors(value)
    raise InputTypeError(f"{name}: expected a list of tensors, got {type(value).__name__}")


def _count_message(plan: WeightPlan, weights: Sequence[Any]) -> str:
    num_all, num_mod = len(plan.shapes), plan.num_mod
    accepted = f"{num_all} tensors (all of param_shapes)"
    if num_mod:
        accepted += f" or {num_mod} (those of context modulation)"
        if plan.own_mod and not plan.own_internal:
            accepted += f" or {num_all - num_mod} (hyper_shapes_learned)"
    nested = weights and isinstance(weights[0], (list, tuple))
    got = " lists; pass the weights of one condition" if nested else ""
    return f"weights: expected {accepted}, got {len(weights)}{got}"


def _for_each_set(tensors: list[torch.Tensor], num_sets: int | None) -> list[torch.Tensor]:
    if num_sets is None:
        return tensors
    return [tensor.expand(num_sets, *tensor.shape) for tensor in tensors]


def describe_entry(network: Any, i: int) -> str:
    """Name an entry of a network's parameters, in the order of its plan, in a message."""
    plan = getattr(network, "_plan", None)
    if plan is not None and plan.order is not None:
        i = plan.order[i]
    return f"entry {i} of param_shapes ({network.param_shapes_meta[i]['name']})"


def _check_internal(
    plan: WeightPlan, network: Any, weights: Sequence[torch.Tensor], num_sets: int | None
) -> None:
    i = plan.num_mod
    shapes = plan.shapes
    for weight in weights:
        if not isinstance(weight, torch.Tensor):
            raise TypeError(
                f"weights: {describe_entry(network, i)} must be a tensor, got {type(weight).__name__}"
            )
        shape = shapes[i] if num_sets is None else (num_sets, *shapes[i])
        if weight.shape != shape:
            raise ValueError(
                f"weights: {describe_entry(network, i)} has the shape {list(shape)}, got {list(weight.shape)}"
            )
        i += 1


def _check_mod(
    plan: WeightPlan,
    network: Any,
    weights: Sequence[torch.Tensor],
    num_sets: int | None,
    batch_size: int | None,
) -> None:
    sets = () if num_sets is None else (num_sets,)
    for i, weight in enumerate(weights):
        shape = (*sets, *plan.shapes[i])
        if not isinstance(weight, torch.Tensor):
            raise TypeError(
                f"weights: {describe_entry(network, i)} must be a tensor, got {type(weight).__name__}"
            )
        a_sample = (*sets, batch_size, *plan.shapes[i])
        if weight.shape != shape and (batch_size is None or weight.shape != a_sample):
            raise ValueError(
                f"weights: {describe_entry(network, i)} has the shape {list(shape)} (or, one set a sample, "
                f"{list(a_sample)}), got {list(weight.shape)}"
            )
