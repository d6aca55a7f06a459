"""Changes of a module's weights that change its output by factors and shifts of the features."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from hnetfast._errors import UnsupportedError
from hnetfast.adapters._kinds import Features, float_weight


def scale_outputs(module: Any, features: Features, factors: Tensor, place: str) -> None:
    """Multiply the features of the output.

    Args:
        module: The module.
        features: What it computes with.
        factors: ``[outputs]``.
        place: Its name.

    Raises:
        NotImplementedError: The weight is quantised.
    """
    weight = float_weight(module, place)
    last = features.transposed or features.kind == "embedding"
    _set(module, "weight", weight * (factors if last else factors.reshape(-1, *(1,) * (weight.ndim - 1))))
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
        _set(module, "weight", weight + shifts)
    elif isinstance(module, (nn.Linear, nn.Conv2d, nn.LayerNorm)):
        module.bias = nn.Parameter(shifts.to(weight.dtype), requires_grad=False)
    elif shifts.any():
        raise UnsupportedError(
            f"merge: {place!r}, a {type(module).__name__}, has no bias that could take up the shift"
        )


def _set(module: Any, name: str, value: Tensor) -> None:
    """Replace a parameter, in this place alone if it is tied, by one of the same dtype."""
    dtype = getattr(module, name).dtype
    setattr(module, name, nn.Parameter(value.detach().to(dtype), requires_grad=False))
