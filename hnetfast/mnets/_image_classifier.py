"""What the convolutional networks have in common."""

from collections.abc import Sequence, Sized

import torch.nn.functional as F
from torch import Tensor

from hnetfast._checks import check_integer, check_tensor
from hnetfast._errors import InputError, InputTypeError
from hnetfast.mnets._layer_functions import LayerFunctions
from hnetfast.mnets._statistics import check_batch_norm
from hnetfast.mnets.classifier_interface import Classifier


def output_size(size: Sequence[int], kernel: int, stride: int, padding: int) -> tuple[int, int]:
    """Height and width of what a convolution makes of images or maps of the given height and width.

    Args:
        size: That height and width.
        kernel: Height and width of the kernel.
        stride: Step between two positions of the kernel.
        padding: Zeros around the input.

    Raises:
        ValueError: If they are too small.
    """
    height, width = ((n + 2 * padding - kernel) // stride + 1 for n in size)
    if height <= 0 or width <= 0:
        raise InputError(
            f"in_shape: maps of {size[0]} x {size[1]} pixels are too small for a kernel of {kernel}"
        )
    return height, width


class ImageClassifier(Classifier):
    """Classifier of images.

    Args:
        in_shape: Shape of an image, ``(height, width, channels)``.
        num_classes: Number of output units.
        verbose: Whether to print what has been built.
        chw_input_format: Whether images come as ``[batch, channels, height, width]`` instead of flattened, or
            unflattened, with the channels last.

    Raises:
        ValueError: If ``in_shape`` does not have three positive entries, or ``num_classes`` is not positive.
        TypeError: If one of them is not made of integers.
    """

    def __init__(
        self, in_shape: Sequence[int], num_classes: int, verbose: bool, chw_input_format: bool = False
    ) -> None:
        super().__init__(num_classes, verbose)
        if not isinstance(in_shape, Sized) or isinstance(in_shape, str):
            raise InputTypeError(f"in_shape: expected (height, width, channels), got {in_shape!r}")
        if len(in_shape) != 3:
            raise InputError(f"in_shape: expected (height, width, channels), got {in_shape!r}")
        self._in_shape = in_shape
        self._height, self._width, self._channels = (check_integer("in_shape", n, 1) for n in in_shape)
        self._chw_input_format = chw_input_format

    @property
    def _input_ndims(self) -> tuple[int, ...]:
        return (4,) if self._chw_input_format else (2, 4)

    def _images(self, layers: LayerFunctions, x: Tensor) -> Tensor:
        """Bring the input into the form that convolutions compute with.

        Args:
            layers: How the network is evaluated.
            x: The input of :meth:`forward`; for many sets of weights with that additional first dimension.

        Returns:
            ``[batch, channels, height, width]``, as they lie in memory: with the channels last unless
            ``chw_input_format``. (In batch normalisation PyTorch's sums over maps with the channels last are
            less accurate than over others.) Contiguous for many sets of weights, whose channels lie side by
            side in one convolution.

        Raises:
            ValueError: If the shape does not fit ``in_shape``.
            TypeError: If ``x`` is not a tensor.
        """
        check_tensor("x", x)
        if layers.num_sets is None:
            return self._batch_of_images(x)
        if x.stride(0) == 0:  # shared by all sets
            images = self._batch_of_images(x[0]).contiguous()
            return images.expand(layers.num_sets, *images.shape)
        return self._batch_of_images(x.flatten(0, 1)).contiguous().unflatten(0, x.shape[:2])

    def _batch_of_images(self, x: Tensor) -> Tensor:
        height, width, channels = self._height, self._width, self._channels
        if self._chw_input_format:
            if x.shape[1:] != (channels, height, width):
                raise InputError(
                    f"x: expected the shape [batch, {channels}, {height}, {width}] (chw_input_format=True), "
                    f"got {list(x.shape)}"
                )
            return x
        flattened = height * width * channels
        is_flat = x.shape[-1:] == (flattened,) and x.ndim in (1, 2)
        if not is_flat and x.shape[1:] != (height, width, channels):
            raise InputError(
                f"x: expected the shape [batch, {flattened}] or [batch, {height}, {width}, {channels}], "
                f"got {list(x.shape)}"
            )
        num_images = x.shape[0] if x.ndim > 1 else 1
        return x.contiguous().view(num_images, height, width, channels).permute(0, 3, 1, 2)

    def _drop(self, layers: LayerFunctions, h: Tensor, rate: float) -> Tensor:
        """Apply dropout to feature maps ``[batch, C, H, W]`` in training mode.

        With the masks that hypnettorch draws for the same seed, in the order in which maps lie in memory.
        """
        if rate == -1 or not self.training:
            return h
        return F.dropout(h, rate)

    def _check_num_values(self, x: Tensor, num_images: int | None, map_sizes: Sequence[int]) -> None:
        """Refuse to normalise a batch of one value; ``map_sizes`` are the pixels of the normalised maps."""
        if map_sizes and num_images is not None:
            check_batch_norm(self, x, num_images * min(map_sizes))
