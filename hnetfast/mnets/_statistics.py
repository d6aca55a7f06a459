"""Which statistics batch normalisation uses in a call."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from hnetfast._checks import check_tensor
from hnetfast._errors import InputError

Stats = tuple[Tensor | None, Tensor | None]


def parse_condition(condition: int | Mapping[str, int | None] | None) -> tuple[int | None, int | None]:
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
        raise InputError(
            "condition: expected a dictionary with keys from ['bn_stats_id', 'cmod_ckpt_id'], "
            f"got {list(condition)}"
        )
    return condition.get("bn_stats_id"), condition.get("cmod_ckpt_id")


def check_distilled(network: Any, distilled_params: Sequence[Tensor], num_sets: int | None) -> None:
    """Check given statistics.

    Args:
        network: The network.
        distilled_params: Mean and variance of every layer in turn.
        num_sets: Number of sets of weights, which may have statistics each, ``[B, C]``; None for one set.

    Raises:
        ValueError: If the network has none, or a number or a shape is wrong.
        TypeError: If an entry is not a tensor.
    """
    shapes = network.hyper_shapes_distilled
    if shapes is None:
        raise InputError(
            "distilled_params: the network has no distillation targets (distill_bn_stats=True), expected None"
        )
    if len(distilled_params) != len(shapes):
        raise InputError(f"distilled_params: expected {len(shapes)} tensors, got {len(distilled_params)}")
    for i, (stat, shape) in enumerate(zip(distilled_params, shapes, strict=True)):
        check_tensor(f"distilled_params[{i}]", stat)
        if list(stat.shape) not in (list(shape), [num_sets, *shape]):
            raise InputError(
                f"distilled_params[{i}]: expected the shape {list(shape)}, got {list(stat.shape)}"
            )


def select_stats(
    network: Any, distilled_params: Sequence[Tensor] | None, stats_id: int | None, num_sets: int | None
) -> list[Stats]:
    """Choose mean and variance for each batch-normalisation layer.

    Args:
        network: The network, whose layers all track statistics or all do not.
        distilled_params: Mean and variance of every layer in turn, None for the network's own.
        stats_id: Which of the stored statistics to use, None for the latest.
        num_sets: Number of sets of weights, which may have given statistics each; None for one set.

    Returns:
        A pair for each layer, of None where the batch's statistics are used.

    Raises:
        ValueError: If a number, a shape or the index is wrong.
        TypeError: If an entry is not a tensor.
    """
    if distilled_params is not None:
        check_distilled(network, distilled_params, num_sets)
        return list(zip(distilled_params[::2], distilled_params[1::2], strict=True))
    bn_layers = network.batchnorm_layers or ()
    return [layer.get_stats(stats_id) if layer.num_stats else (None, None) for layer in bn_layers]


def latest_stats(network: Any) -> list[Tensor] | None:
    """The latest mean and variance of every batch-normalisation layer, None if they are not distilled.

    Args:
        network: The network.
    """
    if network.hyper_shapes_distilled is None:
        return None
    return [stat for layer in network.batchnorm_layers for stat in layer.get_stats()]


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
