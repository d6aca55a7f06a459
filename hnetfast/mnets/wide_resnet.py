"""Wide residual networks."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor

from hnetfast._checks import check_dropout_rate, check_integer
from hnetfast.mnets._image_classifier import output_size
from hnetfast.mnets._residual import Convolution, Inputs, ResidualNetwork

__all__ = ["WRN"]


class WRN(ResidualNetwork):
    """Wide residual network WRN-d-k-B(3,3).

    Zagoruyko and Komodakis, "Wide Residual Networks", 2017, https://arxiv.org/abs/1605.07146. A convolution,
    three groups of n blocks of two convolutions, and a linear map of the average over all pixels. Batch
    normalisation and ReLU precede the convolutions of a block; shortcuts that change the shape are
    convolutions of 1 x 1 pixels without bias.

    Args:
        in_shape: Shape of an image, ``(height, width, channels)``.
        num_classes: Number of output units.
        n: Number of blocks a group.
        k: Widening factor of the number of feature maps of the three groups.
        num_feature_maps: Number of feature maps of the first convolution and, before widening, of each group.
        use_bias: Whether convolutions have biases.
        use_fc_bias: Whether the output layer has one; as ``use_bias`` if None.
        no_weights: Keep no weights (those of context modulation excepted); they are given to :meth:`forward`.
        use_batch_norm: Whether there is batch normalisation.
        bn_track_stats: Whether it keeps running statistics; otherwise it uses the batch's in evaluation too.
        distill_bn_stats: Whether running statistics are targets of distillation.
        dropout_rate: Dropout probability after the first convolution of each block, -1 for no dropout.
        chw_input_format: Whether images come as ``[B, channels, height, width]`` instead of flattened, or
            unflattened, with the channels last.
        verbose: Print the number of weights.
        **kwargs: Options of context modulation as of :class:`~hnetfast.mnets.mlp.MLP`, and
            ``context_mod_apply_pixel_wise`` as of :class:`~hnetfast.mnets.resnet.ResNet`.

    Raises:
        ValueError: If a size is not positive, a number of entries wrong, or options contradict each other.
        TypeError: If a size is not an integer.
    """

    def __init__(
        self,
        in_shape: Sequence[int] = (32, 32, 3),
        num_classes: int = 10,
        n: int = 4,
        k: int = 10,
        num_feature_maps: Sequence[int] = (16, 16, 32, 64),
        use_bias: bool = True,
        use_fc_bias: bool | None = None,
        no_weights: bool = False,
        use_batch_norm: bool = True,
        bn_track_stats: bool = True,
        distill_bn_stats: bool = False,
        dropout_rate: float = -1,
        chw_input_format: bool = False,
        verbose: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(in_shape, num_classes, verbose, chw_input_format)
        check_dropout_rate(dropout_rate)
        self._set_options(
            use_bias, use_fc_bias, no_weights, use_batch_norm, bn_track_stats, distill_bn_stats, kwargs
        )
        self._n, self._k = check_integer("n", n, 1), k
        self._dropout_rate = dropout_rate
        self._kernel_size = (3, 3)
        self._strides = (1, 1, 2, 2)
        self._filter_sizes = self._feature_maps(num_feature_maps, 4, k)
        self._group_has_1x1 = [
            in_maps != out_maps or stride != 1
            for (in_maps, out_maps), stride in zip(
                pairwise(self._filter_sizes), self._strides[1:], strict=True
            )
        ]
        size = (self._height, self._width)
        convs = [Convolution(self._channels, self._filter_sizes[0], size, 3, 1, 1, use_bias, 1)]
        projections = []
        for i_group, (in_maps, out_maps) in enumerate(pairwise(self._filter_sizes)):
            stride = self._strides[i_group + 1]
            for i in range(2 * n):
                size = output_size(size, 3, 1 if i else stride, 1)
                layer = 1 + 3 * len(convs)
                maps = out_maps if i else in_maps
                convs.append(Convolution(maps, out_maps, size, 3, 1 if i else stride, 1, use_bias, layer))
                if i == 0 and self._group_has_1x1[i_group]:
                    projections.append(Convolution(in_maps, out_maps, size, 1, stride, 0, False))
        self._build(convs, projections, 1 + 3 * len(convs), numbered=True)
        if verbose:
            print(self._description())

    def _description(self) -> str:
        depth = len(self._convs) + len(self._projections)
        text = f'Creating a WideResnet "WRN-{depth}-{self._k}-B(3,3)" with {self.num_params} weights'
        text += self._context_mod_note() + "."
        text += " The network uses batchnorm." * self._use_batch_norm
        return text + " The network uses dropout." * (self._dropout_rate != -1)

    def _compute_features(self, inputs: Inputs, images: Tensor) -> Tensor:
        h = self._convolve(inputs, images, 0)
        i_projection = 0
        for i in range(1, len(self._convs), 2):
            activated = self._activate(inputs, h, i - 1)
            new = self._drop(inputs.layers, self._convolve(inputs, activated, i), self._dropout_rate)
            new = self._convolve(inputs, self._activate(inputs, new, i), i + 1)
            if (i - 1) % (2 * self._n) == 0 and self._group_has_1x1[(i - 1) // (2 * self._n)]:
                h = self._project(inputs, h, i_projection)
                i_projection += 1
            h = inputs.layers.add_(new, h)
        return self._activate(inputs, h, len(self._convs) - 1)
