"""Checks and parsing of what main networks are constructed and called with."""

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hnetfast._errors import InputError, InputTypeError
from hnetfast.mnets._layer_functions import LayerFunctions, Stats
from hnetfast.mnets._weights import describe_entry


def positive_integer(name: str, value: Any) -> int:
    """Return ``value`` as an integer.

    Args:
        name: Name of the argument.
        value: What was passed.

    Raises:
        TypeError: It is not an integer.
        ValueError: It is not positive.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise InputTypeError(f"{name}: expected a positive integer, got {value!r}") from None
    if number <= 0:
        raise InputError(f"{name}: expected a positive integer, got {value!r}")
    return number


def check_dropout_rate(rate: float) -> None:
    """Refuse what is neither -1 nor a probability.

    Args:
        rate: Argument ``dropout_rate`` of a network.

    Raises:
        ValueError: It is something else.
    """
    if rate != -1 and not 0.0 <= rate <= 1.0:
        raise ValueError(f"dropout_rate: expected -1 (no dropout) or a number in [0, 1], got {rate}")


def check_placement(x: Tensor, weights: Sequence[Tensor], network: Any, first: int) -> None:
    """Refuse an input of another dtype or device than the weights', before any layer changes its statistics.

    Args:
        x: The input.
        weights: The weights.
        network: The network.
        first: Index of the first of them in its ``param_shapes``, for the message.

    Raises:
        ValueError, RuntimeError: A device differs.
        TypeError: A dtype differs, and autocast is off.
    """
    for i, weight in enumerate(weights):
        if x.device == weight.device and x.dtype == weight.dtype:
            continue
        if x.device == weight.device and torch.is_autocast_enabled(x.device.type):
            continue
        if any(x.device == other.device and x.dtype == other.dtype for other in weights):
            name, expected, got = f"weights: {describe_entry(network, first + i)}", x, weight
        else:
            name, expected, got = "x", weight, x
        others = "input" if expected is x else "weights"
        if x.device != weight.device:
            raise InputError(
                f"{name}: expected to be on the device of the {others}, {expected.device}, got {got.device}"
            )
        raise InputTypeError(f"{name}: expected the dtype of the {others}, {expected.dtype}, got {got.dtype}")


def parse_condition(condition: int | Mapping[str, int] | None) -> tuple[int | None, int | None]:
    """Split the argument ``condition`` of networks with batch normalisation.

    Args:
        condition: An index of statistics, or a dictionary with the keys "bn_stats_id" and "cmod_ckpt_id".

    Returns:
        The index of statistics and that of stored weights of context modulation, None where not given.

    Raises:
        ValueError: The dictionary is empty or has other keys.
    """
    if not isinstance(condition, Mapping):
        return condition, None
    unknown = [key for key in condition if key not in ("bn_stats_id", "cmod_ckpt_id")]
    if unknown or not condition:
        raise ValueError(
            "condition: expected a dictionary with keys from ['bn_stats_id', 'cmod_ckpt_id'], "
            f"got {list(condition)}"
        )
    return condition.get("bn_stats_id"), condition.get("cmod_ckpt_id")


def select_stats(
    network: Any, layers: LayerFunctions, distilled_params: Sequence[Tensor] | None, stats_id: int | None
) -> list[Stats]:
    """Choose mean and variance for each batch-normalisation layer.

    Args:
        network: The network, whose layers all track statistics or all do not.
        layers: How the network is evaluated: many sets of weights may have statistics each, ``[B, C]``.
        distilled_params: Mean and variance of every layer in turn, None for the network's own.
        stats_id: Which of the stored statistics to use, None for the latest.

    Returns:
        A pair for each layer, of None where the batch's statistics are used.

    Raises:
        ValueError: If a number, a shape or the index is wrong.
    """
    if distilled_params is not None:
        shapes = network.hyper_shapes_distilled
        if shapes is None:
            raise ValueError("distilled_params: the network has no distillation targets (distill_bn_stats)")
        if len(distilled_params) != len(shapes):
            raise ValueError(f"distilled_params: expected {len(shapes)} tensors, got {len(distilled_params)}")
        for i, (stat, shape) in enumerate(zip(distilled_params, shapes, strict=True)):
            if list(stat.shape) != list(shape) and list(stat.shape) != [layers.num_sets, *shape]:
                raise ValueError(f"distilled_params[{i}]: expected the shape {shape}, got {list(stat.shape)}")
        return list(zip(distilled_params[::2], distilled_params[1::2], strict=True))
    bn_layers = network.batchnorm_layers or ()
    return [layer.get_stats(stats_id) if layer.num_stats else (None, None) for layer in bn_layers]


def check_batch_norm(network: Any, x: Tensor, num_values: int) -> None:
    """Refuse to compute the variance of one value, before any layer changes its statistics.

    Args:
        network: The network, whose batch-normalisation layers use the batch's statistics in training mode,
            or always if they do not track them.
        x: The input, for the message.
        num_values: Smallest number of values that a layer computes statistics of, for one feature and one set
            of weights.

    Raises:
        ValueError: If it is 1 and a layer uses the batch's statistics.
    """
    if num_values == 1 and any(layer.training or not layer.num_stats for layer in network.batchnorm_layers):
        raise InputError(
            "x: batch normalisation by the batch's statistics needs more than one value a feature, got one "
            f"(input of shape {list(x.shape)}); use eval() or a larger batch"
        )
