"""Feature-wise linear modulation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from hnetfast.adapters._folding import scale_outputs, shift_outputs
from hnetfast.adapters._kinds import Features
from hnetfast.adapters._layers import Adapter, OutputLayer

__all__ = ["Modulation"]


class Modulation(Adapter):
    """Feature-wise linear modulation of what modules return: ``(1 + γ) ⊙ y + β``.

    Perez et al., "FiLM: visual reasoning with a general conditioning layer", 2018. The parameters
    "modulation_gamma" and "modulation_beta", one number a feature (of images: a channel), start at zero.

    Args:
        modules: Names of modules, or patterns like ``"*.norm"`` as :mod:`fnmatch` understands them: linear
            maps, embeddings, two-dimensional convolutions, and normalisations with a gain.

    Raises:
        ValueError: If there is no pattern.
        TypeError: If a pattern is no string.

    Example:
        >>> from hnetfast.mnets import from_module
        >>> base = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).requires_grad_(False)
        >>> from_module(base, adapters=Modulation("0")).hyper_shapes_learned
        [[8], [8]]
    """

    _accepted = (
        "a linear map (nn.Linear, Conv1D, a module with in_features and out_features), an nn.Embedding, an "
        "nn.Conv2d, or a normalisation with a gain"
    )

    def _layer(self, name: str, module: nn.Module, features: Features) -> OutputLayer:
        return ModulationLayer(name, module, features)


class ModulationLayer(OutputLayer):
    """Gain and shift of the output of one module.

    Args:
        place: The qualified name of the module.
        module: The module.
        features: What it computes with.
    """

    modulation_gamma: Tensor
    modulation_beta: Tensor

    def __init__(self, place: str, module: nn.Module, features: Features) -> None:
        super().__init__(place, module, features)
        self.add_parameter("modulation_gamma", features.outputs)
        self.add_parameter("modulation_beta", features.outputs)

    def adapt(self, x: Any, output: Tensor) -> Tensor:
        """Modulate the output.

        Args:
            x: What the module got.
            output: What it returned.

        Returns:
            A tensor in the dtype of ``output``.
        """
        gain = 1 + self.along_features(self.modulation_gamma, output)
        return (output * gain + self.along_features(self.modulation_beta, output)).to(output.dtype)

    def fold(self, module: nn.Module, values: Mapping[str, Tensor]) -> None:
        """Modulate the weight and the bias of a module.

        Args:
            module: A copy of the module that is adapted.
            values: Gain and shift.

        Raises:
            NotImplementedError: If the weight is quantised, or there can be no bias for the shift.
        """
        gamma, beta = values.values()
        scale_outputs(module, self.features, 1 + gamma.detach(), self.place)
        shift_outputs(module, self.features, beta.detach(), self.place)
