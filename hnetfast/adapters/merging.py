"""Networks with an adapter folded into their weights, and without any."""

from __future__ import annotations

import copy
import warnings
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from hnetfast._errors import InputError, InputTypeError, UnsupportedError
from hnetfast._patterns import shortened
from hnetfast.adapters._layers import AdapterLayer
from hnetfast.mnets._batched import WeightSets
from hnetfast.mnets.module_target import ModuleTarget

__all__ = ["merge", "unmerge"]


def merge(target: ModuleTarget, weights: Any) -> nn.Module:
    """Fold an adapter into the weights of a copy of the pretrained network.

    The copy is a plain module with no trace of the adapter, frozen as the network is. Its parameters keep
    their dtype, to which the sums are rounded once. A tied matrix that is adapted in one of its places is no
    longer tied in the copy. Low-rank adapters, IA3, modulations of modules that have a bias or can have one,
    and changes of parameters can be folded.

    Args:
        target: The network with adapters.
        weights: One set: what a hypernetwork generates for one condition, a list of tensors or ``[n]`` or
            ``[1, n]``. Its gradients are not tracked.

    Returns:
        The copy, which computes what ``target.forward`` computes with ``weights``, but for rounding.

    Raises:
        ValueError: If the weights do not fit, or the network has no adapters.
        TypeError: If an argument is of a wrong type.
        NotImplementedError: If an adapter is not linear in the input, or a matrix quantised.

    Example:
        >>> import torch
        >>> from hnetfast.adapters import LoRA
        >>> from hnetfast.mnets import from_module
        >>> base = nn.Sequential(nn.Linear(6, 5), nn.Tanh()).requires_grad_(False)
        >>> target = from_module(base, adapters=LoRA(rank=2, alpha=4, modules=["0"]))
        >>> weights = [torch.randn(shape) for shape in target.hyper_shapes_learned]
        >>> x = torch.randn(3, 6)
        >>> torch.allclose(merge(target, weights)(x), target(x, weights=weights), atol=1e-6)
        True
    """
    layers = adapter_layers(target)
    values = dict(zip(target.generated_names, one_set(target, weights), strict=True))
    merged = unmerge(target)
    tied = _tied_places(merged)
    untied = []
    for layer in sorted(layers, key=_innermost_first):
        own = {name: values[f"{layer.place}.{name}"] for name, _ in layer.named_buffers()}
        if layer.replaced_places:
            layer.fold(merged, own)
        else:
            part = merged.get_submodule(layer.place)
            if part._forward_hooks or part._forward_pre_hooks:
                _note_hooks(part, layer.place)
            _remove_parametrizations(part)
            layer.fold(part, own)
            untied += [layer.place] if f"{layer.place}.weight" in tied else []
    if untied:
        warnings.warn(
            f"merge: the weight of {shortened(untied, 3)} is tied to another one in the network, not in the "
            "copy; before storing a transformer set its config.tie_word_embeddings to False",
            stacklevel=2,
        )
    return merged


def unmerge(target: ModuleTarget) -> nn.Module:
    """Copy the pretrained network of a target without its adapters.

    The target keeps the pretrained weights as they came, so that nothing has to be subtracted from those of
    :func:`merge`: what this returns is exact.

    Args:
        target: The network with adapters.

    Returns:
        A plain module, frozen, with the weights that the network came with.

    Raises:
        ValueError: If the network has no adapters.
        TypeError: If ``target`` is no network of ``hnetfast.mnets.from_module``.
    """
    own = set(map(id, adapter_layers(target)))
    module = copy.deepcopy(target.module)
    for part, original in zip(module.modules(), target.module.modules(), strict=True):
        for name in ("_forward_hooks", "_forward_pre_hooks"):
            hooks = getattr(original, name)
            for key in [key for key, hook in hooks.items() if id(getattr(hook, "__self__", None)) in own]:
                del getattr(part, name)[key]
                part._forward_hooks_with_kwargs.pop(key, None)
                part._forward_pre_hooks_with_kwargs.pop(key, None)
    return module


def adapter_layers(target: Any) -> list[AdapterLayer]:
    """The adapters of a network.

    Args:
        target: The network.

    Returns:
        The adapters in the order of their weights.

    Raises:
        TypeError: It is something else.
        ValueError: It has no adapters.
    """
    if not isinstance(target, ModuleTarget):
        raise InputTypeError(f"target: expected a network of from_module, got {type(target).__name__}")
    layers: Any = target.adapters
    if layers is None:
        raise InputError("target: expected a network made by from_module(…, adapters=…), got one without any")
    return list(layers)


def one_set(target: ModuleTarget, weights: Any) -> list[Tensor]:
    """Check one set of weights, in any format.

    Args:
        target: The network.
        weights: What was passed.

    Returns:
        Tensors of the shapes ``target.hyper_shapes_learned``, without gradients.

    Raises:
        ValueError: They do not fit, or are several sets.
        TypeError: They are of none of the formats.
    """
    if isinstance(weights, Tensor) and weights.ndim == 1:
        weights = weights[None]
    sets = WeightSets(target, weights)
    if sets.num_sets != 1:
        raise InputError(f"weights: expected one set, of one condition, got {sets.num_sets}")
    tensors = sets.singly()[0]
    if isinstance(tensors, dict) or len(tensors) != len(target.generated_names):
        raise InputError(f"weights: expected {len(target.generated_names)} tensors (hyper_shapes_learned)")
    shapes = [list(shape) for shape in target.hyper_shapes_learned or ()]
    for name, tensor, shape in zip(target.generated_names, tensors, shapes, strict=True):
        if list(tensor.shape) != shape:
            raise InputError(f"weights: expected the shape {shape} of {name!r}, got {list(tensor.shape)}")
    return [tensor.detach() for tensor in tensors]


def _innermost_first(layer: Any) -> int:
    """Changes of parameters, then those of outputs in their order, then those of what all of these get."""
    return 0 if layer.replaced_places else 2 if getattr(layer, "is_feedforward", False) else 1


def _remove_parametrizations(module: nn.Module) -> None:
    """Let a module have what it computes of parametrisations as plain parameters.

    Not by PyTorch's function, which takes properties from the class, of which the original module is too.
    """
    if parametrize.is_parametrized(module):
        parametrizations: Any = module.parametrizations
        values = {name: getattr(module, name).detach() for name in parametrizations}
        del module.parametrizations
        module.__class__ = type(module).__bases__[0]
        for name, value in values.items():
            module.register_parameter(name, nn.Parameter(value.clone(), requires_grad=False))


def _note_hooks(module: nn.Module, place: str) -> None:
    """Say that a module has hooks, which the adapter has come behind and the sum of both goes through."""
    hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    if any(isinstance(getattr(hook, "__self__", None), AdapterLayer) for hook in hooks):
        raise UnsupportedError(
            f"merge: {place!r} has an adapter of another network of from_module, too, which merge() of that "
            "network folds first"
        )
    warnings.warn(
        f"merge: {place!r} has hooks of its own; if they change what it gets or returns, the copy computes "
        "something else",
        stacklevel=3,
    )


def _tied_places(module: nn.Module) -> set[str]:
    """The names of parameters that have others."""
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {name for own in names.values() if len(own) > 1 for name in own}
