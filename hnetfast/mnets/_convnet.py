"""What the networks of convolutions and two linear maps, one after the other, have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor

from hnetfast._errors import InputError
from hnetfast.mnets._image_classifier import ImageClassifier, output_size
from hnetfast.mnets._layer_functions import LayerFunctions
from hnetfast.mnets._statistics import parse_condition
from hnetfast.mnets._weights import WeightPlan, select_weights

Shape = Sequence[int]


class ConvStage(NamedTuple):
    """A convolution with the pooling and dropout that follow it.

    Attributes:
        kernel: Height and width of its kernel.
        stride: Step between two positions of the kernel.
        padding: Zeros around the input.
        dropout: Name of the module that drops feature maps, None for none.
        pools: Whether the largest of each 2 x 2 pixels are taken.
    """

    kernel: int
    stride: int = 1
    padding: int = 0
    dropout: str | None = None
    pools: bool = False


class ConvNet(ImageClassifier):
    """Base of the networks whose layers follow one another: convolutions, a linear map, the output layer.

    A convolution is followed by pooling and dropout, context modulation, and the activation function; the
    hidden linear map by context modulation, activation function and dropout; the output layer by context
    modulation. With ``context_mod_post_activation`` modulation follows the activation function.
    """

    _convs: tuple[ConvStage, ...]
    _activation: Callable[[Tensor], Tensor] = staticmethod(F.relu)
    _fc_dropout: str | None = None

    def _set_options(
        self, no_weights: bool, context_mod_apply_pixel_wise: bool = False, **context_mod: bool
    ) -> None:
        """Keep options of the constructor; those of context modulation are the ones of ``MLP``."""
        self._keep_context_mod_args(context_mod)
        self._context_mod_apply_pixel_wise = context_mod_apply_pixel_wise
        self._no_weights = no_weights
        self._has_bias = self._has_fc_out = self._mask_fc_out = self._has_linear_out = True

    def _adapt_architecture(self, architectures: Mapping[str, Sequence[Shape]], arch: str) -> list[list[int]]:
        """Copy the shapes of an architecture, with as many channels and classes as the network is to have."""
        if arch not in architectures:
            raise InputError(f"arch: expected one of {list(architectures)}, got {arch!r}")
        shapes = [list(shape) for shape in architectures[arch]]
        shapes[0][1] = self._channels
        shapes[-2][0] = shapes[-1][0] = self._num_classes
        return shapes

    @property
    def _keeps_weights(self) -> bool:
        return not (self._no_weights and self._context_mod_no_weights)

    def _build(self, shapes: Sequence[Shape], init_weights: Sequence[Tensor] | None) -> None:
        """Create and register all layers.

        Args:
            shapes: Shapes of weight tensor and bias of every layer in turn.
            init_weights: Initial values of all internal parameters.
        """
        biases = shapes[1::2]
        if self._no_weights or self._context_mod_no_weights:
            self._hyper_shapes_learned, self._hyper_shapes_learned_ref = [], []
        if self._use_context_mod:
            cm_shapes = [*self._map_shapes(biases), *biases[len(self._convs) :]]
            first = 0 if self._context_mod_inputs else 1
            last = len(cm_shapes) - (1 if self._no_last_layer_context_mod else 0)
            self._add_context_mod_layers(cm_shapes[first:last], cm_layers=[2 * i for i in range(first, last)])
        for i, (shape, bias) in enumerate(zip(shapes[::2], biases, strict=True)):
            self._add_linear_map(list(shape), True, self._no_weights, 2 * i + 1, list(bias))
        self._plan = WeightPlan.of(self)
        self._is_properly_setup()
        if init_weights is not None:
            if self._no_weights:
                raise InputError("init_weights: the network keeps no weights (no_weights=True)")
            self.overwrite_internal_params(init_weights)

    def _map_shapes(self, biases: Sequence[Shape]) -> list[list[int]]:
        """Shapes of gain and shift for the images and for the feature maps of each convolution."""
        size = (self._height, self._width)
        shapes = [[self._channels, *size]]
        for conv, bias in zip(self._convs, biases, strict=False):
            size = output_size(size, conv.kernel, conv.stride, conv.padding)
            if conv.pools:
                size = (size[0] // 2, size[1] // 2)
            shapes.append([bias[0], *size])
        if self._context_mod_apply_pixel_wise:
            return shapes
        return [[channels, 1, 1] for channels, _, _ in shapes]

    def _evaluate(
        self,
        layers: LayerFunctions,
        x: Tensor,
        weights: Any = None,
        distilled_params: Sequence[Tensor] | None = None,
        condition: int | Mapping[str, int] | None = None,
        collect_activations: bool = False,
    ) -> Any:
        if distilled_params is not None:
            raise InputError("distilled_params: the network has no distillation targets, expected None")
        if isinstance(condition, Mapping):
            _, condition = parse_condition(condition)
        images = self._images(layers, x)
        ckpt_id = condition if self._plan.own_mod else None
        given = select_weights(self, weights, layers, layers.batch_size(images), ckpt_id)
        given.check_placement(images, self)
        internal = given.internal
        post = self._context_mod_post_activation
        collected = []

        h = images
        if self._context_mod_inputs:
            h = self._modulate(layers, h, given.mod, -1)
        for i, conv in enumerate(self._convs):
            h = self._convolve(layers, h, i, internal[2 * i], internal[2 * i + 1])
            if conv.pools:
                h = layers.max_pool2d(h, 2)
            if conv.dropout is not None:
                # The same as dropout before pooling, as whole maps are dropped, for a quarter of the pixels.
                h = layers.dropout2d(getattr(self, conv.dropout), h)
            collected.append(h)
            if not post:
                h = self._modulate(layers, h, given.mod, i)
            h = self._activation(h)
            if post:
                h = self._modulate(layers, h, given.mod, i)
        h = layers.linear(layers.flatten(h), internal[-4], internal[-3])
        collected.append(h)
        if not post:
            h = self._modulate(layers, h, given.mod, len(self._convs))
        h = self._activation(h)
        if post:
            h = self._modulate(layers, h, given.mod, len(self._convs))
        if self._fc_dropout is not None:
            h = layers.elementwise(getattr(self, self._fc_dropout), h)
        out = layers.linear(h, internal[-2], internal[-1])
        collected.append(out)
        if not self._no_last_layer_context_mod:
            out = self._modulate(layers, out, given.mod, len(self._convs) + 1)
        return (out, collected, h) if collect_activations else out

    def _convolve(self, layers: LayerFunctions, h: Tensor, i: int, weight: Tensor, bias: Tensor) -> Tensor:
        conv = self._convs[i]
        return layers.conv2d(h, weight, bias, conv.stride, conv.padding)

    def _modulate(self, layers: LayerFunctions, h: Tensor, mod: Sequence[Tensor], i: int) -> Tensor:
        """Modulate the output of layer ``i``, if the network does; -1 is the input."""
        if not self._use_context_mod:
            return h
        i_mod = i + self._context_mod_inputs
        return layers.modulate(self._context_mod_layers[i_mod], h, mod[2 * i_mod : 2 * i_mod + 2])

    def distillation_targets(self) -> None:
        """Return None: the network has no distillation targets."""
        return None
