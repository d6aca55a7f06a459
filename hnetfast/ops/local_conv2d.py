"""Convolution whose every output position has filters of its own, a locally connected layer.

With F = C_in/groups·K_h·K_w and P = H·W output positions, and the values ``x̂[n, f, p]`` that filter entry f
sees at position p of image n::

    out[n, o, p] = bias[o, p] + Σ_f weight[o, f, p] x̂[n, f, p]
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from math import isqrt
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from hnetfast.ops._library import check_dense, check_tensor
from hnetfast.ops._register import AUTOCAST_DTYPES, lowered, register_op

Pair = int | Sequence[int]


class Geometry(NamedTuple):
    """Kernel, step and size of the output, pairs of height and width, and the number of groups."""

    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    output_size: tuple[int, int]
    groups: int


def local_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair | str = 0,
    dilation: Pair = 1,
    groups: int = 1,
    output_size: Pair | None = None,
    *,
    kernel_size: Pair | None = None,
) -> Tensor:
    """Convolve images with filters that differ from position to position.

    Args:
        input: Images ``[N, C_in, H_in, W_in]``, or one without N. With B sets of weights also
            ``[B, N, C_in, H_in, W_in]``, images of its own for each set.
        weight: Filters ``[C_out, C_in/groups·K_h·K_w, H·W]``, floating point; ``[B, …]`` for B sets.
        bias: ``[C_out, H·W]``, or ``[C_out]`` for the same at all positions; ``[B, …]`` for B sets.
        stride: Step between positions, one integer or one an axis, as the next three.
        padding: Zeros on each side, or "valid" (none) or "same" (as many as keep the size, for a stride of 1
            and kernels that reach as far to one side as to the other).
        dilation: Step between the pixels that a filter sees.
        groups: Number of groups of channels that do not see each other.
        output_size: H and W; by default what the other sizes give. Other values are refused.
        kernel_size: K_h and K_w; by default a square.

    Returns:
        Maps ``[N, C_out, H, W]``, without N if the input has none, with B in front for B sets.

    Raises:
        TypeError: If something is not a tensor, not made of integers, or of another dtype than the input.
        ValueError: If sizes do not fit; the argument is named, and what is accepted.
    """
    geometry, many, single = _check(
        input, weight, bias, stride, padding, dilation, groups, output_size, kernel_size
    )
    x = input.unsqueeze(-4) if single else input
    if many and x.dim() == 4:
        x = x.unsqueeze(0)  # all sets see the same images
    if bias is not None and bias.dim() == weight.dim() - 2:
        bias = bias.unsqueeze(-1).expand(*bias.shape, weight.shape[-1])
    out = local_conv2d_unchecked(x, weight, bias, geometry)
    return out.squeeze(-4) if single else out


def local_conv2d_unchecked(input: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """The same without checks.

    Args:
        input: ``[N, C_in, H_in, W_in]``; for B sets of weights ``[B or 1, N, …]``.
        weight: ``[C_out, F, P]``; for B sets ``[B, …]``.
        bias: ``[C_out, P]``, for B sets ``[B, …]``, or None.
        geometry: Sizes.

    Returns:
        ``[N, C_out, H, W]``, for B sets ``[B, N, …]``.
    """
    return _OP(input, weight, bias, *geometry)


def _computed_in(tensor: Tensor) -> torch.dtype:
    """The type that a tensor takes part in: under autocast the lower one, except that float64 stays."""
    device = tensor.device.type
    if tensor.dtype in AUTOCAST_DTYPES and device != "meta" and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return tensor.dtype


# --- checks ---------------------------------------------------------------------------------------


def _integer(value) -> int | None:
    """The value of an integer of any kind, those of numpy and of tracing included; None for anything else."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def _pair(name: str, value: Pair, smallest: int) -> tuple[int, int]:
    values = tuple(map(_integer, value if isinstance(value, (list, tuple)) else (value, value)))
    if len(values) != 2 or None in values:
        raise TypeError(f"local_conv2d: {name}: an integer or two of them are accepted, got {value!r}")
    values = cast(tuple[int, int], values)
    if min(values) < smallest:
        raise ValueError(f"local_conv2d: {name}: integers of at least {smallest} are accepted, got {value!r}")
    return values


