"""Residual networks for small images."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from hnetfast._checks import check_integer
from hnetfast._errors import InputError
from hnetfast.mnets._image_classifier import output_size
from hnetfast.mnets._residual import Convolution, Inputs, ResidualNetwork

__all__ = ["ResNet"]


class ResNet(ResidualNetwork):
    """Residual network of 6n + 2 layers.

    He et al., "Deep Residual Learning for Image Recognition", 2015, section 4.2,
    https://arxiv.org/abs/1512.03385. A convolution, three groups of n blocks of two convolutions, and a
    linear map of the average over all pixels. Shortcuts have no parameters: where a block halves the image
    and has more feature maps, every second pixel is taken and maps of zeros are added.

    Args:
        in_shape: Shape of an image, ``(height, width, channels)``.
        num_classes: Number of output units.
        use_bias: Whether convolutions and output layer have biases.
        num_feature_maps: Number of feature maps of the first convolution and of those of each group.
        verbose: Print the number of weights.
        n: Number of blocks a group.
        k: Factor on the number of feature maps of the three groups.
        no_weights: Keep no weights (those of context modulation excepted); they are given to :meth:`forward`.
        init_weights: Initial values of all internal parameters, e.g. made by a hypernetwork.
        use_batch_norm: Whether convolutions are followed by batch normalisation.
        bn_track_stats: Whether it keeps running statistics; otherwise it uses the batch's in evaluation too.
        distill_bn_stats: Whether running statistics are targets of distillation.
        context_mod_apply_pixel_wise: Whether each pixel of a feature map has a gain and a shift of its own.
        **kwargs: Options of context modulation as of :class:`~hnetfast.mnets.mlp.MLP`.

    Raises:
        ValueError: If a size is not positive, a number of entries wrong, a group has fewer feature maps than
            the one before, ``init_weights`` are of wrong shapes, or options contradict each other.
        TypeError: If a size is not an integer.
    """

    def __init__(
        self,
        in_shape: Sequence[int] = (32, 32, 3),
        num_classes: int = 10,
        use_bias: bool = True,
        num_feature_maps: Sequence[int] = (16, 16, 32, 64),
        verbose: bool = True,
        n: int = 5,
        k: int = 1,
        no_weights: bool = False,
        init_weights: Sequence[torch.Tensor] | None = None,
        use_batch_norm: bool = True,
        bn_track_stats: bool = True,
        distill_bn_stats: bool = False,
        context_mod_apply_pixel_wise: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(in_shape, num_classes, verbose)
        kwargs["context_mod_apply_pixel_wise"] = context_mod_apply_pixel_wise
        self._set_options(
            use_bias, None, no_weights, use_batch_norm, bn_track_stats, distill_bn_stats, kwargs
        )
        self._n = check_integer("n", n, 1)
        self._kernel_size = [3, 3]
        self._filter_sizes = self._feature_maps(num_feature_maps, 4, k)
        if self._filter_sizes != sorted(self._filter_sizes):
            raise InputError(
                f"num_feature_maps: shortcuts cannot drop feature maps, got {self._filter_sizes}"
            )
        size = (self._height, self._width)
        convs = [Convolution(self._channels, self._filter_sizes[0], size, 3, 1, 1, use_bias)]
        for i_group, (in_maps, out_maps) in enumerate(pairwise(self._filter_sizes)):
            for i in range(2 * n):
                stride = 2 if i_group > 0 and i == 0 else 1
                size = output_size(size, 3, stride, 1)
                convs.append(Convolution(out_maps if i else in_maps, out_maps, size, 3, stride, 1, use_bias))
        self._build(convs, [])
        if self._hyper_shapes_learned_ref is not None:
            # hypnettorch counts from 0 even where parameters that are kept come first.
            self._hyper_shapes_learned_ref = list(range(len(self._hyper_shapes_learned)))
        if init_weights is not None and not no_weights:
            self.overwrite_internal_params(init_weights)
        if verbose:
            print(self._description())

    def _description(self) -> str:
        text = f"A ResNet with {6 * self._n + 2} layers and {self.num_params} weights is created"
        if self._use_context_mod:
            num = self.shapes_to_num_weights(self._plan.shapes[: self._plan.num_mod])
            text += f" (including {num} context-mod weights)"
        return text + "." + " The network uses batchnorm." * self._use_batch_norm

    def _compute_features(self, inputs: Inputs, images: Tensor) -> Tensor:
        h = self._activate(inputs, self._convolve(inputs, images, 0), 0)
        for i in range(1, len(self._convs), 2):
            new = self._activate(inputs, self._convolve(inputs, h, i), i)
            new = self._modulate_before(inputs, self._convolve(inputs, new, i + 1), i + 1)
            new = self._normalise(inputs, new, i + 1)
            h = inputs.layers.relu_(inputs.layers.add_(new, self._shrink(inputs, h, new)))
            h = self._modulate_after(inputs, h, i + 1)
        return h
