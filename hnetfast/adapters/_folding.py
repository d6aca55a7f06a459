"""Changes of a module's weights that change its output by factors and shifts of the features."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from hnetfast._errors import UnsupportedError
from hnetfast.adapters._kinds import Features, embedding_scale, float_weight


def scale_outputs(module: Any, features: Features, factors: Tensor, place: str) -> None:
    """Multiply the features of the output.

    Args:
        module: The module.
        features: What it computes with.
        factors: ``[outputs]``.
        place: Its name.

    Raises:
        NotImplementedError: The weight is quantised, or no gain of a normalisation.
    """
    weight = float_weight(module, place)
    last = features.transposed or features.kind == "embedding"
    factors_of_weight = factors if last else factors.reshape(-1, *(1,) * (weight.ndim - 1))
    scaled = weight * factors_of_weight
    if features.kind == "norm" and has_one_added(module, features, place):
        scaled = scaled + (factors_of_weight - 1)
    _set(module, "weight", scaled)
    if getattr(module, "bias", None) is not None:
        _set(module, "bias", module.bias.detach() * factors)


def scale_inputs(module: Any, features: Features, factors: Tensor, place: str) -> None:
    """Multiply the features of the input.

    Args:
        module: The module, a linear map or a convolution without groups.
        features: What it computes with.
        factors: ``[inputs]``.
        place: Its name.

    Raises:
        NotImplementedError: The weight is quantised.
    """
    weight = float_weight(module, place)
    shape = (-1, 1) if features.transposed else (1, -1, *(1,) * (weight.ndim - 2))
    _set(module, "weight", weight * factors.reshape(shape))


def shift_outputs(module: Any, features: Features, shifts: Tensor, place: str) -> None:
    """Add to the features of the output.

    Args:
        module: The module.
        features: What it computes with.
        shifts: ``[outputs]``.
        place: Its name.

    Raises:
        NotImplementedError: The module has no bias, nor can it have one.
    """
    weight = float_weight(module, place)
    if getattr(module, "bias", None) is not None:
        _set(module, "bias", module.bias.detach() + shifts)
    elif features.kind == "embedding":
        _set(module, "weight", weight + shifts / embedding_scale(module))
    elif isinstance(module, (nn.Linear, nn.Conv2d, nn.LayerNorm)):
        module.bias = nn.Parameter(shifts.to(weight.dtype), requires_grad=False)
    elif shifts.any():
        raise UnsupportedError(
            f"merge: {place!r}, a {type(module).__name__}, has no bias that could take up the shift"
        )


def has_one_added(module: Any, features: Features, place: str) -> bool:
    """Whether a normalisation multiplies with 1 + its weight, as those of Gemma do, not with the weight."""
    if type(module).__module__.startswith("torch.nn."):
        return False
    probe = copy.deepcopy(module)
    if getattr(probe, "bias", None) is not None:
        _set(probe, "bias", torch.zeros_like(probe.bias))
    weight, size = module.weight, features.outputs
    x = torch.linspace(-1, 2, 2 * size, dtype=weight.dtype, device=weight.device)
    x = x.reshape(2, size, *(1,) * (2 if features.dim == -3 else 0))
    for has_one in (False, True):
        _set(probe, "weight", torch.full_like(weight, -int(has_one)))
        try:
            with torch.no_grad():
                output = probe(x)
        except Exception:
            break
        if isinstance(output, Tensor) and not output.any():
            return has_one
    raise UnsupportedError(
        f"merge: nothing tells how {place!r}, a {type(module).__name__}, multiplies with its weight"
    )


def _set(module: Any, name: str, value: Tensor) -> None:
    """Replace a parameter, in this place alone if it is tied, by one of the same dtype."""
    dtype = getattr(module, name).dtype
    setattr(module, name, nn.Parameter(value.detach().to(dtype), requires_grad=False))