def geometry_of(
    in_channels: int,
    out_channels: int,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair | str,
    dilation: Pair,
    groups: int,
    input_size: Pair,
) -> Geometry:
    """Sizes of a layer.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: K_h and K_w.
        stride: Steps of the kernel, down and to the right.
        padding: Zeros added on each side, vertically and horizontally, or "valid" or "same".
        dilation: Distances of the kernel's elements, vertically and horizontally.
        groups: Number of groups of channels.
        input_size: H_in and W_in.

    Raises:
        TypeError, ValueError: If a size is not accepted, or the output would be empty.
    """
    numbers = {"in_channels": in_channels, "out_channels": out_channels, "groups": groups}
    for name, value in numbers.items():
        number = _integer(value)
        if number is None or number < 1:
            raise ValueError(f"local_conv2d: {name}: a positive integer is accepted, got {value!r}")
        numbers[name] = number
    in_channels, out_channels, groups = numbers.values()
    if in_channels % groups or out_channels % groups:
        raise ValueError(
            f"local_conv2d: groups: must divide {in_channels} input and {out_channels} output channels, got "
            f"{groups}"
        )
    kernel, size = _pair("kernel_size", kernel_size, 1), _pair("input_size", input_size, 1)
    stride, dilation = _pair("stride", stride, 1), _pair("dilation", dilation, 1)
    padding = _padding(padding, kernel, stride, dilation)
    found = _output_size(size, kernel, stride, padding, dilation)
    if min(found) < 1:
        raise ValueError(
            f"local_conv2d: kernel_size: {kernel} with dilation {dilation} is larger than the input {size} "
            f"padded by {padding}: the output would be empty"
        )
    return Geometry(kernel, stride, padding, dilation, found, groups)


def _output_size(size, kernel, stride, padding, dilation) -> tuple[int, int]:
    return tuple(
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True)
    )


