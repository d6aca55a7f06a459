"""What the residual networks have in common: their layers, and how these are registered and evaluated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from hnetfast._checks import check_integers
from hnetfast._errors import InputError, InputTypeError
from hnetfast.mnets._image_classifier import ImageClassifier
from hnetfast.mnets._layer_functions import SINGLE_SET, LayerFunctions
from hnetfast.mnets._statistics import Stats, latest_stats, parse_condition, select_stats
from hnetfast.mnets._weights import WeightPlan, select_weights


class Convolution(NamedTuple):
    """A convolution as the constructor of a network lays it out.

    Attributes:
        in_maps: Number of input channels.
        out_maps: Number of output channels.
        size: Height and width of the output.
        kernel: Height and width of the kernel.
        stride: Step between two positions of the kernel.
        padding: Zeros around the input.
        use_bias: Whether it has a bias.
        layer: Entry "layer" of its weights' metadata.
    """

    in_maps: int
    out_maps: int
    size: tuple[int, int]
    kernel: int
    stride: int
    padding: int
    use_bias: bool
    layer: int = -1


class Inputs(NamedTuple):
    """What the layers of one call are computed with.

    Attributes:
        layers: How the network is evaluated.
        mod: Parameters of context modulation.
        internal: All others.
        stats: Statistics of batch normalisation.
    """

    layers: LayerFunctions
    mod: Sequence[Tensor]
    internal: Sequence[Tensor]
    stats: Sequence[Stats]


class ResidualNetwork(ImageClassifier):
    """Base of the residual networks, which differ in how they connect their convolutions."""

    _convs: list[Convolution]
    _projections: list[Convolution]

    def _set_options(
        self,
        use_bias: bool,
        use_fc_bias: bool | None,
        no_weights: bool,
        use_batch_norm: bool,
        bn_track_stats: bool,
        distill_bn_stats: bool,
        kwargs: dict[str, Any],
    ) -> None:
        """Keep the options of the constructor, ``kwargs`` those of context modulation."""
        pixel_wise = kwargs.pop("context_mod_apply_pixel_wise", False)
        self._keep_context_mod_args(kwargs)
        self._context_mod_apply_pixel_wise = pixel_wise
        self._no_weights = no_weights
        self._use_batch_norm = use_batch_norm
        self._bn_track_stats = bn_track_stats
        self._distill_bn_stats = distill_bn_stats
        self._use_bias = use_bias
        self._use_fc_bias = use_bias if use_fc_bias is None else use_fc_bias
        self._has_bias = self._use_bias and self._use_fc_bias
        self._has_fc_out = self._mask_fc_out = self._has_linear_out = True

    def _feature_maps(self, num_feature_maps: Sequence[int], count: int, factor: int = 1) -> list[int]:
        """Check the number of feature maps of each group, and multiply all but the first."""
        num_feature_maps = check_integers("num_feature_maps", num_feature_maps, 1, count)
        if not isinstance(factor, Real):
            raise InputTypeError(f"k: expected a positive number, got {factor!r}")
        if not factor > 0:
            raise InputError(f"k: expected a positive number, got {factor!r}")
        first, *groups = num_feature_maps
        return [first, *(round(factor * maps) for maps in groups)]

    def _build(
        self,
        convs: list[Convolution],
        projections: list[Convolution],
        fc_layer: int = -1,
        numbered: bool = False,
        normalise_projections: bool = False,
    ) -> None:
        """Create and register all layers.

        Args:
            convs: The convolutions in the order in which they are computed.
            projections: Those of shortcuts.
            fc_layer: Entry "layer" of its metadata.
            numbered: Whether the entries "layer" of batch normalisation and context modulation are those of
                the convolution plus 1 and plus 2, and not -1.
            normalise_projections: Whether projections have batch normalisation.
        """
        self._param_shapes, self._param_shapes_meta = [], []
        # In this order hypnettorch's networks name their modules, and so their parameters and checkpoints.
        keeps_any = not (self._no_weights and self._context_mod_no_weights)
        if keeps_any:
            self._internal_params = nn.ParameterList()
        if self._no_weights or self._context_mod_no_weights:
            self._hyper_shapes_learned, self._hyper_shapes_learned_ref = [], []
        if numbered:
            self._layer_weight_tensors, self._layer_bias_vectors = nn.ParameterList(), nn.ParameterList()
        self._convs, self._projections = convs, projections
        steps = (1, 2) if numbered else (0, 0)
        if self._use_context_mod:
            shapes = [[conv.out_maps, *conv.size] for conv in convs]
            numbers = [conv.layer + steps[1] for conv in convs]
            if self._context_mod_inputs:
                shapes.insert(0, [self._channels, self._height, self._width])
                numbers.insert(0, 0 if numbered else -1)
            if not self._context_mod_apply_pixel_wise:
                shapes = [[maps, 1, 1] for maps, _, _ in shapes]
            if not self._no_last_layer_context_mod:
                shapes.append([self._num_classes])
                numbers.append(fc_layer + steps[1])
            self._add_context_mod_layers(shapes, cm_layers=numbers)
        num_mod = self._num_context_mod_shapes()
        normalised = [*convs, *(projections if normalise_projections else [])]
        if self._use_batch_norm:
            self._add_batchnorm_layers(
                [conv.out_maps for conv in normalised],
                self._no_weights,
                bn_layers=[conv.layer + steps[0] for conv in normalised],
                distill_bn_stats=self._distill_bn_stats,
                bn_track_stats=self._bn_track_stats,
            )
            self._map_sizes = [conv.size[0] * conv.size[1] for conv in normalised]
        else:
            self._map_sizes = []
        first = len(self._param_shapes) - num_mod
        self._conv_index, self._projection_index = [], []
        for group, indices in ((projections, self._projection_index), (convs, self._conv_index)):
            for conv in group:
                indices.append(len(self._param_shapes) - num_mod)
                shape = [conv.out_maps, conv.in_maps, conv.kernel, conv.kernel]
                self._add_linear_map(shape, conv.use_bias, self._no_weights, conv.layer)
                if group is projections and not self._no_weights:
                    self._layer_bias_vectors.append(None)
        self._fc_index = len(self._param_shapes) - num_mod
        fc_shape = [self._num_classes, convs[-1].out_maps]
        self._add_linear_map(fc_shape, self._use_fc_bias, self._no_weights, fc_layer)
        self._plan = WeightPlan.of(self)
        self._first_weight = first
        self._is_properly_setup(check_has_bias=False)

    def forward(
        self,
        x: Tensor,
        weights: Sequence[Tensor] | Mapping[str, Sequence[Tensor]] | None = None,
        distilled_params: Sequence[Tensor] | None = None,
        condition: int | Mapping[str, int] | None = None,
    ) -> Tensor:
        """Compute the logits of a batch of images.

        Args:
            x: Images, ``[B, H·W·C]`` or ``[B, H, W, C]``; ``[B, C, H, W]`` with ``chw_input_format=True``.
            weights: The parameters to use instead of the network's own. A list is, by its length, all of
                :attr:`param_shapes`, or those of context modulation, or (if all others are kept by the
                network) :attr:`hyper_shapes_learned`. A dictionary has the keys "internal_weights" (all but
                those of context modulation) or "mod_weights" (those), or both; None stands for the network's
                own. Parameters of context modulation may have a leading dimension of size B: one set a
                sample.
            distilled_params: Mean and variance of every batch-normalisation layer in turn, instead of its
                own. Requires ``distill_bn_stats``.
            condition: Index of stored statistics to use in batch normalisation (the latest by default); or a
                dictionary with "bn_stats_id" (the same) and/or "cmod_ckpt_id" (index of stored weights of
                context modulation, used unless such weights are given).

        Returns:
            The logits ``[B, num_classes]``.

        Raises:
            ValueError: If an argument has a wrong length, shape, key or value.
            TypeError: If an argument is of a wrong type, or images and weights differ in dtype.
        """
        return self._evaluate(SINGLE_SET, x, weights, distilled_params, condition)

    def _evaluate(
        self,
        layers: LayerFunctions,
        x: Tensor,
        weights: Any = None,
        distilled_params: Sequence[Tensor] | None = None,
        condition: int | Mapping[str, int] | None = None,
    ) -> Tensor:
        stats_id, cmod_ckpt_id = parse_condition(condition)
        images = self._images(layers, x)
        batch_size = layers.batch_size(images)
        given = select_weights(self, weights, layers, batch_size, cmod_ckpt_id)
        stats: Sequence[Stats] = ()
        if self._use_batch_norm or distilled_params is not None:
            stats = select_stats(self, distilled_params, stats_id, layers.num_sets)
        given.check_placement(images, self, self._first_weight)
        self._check_num_values(x, batch_size, self._map_sizes)
        inputs = Inputs(layers, given.mod, given.internal, stats)
        if self._use_context_mod and self._context_mod_inputs:
            images = self._modulate(inputs, images, -1)
        h = self._compute_features(inputs, images)
        h = layers.flatten(layers.avg_pool2d(h, h.shape[-2:]))
        bias = given.internal[self._fc_index + 1] if self._use_fc_bias else None
        h = layers.linear(h, given.internal[self._fc_index], bias)
        if self._use_context_mod and not self._no_last_layer_context_mod:
            h = self._modulate(inputs, h, len(self._convs))
        return h

    def _compute_features(self, inputs: Inputs, images: Tensor) -> Tensor:
        """Compute the feature maps ``[batch, C, H, W]`` that the output layer sees the averages of."""
        raise NotImplementedError

    def _convolve(self, inputs: Inputs, h: Tensor, i: int) -> Tensor:
        """Apply convolution ``i``."""
        return self._apply_convolution(inputs, h, self._convs[i], self._conv_index[i])

    def _project(self, inputs: Inputs, h: Tensor, i: int) -> Tensor:
        """Apply the convolution of shortcut ``i``."""
        return self._apply_convolution(inputs, h, self._projections[i], self._projection_index[i])

    def _apply_convolution(self, inputs: Inputs, h: Tensor, conv: Convolution, index: int) -> Tensor:
        weight = inputs.internal[index]
        bias = inputs.internal[index + 1] if conv.use_bias else None
        return inputs.layers.conv2d(h, weight, bias, conv.stride, conv.padding)

    def _modulate(self, inputs: Inputs, h: Tensor, i: int) -> Tensor:
        """Modulate the output of convolution ``i``; -1 is the input."""
        i_mod = i + self._context_mod_inputs
        weights = inputs.mod[2 * i_mod : 2 * i_mod + 2]
        return inputs.layers.modulate(self._context_mod_layers[i_mod], h, weights)

    def _modulate_before(self, inputs: Inputs, h: Tensor, i: int) -> Tensor:
        """Modulate the output of convolution ``i`` if that is to happen before its activation function."""
        if self._use_context_mod and not self._context_mod_post_activation:
            return self._modulate(inputs, h, i)
        return h

    def _modulate_after(self, inputs: Inputs, h: Tensor, i: int) -> Tensor:
        """Modulate the output of convolution ``i`` if that is to happen after its activation function."""
        if self._use_context_mod and self._context_mod_post_activation:
            return self._modulate(inputs, h, i)
        return h

    def _normalise(self, inputs: Inputs, h: Tensor, i: int) -> Tensor:
        """Apply batch-normalisation layer ``i``, if there are any."""
        if not self._use_batch_norm:
            return h
        weight, bias = inputs.internal[2 * i : 2 * i + 2]
        return inputs.layers.batch_norm(self._batchnorm_layers[i], h, inputs.stats[i], weight, bias)

    def _activate(self, inputs: Inputs, h: Tensor, i: int) -> Tensor:
        """What follows convolution ``i``: modulation, batch normalisation and ReLU."""
        new = self._normalise(inputs, self._modulate_before(inputs, h, i), i)
        new = F.relu(h) if new is h else inputs.layers.relu_(new)
        return self._modulate_after(inputs, new, i)

    def _shrink(self, inputs: Inputs, h: Tensor, like: Tensor) -> Tensor:
        """Bring a shortcut to the shape of what it is added to.

        Takes every second row and column, and adds as many maps of zeros on both sides as are missing.
        """
        if h.shape[-2:] != like.shape[-2:]:
            h = inputs.layers.thin_out(h, 2)
        missing = like.shape[-3] - h.shape[-3]
        if missing:
            h = F.pad(h, (0, 0, 0, 0, missing // 2, missing - missing // 2))
        return h

    @property
    def has_bias(self) -> bool:
        """Whether layers have bias terms.

        Raises:
            ValueError, RuntimeError: If only the output layer has one, or only the convolutions have.
        """
        if self._use_bias != self._use_fc_bias:
            raise InputError(
                f"has_bias: convolutions and output layer differ (use_bias={self._use_bias}, "
                f"use_fc_bias={self._use_fc_bias})"
            )
        return self._has_bias

    @property
    def _output_has_bias(self) -> bool:
        return self._use_fc_bias

    def distillation_targets(self) -> list[Tensor] | None:
        """Return the latest running statistics of all batch-normalisation layers.

        Returns:
            Mean and variance of every layer in turn, the network's own tensors; None without
            ``distill_bn_stats``.
        """
        return latest_stats(self)
