"""Adapters in files of PEFT: ``adapter_model.safetensors`` and ``adapter_config.json``."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hnetfast._errors import InputError, UnsupportedError
from hnetfast._files import write_atomically
from hnetfast._patterns import shortened
from hnetfast.adapters.ia3 import IA3Layer
from hnetfast.adapters.lora import LoRALayer
from hnetfast.adapters.merging import adapter_layers, one_set
from hnetfast.mnets.module_target import ModuleTarget

__all__ = ["load_peft", "save_peft"]

_WEIGHTS, _CONFIG = "adapter_model.safetensors", "adapter_config.json"
# Options of PEFT with which A and B are not all that there is.
_OTHER_ADAPTERS = (
    *("use_dora", "lora_bias", "use_qalora", "use_bdlora", "alora_invocation_tokens", "arrow_config"),
    *("kasa_config", "monteclora_config", "layer_replication"),
)
_CHANGES_OF_THE_BASE = ("pissa", "olora", "corda", "loftq")
_PREFIX = "base_model.model."  # under which PEFT's model holds the network


def save_peft(target: ModuleTarget, weights: Any, folder: str | Path) -> None:
    """Write an adapter as PEFT does, so that ``PeftModel.from_pretrained(base, folder)`` computes with it.

    Args:
        target: The network with adapters, all of them :class:`~hnetfast.adapters.LoRA`, or one
            :class:`~hnetfast.adapters.IA3`.
        weights: One set: what a hypernetwork generates for one condition, a list of tensors or ``[n]`` or
            ``[1, n]``.
        folder: Where to write ``adapter_model.safetensors`` and ``adapter_config.json``. It is made if it is
            not there; files of these names are replaced, each as a whole.

    Raises:
        ValueError: If the weights do not fit.
        NotImplementedError: If PEFT has no such adapter.
        ImportError: If safetensors is not installed.
        OSError: If the folder can't be written.
    """
    layers = _layers(target, "save_peft")
    config = _ia3_config(target, layers) if isinstance(layers[0], IA3Layer) else _lora_config(target, layers)
    config["base_model_name_or_path"] = (
        getattr(getattr(target.module, "config", None), "_name_or_path", None) or None
    )
    values = zip(_keys(layers), one_set(target, weights), strict=True)
    tensors = {key: _in_file(layer, value).cpu().contiguous().clone() for (key, _, layer), value in values}
    content = _safetensors().save(tensors, metadata={"format": "pt"})
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / _WEIGHTS, content)
    write_atomically(folder / _CONFIG, (json.dumps(config, indent=2, sort_keys=True) + "\n").encode())


def load_peft(target: ModuleTarget, folder: str | Path) -> list[Tensor]:
    """Read an adapter that PEFT or :func:`save_peft` has written, e.g. as a target of a hypernetwork.

    An adapter with another scale than the target's (``alpha``, ``rslora``) computes the same: B is multiplied
    by the quotient of the scales.

    Args:
        target: The network with adapters.
        folder: Where the two files are.

    Returns:
        Tensors of the shapes ``target.hyper_shapes_learned``, on the device and in the dtype of the target's.

    Raises:
        ValueError: If the adapter is of another kind, rank or network, or adapts other modules, or a file
            holds something else.
        NotImplementedError: If PEFT has no such adapter as the target.
        ImportError: If safetensors is not installed.
        OSError: If a file can't be read.
    """
    layers = _layers(target, "load_peft")
    kind = "IA3" if isinstance(layers[0], IA3Layer) else "LORA"
    config, tensors = _read(Path(folder), kind)
    keys = _keys(layers)
    _check_keys(target, tensors, [key for key, _, _ in keys])
    if kind == "LORA":
        _check_ranks(tensors, keys)
    found = []
    for (key, name, layer), own in zip(keys, target.initial_weights, strict=True):
        value = tensors[key]
        expected = list(_in_file(layer, own).shape)
        if list(value.shape) != expected:
            raise InputError(
                f"folder: expected an adapter of this network, with the shape {expected} of {key!r}, got "
                f"{list(value.shape)}"
            )
        if not value.is_floating_point():
            raise InputError(f"folder: expected numbers of floating point in {key!r}, got {value.dtype}")
        value = value.to(own.device, torch.promote_types(own.dtype, torch.float32))
        if isinstance(layer, IA3Layer):
            value = value.reshape(own.shape) - 1
        elif name.endswith("_B"):
            value = value * _quotient(_scale_in_file(config, layer), layer)
        found.append(value.to(own.dtype))
    return found


def _read(folder: Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What the files hold, the configuration being one of an adapter that computes as those here do."""
    text = (folder / _CONFIG).read_bytes()
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"folder: {_CONFIG} is damaged: {error}") from None
    if not isinstance(config, dict) or config.get("peft_type") != kind:
        got = config.get("peft_type") if isinstance(config, dict) else type(config).__name__
        raise InputError(f"folder: expected an adapter of PEFT's type {kind}, got {got!r}")
    for option in _OTHER_ADAPTERS:
        if config.get(option):
            raise InputError(f"folder: expected an adapter without {option}, got {config[option]!r:.80}")
    start = str(config.get("init_lora_weights")).lower()
    if start.startswith(_CHANGES_OF_THE_BASE):
        raise InputError(
            f"folder: expected an adapter of the network as it is, got one with init_lora_weights={start!r}, "
            "which PEFT adds to a network that it changes first; store it with path_initial_model_for_weight_"
            "conversion in PEFT"
        )
    content = (folder / _WEIGHTS).read_bytes()
    load = _safetensors().load
    try:
        return config, load(content)
    except Exception as error:  # of several kinds
        raise InputError(f"folder: {_WEIGHTS} is damaged: {error}") from None