def _check(
    input, weight, bias, stride, padding, dilation, groups, output_size, kernel_size
) -> tuple[Geometry, bool, bool]:
    """Sizes of a call; and whether there are several sets of weights, and a single image."""
    for name, tensor in (("input", input), ("weight", weight), ("bias", bias)):
        if not isinstance(tensor, Tensor) and not (name == "bias" and tensor is None):
            raise TypeError(f"local_conv2d: {name}: a tensor is accepted, got {type(tensor).__name__}")
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None and (
            _computed_in(tensor) != _computed_in(input) or tensor.device != input.device
        ):
            raise TypeError(
                f"local_conv2d: {name}: {input.dtype} on {input.device} as of input is accepted, got "
                f"{tensor.dtype} on {tensor.device}"
            )
    if not input.is_floating_point():
        raise TypeError(f"local_conv2d: input: floating point is accepted, got {input.dtype}")
    shape, many = list(weight.shape), weight.dim() == 4
    expected = "[C_out, C_in/groups·K_h·K_w, H·W], or [B, …] for B sets"
    if weight.dim() not in (3, 4) or 0 in shape[-3:]:
        raise ValueError(f"local_conv2d: weight: the shape {expected} is accepted, got {shape}")
    if input.dim() not in ((3, 4, 5) if many else (3, 4)) or 0 in input.shape[-3:]:
        raise ValueError(
            f"local_conv2d: input: the shape [N, C_in, H_in, W_in] is accepted, without N, or with B in "
            f"front for B sets of weights, got {list(input.shape)}"
        )
    if input.dim() == 5 and input.shape[0] != shape[0]:
        raise ValueError(
            f"local_conv2d: input: {shape[0]} sets as of weight are accepted, got {list(input.shape)}"
        )
    outputs, num_fields, positions = shape[-3:]
    channels, *size = input.shape[-3:]
    num_groups = _integer(groups)
    if num_groups is None or num_groups < 1 or channels % num_groups:
        raise ValueError(f"local_conv2d: groups: must divide {channels} input channels, got {groups!r}")
    per_group = channels // num_groups
    hint = " (this is the layout of Conv2d)" if many and shape[1] == per_group else ""
    if kernel_size is None:
        side = isqrt(operator.index(num_fields // per_group))
        if side == 0 or side * side * per_group != num_fields:
            raise ValueError(
                f"local_conv2d: weight: the shape {expected} is accepted; for {per_group} channels and a "
                f"square kernel dimension -2 is a square times {per_group}, got {shape}{hint}; or pass "
                "kernel_size"
            )
        kernel_size = side
    kernel = _pair("kernel_size", kernel_size, 1)
    if kernel[0] * kernel[1] * per_group != num_fields:
        raise ValueError(
            f"local_conv2d: weight: {per_group * kernel[0] * kernel[1]} entries for {per_group} channels and "
            f"kernel_size {kernel} are accepted in dimension -2, got {shape}{hint}"
        )
    geometry = geometry_of(channels, outputs, kernel, stride, padding, dilation, groups, size)
    found = geometry.output_size
    if output_size is not None and _pair("output_size", output_size, 1) != found:
        raise ValueError(f"local_conv2d: output_size: {found} is accepted for these sizes, got {output_size}")
    if positions != found[0] * found[1]:
        raise ValueError(
            f"local_conv2d: weight: {found[0]}·{found[1]} = {found[0] * found[1]} positions are accepted in "
            f"the last dimension, got {shape}{hint}"
        )
    if bias is not None:
        by_position, by_channel = [*shape[:-3], outputs, positions], [*shape[:-3], outputs]
        if list(bias.shape) != by_position and list(bias.shape) != by_channel:  # `in` fails on symbolic sizes
            raise ValueError(
                f"local_conv2d: bias: the shapes {by_position} and {by_channel} are accepted, got "
                f"{list(bias.shape)}"
            )
    return geometry, many, input.dim() == 3


def _padding(padding, kernel, stride, dilation) -> tuple[int, int]:
    if not isinstance(padding, str):
        return _pair("padding", padding, 0)
    if padding == "valid":
        return 0, 0
    if padding != "same":
        raise ValueError(f"local_conv2d: padding: 'same', 'valid' or integers are accepted, got {padding!r}")
    if stride != (1, 1):
        raise ValueError(f"local_conv2d: padding: 'same' is accepted for a stride of 1, got stride {stride}")
    reach = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    if any(r % 2 for r in reach):
        raise ValueError(
            f"local_conv2d: padding: 'same' is accepted for kernels that reach equally far to both sides, "
            f"got kernel_size {kernel} with dilation {dilation}"
        )
    return reach[0] // 2, reach[1] // 2


# --- reference ------------------------------------------------------------------------------------


def _fields(input: Tensor, geometry: Geometry) -> Tensor:
    """What filters see, ``[B or 1, N, groups, F, P]``."""
    kernel, stride, padding, dilation, _, groups = geometry
    fields = F.unfold(input.flatten(0, 1), kernel, dilation=dilation, padding=padding, stride=stride)
    return fields.unflatten(0, input.shape[:2]).unflatten(2, (groups, -1))


def _check_op(input, weight, bias, geometry: Sequence) -> None:
    """Check what :func:`local_conv2d_unchecked` takes.

    Raises:
        ValueError: What does not fit, by its argument's name.
    """
    for name, tensor in (("input", input), ("weight", weight), ("bias", input if bias is None else bias)):
        check_dense("local_conv2d", name, tensor)
    *pairs, groups = geometry
    for name, pair in zip(Geometry._fields[:5], pairs, strict=True):
        smallest = 0 if name == "padding" else 1
        if len(pair) != 2 or min(pair) < smallest:
            raise ValueError(
                f"local_conv2d: {name}: two integers of at least {smallest} are accepted, got {list(pair)}"
            )
    kernel, stride, padding, dilation, found = pairs
    shape, many = tuple(weight.shape), weight.dim() == 4
    if weight.dim() not in (3, 4) or input.dim() != weight.dim() + 1 or 0 in input.shape[-3:]:
        raise ValueError(
            "local_conv2d: input and weight: the shapes [N, C, H, W] and [O, F, P] are accepted, or "
            f"[sets or 1, N, C, H, W] and [sets, O, F, P], got {list(input.shape)} and {list(shape)}"
        )
    channels, *size = input.shape[-3:]
    if many and input.shape[0] != 1 and input.shape[0] != shape[0]:
        raise ValueError(
            f"local_conv2d: input: {shape[0]} sets as of weight, or 1, are accepted, got {input.shape[0]}"
        )
    if groups < 1 or channels % groups or shape[-3] % groups:
        raise ValueError(
            f"local_conv2d: groups: must divide {channels} input and {shape[-3]} output channels, got "
            f"{groups}"
        )
    expected = _output_size(size, kernel, stride, padding, dilation)
    if tuple(found) != expected:
        raise ValueError(
            f"local_conv2d: output_size: {expected} is accepted for these sizes, got {list(found)}"
        )
    fields, positions = channels // groups * kernel[0] * kernel[1], found[0] * found[1]
    if shape[-2] != fields or shape[-1] != positions:
        raise ValueError(
            f"local_conv2d: weight: {fields} entries of {positions} filters are accepted in the last "
            f"dimensions, got {list(shape)}"
        )
    check_tensor("local_conv2d", "weight", weight, shape, input)
    if bias is not None:
        check_tensor("local_conv2d", "bias", bias, (*shape[:-2], positions), input)


def _check_grad(grad, input, weight, geometry: Sequence) -> None:
    check_dense("local_conv2d_backward", "grad_out", grad)
    _check_op(input, weight, None, geometry)
    shape = (*weight.shape[:-3], input.shape[-4], weight.shape[-3], *geometry[4])
    check_tensor("local_conv2d_backward", "grad_out", grad, shape, input)


def local_conv2d_reference(
    input, weight, bias, kernel_size, stride, padding, dilation, output_size, groups
) -> Tensor:
    """Compute what :func:`local_conv2d` does, in plain differentiable PyTorch.

    Args:
        input: Images ``[B, C_in, H, W]``, or one such batch for each set of weights.
        weight: Weights ``[C_out, C_in / groups * Kh * Kw, H_out * W_out]``, or such for each set.
        bias: ``[C_out, H_out * W_out]``, such for each set, or None.
        kernel_size: Height and width of the kernel.
        stride: Steps of the kernel, down and to the right.
        padding: Zeros added on each side, vertically and horizontally.
        dilation: Distances of the kernel's elements.
        output_size: Height and width of the output.
        groups: Number of groups of channels.

    Returns:
        Images ``[B, C_out, H_out, W_out]``, or such for each set.
    """
    if weight.dim() == 3:
        bias = None if bias is None else bias.unsqueeze(0)
        sizes = (kernel_size, stride, padding, dilation, output_size, groups)
        return local_conv2d_reference(input.unsqueeze(0), weight.unsqueeze(0), bias, *sizes).squeeze(0)
    geometry = Geometry(kernel_size, stride, padding, dilation, output_size, groups)
    fields = _fields(input, geometry).expand(weight.shape[0], -1, -1, -1, -1)
    out = torch.einsum("bngfp,bgofp->bngop", fields, weight.unflatten(1, (groups, -1)))
    out = out.flatten(2, 3)
    if bias is not None:
        out = out + bias.unsqueeze(1)
    return out.unflatten(-1, tuple(output_size))


def _backward_reference(
    grad, input, weight, kernel_size, stride, padding, dilation, output_size, groups, needs
):
    """Gradients that have gradients; in operations that ``is_grads_batched`` knows, which are few."""
    sizes = (kernel_size, stride, padding, dilation, output_size, groups)
    _check_grad(grad, input, weight, sizes)
    if weight.dim() == 3:
        grad, input, weight = (t.unsqueeze(0) for t in (grad, input, weight))
        return [t.squeeze(0) for t in _backward_reference(grad, input, weight, *sizes, needs)]
    (sets, outputs, fields, positions), (shared, images, channels, *_) = weight.shape, input.shape
    size = tuple(input.shape[3:])
    options = {"dilation": dilation, "padding": padding, "stride": stride}
    g = grad.reshape(sets, images, groups, outputs // groups, positions)
    results = [grad.new_empty(0)] * 3
    if needs[2]:
        results[2] = grad.sum(1).reshape(sets, outputs, positions)
    if needs[1]:
        seen = F.unfold(input.reshape(-1, channels, *size), kernel_size, **options)
        seen = seen.reshape(shared, images, groups, fields, positions)
        of_weight = g.permute(0, 2, 4, 3, 1) @ seen.permute(0, 2, 4, 1, 3)  # [sets, groups, P, O/groups, F]
        results[1] = of_weight.permute(0, 1, 3, 4, 2).reshape(weight.shape).contiguous()
    if needs[0]:
        filters = weight.reshape(sets, groups, outputs // groups, fields, positions)
        parts = g.permute(0, 2, 4, 1, 3) @ filters.permute(0, 1, 4, 2, 3)  # [sets, groups, P, N, F]
        parts = parts.permute(0, 3, 1, 4, 2).reshape(sets * images, groups * fields, positions)
        of_input = F.fold(parts, size, kernel_size, **options).reshape(sets, images, channels, *size)
        results[0] = of_input.sum(0, keepdim=True) if shared == 1 else of_input
    return results


def _forward_op(input, weight, bias, *geometry):
    _check_op(input, weight, bias, geometry)
    return local_conv2d_reference(input, weight, bias, *geometry).contiguous()


# --- tracing, vmap --------------------------------------------------------------------------------


def _fake(input, weight, bias, kernel_size, stride, padding, dilation, output_size, groups):
    _check_op(input, weight, bias, (kernel_size, stride, padding, dilation, output_size, groups))
    return input.new_empty(*weight.shape[:-3], input.shape[-4], weight.shape[-3], *output_size)


def _vmap(op, info, in_dims, input, weight, bias, *geometry):
    """Batched weights become sets of weights, batched images more images."""
    size = info.batch_size
    tensors = (input, weight, bias)
    in_front = [t if dim is None else t.movedim(dim, 0) for t, dim in zip(tensors, in_dims, strict=False)]
    x, weight, bias = in_front
    x_dim, weight_dim, bias_dim = in_dims[:3]
    if weight_dim is None:
        x = (
            x.movedim(0, -5)
            if x_dim is not None
            else x.unsqueeze(-5).expand(*x.shape[:-4], size, *x.shape[-4:])
        )
        fused = x.flatten(-5, -4)  # [..., batch·N, C, H, W]
        out = op(fused, weight, None if bias_dim is not None else bias, *geometry)
        out = out.unflatten(-4, (size, x.shape[-4])).movedim(-5, 0)
        if bias_dim is not None:
            out = out + bias.unsqueeze(-3).unflatten(-1, out.shape[-2:])
        return out, 0
    if bias is not None and bias_dim is None:
        bias = bias.expand(size, *bias.shape)
    if weight.dim() == 4:
        return op(x if x_dim is not None else x.unsqueeze(0), weight, bias, *geometry), 0
    sets = weight.shape[1]
    x = x if x_dim is not None else x.expand(size, *x.shape)
    x = x.expand(-1, sets, -1, -1, -1, -1).flatten(0, 1)
    bias = None if bias is None else bias.flatten(0, 1)
    return op(x, weight.flatten(0, 1), bias, *geometry).unflatten(0, (size, sets)), 0


def _backward_fake(grad, input, weight, kernel_size, stride, padding, dilation, output_size, groups, needs):
    _check_grad(grad, input, weight, (kernel_size, stride, padding, dilation, output_size, groups))
    shapes = (input.shape, weight.shape, (*weight.shape[:-2], weight.shape[-1]))
    return [input.new_empty(shape if need else 0) for shape, need in zip(shapes, needs, strict=True)]


_GEOMETRY = "int[] kernel_size, int[] stride, int[] padding, int[] dilation, int[] output_size, int groups"
register_op(
    f"local_conv2d_backward(Tensor grad_out, Tensor input, Tensor weight, {_GEOMETRY}, bool[] needs) "
    "-> Tensor[]",
    _backward_reference,
    _backward_fake,
    differentiable=_backward_reference,
)
_OP = register_op(
    f"local_conv2d(Tensor input, Tensor weight, Tensor? bias, {_GEOMETRY}) -> Tensor out",
    _forward_op,
    _fake,
    vmap=_vmap,
    autocast=lowered,
)
