"""Geometry and arguments of transposed convolutions that end in an image of a given size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from warnings import warn

import torch.nn.functional as F
from torch import Tensor

from hnetfast._checks import check_integer, check_integers
from hnetfast._errors import InputError

# An axis shorter than this does not grow.
_SMALLEST_TO_DOUBLE = 4
_LAST_HIDDEN_FILTERS = 128
# Fewest channels that the queries and keys of a self-attention unit can be computed from.
_FEWEST_CHANNELS_OF_ATTENTION = 8
SA_UNITS = (1, 3)  # default of sa_units: as far as there can be units

Pair = tuple[int, int]


@dataclass
class DeconvLayer:
    """A transposed convolution: images ``[B, in_channels, *in_size]`` to ``[B, out_channels, *out_size]``.

    Sizes and kernel are (width, height).
    """

    in_channels: int
    out_channels: int
    in_size: Pair
    out_size: Pair
    kernel: Pair
    stride: Pair = field(init=False)
    padding: Pair = field(init=False)
    output_padding: Pair = field(init=False)

    def __post_init__(self) -> None:
        axes = zip(self.in_size, self.out_size, self.kernel, strict=True)
        settings = [_fit_axis(*axis) for axis in axes]
        self.stride, self.padding, self.output_padding = zip(*settings, strict=True)

    @property
    def weight_shape(self) -> list[int]:
        """Shape of the weight tensor, inputs first as PyTorch has it."""
        return [self.in_channels, self.out_channels, *self.kernel]

    @property
    def fan_in(self) -> float:
        """Mean number of products that an output pixel is the sum of.

        Far from the border that is ``in_channels·k_x·k_y/(s_x·s_y)``; at it, where small images are
        everywhere, less.
        """
        taps = 1.0
        axes = (self.in_size, self.out_size, self.kernel, self.stride, self.padding)
        for n, m, k, s, p in zip(*axes, strict=True):
            taps *= sum(0 <= i * s - p + j < m for i in range(n) for j in range(k)) / m
        return self.in_channels * taps

    @property
    def fan_out(self) -> int:
        """Number of products that an input pixel takes part in, far from the border."""
        return self.out_channels * math.prod(self.kernel)

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Compute the layer.

        Args:
            x: Images, contiguous: oneDNN's backward of some convolutions of other layouts corrupts the heap.
            weight: Of the shape :attr:`weight_shape`.
            bias: One value an output channel.

        Returns:
            Images, contiguous.
        """
        y = F.conv_transpose2d(x, weight, bias, self.stride, self.padding, self.output_padding)
        return y[..., : self.out_size[0], : self.out_size[1]].contiguous()


def _fit_axis(in_size: int, out_size: int, kernel: int) -> tuple[int, int, int]:
    """Stride, padding and output padding that lead from one size to the other.

    An even kernel of stride 1 leaves one pixel too many, which is to be cut off at the far end.
    """
    stride = 1 if out_size == in_size else 2
    padding = (kernel - 1) // 2 if out_size == stride * in_size else kernel // 2
    return stride, padding, max(0, out_size - ((in_size - 1) * stride + kernel - 2 * padding))


