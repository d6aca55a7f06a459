"""Learned scales of inner activations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from hnetfast._patterns import as_patterns, match
from hnetfast.adapters._folding import scale_inputs, scale_outputs
from hnetfast.adapters._kinds import Features, find_features
from hnetfast.adapters._layers import Adapter, OutputLayer

__all__ = ["IA3"]


class IA3(Adapter):
    """Scales of inner activations: ``(1 + δ) ⊙ (W0 x)``, or ``W0 ((1 + δ) ⊙ x)`` in feed-forward modules.

    Liu et al., "Few-shot parameter-efficient fine-tuning is better and cheaper than in-context learning",
    2022, where the factors ``1 + δ`` are called l. The parameter "ia3_l" is δ, at first zero, so that a
    hypernetwork that generates zeros leaves the network as it is; files of PEFT hold ``1 + δ``.

    Args:
        modules: Names of modules, or patterns like ``"*.k_proj"`` as :mod:`fnmatch` understands them:
            those of keys and values in the paper.
        feedforward: Names or patterns of modules whose inputs are scaled, in the paper the second matrix
            behind attention. A module that ``modules`` names too is one of these.

    Raises:
        ValueError: If there is no pattern.
        TypeError: If a pattern is no string.

    Example:
        >>> from hnetfast.mnets import from_module
        >>> base = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)).requires_grad_(False)
        >>> target = from_module(base, adapters=IA3(modules=["0"], feedforward=["2"]))
        >>> target.generated_names, target.hyper_shapes_learned
        (['0.ia3_l', '2.ia3_l'], [[5], [5]])
    """

    _accepted = (
        "a linear map (nn.Linear, Conv1D, a module with in_features and out_features) or an nn.Conv2d "
        "without groups"
    )

    def __init__(self, modules: Sequence[str] | str, feedforward: Sequence[str] | str = ()) -> None:
        self.feedforward = as_patterns("feedforward", feedforward, may_be_empty=True)
        outputs = as_patterns("modules", modules, may_be_empty=bool(self.feedforward))
        super().__init__([*outputs, *self.feedforward])

    def _features(self, module: nn.Module) -> Features | None:
        features = find_features(module)
        is_known = features is not None and features.kind in ("linear", "conv2d")
        return features if is_known and getattr(module, "groups", 1) == 1 else None

    def find(self, module: nn.Module) -> list[tuple[str, nn.Module]]:
        """Find the modules that are adapted.

        Args:
            module: The network.

        Returns:
            Their names and they.

        Raises:
            ValueError: If a pattern names none.
            TypeError: If a module can't be adapted.
        """
        match("feedforward", self.feedforward, [name for name, _ in module.named_modules()], "module")
        return super().find(module)

    def _layer(self, name: str, module: nn.Module, features: Features) -> OutputLayer:
        is_feedforward = any(fnmatchcase(name, pattern) for pattern in self.feedforward)
        return IA3Layer(name, module, features, is_feedforward)


class IA3Layer(OutputLayer):
    """Scales of the output or input of one module.

    Args:
        place: The qualified name of the module.
        module: The module.
        features: What it computes with.
        is_feedforward: Whether the input is scaled.
    """

    ia3_l: Tensor

    def __init__(self, place: str, module: nn.Module, features: Features, is_feedforward: bool) -> None:
        super().__init__(place, module, features)
        self.is_feedforward = is_feedforward
        self.add_parameter("ia3_l", features.inputs if is_feedforward else features.outputs)

    def attach(self, module: nn.Module) -> None:
        """Let the module call the adapter, before it computes or afterwards.

        Args:
            module: The module.

        Raises:
            ValueError: It has one of this kind already.
        """
        if not self.is_feedforward:
            super().attach(module)
            return
        key: Any = "hnetfast.IA3Layer"
        self._refuse_second(module._forward_pre_hooks, key)
        module._forward_pre_hooks[key] = self._before
        module._forward_pre_hooks_with_kwargs[key] = True

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (self._scaled_input(args[0]), *args[1:]), kwargs
        name, x = next(iter(kwargs.items()))
        return args, kwargs | {name: self._scaled_input(x)}

    def _scaled_input(self, x: Tensor) -> Tensor:
        return self._scaled(x if self.rows is None else self.rows.spread(x, self.place))

    def _scaled(self, tensor: Tensor) -> Tensor:
        return (tensor * (1 + self.along_features(self.ia3_l, tensor))).to(tensor.dtype)

    def adapt(self, x: Any, output: Tensor) -> Tensor:
        """Scale the output.

        Args:
            x: What the module got.
            output: What it returned.

        Returns:
            A tensor in the dtype of ``output``.
        """
        return self._scaled(output)

    def fold(self, module: nn.Module, values: Mapping[str, Tensor]) -> None:
        """Scale rows or columns of the matrix of a module, and with the rows its bias.

        Args:
            module: A copy of the module that is adapted.
            values: The scales.

        Raises:
            NotImplementedError: If the matrix is quantised.
        """
        scale = scale_inputs if self.is_feedforward else scale_outputs
        scale(module, self.features, 1 + values["ia3_l"].detach(), self.place)
