"""What a main network asks of adapters of its module, of whose classes it knows nothing else."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from hnetfast._errors import InputError, InputTypeError
from hnetfast._patterns import shortened
from hnetfast.mnets._module.calling import Place
from hnetfast.mnets._module.parameters import ModuleParameter, Role


class AdapterLayer(Protocol):
    """An adapter in one place, a module whose parameters are to be given.

    Attributes:
        place: The qualified name of the module or parameter that is adapted.
        module_name: That of the module.
        layer_type: The class of the module.
        takes_rows: Whether it computes with many sets of weights at once, those of the samples in
            ``call["rows"]``; its parameters then have one more dimension in front.
        call: What is so during a call: "rows" is :class:`~hnetfast.mnets._module.rows.SampleRows` or None.
        replaced_places: Where the parameter is that it replaces, if it does.
    """

    place: str
    module_name: str
    layer_type: str
    takes_rows: bool
    call: dict[str, Any]
    replaced_places: list[Place]

    def replacement(self, base: Tensor, value: Tensor) -> Tensor:
        """What is used instead of the parameter.

        Args:
            base: The parameter.
            value: The given weight.
        """
        ...


class Adapter(Protocol):
    """What adapts a module: :class:`hnetfast.adapters.LoRA` and its like."""

    def find(self, module: nn.Module) -> Sequence[Any]:
        """Find the places that are adapted, and complain where that can't be.

        Args:
            module: The module.
        """
        ...

    def apply(self, module: nn.Module) -> Sequence[Any]:
        """Adapt a module in place.

        Args:
            module: The module.

        Returns:
            An :class:`AdapterLayer` for each place.
        """
        ...


class _Position(NamedTuple):
    stack: str
    depth: int | None
    kind: str


def as_adapters(adapters: Any) -> tuple[Adapter, ...]:
    """List the adapters.

    Args:
        adapters: Argument ``adapters`` of ``from_module``.

    Raises:
        TypeError: There is something else among them.
        ValueError: There is none.
    """
    listed = tuple(adapters) if isinstance(adapters, (list, tuple)) else (adapters,)
    if not listed:
        raise InputError("adapters: expected at least one adapter, or None for none, got an empty sequence")
    for i, adapter in enumerate(listed):
        if isinstance(adapter, type) or not (hasattr(adapter, "find") and hasattr(adapter, "apply")):
            got = f"the class {adapter.__name__}" if isinstance(adapter, type) else type(adapter).__name__
            name = f"adapters[{i}]" if isinstance(adapters, (list, tuple)) else "adapters"
            raise InputTypeError(f"{name}: expected an adapter such as hnetfast.adapters.LoRA(…), got {got}")
    return listed


def freeze(module: nn.Module) -> None:
    """Let no parameter of the network's copy of a module be trained.

    Args:
        module: The copy.
    """
    trained = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    if trained:
        warnings.warn(
            f"adapters: the network's copy of the module is frozen, but {len(trained)} of its parameters "
            f"require gradients: {shortened(trained, 3)}; module.requires_grad_(False) keeps this quiet",
            stacklevel=5,
        )
        module.requires_grad_(False)


def adapt(
    module: nn.Module, adapters: Sequence[Adapter], call: dict[str, Any]
) -> list[tuple[ModuleParameter, Role, Any]]:
    """Apply adapters to the network's copy of a module.

    Args:
        module: The copy.
        adapters: The adapters.
        call: What is so during a call, shared by all.

    Returns:
        Their parameters, with the layers that hold them.

    Raises:
        ValueError: Two of a kind have the same place.
    """
    found = []
    taken: dict[str, str] = {}
    for adapter in adapters:
        for layer in adapter.apply(module):
            layer.call = call
            for name, _ in layer.named_parameters():
                full_name = f"{layer.place}.{name}"
                # Two that replace the same parameter know nothing of one another.
                key = layer.place if layer.replaced_places else full_name
                if key in taken:
                    raise InputError(
                        f"adapters: {layer.place!r} has a {taken[key]} already, "
                        f"a second {type(adapter).__name__} cannot be in the same place"
                    )
                taken[key] = type(adapter).__name__
                parameter = ModuleParameter(full_name, [(layer, name)], generated=True)
                found.append((parameter, Role(None, "", None, None), layer))
    return found


def position_keys(found: Sequence[tuple[ModuleParameter, Role, Any]]) -> list[dict[str, Any]]:
    """Where in the module the parameters of adapters are.

    Args:
        found: The parameters that :func:`adapt` returned.

    Returns:
        For each further keys of the metadata, "module_name", "adapter_kind", "stack", "depth" and
        "module_kind".
    """
    positions = [_position(layer) for _, _, layer in found]
    has_stacks = len({position.stack for position in positions if position.depth is not None}) > 1
    keys = []
    for (parameter, _, layer), (stack, depth, kind) in zip(found, positions, strict=True):
        # Layer 3 of an encoder and layer 3 of a decoder must not look the same.
        full_kind = f"{stack}.{kind}" if has_stacks and depth is not None and stack else kind
        keys.append(
            {
                "layer_type": layer.layer_type,
                "module_name": layer.module_name,
                "adapter_kind": parameter.places[0][1],
                "stack": stack,
                "depth": depth,
                "module_kind": full_kind,
            }
        )
    return keys


def _position(layer: AdapterLayer) -> _Position:
    parts = layer.place.split(".")
    i = next((i for i, part in enumerate(parts) if part.isdecimal()), None)
    if i is None:
        return _Position("", None, layer.place)
    return _Position(".".join(parts[:i]), int(parts[i]), ".".join(parts[i + 1 :]) or layer.layer_type)
