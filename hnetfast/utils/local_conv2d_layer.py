"""2D convolution without weight sharing."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hnetfast._checks import check_integer, check_placement, check_tensor, check_tensors
from hnetfast._errors import InputError, InputIndexError
from hnetfast.ops.local_conv2d import Geometry, local_conv2d_unchecked
from hnetfast.utils.torch_utils import init_params

__all__ = ["LocalConv2dLayer"]

Pair = int | Sequence[int]

_WEIGHT_NAMES = ("filters", "bias")


class LocalConv2dLayer(nn.Module):
    r"""Convolutional layer whose every output pixel has filters of its own.

    As in the locally connected networks of Bartunov et al., "Assessing the Scalability of
    Biologically-Motivated Deep Learning Algorithms and Architectures", 2018,
    https://arxiv.org/abs/1807.04587. With receptive fields :math:`\hat{F}` of the input, output channel
    :math:`j` has at pixel :math:`p` the value :math:`b_{jp} + \sum_f W_{jfp} \hat{F}_{fp}`.

    Args:
        in_channels: Number of channels of the input.
        out_channels: Number of channels of the output.
        in_height: Height of the input.
        in_width: Width of the input.
        kernel_size: Height and width of the receptive fields, or one integer for both.
        stride: Step between two receptive fields, down and right, or one integer for both.
        padding: Zeros added to each side of the input, vertically and horizontally, or one integer for both.
        bias: Whether every output value has a bias.
        no_weights: Keep no parameters; they must be given to :meth:`forward`.

    Raises:
        ValueError: If a size is not positive, ``padding`` negative, or the kernel larger than the padded
            input.
        TypeError: If one of them is not made of integers.
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        in_height: int,
        in_width: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair = 0,
        bias: bool = True,
        no_weights: bool = False,
    ) -> None:
        super().__init__()
        self._in_channels = check_integer("in_channels", in_channels, 1)
        self._out_channels = check_integer("out_channels", out_channels, 1)
        self._in_height = check_integer("in_height", in_height, 1)
        self._in_width = check_integer("in_width", in_width, 1)
        self._kernel_size = _pair("kernel_size", kernel_size, 1)
        self._stride = _pair("stride", stride, 1)
        self._padding = _pair("padding", padding, 0)
        self._has_bias = bias
        self._no_weights = no_weights
        size = (self._in_height, self._in_width)
        self._out_height, self._out_width = (
            (n + 2 * p - k) // s + 1
            for n, k, s, p in zip(size, self._kernel_size, self._stride, self._padding, strict=True)
        )
        if self._out_height <= 0 or self._out_width <= 0:
            raise InputError(
                f"kernel_size: {self._kernel_size} is larger than the input of {size}, "
                f"padded by {self._padding}"
            )
        output_size = (self._out_height, self._out_width)
        self._geometry = Geometry(self._kernel_size, self._stride, self._padding, (1, 1), output_size, 1)
        num_inputs = self._in_channels * self._kernel_size[0] * self._kernel_size[1]
        num_pixels = self._out_height * self._out_width
        self._param_shapes = [[self._out_channels, num_inputs, num_pixels]]
        if bias:
            self._param_shapes.append([self._out_channels, num_pixels])
        if no_weights:
            self._weights = None
            return
        self.filters = nn.Parameter(torch.empty(self._param_shapes[0]))
        self.register_parameter("bias", nn.Parameter(torch.empty(self._param_shapes[1])) if bias else None)
        init_params(self.filters, self.bias)
        self._weights = nn.ParameterList([self.filters] if self.bias is None else [self.filters, self.bias])

    @property
    def weights(self) -> nn.ParameterList | None:
        """Filters and (if there is one) bias kept by this layer, None if it keeps none."""
        return self._weights

    @property
    def param_shapes(self) -> list[list[int]]:
        """Shapes of the filters ``[C_out, C_in·K_h·K_w, H·W]`` and of the bias ``[C_out, H·W]``, if any."""
        return self._param_shapes

    @property
    def out_height(self) -> int:
        """Height H of the output."""
        return self._out_height

    @property
    def out_width(self) -> int:
        """Width W of the output."""
        return self._out_width

    def forward(self, x: Tensor, weights: Sequence[Tensor] | None = None) -> Tensor:
        """Compute the layer.

        Args:
            x: Images ``[N, C_in, H_in, W_in]``.
            weights: Tensors to use instead of the layer's own, with the shapes :attr:`param_shapes`.

        Returns:
            Feature maps ``[N, C_out, H, W]``.

        Raises:
            ValueError: If a shape or the number of weights is wrong, or they are missing.
            TypeError: If something is not a tensor, or of another dtype than the images.
        """
        check_tensor("x", x)
        in_shape = (self._in_channels, self._in_height, self._in_width)
        if x.ndim != 4 or x.shape[1:] != in_shape:
            raise InputIndexError(
                f"x: expected the shape [N, {', '.join(map(str, in_shape))}], got {list(x.shape)}"
            )
        if weights is None:
            if self._no_weights:
                raise InputError("weights: the layer was built without weights (no_weights=True), pass them")
            filters, bias = self.filters, self.bias
        else:
            names = _WEIGHT_NAMES[: len(self._param_shapes)]
            check_tensors("weights", weights, self._param_shapes, names)
            filters, bias = weights[0], weights[1] if self._has_bias else None
        placed = [filters] if bias is None else [filters, bias]
        check_placement(x, placed, lambda i: f"weights[{i}] ({_WEIGHT_NAMES[i]})")
        return self.convolve(x, filters, bias)

    def convolve(self, x: Tensor, filters: Tensor, bias: Tensor | None) -> Tensor:
        """Compute the layer with one set of weights or with B of them, without checks.

        Args:
            x: Images ``[N, C_in, H_in, W_in]``; for many sets ``[B, N, …]``, with a stride of 0 in the first
                dimension where all share them.
            filters: ``[C_out, C_in·K_h·K_w, H·W]`` or ``[B, …]``.
            bias: ``[C_out, H·W]`` or ``[B, …]``, None for none.

        Returns:
            Feature maps ``[N, C_out, H, W]`` or ``[B, N, …]``.
        """
        shared = x.ndim == 5 and x.stride(0) == 0
        return local_conv2d_unchecked(x[:1] if shared else x, filters, bias, self._geometry)


def _pair(name: str, value: Any, minimum: int) -> tuple[int, int]:
    values = value if isinstance(value, (list, tuple)) else (value, value)
    if len(values) != 2:
        raise InputIndexError(f"{name}: expected an integer or a pair of them, got {value!r}")
    first, second = (check_integer(name, entry, minimum) for entry in values)
    return first, second
