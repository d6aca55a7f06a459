"""Parameters that a network holds under several names stay one each when something else takes their place.

That does ``load_state_dict(assign=True)``, ``to_empty`` of a network built on the device "meta", and any
conversion with ``torch.__future__.set_overwrite_module_params_on_conversion(True)``: each name would get a
parameter of its own, and names in modules that are not registered would keep the old one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

Ties = dict[nn.Parameter, list[tuple[nn.Module, str]]]


def find_ties(network: nn.Module) -> Ties:
    """Find the parameters that a network, or modules in it, hold under more than one name.

    Args:
        network: The network.

    Returns:
        For each of them the modules that hold it, with its name there; those of the network itself first.
    """
    places: Ties = {}
    for module in _with_submodules(network, set()):
        for name, param in module._parameters.items():
            if param is not None:
                places.setdefault(param, []).append((module, name))
    return {param: found for param, found in places.items() if len(found) > 1}


def tie_again(ties: Ties) -> None:
    """Put the parameter that is in the place of another one into all places of that.

    Args:
        ties: As they were before.
    """
    for former, places in ties.items():
        present = (module._parameters.get(name) for module, name in places)
        param = next((p for p in present if p is not None and p is not former), former)
        for module, name in places:
            if name in module._parameters:
                module._parameters[name] = param


def apply_and_tie(network: nn.Module, function: Callable[..., Any], recurse: bool = True) -> nn.Module:
    """Do what ``nn.Module._apply`` does, which all conversions of a module go through."""
    ties = find_ties(network)
    nn.Module._apply(network, function, recurse)
    tie_again(ties)
    return network


def keep_ties_when_loading(network: nn.Module) -> None:
    """Let a network keep its ties in ``load_state_dict``."""
    if "_ties" not in network.__dict__:
        network.__dict__["_ties"] = {}
        network.register_load_state_dict_pre_hook(_before_loading)
        network.register_load_state_dict_post_hook(_after_loading)


def _before_loading(network: nn.Module, state_dict: Any, prefix: str, metadata: dict, *_: Any) -> None:
    network.__dict__["_ties"] = find_ties(network) if metadata.get("assign_to_params_buffers") else {}


def _after_loading(network: nn.Module, incompatible_keys: Any) -> None:
    tie_again(network.__dict__["_ties"])
    network.__dict__["_ties"] = {}


def _with_submodules(module: nn.Module, seen: set[nn.Module]) -> Iterator[nn.Module]:
    """A module and all modules in it, registered or not."""
    if module in seen:
        return
    seen.add(module)
    yield module
    held = [*module._modules.values(), *vars(module).values()]
    for value in held:
        for entry in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(entry, nn.Module):
                yield from _with_submodules(entry, seen)
