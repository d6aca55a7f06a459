"""Adapters in files of PEFT: ``adapter_model.safetensors`` and ``adapter_config.json``."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hnetfast._errors import InputError, UnsupportedError
from hnetfast._files import write_atomically
from hnetfast.adapters.ia3 import IA3Layer
from hnetfast.adapters.lora import LoRALayer
from hnetfast.adapters.merging import adapter_layers, one_set
from hnetfast.mnets._module.parameters import shortened
from hnetfast.mnets.module_target import ModuleTarget

__all__ = ["load_peft", "save_peft"]

_WEIGHTS, _CONFIG = "adapter_model.safetensors", "adapter_config.json"
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
    folder = Path(folder)
    config = _read_config(folder / _CONFIG)
    kind = "IA3" if isinstance(layers[0], IA3Layer) else "LORA"
    if config.get("peft_type") != kind:
        raise InputError(
            f"folder: expected an adapter of PEFT's type {kind}, got {config.get('peft_type')!r}"
        )
    for option in ("use_dora", "lora_bias"):
        if config.get(option):
            raise InputError(f"folder: expected an adapter without {option}, got {config[option]!r}")
    tensors = _read_weights(folder / _WEIGHTS)
    keys = _keys(layers)
    _check_keys(target, tensors, [key for key, _, _ in keys])
    if kind == "LORA":
        _check_ranks(tensors, keys)
    found = []
    for (key, name, layer), own in zip(keys, target.initial_weights, strict=True):
        value = tensors[key].to(own.device, own.dtype)
        expected = list(_in_file(layer, own).shape)
        if list(value.shape) != expected:
            raise InputError(
                f"folder: expected an adapter of this network, with the shape {expected} of {key!r}, got "
                f"{list(value.shape)}"
            )
        if isinstance(layer, IA3Layer):
            value = value.reshape(own.shape) - 1
        elif name.endswith("_B"):
            value = value * (_scale_in_file(config, layer) / layer.scale)
        found.append(value)
    return found


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"folder: expected JSON in {path}, got something else ({error})") from error
    if not isinstance(config, dict):
        raise InputError(f"folder: expected the options of an adapter in {path}, got {config!r:.100}")
    return config


def _read_weights(path: Path) -> dict[str, Tensor]:
    library = _safetensors()
    content = path.read_bytes()
    try:
        return library.load(content)
    except Exception as error:  # of a class that is no ValueError
        raise InputError(f"folder: expected safetensors in {path}, got something else ({error})") from error


def _layers(target: Any, function: str) -> list[Any]:
    """The adapters, of a kind that PEFT has."""
    layers = adapter_layers(target)
    kinds = {LoRALayer if isinstance(layer, LoRALayer) else type(layer) for layer in layers}
    if len(kinds) > 1 or not kinds <= {LoRALayer, IA3Layer}:
        names = sorted(kind.__name__.removesuffix("Layer") for kind in kinds)
        raise UnsupportedError(
            f"{function}: expected adapters that are all LoRA or all IA3, which a file of PEFT can hold, got "
            f"{', '.join(names)}; merge() folds others into the network's weights"
        )
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
        "rank_pattern": {layer.place: layer.rank for layer in layers if layer.rank != rank},
        "alpha_pattern": {layer.place: layer.alpha for layer in layers if layer.alpha != alpha},
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
    names, names_feedforward = _target_modules(target, places), _target_modules(target, feedforward)
    if not set(names_feedforward) <= set(names):  # which PEFT asks for
        names, names_feedforward = places, feedforward
    return {
        "peft_type": "IA3",
        "task_type": None,
        "target_modules": names,
        "feedforward_modules": names_feedforward,
        "fan_in_fan_out": all(layer.features.transposed for layer in layers),
        "modules_to_save": None,
        "init_ia3_weights": True,
        "inference_mode": True,
    }


def _target_modules(target: ModuleTarget, places: Sequence[str]) -> list[str]:
    """The last names of modules where they name these and no others, else the full names."""
    endings = sorted({place.rpartition(".")[2] for place in places})
    named = [name for name, _ in target.module.named_modules() if name.rpartition(".")[2] in endings]
    return endings if set(named) == set(places) else list(places)


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
        rank = tensors[key].shape[0 if name.endswith("_A") else 1]
        if rank != layer.rank:
            raise InputError(f"folder: expected the rank {layer.rank} at {layer.place!r}, got {rank}")


def _scale_in_file(config: Mapping[str, Any], layer: LoRALayer) -> float:
    alpha = config.get("lora_alpha", 8)
    for name, own_alpha in (config.get("alpha_pattern") or {}).items():
        if layer.place == name or layer.place.endswith(f".{name}"):
            alpha = own_alpha
    return alpha / (math.sqrt(layer.rank) if config.get("use_rslora") else layer.rank)


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError("files of PEFT need safetensors: pip install 'hnetfast[adapters]'") from error
    return safetensors.torch
