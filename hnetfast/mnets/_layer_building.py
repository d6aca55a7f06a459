"""Creation and registration of the layers that main networks share."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hnetfast._errors import InputError, InputTypeError
from hnetfast._layer_lists import LayerList
from hnetfast.utils.batchnorm_layer import BatchNormLayer
from hnetfast.utils.context_mod_layer import ContextModLayer
from hnetfast.utils.torch_utils import init_params

if TYPE_CHECKING:
    from hnetfast.mnets._weights import WeightPlan

Shape = Sequence[int]

_CONTEXT_MOD_DEFAULTS = {
    "use_context_mod": False,
    "context_mod_inputs": False,
    "no_last_layer_context_mod": False,
    "context_mod_no_weights": False,
    "context_mod_post_activation": False,
    "context_mod_gain_offset": False,
    "context_mod_gain_softplus": False,
}


class LayerBuilding:
    """What subclasses of ``MainNetInterface`` call while they are constructed."""

    # What subclasses set, or leave as None where there is none; the constructor makes them None.
    _internal_params: nn.ParameterList
    _param_shapes: list[Shape]
    _param_shapes_meta: list[dict[str, Any]]
    _hyper_shapes_learned: list[Shape]
    _hyper_shapes_learned_ref: list[int]
    _hyper_shapes_distilled: list[Shape]
    _has_bias: bool
    _has_fc_out: bool
    _mask_fc_out: bool
    _has_linear_out: bool
    _layer_weight_tensors: nn.ParameterList
    _layer_bias_vectors: nn.ParameterList
    _batchnorm_layers: LayerList[BatchNormLayer]
    _context_mod_layers: LayerList[ContextModLayer]
    _num_params: int
    _num_internal_params: int
    # Former names of _internal_params, _hyper_shapes_learned and _param_shapes, which subclasses still set.
    _weights: nn.ParameterList
    _hyper_shapes: list[Shape]
    _all_shapes: list[Shape]

    if (
        TYPE_CHECKING
    ):  # options of context modulation, and what describes the parameters, where there are such
        _use_context_mod: bool
        _context_mod_inputs: bool
        _no_last_layer_context_mod: bool
        _context_mod_no_weights: bool
        _context_mod_post_activation: bool
        _context_mod_gain_offset: bool
        _context_mod_gain_softplus: bool
        _plan: WeightPlan

    @staticmethod
    def _parse_context_mod_args(cm_kwargs: dict[str, Any]) -> list[str]:
        """Add the defaults of context modulation to a dictionary of keyword arguments.

        Args:
            cm_kwargs: Keyword arguments, completed in place.

        Returns:
            The keys that do not concern context modulation.
        """
        unknown = [key for key in cm_kwargs if key not in _CONTEXT_MOD_DEFAULTS]
        for key, default in _CONTEXT_MOD_DEFAULTS.items():
            cm_kwargs.setdefault(key, default)
        return unknown

    def _keep_context_mod_args(self, cm_kwargs: dict[str, Any]) -> None:
        """Keep options of context modulation as the attributes ``_use_context_mod`` and so on.

        Args:
            cm_kwargs: Keyword arguments, completed in place.

        Raises:
            TypeError: If one of them does not concern context modulation.
            ValueError: If options contradict each other.
        """
        unknown = self._parse_context_mod_args(cm_kwargs)
        if unknown:
            raise InputTypeError(f"{type(self).__name__}: unknown keyword arguments {unknown}")
        gain_options = ("use_context_mod", "context_mod_gain_offset", "context_mod_gain_softplus")
        if all(cm_kwargs[name] for name in gain_options):
            raise InputError("context_mod_gain_offset and context_mod_gain_softplus exclude each other")
        for name, value in cm_kwargs.items():
            setattr(self, f"_{name}", value)

    def _context_mod_note(self) -> str:
        """Tell, in the description of a network, how many weights context modulation has."""
        if not self._use_context_mod:
            return ""
        num_weights = sum(prod(shape) for shape in self._plan.shapes[: self._plan.num_mod])
        return f" (including {num_weights} weights associated with-context modulation)"

    def _add_internal_param(self, param: nn.Parameter) -> int:
        """Add a parameter to the list of them, under the names that are in use; return its index."""
        if self._internal_params is None and self._weights is None:
            self._internal_params = nn.ParameterList()
        lists = [params for params in (self._internal_params, self._weights) if params is not None]
        if len(lists) == 2 and lists[0] is lists[1]:
            lists.pop()
        for params in lists:
            params.append(param)
        return len(lists[0]) - 1

    def _register_shape(self, shape: Shape, name: str | None, layer: int, param: nn.Parameter | None) -> None:
        """Register the shape of a tensor, and the tensor itself or the fact that it is learned outside."""
        if self._param_shapes is None:
            self._param_shapes = []
        if self._param_shapes_meta is None:
            self._param_shapes_meta = []
        index = -1
        if param is not None:
            index = self._add_internal_param(param)
        else:
            if self._hyper_shapes_learned is None:
                self._hyper_shapes_learned = []
            if self._hyper_shapes_learned_ref is None:
                self._hyper_shapes_learned_ref = []
            self._hyper_shapes_learned.append(shape)
            self._hyper_shapes_learned_ref.append(len(self._param_shapes))
        self._param_shapes.append(shape)
        self._param_shapes_meta.append({"name": name, "index": index, "layer": layer})

    def _add_context_mod_layers(
        self, cm_shapes: Sequence[Shape], cm_layers: Sequence[int] | None = None
    ) -> None:
        """Create context-modulation layers and register their parameters.

        Args:
            cm_shapes: Argument ``num_features`` of each layer.
            cm_layers: Entry "layer" of the metadata of each layer.
        """
        if self._context_mod_layers is None:
            self._context_mod_layers = LayerList()
        for i, shape in enumerate(cm_shapes):
            layer = ContextModLayer(
                shape,
                no_weights=self._context_mod_no_weights,
                apply_gain_offset=self._context_mod_gain_offset,
                apply_gain_softplus=self._context_mod_gain_softplus,
            )
            self._context_mod_layers.append(layer)
            params = [None] * len(layer.param_shapes) if layer.weights is None else list(layer.weights)
            for param, param_shape, kind in zip(
                params, layer.param_shapes, layer.param_shapes_meta, strict=True
            ):
                name = "cm_scale" if kind == "gain" else "cm_shift"
                self._register_shape(param_shape, name, -1 if cm_layers is None else cm_layers[i], param)

    def _num_context_mod_shapes(self) -> int:
        """Number of parameter tensors in the context-modulation layers."""
        return sum(len(layer.param_shapes) for layer in self._context_mod_layers or ())

    def _add_batchnorm_layers(
        self,
        bn_sizes: Sequence[int],
        bn_no_weights: bool,
        bn_layers: Sequence[int] | None = None,
        distill_bn_stats: bool = False,
        bn_track_stats: bool = True,
    ) -> None:
        """Create batch-normalisation layers and register their parameters.

        Args:
            bn_sizes: Number of features of each layer.
            bn_no_weights: Whether gains and offsets are given from outside.
            bn_layers: Entry "layer" of the metadata of each layer.
            distill_bn_stats: Whether to add the statistics to :attr:`hyper_shapes_distilled`.
            bn_track_stats: Whether the layers keep running statistics.

        Raises:
            ValueError: If statistics are to be distilled that are not tracked.
        """
        if bn_sizes and distill_bn_stats and not bn_track_stats:
            raise ValueError(
                "distill_bn_stats=True needs bn_track_stats=True: there are no statistics otherwise"
            )
        if self._batchnorm_layers is None:
            self._batchnorm_layers = LayerList()
        if distill_bn_stats and self._hyper_shapes_distilled is None:
            self._hyper_shapes_distilled = []
        for i, size in enumerate(bn_sizes):
            layer = BatchNormLayer(size, affine=not bn_no_weights, track_running_stats=bn_track_stats)
            self._batchnorm_layers.append(layer)
            params = [None, None] if layer.weights is None else list(layer.weights)
            for param, shape, name in zip(params, layer.param_shapes, ("bn_scale", "bn_shift"), strict=True):
                self._register_shape(shape, name, -1 if bn_layers is None else bn_layers[i], param)
            if distill_bn_stats:
                self._hyper_shapes_distilled.extend(list(stats.shape) for stats in layer.get_stats(0))

    def _add_fc_layers(
        self,
        in_sizes: Sequence[int],
        out_sizes: Sequence[int],
        no_weights: bool,
        fc_layers: Sequence[int] | None = None,
    ) -> None:
        """Create the parameters of fully connected layers, initialised as PyTorch does, and register them.

        Args:
            in_sizes: Number of inputs of each layer.
            out_sizes: Number of outputs of each layer.
            no_weights: Whether the weights are given from outside.
            fc_layers: Entry "layer" of the metadata of each layer.

        Raises:
            ValueError: If ``in_sizes`` and ``out_sizes`` differ in length.
        """
        if len(in_sizes) != len(out_sizes):
            raise ValueError(
                f"out_sizes: expected {len(in_sizes)} sizes, as many as in_sizes has, got {len(out_sizes)}"
            )
        for i, (n_in, n_out) in enumerate(zip(in_sizes, out_sizes, strict=True)):
            layer = -1 if fc_layers is None else fc_layers[i]
            self._add_linear_map([n_out, n_in], self._has_bias, no_weights, layer)

    def _add_linear_map(
        self,
        shape: Shape,
        use_bias: bool,
        no_weights: bool,
        layer: int,
        bias_shape: Shape | None = None,
        bound: float | None = None,
    ) -> None:
        """Create and register the parameters of a linear map or convolution, initialised as PyTorch does.

        Args:
            shape: Shape of the weight tensor, outputs first.
            use_bias: Whether the layer has a bias.
            no_weights: Whether the weights are given from outside.
            layer: Entry "layer" of the metadata.
            bias_shape: Shape of the bias, one value an output if None.
            bound: Draw all values uniformly from ``[-bound, bound]`` instead.
        """
        bias_shape = [shape[0]] if bias_shape is None else bias_shape
        if self._layer_weight_tensors is None:
            self._layer_weight_tensors = nn.ParameterList()
        if self._layer_bias_vectors is None:
            self._layer_bias_vectors = nn.ParameterList()
        weight = bias = None
        if not no_weights:
            weight = nn.Parameter(torch.empty(*shape))
            bias = nn.Parameter(torch.empty(*bias_shape)) if use_bias else None
            if bound is None:
                init_params(weight, bias)
            else:
                for param in [weight] if bias is None else [weight, bias]:
                    nn.init.uniform_(param, -bound, bound)
            self._layer_weight_tensors.append(weight)
            if bias is not None:
                self._layer_bias_vectors.append(bias)
        self._register_shape(shape, "weight", layer, weight)
        if use_bias:
            self._register_shape(bias_shape, "bias", layer, bias)
