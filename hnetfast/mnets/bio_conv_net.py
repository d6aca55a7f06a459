"""A locally connected network for CIFAR."""

from collections.abc import Mapping, Sequence
from math import prod

import torch
from torch import Tensor, nn

from hnetfast._errors import InputError
from hnetfast._layer_lists import LayerList
from hnetfast._parameter_lists import own_tensors
from hnetfast.mnets._convnet import ConvNet, ConvStage
from hnetfast.mnets._layer_functions import SINGLE_SET, LayerFunctions
from hnetfast.utils.local_conv2d_layer import LocalConv2dLayer

__all__ = ["BioConvNet"]


class BioConvNet(ConvNet):
    """Network of three convolutions without weight sharing, and two linear maps.

    The locally connected network for CIFAR of Bartunov et al., "Assessing the Scalability of
    Biologically-Motivated Deep Learning Algorithms and Architectures", 2018,
    https://arxiv.org/abs/1807.04587, with tanh as activation function. Convolutions
    (:class:`~hnetfast.utils.local_conv2d_layer.LocalConv2dLayer`): 5 x 5, 64 feature maps, stride 2; 5 x 5,
    128 feature maps, stride 2; 3 x 3, 256 feature maps, padding 1. The hidden linear map has 1024 units.

    Args:
        in_shape: Shape of an image, ``(height, width, channels)``.
        num_classes: Number of output units.
        no_weights: Keep no weights (those of context modulation excepted); they are given to :meth:`forward`.
        init_weights: Initial values of all internal parameters, e.g. made by a hypernetwork.
        use_context_mod: Whether layers have context modulation
            (:class:`~hnetfast.utils.context_mod_layer.ContextModLayer`).
        context_mod_inputs: Modulate the images as well.
        no_last_layer_context_mod: Do not modulate the output layer.
        context_mod_no_weights: Keep no weights of context modulation, whatever ``no_weights`` says.
        context_mod_post_activation: Modulate hidden layers after their activation function.
        context_mod_gain_offset: Option ``apply_gain_offset`` of the modulation layers.
        context_mod_gain_softplus: Option ``apply_gain_softplus`` of the modulation layers.
        context_mod_apply_pixel_wise: Whether each pixel of a feature map has a gain and a shift of its own.
        verbose: Print the number of weights.

    Raises:
        ValueError: If images are too small, ``init_weights`` of wrong shapes, or options contradict each
            other.
        TypeError: If a size is not an integer.
    """

    _convs = (ConvStage(5, stride=2), ConvStage(5, stride=2), ConvStage(3, padding=1))
    _activation = staticmethod(torch.tanh)

    def __init__(
        self,
        in_shape: Sequence[int] = (32, 32, 3),
        num_classes: int = 10,
        no_weights: bool = False,
        init_weights: Sequence[Tensor] | None = None,
        use_context_mod: bool = False,
        context_mod_inputs: bool = False,
        no_last_layer_context_mod: bool = False,
        context_mod_no_weights: bool = False,
        context_mod_post_activation: bool = False,
        context_mod_gain_offset: bool = False,
        context_mod_gain_softplus: bool = False,
        context_mod_apply_pixel_wise: bool = False,
        *,
        verbose: bool = True,
    ) -> None:
        super().__init__(in_shape, num_classes, verbose)
        self._set_options(
            no_weights,
            context_mod_apply_pixel_wise,
            use_context_mod=use_context_mod,
            context_mod_inputs=context_mod_inputs,
            no_last_layer_context_mod=no_last_layer_context_mod,
            context_mod_no_weights=context_mod_no_weights,
            context_mod_post_activation=context_mod_post_activation,
            context_mod_gain_offset=context_mod_gain_offset,
            context_mod_gain_softplus=context_mod_gain_softplus,
        )
        # Not registered: they hold no parameters, and know the sizes.
        self._conv_layer: list[LocalConv2dLayer] = []
        shape = (self._channels, self._height, self._width)
        for conv, out_channels in zip(self._convs, (64, 128, 256), strict=True):
            try:
                layer = LocalConv2dLayer(shape[0], out_channels, *shape[1:], *conv[:3], no_weights=True)
            except InputError as error:
                raise InputError(f"in_shape: {in_shape!r} is too small, {error}") from None
            self._conv_layer.append(layer)
            shape = (out_channels, layer.out_height, layer.out_width)
        shapes = [param_shape for layer in self._conv_layer for param_shape in layer.param_shapes]
        shapes += [[1024, prod(shape)], [1024], [num_classes, 1024], [num_classes]]
        if self._keeps_weights:
            self._weights = nn.ParameterList()
        self._layer_weight_tensors, self._layer_bias_vectors = nn.ParameterList(), nn.ParameterList()
        # A further name of the parameters of context modulation, which checkpoints of hypnettorch hold too.
        self._context_mod_weights: nn.ParameterList | None = None
        if use_context_mod:
            self._context_mod_layers, self._context_mod_weights = LayerList(), nn.ParameterList()
        self._build(shapes, init_weights)
        if self._context_mod_weights is not None and not context_mod_no_weights:
            self._context_mod_weights.extend(own_tensors(self._weights)[: self._plan.num_mod])
        if verbose:
            mod = self._context_mod_note()
            print(f"Creating bio-plausible convnet with {self.num_params} weights{mod}.")

    def forward(
        self,
        x: Tensor,
        weights: Sequence[Tensor] | Mapping[str, Sequence[Tensor]] | None = None,
        distilled_params: None = None,
        condition: int | Mapping[str, int] | None = None,
        collect_activations: bool = False,
    ) -> Tensor | tuple[Tensor, list[Tensor], Tensor]:
        """Compute the logits of a batch of images.

        Args:
            x: Images ``[B, H·W·C]`` or ``[B, H, W, C]``.
            weights: The parameters to use instead of the network's own. A list is, by its length, all of
                :attr:`param_shapes`, or those of context modulation, or (if all others are kept by the
                network) :attr:`hyper_shapes_learned`. A dictionary has the keys "internal_weights" (all but
                those of context modulation) or "mod_weights" (those), or both; None stands for the network's
                own. Parameters of context modulation may have a leading dimension of size B: one set a
                sample.
            distilled_params: Must be None.
            condition: Index of stored weights of context modulation, used unless such weights are given;
                without context modulation it is ignored. It may also be the value of "cmod_ckpt_id" in a
                dictionary.
            collect_activations: Return what the layers compute as well.

        Returns:
            The logits ``[B, num_classes]``; with ``collect_activations`` a triple of these, the list of what
            the convolutions and linear maps compute (before modulation and activation function), and the
            input of the output layer ``[B, 1024]``.

        Raises:
            ValueError: If an argument has a wrong length, shape, key or value.
            TypeError: If an argument is of a wrong type, or images and weights differ in dtype.
        """
        return self._evaluate(SINGLE_SET, x, weights, distilled_params, condition, collect_activations)

    def _convolve(self, layers: LayerFunctions, h: Tensor, i: int, weight: Tensor, bias: Tensor) -> Tensor:
        return layers.local_conv2d(self._conv_layer[i], h, weight, bias)