def _layers(target: Any, function: str) -> list[Any]:
    """The adapters, of a kind that PEFT has."""
    layers = adapter_layers(target)
    kinds = {LoRALayer if isinstance(layer, LoRALayer) else type(layer) for layer in layers}
    if len(kinds) > 1 or not kinds <= {LoRALayer, IA3Layer}:
        names = sorted(kind.__name__.removesuffix("Layer") for kind in kinds)
        raise UnsupportedError(
            f"{function}: expected adapters that are all LoRA or all IA3, which a file of PEFT can hold, got "
            f"{', '.join(names)}; merge() folds all but bottlenecks into the network's weights"
        )
    for layer in layers:
        if getattr(layer, "is_dilated", False):
            raise UnsupportedError(f"{function}: PEFT's LoRA has no dilation, the one at {layer.place!r} has")
    return layers


def _keys(layers: Sequence[Any]) -> list[tuple[str, str, Any]]:
    """For every parameter of the adapters the name in a file, its own, and its adapter."""
    return [
        (f"{_PREFIX}{layer.place}.{name}{'.weight' if name in ('lora_A', 'lora_B') else ''}", name, layer)
        for layer in layers
        for name, _ in layer.named_buffers()
    ]


def _in_file(layer: Any, value: Tensor) -> Tensor:
    """A weight as PEFT holds it."""
    if not isinstance(layer, IA3Layer):
        return value
    value = value.to(torch.promote_types(value.dtype, torch.float32))  # for digits behind 1
    if layer.features.kind == "conv2d":
        return (1 + value).reshape(1, -1, 1, 1)
    return (1 + value).reshape((1, -1) if layer.is_feedforward else (-1, 1))


def _lora_config(target: ModuleTarget, layers: Sequence[LoRALayer]) -> dict[str, Any]:
    if len({(layer.rslora, layer.dropout) for layer in layers}) > 1:
        raise UnsupportedError("save_peft: a file of PEFT can hold LoRA of one dropout and one rslora alone")
    rank, alpha = (
        Counter(getattr(layer, name) for layer in layers).most_common(1)[0][0] for name in ("rank", "alpha")
    )
    places = [layer.place for layer in layers]
    return {
        "peft_type": "LORA",
        "task_type": None,
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": _pattern({layer.place: layer.rank for layer in layers}, rank),
        "alpha_pattern": _pattern({layer.place: layer.alpha for layer in layers}, alpha),
        "target_modules": _target_modules(target, places),
        "lora_dropout": layers[0].dropout,
        "use_rslora": layers[0].rslora,
        "fan_in_fan_out": all(layer.features.transposed for layer in layers),
        "bias": "none",
        "modules_to_save": None,
        "init_lora_weights": True,
        "inference_mode": True,
    }


