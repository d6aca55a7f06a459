"""Adapters that replace parameters, and change outputs where that is the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from hnetfast._errors import InputTypeError, UnsupportedError
from hnetfast._patterns import as_patterns, match
from hnetfast.adapters._folding import has_one_added
from hnetfast.adapters._kinds import find_features
from hnetfast.adapters._layers import AdapterLayer
from hnetfast.mnets._module.calling import Place
from hnetfast.mnets._module.parameters import find_parameters

_WITH_BIAS = (nn.Linear, nn.Conv2d, nn.LayerNorm, nn.GroupNorm)


class ParameterAdapter:
    """What adapts parameters of a pretrained network, which stay as they are.

    Args:
        params: Names of parameters, or patterns like ``"*.weight"`` as :mod:`fnmatch` understands them.
    """

    def __init__(self, params: Sequence[str] | str) -> None:
        self.params = as_patterns("params", params)

    def find(self, module: nn.Module) -> list[tuple[str, list[Place]]]:
        """Find the parameters that are adapted.

        Args:
            module: The network.

        Returns:
            Their names and places, several of a tied one.

        Raises:
            ValueError: If a pattern names none.
            TypeError: If a parameter can't be adapted.
        """
        names = [name for name, _ in module.named_parameters(remove_duplicate=False)]
        chosen = set(match("params", self.params, names, "parameter"))
        found = []
        for parameter, _, _ in find_parameters(module, None):
            own_names = {name for name in chosen if module.get_parameter(name) is parameter.value}
            if own_names and not parameter.value.is_floating_point():
                raise InputTypeError(
                    f"params: {parameter.name!r} has the dtype {parameter.value.dtype}, expected one of "
                    "floating point; a quantised module can be adapted by LoRA"
                )
            if own_names:
                found.append((parameter.name, parameter.places))
        return found

    def apply(self, module: nn.Module) -> list[Any]:
        """Adapt a network, in place. ``hnetfast.mnets.from_module`` does so with its copy.

        Args:
            module: The network.

        Returns:
            The adapters, modules whose parameters are at their initial values.

        Raises:
            ValueError: If a pattern names no parameter.
            TypeError: If a parameter can't be adapted.
        """
        layers = []
        for name, places in self.find(module):
            layer = self._layer(name, places)
            layer.attach(places)
            layers.append(layer)
        return layers

    def _layer(self, name: str, places: list[Place]) -> ParameterLayer:
        raise NotImplementedError

    def __repr__(self) -> str:
        """Show the arguments."""
        options = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({options})"


def _multiplies(module: nn.Module, place: str) -> bool:
    """Whether a normalisation multiplies with its weight as the last thing but for adding a bias."""
    if type(module) in (nn.LayerNorm, nn.RMSNorm):
        return True
    features = find_features(module)
    if features is None or features.kind != "norm" or not type(module).__name__.endswith("RMSNorm"):
        return False
    try:
        return not has_one_added(module, features, place)
    except UnsupportedError:
        return False


class ParameterLayer(AdapterLayer):
    """An adapter of one parameter, of which it has one of the same shape.

    In a batch of several sets the parameter is the pretrained one, and the output of its module is changed
    instead where that is the same: a bias of many modules, and, for :attr:`changes_gains`, a gain.

    Args:
        place: The qualified name of the parameter.
        places: The modules that hold it, and its names in there.
        kind: Name of the adapter's parameter.
    """

    changes_gains = False

    def __init__(self, place: str, places: list[Place], kind: str) -> None:
        owner, local_name = places[0]
        super().__init__(place, place.rpartition(".")[0], owner)
        self.kind, self.local_name = kind, local_name
        base = getattr(owner, local_name)
        self.add_parameter(kind, *base.shape)
        features = find_features(owner)
        # Of these classes alone, as what is derived from them may not be called, or compute something else.
        is_bias = local_name == "bias" and (type(owner) in _WITH_BIAS or type(owner).__name__ == "Conv1D")
        may_be_gain = self.changes_gains and base.ndim == 1 and local_name == "weight"
        is_gain = may_be_gain and _multiplies(owner, place)
        self.takes_rows = len(places) == 1 and features is not None and (is_bias or is_gain)
        if features is not None:
            self.features = features

    def change(self, base: Tensor, value: Tensor) -> Tensor:
        """The difference to the pretrained parameter.

        Args:
            base: The parameter.
            value: The given weight, of a shape that broadcasts with it.
        """
        raise NotImplementedError

    def replacement(self, base: Tensor, value: Tensor) -> Tensor:
        """What is used instead of the pretrained parameter.

        Args:
            base: The parameter.
            value: The given weight.
        """
        return (base + self.change(base, value)).to(base.dtype)

    def attach(self, places: list[Place]) -> None:
        """Learn where the parameter is, and let the module call the adapter in a batch of several sets.

        Args:
            places: The modules that hold it, and its names in there.
        """
        self.replaced_places = list(places)
        if not self.takes_rows:
            return
        hooks: Any = places[0][0]._forward_hooks
        hooks[f"hnetfast.{type(self).__name__}.{self.local_name}"] = self._after
        # Before adapters of the output, and gains before biases, which they do not concern.
        for ending in (".bias", ".weight"):
            for key in [key for key in hooks if str(key).startswith("hnetfast.") and key.endswith(ending)]:
                hooks.move_to_end(key, last=False)

    def _after(self, module: Any, args: tuple[Any, ...], output: Tensor) -> Tensor:
        if self.rows is None:
            return output
        output = self.rows.spread(output, self.place)
        value = self.along_features(getattr(self, self.kind), output)
        if self.local_name == "bias":
            change = self.change(module.bias.reshape(-1, *self.features.dims_behind(output)), value)
        else:
            bias = getattr(module, "bias", None)
            change = self.change(output if bias is None else output - bias, value)
        return (output + change).to(output.dtype)

    def fold(self, module: nn.Module, values: Mapping[str, Tensor]) -> None:
        """Replace the parameter in a network, wherever it is.

        Args:
            module: A copy of the network.
            values: The given weight.
        """
        old = module.get_parameter(self.place)
        (value,) = values.values()
        new = nn.Parameter(self.replacement(old.detach(), value.detach()), requires_grad=False)
        for owner in module.modules():
            for name, parameter in owner._parameters.items():
                if parameter is old:
                    owner._parameters[name] = new