def plan_layers(
    hyper_img_shape: tuple[int, int, int], filters: Sequence[int], kernels: Sequence[Pair]
) -> list[DeconvLayer]:
    """Find sizes that lead to the hyper-image, each (about) twice the one before unless that were below 4.

    Args:
        hyper_img_shape: Width, height and channels of the last layer's output.
        filters: Channels of all other images, first that of the fully connected layer.
        kernels: Kernel of each layer.

    Returns:
        The layers; the first one's ``in_size`` is that of the fully connected layer's image.
    """
    layers = []
    out_size, out_channels = hyper_img_shape[:2], hyper_img_shape[2]
    for in_channels, kernel in zip(reversed(filters), reversed(kernels), strict=True):
        halves = [-(-m // 2) for m in out_size]
        width, height = (n if n >= _SMALLEST_TO_DOUBLE else m for n, m in zip(halves, out_size, strict=True))
        in_size = width, height
        layers.insert(0, DeconvLayer(in_channels, out_channels, in_size, out_size, kernel))
        out_size, out_channels = in_size, in_channels
    _warn_of_small_kernels(layers)
    return layers


def _warn_of_small_kernels(layers: Sequence[DeconvLayer]) -> None:
    for i, layer in enumerate(layers, 1):
        if any(k < s for k, s in zip(layer.kernel, layer.stride, strict=True)):
            warn(
                f"kernel_size: {layer.kernel} of layer {i} is smaller than its stride {layer.stride}, so "
                "that pixels of its output depend on the bias only",
                stacklevel=5,
            )


def check_hyper_img_shape(shape: Any) -> tuple[int, int, int]:
    """Check the size of the hyper-image.

    Args:
        shape: Width and height, and channels if there are several.

    Returns:
        Width, height and number of channels as plain integers.

    Raises:
        TypeError: If it is not a list or tuple of integers.
        ValueError: If it does not have 2 or 3 entries, or one is not positive.
    """
    sizes = check_integers("hyper_img_shape", shape, 1)
    if len(sizes) not in (2, 3):
        raise InputError(
            f"hyper_img_shape: expected (width, height) or (width, height, channels), got {shape!r}"
        )
    width, height, channels = (*sizes, 1)[:3]
    return width, height, channels


def check_enough_pixels(shape: tuple[int, int, int], num_weights: int) -> None:
    """Check that the hyper-image holds all weights.

    Raises:
        ValueError: If it is too small; says by how much.
    """
    num_pixels = math.prod(shape)
    if num_pixels < num_weights:
        raise InputError(
            f"hyper_img_shape: {' × '.join(map(str, shape))} = {num_pixels} values are too few for the "
            f"{num_weights} weights of target_shapes, {num_weights - num_pixels} more needed"
        )


def check_filters(num_filters: Any, num_layers: int) -> list[int]:
    """Check the numbers of channels of the hidden layers, or make up the default.

    Args:
        num_filters: ``num_layers - 1`` integers; None for 128 in the last hidden layer, twice as many in
            each layer before.
        num_layers: Number of layers.

    Returns:
        The numbers of channels as plain integers.

    Raises:
        TypeError: If it is not a list of integers.
        ValueError: If the length is wrong, or an entry is not positive.
    """
    if num_filters is None:
        return [_LAST_HIDDEN_FILTERS * 2**i for i in reversed(range(num_layers - 1))]
    filters = check_integers("num_filters", num_filters, 1)
    if len(filters) != num_layers - 1:
        raise InputError(
            f"num_filters: expected {num_layers - 1} numbers, one for every layer but the last of "
            f"num_layers={num_layers}, got {len(filters)}"
        )
    return filters


def check_kernels(kernel_size: Any, num_layers: int) -> list[Pair]:
    """Check the kernel sizes and bring them into one form.

    Args:
        kernel_size: An integer, a tuple ``(k_x, k_y)``, or a list of such, one for each of the
            ``num_layers - 1`` transposed convolutions.
        num_layers: Number of layers.

    Returns:
        The pair ``(k_x, k_y)`` of each transposed convolution.

    Raises:
        TypeError: If it is something else.
        ValueError: If the length is wrong, or a size is not positive.
    """
    count = num_layers - 1
    if not isinstance(kernel_size, (list, tuple)):
        return [_check_kernel("kernel_size", kernel_size)] * count
    per_axis = isinstance(kernel_size, tuple) and not any(isinstance(k, (list, tuple)) for k in kernel_size)
    if per_axis and len(kernel_size) == 2:
        return [_check_kernel("kernel_size", kernel_size)] * count
    if len(kernel_size) != count:
        raise InputError(
            f"kernel_size: expected an integer, a tuple (k_x, k_y) or a list of {count} such entries, one "
            f"for each transposed convolution, got {kernel_size!r}"
        )
    return [_check_kernel(f"kernel_size[{i}]", kernel) for i, kernel in enumerate(kernel_size)]


def _check_kernel(name: str, kernel: Any) -> Pair:
    if not isinstance(kernel, (list, tuple)):
        size = check_integer(name, kernel, 1)
        return size, size
    if len(kernel) != 2:
        raise InputError(f"{name}: expected an integer or (k_x, k_y), got {kernel!r}")
    width, height = check_integers(name, kernel, 1)
    return width, height


def check_sa_units(sa_units: Any, filters: Sequence[int]) -> list[int]:
    """Check after which layers there is a self-attention unit.

    Args:
        sa_units: Indices of layers.
        filters: Number of channels of every layer but the last.

    Returns:
        The indices as plain integers in ascending order.

    Raises:
        TypeError: If it is not a list of integers.
        ValueError: If a layer does not exist, is the last one, is mentioned twice, or has too few channels.
    """
    last = len(filters)
    if sa_units is SA_UNITS:
        return [i for i in sa_units if i < last and filters[i] >= _FEWEST_CHANNELS_OF_ATTENTION]
    units = check_integers("sa_units", sa_units, 0)
    for i, unit in enumerate(units):
        if unit == last:
            raise InputError(
                f"sa_units[{i}]: layer {unit} is the last one, after which there can be no unit; expected "
                f"0 to {last - 1}"
            )
        if unit > last:
            raise InputError(
                f"sa_units[{i}]: there is no layer {unit} in a network of num_layers={last + 1}; expected "
                f"0 to {last - 1}"
            )
        if unit in units[:i]:
            raise InputError(f"sa_units[{i}]: layer {unit} is mentioned twice, got {sa_units!r}")
        if filters[unit] < _FEWEST_CHANNELS_OF_ATTENTION:
            raise InputError(
                f"sa_units[{i}]: a self-attention unit needs at least {_FEWEST_CHANNELS_OF_ATTENTION} "
                f"channels, but num_filters[{unit}] is {filters[unit]}"
            )
    return sorted(units)
