"""Layers with the arguments of those of :mod:`torch.nn`, and activation functions: sines, with the
initialisation that they need, and those of users.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from hnetfast._checks import check_positive
from hnetfast._errors import InputError, InputTypeError
from hnetfast.ops._activations import elementwise
from hnetfast.ops.local_conv2d import Pair, geometry_of, local_conv2d

__all__ = ["LocalConv2d", "Sine", "elementwise", "siren_variances"]


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


@elementwise
class Sine(nn.Module):
    """Activation function ``sin(omega·x)``, of networks that are functions of coordinates.

    Sitzmann et al., "Implicit Neural Representations with Periodic Activation Functions", 2020,
    https://arxiv.org/abs/2006.09661. The weights in front of it need an initialisation of their own:
    :func:`siren_variances`.

    Args:
        omega: Factor of the argument: how fast the functions of the first layer may oscillate. The paper's 30
            is for hundreds of pixels in [-1, 1]; fewer need less.

    Raises:
        TypeError, ValueError: If ``omega`` is not a positive number.

    Example:
        >>> from hnetfast.mnets import MLP
        >>> field = MLP(2, 3, hidden_layers=[32, 32], activation_fn=Sine(10.0), verbose=False)
        >>> field(torch.rand(100, 2)).shape
        torch.Size([100, 3])
    """

    def __init__(self, omega: float = 30.0) -> None:
        super().__init__()
        self.omega = _check_omega(omega)

    def forward(self, input: Tensor) -> Tensor:
        """Compute the function.

        Args:
            input: Tensor of any shape.

        Returns:
            Tensor of the same shape, with values in [-1, 1].
        """
        return torch.sin(self.omega * input)

    def extra_repr(self) -> str:
        """The factor, as printed with the module."""
        return f"omega={self.omega}"


def _check_omega(omega: Any) -> float:
    if isinstance(omega, Tensor) and omega.numel() != 1:
        raise InputTypeError(
            f"omega: expected a positive number, got a tensor of the shape {list(omega.shape)}; the "
            "activation function is Sine(), not the class"
        )
    return check_positive("omega", omega)


def siren_variances(mnet: Any, omega: float | None = None) -> list[float | None]:
    """Return the variances that the weights of a main network with sines start with.

    With them the results of all sines are distributed alike, however many layers there are: Sitzmann et al.,
    "Implicit Neural Representations with Periodic Activation Functions", 2020,
    https://arxiv.org/abs/2006.09661, sec. 3.2. With n inputs to each output, weights of the first layer have
    the variance of U(-1/n, 1/n), those of the others that of U(-sqrt(6/n)/omega, sqrt(6/n)/omega). Biases
    only shift phases; they have the variance of U(-1/sqrt(n), 1/sqrt(n)), as in :class:`torch.nn.Linear`.

    Args:
        mnet: The main network: any with ``param_shapes_meta``, such as an MLP or what
            :func:`hnetfast.mnets.from_module` returns. Layers are in the order of their numbers there.
        omega: Factor within the sines behind the first layer. By default that of the network's :class:`Sine`;
            if there are several of them, what all but the first one have. It is 1 for an MLP with
            ``torch.sin``.

    Returns:
        The variance of each entry of ``mnet.param_shapes``, or None for those that are neither weights nor
        biases: argument ``target_vars`` of the initialisations of hypernetworks.

    Raises:
        TypeError, ValueError: If an argument is not accepted, or ``omega`` is missing and the network's sines
            don't tell it.

    Example:
        >>> from hnetfast.hnets import HMLP
        >>> from hnetfast.mnets import MLP
        >>> field = MLP(2, 3, [32, 32], activation_fn=Sine(10.0), no_weights=True, verbose=False)
        >>> hnet = HMLP(field.param_shapes, num_cond_embs=100, verbose=False)
        >>> hnet.apply_hyperfan_init(mnet=field, target_vars=siren_variances(field))
    """
    shapes, entries = getattr(mnet, "param_shapes", None), getattr(mnet, "param_shapes_meta", None)
    if shapes is None or entries is None:
        raise InputTypeError(
            f"mnet: expected a main network with param_shapes_meta, got {type(mnet).__name__}"
        )
    factor = _omega_of(mnet) if omega is None else _check_omega(omega)
    fans = {
        i: entry.get("fan_in") or prod(shape[1:])
        for i, (entry, shape) in enumerate(zip(entries, shapes, strict=True))
        if entry["name"] == "weight"
    }
    fan_of_layer = {entries[i]["layer"]: fan_in for i, fan_in in fans.items()}
    first = min(fan_of_layer, default=None)
    variances: list[float | None] = []
    for i, entry in enumerate(entries):
        if i in fans:
            is_first = entry["layer"] == first
            variances.append(1 / (3 * fans[i] ** 2) if is_first else 2 / (fans[i] * factor**2))
        elif entry["name"] == "bias" and (fan_in := entry.get("fan_in") or fan_of_layer.get(entry["layer"])):
            variances.append(1 / (3 * fan_in))
        else:
            variances.append(None)
    return variances


def _omega_of(mnet: Any) -> float:
    modules = mnet.modules() if isinstance(mnet, nn.Module) else ()
    factors: list[Any] = [module.omega for module in modules if isinstance(module, Sine)]
    if not factors and getattr(mnet, "_a_fun", None) is torch.sin:
        return 1.0
    behind_first = set(factors[1:] or factors)
    if len(behind_first) != 1:
        found = "none" if not factors else f"those with {', '.join(map(str, factors))}"
        raise InputError(
            f"omega: expected a number where the sines of the network don't tell one, which has {found}"
        )
    return behind_first.pop()
