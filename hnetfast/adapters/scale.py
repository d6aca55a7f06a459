"""Relative changes of pretrained parameters."""

from __future__ import annotations

from torch import Tensor

from hnetfast.adapters._parameters import ParameterAdapter, ParameterLayer
from hnetfast.mnets._module.calling import Place

__all__ = ["Scale"]


class Scale(ParameterAdapter):
    """Relative changes of pretrained parameters: ``W0 ⊙ (1 + Δ)`` in place of ``W0``.

    The parameter "scale", Δ, has the shape of ``W0`` and is zero at first. ``forward_batched`` applies
    gains of ``nn.LayerNorm``, ``nn.RMSNorm`` and other classes called so, and biases of linear maps,
    convolutions and layer and group normalisation to all sets of weights at once; with any other parameter it
    computes one set after the other, or many through ``torch.vmap``.

    Args:
        params: Names of parameters, or patterns like ``"*.norm.*"`` as :mod:`fnmatch` understands them.

    Raises:
        ValueError: If there is no pattern.
        TypeError: If a pattern is no string.

    Example:
        >>> from torch import nn
        >>> from hnetfast.mnets import from_module
        >>> base = nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5)).requires_grad_(False)
        >>> target = from_module(base, adapters=Scale(["1.*"]))
        >>> target.generated_names, target.hyper_shapes_learned
        (['1.weight.scale', '1.bias.scale'], [[5], [5]])
    """

    def _layer(self, name: str, places: list[Place]) -> ParameterLayer:
        return ScaleLayer(name, places, "scale")


class ScaleLayer(ParameterLayer):
    """The relative change of one parameter."""

    changes_gains = True

    def change(self, base: Tensor, value: Tensor) -> Tensor:
        """The difference to the pretrained parameter.

        Args:
            base: The parameter.
            value: The given weight.
        """
        return base * value
