"""Small networks behind the layers of a pretrained one."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from hnetfast._checks import check_function, check_integer
from hnetfast._errors import InputError, InputTypeError
from hnetfast.adapters._kinds import Features, find_features
from hnetfast.adapters._layers import Adapter, OutputLayer

__all__ = ["BottleneckAdapter"]


class BottleneckAdapter(Adapter):
    """A small network with a shortcut behind a module: ``y + U act(D y + d) + u``.

    Houlsby et al., "Parameter-efficient transfer learning for NLP", 2019, where it stands behind the last
    linear map of attention and that of the feed-forward layers, before the shortcut around them. The
    parameters are "bottleneck_down" ``[size, features]`` and "bottleneck_down_bias", which start as those of
    ``nn.Linear``, and "bottleneck_up" ``[features, size]`` and "bottleneck_up_bias", which start at zero.

    Args:
        size: Width of the hidden layer.
        modules: Names of modules, or patterns like ``"*.o_proj"`` as :mod:`fnmatch` understands them: linear
            maps, embeddings and normalisations with a gain; with ``features`` any module.
        activation: Activation function of the hidden layer. One that is no lambda can be pickled.
        features: Size of the last dimension of what the modules return, needed where it cannot be read off
            them. Of a tuple the first entry is adapted.

    Raises:
        ValueError: If a number is out of range.
        TypeError: If an argument is of a wrong type.

    Example:
        >>> from hnetfast.mnets import from_module
        >>> base = nn.Sequential(nn.Linear(6, 5), nn.Tanh()).requires_grad_(False)
        >>> from_module(base, adapters=BottleneckAdapter(size=2, modules=["0"])).hyper_shapes_learned
        [[2, 5], [2], [5, 2], [5]]
    """

    _accepted = (
        "a linear map (nn.Linear, Conv1D, a module with in_features and out_features), an nn.Embedding or a "
        "normalisation with a gain of its last dimension; for others pass features"
    )

    def __init__(
        self,
        size: int,
        modules: Sequence[str] | str,
        activation: Callable[[Tensor], Tensor] = F.relu,
        features: int | None = None,
    ) -> None:
        super().__init__(modules)
        self.size = check_integer("size", size, 1)
        if activation is None:
            raise InputTypeError("activation: expected a function, got None")
        self.activation = check_function("activation", activation)
        if isinstance(activation, nn.Module) and [*activation.parameters(), *activation.buffers()]:
            raise InputTypeError(
                f"activation: expected a function without parameters and buffers, got a "
                f"{type(activation).__name__}"
            )
        self.features = None if features is None else check_integer("features", features, 1)

    def _features(self, module: nn.Module) -> Features | None:
        if self.features is not None:
            return Features("other", self.features, self.features)
        features = find_features(module)
        return features if features is not None and features.dim == -1 else None

    def _layer(self, name: str, module: nn.Module, features: Features) -> OutputLayer:
        return BottleneckLayer(name, module, features, self)


class BottleneckLayer(OutputLayer):
    """The small network behind one module.

    Args:
        place: The qualified name of the module.
        module: The module.
        features: What it computes with.
        adapter: What the user asked for.
    """

    bottleneck_down: Tensor
    bottleneck_down_bias: Tensor
    bottleneck_up: Tensor
    bottleneck_up_bias: Tensor

    def __init__(self, place: str, module: nn.Module, features: Features, adapter: BottleneckAdapter) -> None:
        super().__init__(place, module, features)
        self.activation = copy.deepcopy(adapter.activation)  # a module is to stay in its mode
        size, width = adapter.size, features.outputs
        nn.init.kaiming_uniform_(self.add_parameter("bottleneck_down", size, width), a=math.sqrt(5))
        bound = 1 / math.sqrt(width)
        nn.init.uniform_(self.add_parameter("bottleneck_down_bias", size), -bound, bound)
        self.add_parameter("bottleneck_up", width, size)
        self.add_parameter("bottleneck_up_bias", width)

    def adapt(self, x: Any, output: Tensor) -> Tensor:
        """Add what the small network computes to the output.

        Args:
            x: What the module got.
            output: What it returned.

        Returns:
            A tensor in the dtype of ``output``.

        Raises:
            ValueError: If the output has another number of features.
        """
        width = self.bottleneck_down.shape[-1]
        if output.ndim == 0 or output.shape[-1] != width:
            raise InputError(
                f"features: expected the size of the last dimension of what {self.place!r} returns, which "
                f"has the shape {list(output.shape)}, got {width}"
            )
        h = output.to(self.bottleneck_down.dtype)
        hidden = self.activation(self._linear(h, self.bottleneck_down, self.bottleneck_down_bias))
        change = self._linear(hidden, self.bottleneck_up, self.bottleneck_up_bias)
        return (output + change).to(output.dtype)

    def _linear(self, h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if self.rows is None:
            return F.linear(h, weight, bias)
        return self.rows.linear(h, weight) + self.along_features(bias, h)
