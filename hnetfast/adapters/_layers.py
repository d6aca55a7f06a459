"""What all adapters are, as a user makes them and in the place of one module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from hnetfast._errors import InputError, UnsupportedError
from hnetfast._patterns import as_patterns
from hnetfast.adapters._kinds import Features, find_features, weight_dtype_and_device
from hnetfast.adapters._places import find_modules
from hnetfast.mnets._module.calling import Place
from hnetfast.mnets._module.rows import SampleRows


class AdapterLayer(nn.Module):
    """An adapter in one place: its parameters, at the values at which the module is as it was.

    It is no part of the module that it adapts, which calls it by a hook: names in there stay what they are.

    Args:
        place: The qualified name of what is adapted.
        module_name: That of the module.
        module: The module, which is not kept.
    """

    takes_rows = True
    features: Features

    def __init__(self, place: str, module_name: str, module: nn.Module) -> None:
        super().__init__()
        self.place, self.module_name = place, module_name
        self.layer_type = type(module).__name__
        self.call: dict[str, Any] = {"rows": None}
        self.replaced_places: list[Place] = []
        self.dtype, self.device = weight_dtype_and_device(module)
        self.train(module.training)

    def add_parameter(self, name: str, *shape: int) -> nn.Parameter:
        """Register a parameter, at first zero.

        Args:
            name: Its name.
            *shape: Its shape.
        """
        parameter = nn.Parameter(torch.zeros(shape, dtype=self.dtype, device=self.device))
        self.register_parameter(name, parameter)
        return parameter

    @property
    def rows(self) -> SampleRows | None:
        """The sets of weights of the samples, None in a call with one set."""
        return self.call["rows"]

    def along_features(self, value: Tensor, tensor: Tensor) -> Tensor:
        """Bring one number a feature into the shape in which it is multiplied with or added to a tensor.

        Args:
            value: ``[features]``, in a batch of several sets ``[B, features]``.
            tensor: Input or output of the module.

        Raises:
            ValueError: It has no dimension of samples in such a batch.
        """
        behind = self.features.dims_behind(tensor)
        if self.rows is None:
            return value.reshape(*value.shape, *behind)
        if tensor.ndim < 2 + len(behind):
            raise InputError(
                f"rows: {self.place!r} computes with the shape {list(tensor.shape)}, which has no dimension "
                "of samples"
            )
        value = self.rows.select(value, tensor)
        between = (1,) * (tensor.ndim - 2 - len(behind))
        return value.reshape(value.shape[0], *between, value.shape[1], *behind)

    def replacement(self, base: Tensor, value: Tensor) -> Tensor:
        """What is used instead of a parameter, by adapters that replace one.

        Args:
            base: The parameter.
            value: The given weight.
        """
        raise NotImplementedError

    def fold(self, module: nn.Module, values: Mapping[str, Tensor]) -> None:
        """Change the weights of a module so that it computes what it does with the adapter.

        Args:
            module: A copy of the module that is adapted, without the adapter.
            values: The given weights by the names of the parameters.

        Raises:
            NotImplementedError: No weights do.
        """
        kind = type(self).__name__.removesuffix("Layer")
        raise UnsupportedError(f"merge: no weights do what the {kind} at {self.place!r} does")


class OutputLayer(AdapterLayer):
    """An adapter of what a module returns, or of the first entry of the tuple.

    Args:
        place: The qualified name of the module.
        module: The module.
        features: What it computes with.
    """

    def __init__(self, place: str, module: nn.Module, features: Features) -> None:
        super().__init__(place, place, module)
        self.features = features

    def attach(self, module: nn.Module) -> None:
        """Let the module call the adapter.

        Args:
            module: The module.

        Raises:
            ValueError: It has one of this kind already.
        """
        key: Any = f"hnetfast.{type(self).__name__}"
        self._refuse_second(module._forward_hooks, key)
        # By hand, for a key that stays unique: numbered ones begin anew in a process that unpickles modules.
        module._forward_hooks[key] = self._after
        module._forward_hooks_with_kwargs[key] = True

    def _refuse_second(self, hooks: Mapping[Any, Any], key: str) -> None:
        if key in hooks:
            kind = type(self).__name__.removesuffix("Layer")
            raise InputError(
                f"adapters: {self.place!r} has a {kind} already, a second {kind} cannot be in the same place"
            )

    def _after(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Any:
        x = args[0] if args else next(iter(kwargs.values()), None)
        if isinstance(output, tuple):
            entries = (self._adapt(x, output[0]), *output[1:])
            return type(output)(*entries) if hasattr(output, "_fields") else type(output)(entries)
        return self._adapt(x, output)

    def _adapt(self, x: Any, output: Tensor) -> Tensor:
        if self.rows is not None:
            if self.features.kind == "embedding" and x.shape not in ((1,), (self.rows.num_samples,)):
                self._check_indices(x)
            output = self.rows.spread(output, self.place)
        return self.adapt(x, output)

    def _check_indices(self, x: Tensor) -> None:
        """Refuse those that all samples share, positions mostly, where they look like some of each sample."""
        if x.ndim == 1:
            raise InputError(
                f"rows: {self.place!r} computes with indices of the shape {list(x.shape)}, without a "
                "dimension of samples; give them one in front, of size 1 if all samples share them"
            )

    def adapt(self, x: Any, output: Tensor) -> Tensor:
        """Compute the adapted output.

        Args:
            x: The first argument of the module.
            output: What it returned, in a batch of several sets with a row for each sample.
        """
        raise NotImplementedError


class Adapter:
    """What adapts modules of a pretrained network, which stays as it is.

    Args:
        modules: Names of modules, or patterns like ``"*.q_proj"`` as :mod:`fnmatch` understands them.
    """

    _accepted = ""

    def __init__(self, modules: Sequence[str] | str) -> None:
        self.modules = as_patterns("modules", modules)

    def _features(self, module: nn.Module) -> Features | None:
        """What the adapter can do with a module, None where that is nothing."""
        return find_features(module)

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
        return find_modules(
            "modules",
            self.modules,
            module,
            lambda candidate: self._features(candidate) is not None,
            self._accepted,
        )

    def apply(self, module: nn.Module) -> list[Any]:
        """Adapt a network, in place. ``hnetfast.mnets.from_module`` does so with its copy.

        Args:
            module: The network.

        Returns:
            The adapters, modules whose parameters are at their initial values.

        Raises:
            ValueError: If a pattern names no module, or one is too small.
            TypeError: If a module can't be adapted.
        """
        layers = []
        for name, found in self.find(module):
            if features := self._features(found):
                layer = self._layer(name, found, features)
                if next(chain(found.parameters(), found.buffers()), None) is None:
                    dtype, device = weight_dtype_and_device(module)  # it tells nothing
                    layer.to(device, dtype)
                layer.attach(found)
                layers.append(layer)
        return layers

    def _layer(self, name: str, module: nn.Module, features: Features) -> OutputLayer:
        raise NotImplementedError

    def __repr__(self) -> str:
        """Show the arguments."""
        options = ", ".join(f"{name}={value!r}" for name, value in vars(self).items() if name[0] != "_")
        return f"{type(self).__name__}({options})"
