"""Weight initialisers that complement :mod:`torch.nn.init`."""

import math
from collections.abc import Sequence

import torch
from torch.nn import init

__all__ = ["calc_fan_in_and_out", "xavier_fan_in_"]


def xavier_fan_in_(tensor: torch.Tensor) -> None:
    """Fill a weight tensor in place from a uniform distribution of variance ``1 / fan_in``.

    :func:`torch.nn.init.xavier_uniform_` averages fan-in and fan-out; this function uses the fan-in alone.

    Args:
        tensor: Weight tensor of at least two dimensions, ``[fan_out, fan_in, ...]``.

    Raises:
        ValueError: If the tensor has less than two dimensions.
    """
    fan_in, _ = init._calculate_fan_in_and_fan_out(tensor)
    bound = math.sqrt(3.0) * math.sqrt(1.0 / fan_in)
    with torch.no_grad():
        tensor.uniform_(-bound, bound)


def calc_fan_in_and_out(shapes: Sequence[int]) -> tuple[int, int]:
    """Compute fan-in and fan-out of a weight tensor from its shape.

    Args:
        shapes: Shape of a tensor with at least two dimensions, ``[out, in, ...]``; the remaining dimensions
            are the receptive field of a convolution.

    Returns:
        The pair ``(fan_in, fan_out)``.

    Raises:
        ValueError: If less than two dimensions are given.
    """
    if len(shapes) < 2:
        raise ValueError(
            f"shapes: fan-in and fan-out need at least 2 dimensions, got the shape {list(shapes)}"
        )
    receptive_field = math.prod(shapes[2:])
    return shapes[1] * receptive_field, shapes[0] * receptive_field
