"""The parameters of a module: their names and places, and which of them are to be given."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from hnetfast._errors import InputError, InputTypeError
from hnetfast.mnets._parameter_roles import Role, find_role

_PARAMETRIZATION = ".parametrizations."


class ModuleParameter(NamedTuple):
    """A parameter of a module, or what was one.

    Attributes:
        name: Its first name, as in ``module.named_parameters()``.
        places: All modules that hold it, and its name in there.
        generated: Whether it is to be given.
    """

    name: str
    places: list[tuple[nn.Module, str]]
    generated: bool

    @property
    def value(self) -> Tensor:
        """The tensor itself."""
        owner, local_name = self.places[0]
        return getattr(owner, local_name)


def check_module(module: Any) -> None:
    """Refuse what cannot be a main network.

    Args:
        module: Argument ``module`` of ``from_module``.

    Raises:
        TypeError: It is no module, or its code cannot be called with other parameters.
        ValueError: It has no parameters, or some without a shape.
    """
    if not isinstance(module, nn.Module):
        hint = ", an instance and not the class" if isinstance(module, type) else ""
        got = module.__name__ if isinstance(module, type) else type(module).__name__
        raise InputTypeError(f"module: expected a torch.nn.Module{hint}, got {got}")
    name = type(module).__name__
    if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise InputTypeError(f"module: pass the module inside of the {name}, its attribute module")
    if isinstance(module, torch.jit.ScriptModule):
        raise InputTypeError(f"module: a {name} cannot compute with other parameters, pass the original")
    lazy = [key for key, tensor in [*module.named_parameters(), *module.named_buffers()] if is_lazy(tensor)]
    if lazy:
        raise InputError(
            f"module: call the {name} once to initialise it, {shortened(lazy)} have no shape yet"
        )
    if next(module.parameters(), None) is None:
        raise InputError(f"module: the {name} has no parameters")


def find_parameters(
    module: nn.Module, patterns: Sequence[str] | str | None
) -> list[tuple[ModuleParameter, Role, nn.Module]]:
    """List the parameters of a module, tied ones once, with their roles and the layers that they have it in.

    Args:
        module: The module.
        patterns: Which are to be given: names, or patterns that :mod:`fnmatch` understands; None for all.

    Returns:
        The parameters in order.

    Raises:
        ValueError: If a pattern matches none.
        TypeError: If it is no string.
    """
    names: dict[int, list[str]] = {}
    values: dict[int, nn.Parameter] = {}
    for name, param in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(param), []).append(name)
        values[id(param)] = param
    generated = _select(names, patterns)
    found = []
    for key, own_names in names.items():
        places = {}
        roles = []
        for name in own_names:
            owner, local_name = _locate(module, name)
            places[id(owner), local_name] = (owner, local_name)
            layer, layer_name = _locate(module, _without_parametrization(name))
            roles.append((find_role(layer, layer_name, values[key].shape), layer))
        # Tied matrices have to suit the place where most inputs are summed up.
        role, layer = max(roles, key=lambda pair: pair[0].fan_in or 0)
        parameter = ModuleParameter(own_names[0], list(places.values()), key in generated)
        found.append((parameter, role, layer))
    return found


def make_buffer(parameter: ModuleParameter) -> None:
    """Turn a parameter into a buffer of the same name.

    Args:
        parameter: The parameter.
    """
    value = parameter.value.detach()
    for owner, local_name in parameter.places:
        del owner._parameters[local_name]
        owner.register_buffer(local_name, value)


def shortened(names: Sequence[str], limit: int = 8) -> str:
    """Names for a message.

    Args:
        names: All of them.
        limit: How many to tell.
    """
    listed = ", ".join(map(repr, names[:limit]))
    return listed if len(names) <= limit else f"{listed}, … ({len(names)} in all)"


def _select(names: dict[int, list[str]], patterns: Sequence[str] | str | None) -> set[int]:
    if patterns is None:
        return set(names)
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    every_name = [name for own_names in names.values() for name in own_names]
    if not patterns:
        raise InputError("params: expected at least one name or pattern, or None for all, got none")
    selected: set[int] = set()
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise InputTypeError(f"params: expected names or patterns, got {pattern!r:.80}")
        matching = {key for key, own in names.items() if any(fnmatchcase(name, pattern) for name in own)}
        if not matching:
            is_layer = any(name.startswith(pattern + ".") for name in every_name)
            hint = f" (did you mean {pattern + '.*'!r}?)" if is_layer else ""
            raise InputError(
                f"params: {pattern!r} matches no parameter{hint}; there are {shortened(every_name)}"
            )
        selected |= matching
    return selected


def _locate(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, local_name = name.rpartition(".")
    return module.get_submodule(path), local_name


def _without_parametrization(name: str) -> str:
    """The name of a parametrised tensor instead of that of the one behind it, which has its shape."""
    if _PARAMETRIZATION not in f".{name}" or not name.endswith(".original"):
        return name
    path, _, rest = f".{name}".rpartition(_PARAMETRIZATION)
    return f"{path}.{rest.removesuffix('.original')}".lstrip(".")
