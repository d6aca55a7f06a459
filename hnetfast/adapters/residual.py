"""Differences to pretrained parameters."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from hnetfast._errors import InputTypeError
from hnetfast.adapters._parameters import ParameterAdapter, ParameterLayer
from hnetfast.mnets._module.calling import Place

__all__ = ["Residual"]


class Residual(ParameterAdapter):
    """Differences to pretrained parameters: ``W0 + s · Δ`` in place of ``W0``.

    The parameter "residual", Δ, has the shape of ``W0`` and is zero at first. ``forward_batched`` applies
    biases of linear maps, convolutions and layer and group normalisation to all sets of weights at once; with
    any other parameter it computes one set after the other, or many through ``torch.vmap``.

    Args:
        params: Names of parameters, or patterns like ``"*.bias"`` as :mod:`fnmatch` understands them.
        scale: The factor s.

    Raises:
        ValueError: If there is no pattern.
        TypeError: If an argument is of a wrong type.

    Example:
        >>> from torch import nn
        >>> from hnetfast.mnets import from_module
        >>> base = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)).requires_grad_(False)
        >>> target = from_module(base, adapters=Residual(["*.bias"]))
        >>> target.generated_names, target.hyper_shapes_learned
        (['0.bias.residual', '2.bias.residual'], [[5], [4]])
    """

    def __init__(self, params: Sequence[str] | str, scale: float = 1.0) -> None:
        super().__init__(params)
        if not isinstance(scale, (int, float)):
            raise InputTypeError(f"scale: expected a number, got {scale!r}")
        self.scale = scale

    def _layer(self, name: str, places: list[Place]) -> ParameterLayer:
        return ResidualLayer(name, places, self.scale)


class ResidualLayer(ParameterLayer):
    """The difference to one parameter.

    Args:
        place: The qualified name of the parameter.
        places: The modules that hold it, and its names in there.
        scale: The factor of the difference.
    """

    def __init__(self, place: str, places: list[Place], scale: float) -> None:
        super().__init__(place, places, "residual")
        self.scale = scale

    def change(self, base: Tensor, value: Tensor) -> Tensor:
        """The difference to the pretrained parameter.

        Args:
            base: The parameter.
            value: The given weight.
        """
        return value * self.scale
