"""Layers for networks that are not main networks, with the arguments of those of :mod:`torch.nn`."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from hnetfast.ops.local_conv2d import Pair, geometry_of, local_conv2d

__all__ = ["LocalConv2d"]


class LocalConv2d(nn.Module):
    """Convolution without weight sharing: every output position has filters of its own.

    As :class:`torch.nn.Conv2d`, which it takes the order of its arguments from, but for images of one size.
    Weights are drawn from U(-k, k) with k the inverse square root of the fan-in, as there. Locally connected
    layers: LeCun, "Generalization and network design strategies", 1989.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Height and width of a filter, or one integer for both, as for the next three.
        stride: Step between positions.
        padding: Zeros on each side, "valid" for none, or "same" for as many as keep the size.
        dilation: Step between the pixels that a filter sees.
        groups: Number of groups of channels that do not see each other.
        bias: Whether there is a bias.
        input_size: Height and width of the images, or one integer for both.
        bias_per_position: Whether the bias differs from position to position.
        device: Where the parameters are.
        dtype: Their type.

    Attributes:
        weight: ``[out_channels, in_channels/groups·K_h·K_w, H·W]``.
        bias: ``[out_channels, H·W]``, or ``[out_channels]``; None if there is none.
        input_size: H_in and W_in.
        output_size: H and W.

    Raises:
        TypeError, ValueError: If an argument is not accepted; it is named.

    Example:
        >>> layer = LocalConv2d(3, 8, 5, padding=2, input_size=16)
        >>> layer(torch.randn(4, 3, 16, 16)).shape, layer.weight.shape
        (torch.Size([4, 8, 16, 16]), torch.Size([8, 75, 256]))
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair | str = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        input_size: Pair,
        bias_per_position: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self._geometry = geometry_of(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, input_size
        )
        self.in_channels, self.out_channels = int(in_channels), int(out_channels)
        self.groups = self._geometry.groups
        self.kernel_size, self.stride = self._geometry.kernel_size, self._geometry.stride
        self.padding, self.dilation = self._geometry.padding, self._geometry.dilation
        height, width = input_size if isinstance(input_size, Sequence) else (input_size, input_size)
        self.input_size = (int(height), int(width))
        self.output_size = self._geometry.output_size
        fan_in = self.in_channels // self.groups * prod(self.kernel_size)
        positions = prod(self.output_size)
        options = {"device": device, "dtype": dtype}
        self.weight = nn.Parameter(torch.empty(self.out_channels, fan_in, positions, **options))
        shape = (self.out_channels, positions) if bias_per_position else (self.out_channels,)
        self.register_parameter("bias", nn.Parameter(torch.empty(shape, **options)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        bound = self.weight.shape[1] ** -0.5
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, input: Tensor) -> Tensor:
        """Compute the layer.

        Args:
            input: Images ``[N, in_channels, *input_size]``, or one without N.

        Returns:
            Maps ``[N, out_channels, H, W]``, without N if the input has none.

        Raises:
            ValueError: If the images are of another size.
        """
        expected = (self.in_channels, *self.input_size)
        if isinstance(input, Tensor) and tuple(input.shape[-3:]) != expected:
            raise ValueError(
                f"input: expected the shape {list(expected)}, with or without a dimension in front, got "
                f"{list(input.shape)}"
            )
        return local_conv2d(
            input,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.output_size,
            kernel_size=self.kernel_size,
        )

    def extra_repr(self) -> str:
        """The sizes, as printed with the module."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}, "
            f"bias={self.bias is not None}, input_size={self.input_size}, output_size={self.output_size}"
        )
