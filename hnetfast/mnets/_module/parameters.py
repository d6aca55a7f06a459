"""The parameters of a module: names, places, what they are for, and which of them are to be given."""

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.parameter import is_lazy

from hnetfast._checks import check_tensor
from hnetfast._errors import InputError, InputTypeError
from hnetfast._patterns import as_patterns, match, shortened

_PARAMETRIZATION = ".parametrizations."
_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


class Role(NamedTuple):
    """What a parameter is for.

    Attributes:
        name: "weight", "bias", "bn_scale", "bn_shift" (of any normalisation), "embedding" or None.
        matrix: Tells the matrices of a layer with several apart; a bias has that of its matrix.
        fan_in: How many inputs each output of the layer sums up, None where that cannot be told.
        fan_out: To how many outputs each input contributes, or None.
    """

    name: str | None
    matrix: str
    fan_in: int | None
    fan_out: int | None


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


def check_weight(index: int, parameter: ModuleParameter, weight: Any, num_sets: int | None) -> None:
    """Refuse a weight that can't be in the place of a parameter.

    Args:
        index: Its index in the argument ``weights``.
        parameter: The parameter.
        weight: What was passed.
        num_sets: Size of an additional first dimension, None without one.

    Raises:
        ValueError: The shape or the device differs.
        TypeError: It is no tensor, or the dtype differs, and autocast is off.
    """
    own, name = parameter.value, f"weights[{index}] ({parameter.name})"
    shape = own.shape if num_sets is None else (num_sets, *own.shape)
    check_tensor(name, weight)
    if weight.shape != shape:
        raise InputError(f"{name}: expected the shape {list(shape)}, got {list(weight.shape)}")
    if weight.device != own.device and not own.is_meta:
        raise InputError(
            f"{name}: expected to be on the device of the network, {own.device}, got {weight.device}; move "
            "the network by to()"
        )
    if weight.dtype != own.dtype and not (
        weight.is_floating_point() and torch.is_autocast_enabled(weight.device.type)
    ):
        raise InputTypeError(
            f"{name}: expected the dtype of the network, {own.dtype}, got {weight.dtype}; convert the "
            "network by to()"
        )


def _select(names: dict[int, list[str]], patterns: Sequence[str] | str | None) -> set[int]:
    if patterns is None:
        return set(names)
    every_name = [name for own_names in names.values() for name in own_names]
    chosen = set(match("params", as_patterns("params", patterns), every_name, "parameter"))
    return {key for key, own_names in names.items() if not chosen.isdisjoint(own_names)}


def _locate(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, local_name = name.rpartition(".")
    return module.get_submodule(path), local_name


def _without_parametrization(name: str) -> str:
    """The name of a parametrised tensor instead of that of the one behind it, which has its shape."""
    if _PARAMETRIZATION not in f".{name}" or not name.endswith(".original"):
        return name
    path, _, rest = f".{name}".rpartition(_PARAMETRIZATION)
    return f"{path}.{rest.removesuffix('.original')}".lstrip(".")


def find_role(layer: nn.Module, local_name: str, shape: tuple[int, ...]) -> Role:
    """Tell what a parameter is for.

    Args:
        layer: The module that holds it.
        local_name: Its name in there.
        shape: Its shape.

    Returns:
        The role; parameters of unknown layers are judged by their names and shapes.
    """
    name = _kind(layer, local_name, shape)
    matrix = ""
    fans: tuple[int | None, int | None] = (None, None)
    if isinstance(layer, _NORMS):
        name = {"weight": "bn_scale", "bias": "bn_shift"}.get(local_name)
    elif isinstance(layer, (nn.Embedding, nn.EmbeddingBag)):
        name, fans = "embedding", (1, shape[-1])
    elif isinstance(layer, (nn.RNNBase, nn.RNNCellBase)):
        kind, _, matrix = local_name.partition("_")
        name = kind if kind in ("weight", "bias") else None
        fans = (getattr(layer, f"weight_{matrix}").shape[1], None)
    elif isinstance(layer, nn.MultiheadAttention):
        if local_name.endswith("_proj_weight"):
            name, matrix, fans = "weight", local_name.removesuffix("_weight"), (shape[1], layer.embed_dim)
        elif local_name == "in_proj_bias":
            name, matrix, fans = "bias", "in_proj", (layer.embed_dim, None)
        else:  # bias_k and bias_v are additional keys and values
            name = None
    elif name is not None:
        fans = _fans(layer)
    if name not in ("weight", "embedding"):
        fans = (fans[0], None)
    if name is None:
        matrix, fans = local_name, (None, None)
    return Role(name, matrix, *fans)


def _kind(layer: nn.Module, local_name: str, shape: tuple[int, ...]) -> str | None:
    if local_name == "weight" and len(shape) > 1:
        return "weight"
    # Without a matrix it is probably the offset of a normalisation.
    has_matrix = getattr(getattr(layer, "weight", None), "ndim", 0) > 1
    return "bias" if local_name == "bias" and len(shape) == 1 and has_matrix else None


def _fans(layer: Any) -> tuple[int | None, int | None]:
    """Fan-in and fan-out of the layers that have one matrix or kernel."""
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    if isinstance(layer, nn.Bilinear):
        return layer.in1_features * layer.in2_features, layer.out_features
    if isinstance(layer, _ConvNd):
        window = prod(layer.kernel_size)
        inputs, outputs = layer.in_channels // layer.groups, layer.out_channels // layer.groups
        if isinstance(layer, _ConvTransposeNd):
            # Windows lie a stride apart, so that each output is in fewer of them.
            return max(1, round(inputs * window / prod(layer.stride))), outputs * window
        return inputs * window, outputs * window
    if type(layer).__name__ == "Conv1D":  # Hugging Face's linear layer with the matrix [in, out]
        return layer.weight.shape[0], layer.weight.shape[1]
    return None, None
