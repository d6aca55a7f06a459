"""Interpretation of the argument ``weights`` of main networks with context modulation."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn

from hnetfast._checks import check_placement, check_tensor
from hnetfast._errors import InputError, InputTypeError
from hnetfast._parameter_lists import own_tensors
from hnetfast.mnets._layer_functions import LayerFunctions


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

    @classmethod
    def of(cls, network: Any) -> "WeightPlan":
        """The plan of a network that has registered its parameters in this order."""
        return cls(
            tuple(tuple(shape) for shape in network._param_shapes),
            network._num_context_mod_shapes(),
            not network._context_mod_no_weights,
            not network._no_weights,
        )


class GivenWeights(NamedTuple):
    """The parameters to compute with.

    Attributes:
        mod: Parameters of context modulation.
        internal: All others.
        mod_given: Whether the former came from outside.
        internal_given: Whether the latter came from outside.
    """

    mod: Sequence[Tensor]
    internal: Sequence[Tensor]
    mod_given: bool
    internal_given: bool

    def check_placement(self, x: Tensor, network: Any, first: int = 0) -> None:
        """Refuse an input of another dtype or device than what was given, or than the network's own.

        Args:
            x: The input.
            network: The network.
            first: Index of the first of the internal weights that are multiplied with the input.

        Raises:
            ValueError, RuntimeError: A device differs.
            TypeError: A dtype differs, and autocast is off.
        """
        if self.mod_given and self.mod:
            check_placement(x, self.mod, partial(describe_entry, network))
        # The network's own are all alike.
        placed = self.internal[first:] if self.internal_given else self.internal[first : first + 1]
        check_placement(x, placed, lambda i: describe_entry(network, network._plan.num_mod + first + i))


def select_weights(
    network: Any,
    weights: Any,
    layers: LayerFunctions,
    batch_size: int | None,
    cmod_ckpt_id: int | None = None,
) -> GivenWeights:
    """Sort the weights given to a network, and fill what is missing from its own.

    Args:
        network: The network, whose own parameters are in the order of its ``param_shapes``.
        weights: A sequence or dictionary as documented in :meth:`hnetfast.mnets.mlp.MLP.forward`, or None;
            for many sets of weights all tensors have that additional first dimension.
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
    plan = network._plan
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
            raise InputError(_count_message(plan, weights))

    if mod:
        _check_shapes(network, mod, 0, layers.num_sets, batch_size)
    if internal is not None:
        _check_shapes(network, internal, num_mod, layers.num_sets)
        if mod is not None:
            return GivenWeights(mod, internal, True, True)
    own = own_tensors(network._internal_params)
    if plan.order is not None:
        indices = [network.param_shapes_meta[i]["index"] for i in plan.order]
        own = [own[i] for i in indices if i != -1]
    num_own_mod = num_mod if plan.own_mod else 0
    mod_given, internal_given = mod is not None, internal is not None
    if internal is None:
        if not plan.own_internal:
            got = "pass them" if weights is None else "what was passed are only those of context modulation"
            raise InputError(f"weights: the network was built without weights (no_weights=True), {got}")
        internal = _for_each_set(own[num_own_mod:], layers.num_sets)
    if mod is None:
        if cmod_ckpt_id is not None:
            mod_layers = network.context_mod_layers or ()
            stored = [weight for layer in mod_layers for weight in layer.get_weights(cmod_ckpt_id)]
            mod = [weight for weight in stored if weight is not None]
        elif num_mod and not plan.own_mod:
            raise InputError(
                "weights: the context-modulation layers were built without weights "
                "(context_mod_no_weights=True), pass them"
            )
        else:
            mod = own[:num_own_mod]
        mod = _for_each_set(mod, layers.num_sets)
    return GivenWeights(mod, internal, mod_given, internal_given)


def _from_mapping(
    plan: WeightPlan, weights: Mapping[str, Any]
) -> tuple[Sequence[Tensor] | None, Sequence[Tensor] | None]:
    given: dict[str, Sequence[Tensor] | None] = {"internal_weights": None, "mod_weights": None}
    if not weights or any(key not in given for key in weights):
        raise InputError(f"weights: expected a dictionary with keys from {list(given)}, got {list(weights)}")
    for key, count in zip(given, (len(plan.shapes) - plan.num_mod, plan.num_mod), strict=True):
        if weights.get(key) is not None:
            tensors = given[key] = _as_sequence(f"weights[{key!r}]", weights[key])
            if len(tensors) != count:
                raise InputError(f"weights[{key!r}]: expected {count} tensors, got {len(tensors)}")
    return given["mod_weights"], given["internal_weights"]


def _as_sequence(name: str, value: Any) -> Sequence[Tensor]:
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


def _for_each_set(tensors: list[Tensor], num_sets: int | None) -> list[Tensor]:
    if num_sets is None:
        return tensors
    return [tensor.expand(num_sets, *tensor.shape) for tensor in tensors]


def describe_entry(network: Any, i: int) -> str:
    """Name an entry of a network's parameters, in the order of its plan, in a message."""
    plan = network._plan
    if plan.order is not None:
        i = plan.order[i]
    return f"weights: entry {i} of param_shapes ({network.param_shapes_meta[i]['name']})"


def _check_shapes(
    network: Any,
    weights: Sequence[Tensor],
    first: int,
    num_sets: int | None,
    batch_size: int | None = None,
) -> None:
    """Check tensors for the entries of the plan from ``first`` on, which may differ between samples."""
    shapes = network._plan.shapes
    for i, weight in enumerate(weights, first):
        shape = shapes[i] if num_sets is None else (num_sets, *shapes[i])
        if isinstance(weight, Tensor) and weight.shape == shape:
            continue
        name = describe_entry(network, i)
        check_tensor(name, weight)
        accepted = f"{list(shape)}"
        if batch_size is not None:
            a_sample = (*shape[: num_sets is not None], batch_size, *shapes[i])
            if weight.shape == a_sample:
                continue
            accepted += f" (or, one set a sample, {list(a_sample)})"
        raise InputError(f"{name}: expected the shape {accepted}, got {list(weight.shape)}")