def _ia3_config(target: ModuleTarget, layers: Sequence[IA3Layer]) -> dict[str, Any]:
    places = [layer.place for layer in layers]
    feedforward = [layer.place for layer in layers if layer.is_feedforward]
    names = _target_modules(target, places)
    own_names = _target_modules(target, feedforward)
    found = {place for place in places if place.endswith(tuple(own_names))}  # as PEFT looks for them
    if isinstance(own_names, str) or found != set(feedforward) or not set(own_names) <= set(names):
        names, own_names = _expression(places), _expression(feedforward)
    return {
        "peft_type": "IA3",
        "task_type": None,
        "target_modules": names,
        "feedforward_modules": own_names,
        "fan_in_fan_out": all(layer.features.transposed for layer in layers),
        "modules_to_save": None,
        "init_ia3_weights": True,
        "inference_mode": True,
    }


def _target_modules(target: ModuleTarget, places: Sequence[str]) -> list[str] | str:
    """The last names of modules where PEFT finds these and no others by them, else the full ones, or where
    these are the last of others an expression.
    """
    modules = [name for name, _ in target.module.named_modules()]
    for names in (sorted({place.rpartition(".")[2] for place in places}), list(places)):
        found = {m for m in modules if m in names or m.endswith(tuple(f".{name}" for name in names))}
        if found == set(places):
            return names
    return _expression(places)


def _expression(places: Sequence[str]) -> str | list[str]:
    """A regular expression that the places match and nothing else."""
    return "|".join(map(re.escape, places)) if places else []


def _pattern(values: Mapping[str, Any], usual: Any) -> dict[str, Any]:
    """What is not usual by places, or by expressions where names of places match others."""
    unusual = {place: value for place, value in values.items() if value != usual}
    is_clear = all(
        place == other or not _matches(place, other) or unusual[place] == value
        for place in unusual
        for other, value in values.items()
    )
    return unusual if is_clear else {f"^{re.escape(place)}": value for place, value in unusual.items()}


def _matches(pattern: str, place: str) -> bool:
    """Whether PEFT applies what it has for a pattern to a place."""
    return re.match(rf"(.*\.)?({pattern})$", place) is not None


def _check_keys(target: ModuleTarget, tensors: Mapping[str, Tensor], keys: Sequence[str]) -> None:
    missing = [key for key in keys if key not in tensors]
    further = sorted(key for key in set(tensors) - set(keys) if not _is_of_base(target, key, tensors[key]))
    if further:
        raise InputError(
            f"folder: expected an adapter of the target's modules alone, got {shortened(further, 4)}, too"
            + (f", and no {shortened(missing, 4)}" if missing else "")
        )
    if missing:
        near = get_close_matches(missing[0], list(tensors), n=1)
        hint = f" (but {near[0]!r})" if near else ""
        raise InputError(f"folder: the adapter has no {shortened(missing, 4)}{hint}")


def _is_of_base(target: ModuleTarget, key: str, value: Tensor) -> bool:
    """Whether this is the embedding that the network has; PEFT may store it with the adapter."""
    name = key.removeprefix(_PREFIX).replace(".base_layer.", ".")
    own = dict(target.module.named_parameters(remove_duplicate=False)).get(name)
    return (
        own is not None and own.shape == value.shape and torch.equal(own.detach().cpu(), value.to(own.dtype))
    )


def _check_ranks(tensors: Mapping[str, Tensor], keys: Sequence[tuple[str, str, Any]]) -> None:
    for key, name, layer in keys:
        shape = tensors[key].shape
        rank = shape[0 if name.endswith("_A") else 1] if len(shape) > 1 else layer.rank
        if rank != layer.rank:
            raise InputError(f"folder: expected the rank {layer.rank} at {layer.place!r}, got {rank}")


def _scale_in_file(config: Mapping[str, Any], layer: LoRALayer) -> float:
    alpha, patterns = config.get("lora_alpha", 8), config.get("alpha_pattern") or {}
    try:
        alpha = next((own for name, own in patterns.items() if _matches(name, layer.place)), alpha)
        return float(alpha) / (math.sqrt(layer.rank) if config.get("use_rslora") else layer.rank)
    except (AttributeError, TypeError, ValueError, re.error):
        raise InputError(
            "folder: expected lora_alpha to be a number, and alpha_pattern to have some for expressions, got "
            f"{alpha!r:.80} and {patterns!r:.80}"
        ) from None


def _quotient(scale: float, layer: LoRALayer) -> float:
    if scale == layer.scale:
        return 1.0
    if layer.scale == 0:
        raise InputError(f"folder: expected an adapter with alpha=0, as the target's at {layer.place!r}")
    return scale / layer.scale


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError("files of PEFT need safetensors: pip install 'hnetfast[adapters]'") from error
    return safetensors.torch
