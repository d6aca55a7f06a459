"""Residual networks for ImageNet."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from hnetfast._checks import check_integers
from hnetfast.mnets._image_classifier import output_size
from hnetfast.mnets._residual import Convolution, Inputs, ResidualNetwork

__all__ = ["ResNetIN"]


class ResNetIN(ResidualNetwork):
    """Residual network for large images.

    He et al., "Deep Residual Learning for Image Recognition", 2015, table 1,
    https://arxiv.org/abs/1512.03385. A convolution and a max-pooling, four groups of blocks, and a linear map
    of the average over all pixels. ResNet-18, -34, -50, -101 and -152 have ``blocks_per_group`` (2, 2, 2, 2),
    (3, 4, 6, 3), (3, 4, 6, 3), (3, 4, 23, 3) and (3, 8, 36, 3), the last three bottleneck blocks; all have
    ``use_bias=False`` and ``use_fc_bias=True``.

    Args:
        in_shape: Shape of an image, ``(height, width, channels)``.
        num_classes: Number of output units.
        use_bias: Whether convolutions have biases.
        use_fc_bias: Whether the output layer has one; as ``use_bias`` if None.
        num_feature_maps: Number of feature maps of the first convolution and of those of each group.
        blocks_per_group: Number of blocks of each group.
        projection_shortcut: Shortcuts that change the shape are convolutions of 1 x 1 pixels and batch
            normalisation, instead of taking every second pixel and adding maps of zeros.
        bottleneck_blocks: Blocks are convolutions of 1, 3 and 1 pixels, the last with four times as many
            feature maps, instead of two of 3 pixels.
        cutout_mod: For small images: the first convolution has 3 x 3 pixels and stride 1, and no max-pooling
            follows (DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with
            Cutout", 2017).
        no_weights: Keep no weights (those of context modulation excepted); they are given to :meth:`forward`.
        use_batch_norm: Whether convolutions are followed by batch normalisation.
        bn_track_stats: Whether it keeps running statistics; otherwise it uses the batch's in evaluation too.
        distill_bn_stats: Whether running statistics are targets of distillation.
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
        in_shape: Sequence[int] = (224, 224, 3),
        num_classes: int = 1000,
        use_bias: bool = True,
        use_fc_bias: bool | None = None,
        num_feature_maps: Sequence[int] = (64, 64, 128, 256, 512),
        blocks_per_group: Sequence[int] = (2, 2, 2, 2),
        projection_shortcut: bool = False,
        bottleneck_blocks: bool = False,
        cutout_mod: bool = False,
        no_weights: bool = False,
        use_batch_norm: bool = True,
        bn_track_stats: bool = True,
        distill_bn_stats: bool = False,
        chw_input_format: bool = False,
        verbose: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(in_shape, num_classes, verbose, chw_input_format)
        self._set_options(
            use_bias, use_fc_bias, no_weights, use_batch_norm, bn_track_stats, distill_bn_stats, kwargs
        )
        self._num_blocks = tuple(check_integers("blocks_per_group", blocks_per_group, 1, 4))
        self._filter_sizes = self._feature_maps(num_feature_maps, 5)
        self._projection_shortcut = projection_shortcut
        self._bottleneck_blocks = bottleneck_blocks
        self._cutout_mod = cutout_mod
        self._init_kernel_size = (3, 3) if cutout_mod else (7, 7)
        self._init_padding, self._init_stride = (1, 1) if cutout_mod else (3, 2)
        convs, projections = self._lay_out()
        self._num_main_conv_layers = len(convs)
        self._build(convs, projections, 1 + 3 * len(convs), numbered=True, normalise_projections=True)
        if verbose:
            print(self._description())

    def _lay_out(self) -> tuple[list[Convolution], list[Convolution]]:
        """The convolutions of the network and of its shortcuts."""
        kernel, padding, stride = self._init_kernel_size[0], self._init_padding, self._init_stride
        size = output_size((self._height, self._width), kernel, stride, padding)
        maps, use_bias = self._filter_sizes[0], self._use_bias
        convs = [Convolution(self._channels, maps, size, kernel, stride, padding, use_bias, 1)]
        if not self._cutout_mod:
            size = output_size(size, 3, 2, 1)
        shortcuts = []
        self._group_has_1x1 = []
        self._num_non_ident_skips = 0
        for i_group, (num_blocks, width) in enumerate(
            zip(self._num_blocks, self._filter_sizes[1:], strict=True)
        ):
            kernels, widths = (
                ((1, 3, 1), (width, width, 4 * width))
                if self._bottleneck_blocks
                else ((3, 3), (width, width))
            )
            changes = maps != widths[-1] or i_group > 0
            self._num_non_ident_skips += changes
            self._group_has_1x1.append(changes and self._projection_shortcut)
            for i_block in range(num_blocks):
                stride = 2 if i_group > 0 and i_block == 0 else 1
                in_maps = maps
                for i, (kernel, out_maps) in enumerate(zip(kernels, widths, strict=True)):
                    step = stride if i == 0 else 1
                    size = output_size(size, kernel, step, kernel // 2)
                    layer = 1 + 3 * len(convs)
                    convs.append(
                        Convolution(maps, out_maps, size, kernel, step, kernel // 2, use_bias, layer)
                    )
                    maps = out_maps
                if i_block == 0 and self._group_has_1x1[-1]:
                    shortcuts.append((in_maps, maps, size, stride))
        # Numbered after the output layer, which has one number for its weights and, if there is any, one for
        # context modulation.
        first = 1 + 3 * len(convs) + 3
        projections = [
            Convolution(in_maps, out_maps, size, 1, stride, 0, False, first + 3 * i)
            for i, (in_maps, out_maps, size, stride) in enumerate(shortcuts)
        ]
        return convs, projections

    def _description(self) -> str:
        text = f'Creating a "ResNet-{len(self._convs) + 1}" with {self.num_params} weights'
        text += self._context_mod_note() + "."
        return text + " The network uses batchnorm." * self._use_batch_norm

    def _compute_features(self, inputs: Inputs, images: Tensor) -> Tensor:
        h = self._activate(inputs, self._convolve(inputs, images, 0), 0)
        if not self._cutout_mod:
            h = inputs.layers.max_pool2d(h, 3, 2, 1)
        i, i_projection = 1, 0
        depth = 3 if self._bottleneck_blocks else 2
        for num_blocks, has_projection in zip(self._num_blocks, self._group_has_1x1, strict=True):
            for i_block in range(num_blocks):
                new = h
                for _ in range(depth - 1):
                    new = self._activate(inputs, self._convolve(inputs, new, i), i)
                    i += 1
                new = self._modulate_before(inputs, self._convolve(inputs, new, i), i)
                new = self._normalise(inputs, new, i)
                if i_block == 0 and has_projection:
                    h = self._project(inputs, h, i_projection)
                    h = self._normalise(inputs, h, len(self._convs) + i_projection)
                    i_projection += 1
                else:
                    h = self._shrink(inputs, h, new)
                h = self._modulate_after(inputs, inputs.layers.relu_(inputs.layers.add_(new, h)), i)
                i += 1
        return h
