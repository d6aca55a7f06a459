"""Evaluation of main networks for one batch whose samples belong to different sets of weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hnetfast._errors import InputError, InputTypeError
from hnetfast.mnets._batched import WeightSets
from hnetfast.mnets._module.rows import SampleRows, as_rows, samples_of_sets
from hnetfast.mnets._module.structures import Rebuild, flatten, join_outputs
from hnetfast.ops.batched_lora import AdapterRows


def forward_rows(network: Any, x: Any, weights: Any, rows: Any, kwargs: dict[str, Any]) -> Any:
    """Compute the outputs for one batch, each sample with its set of weights.

    Args:
        network: A network made of a module.
        x: The inputs of the batch.
        weights: The sets, as :class:`~hnetfast.mnets._batched.WeightSets` takes them.
        rows: Counts of samples, or :class:`~hnetfast.ops.AdapterRows`.
        kwargs: Further arguments of the network's ``forward``.

    Returns:
        What ``forward`` returns.
    """
    if kwargs.get("distilled_params") is not None:
        raise InputError("distilled_params: excludes rows, which share the statistics of the network")
    sets = WeightSets(network, weights)
    (inputs, rebuild), (further, rebuild_kwargs) = flatten(x), flatten(kwargs)
    num_samples = _num_samples([*inputs, *further])
    rows = as_rows(rows, sets.num_sets, num_samples)
    if network._takes_rows():
        stacked = sets.chunks(sets.num_sets)[0]
        parameters, stacked = network._check_weights(stacked, sets.num_sets)
        if parameters is network._given_parameters:
            kwargs = network._with_condition(kwargs.get("condition"), kwargs)
            return network._compute_rows(x, kwargs, stacked, SampleRows(rows))
    outputs, order = [], []
    for samples, weights_of_set in zip(samples_of_sets(rows), sets.singly(), strict=True):
        if len(samples):
            x_of_set = rebuild(_some(inputs, samples, num_samples))
            kwargs_of_set = rebuild_kwargs(_some(further, samples, num_samples))
            outputs.append(network.forward(x_of_set, weights=weights_of_set, **kwargs_of_set))
            order.append(samples)
    if not outputs:
        return network.forward(x, weights=sets.singly()[0], **kwargs)
    return _in_order(outputs, torch.cat(order), rows)


def forward_repeated(
    network: Any,
    inputs: Sequence[Tensor],
    rebuild: Rebuild,
    kwargs: dict[str, Any],
    weights: Sequence[Tensor],
    num_sets: int,
) -> Any:
    """Compute the outputs for many sets, each of which gets a batch, in one call of a module with adapters.

    Args:
        network: The network.
        inputs: ``[B, ...]``, of stride 0 in the first dimension where all sets share one.
        rebuild: Makes the module's input of them.
        kwargs: Further arguments of the module, shared by all sets.
        weights: ``[B, *shape]``.
        num_sets: B.

    Returns:
        What the module returns, every tensor ``[B, ...]``; None if these can't be told from its outputs.
    """
    batch = inputs[0].shape[1] if inputs[0].ndim > 1 else 0
    if batch == 0:
        return None
    joined = []
    for tensor in inputs:
        if tensor.ndim > 1 and tensor.shape[1] == batch:
            joined.append(tensor.reshape(num_sets * batch, *tensor.shape[2:]))
        elif tensor.stride(0) == 0:
            joined.append(tensor[0])
        else:
            return None
    further, rebuild_kwargs = flatten(kwargs)
    repeated = [
        tensor.expand(num_sets, *tensor.shape).flatten(0, 1) if tensor.shape[:1] == (batch,) else tensor
        for tensor in further
    ]
    rows = SampleRows(AdapterRows(counts=[batch] * num_sets), per_set=batch)
    try:
        output = network._compute_rows(rebuild(joined), rebuild_kwargs(repeated), weights, rows)
    except Exception:
        # An input without a dimension of samples, for one. If it is wrong, calls a set will tell.
        return None
    tensors, rebuild_output = flatten(output, is_output=True)
    if any(tensor.shape[:1] != (num_sets * batch,) for tensor in tensors):
        network._unbatchable.add(frozenset(kwargs))
        return None
    return rebuild_output([tensor.unflatten(0, (num_sets, batch)) for tensor in tensors])


def _num_samples(tensors: Sequence[Tensor]) -> int:
    if not tensors or tensors[0].ndim == 0:
        raise InputTypeError("x: expected a tensor with samples in the first dimension, got none, with rows")
    return tensors[0].shape[0]


def _some(tensors: Sequence[Tensor], samples: Tensor, num_samples: int) -> list[Tensor]:
    return [
        tensor.index_select(0, samples.to(tensor.device)) if tensor.shape[:1] == (num_samples,) else tensor
        for tensor in tensors
    ]


def _in_order(outputs: Sequence[Any], order: Tensor, rows: AdapterRows) -> Any:
    """Join outputs of the sets, with the samples where they are in the batch."""

    def join(tensors: Sequence[Tensor]) -> Tensor:
        if any(tensor.ndim == 0 for tensor in tensors) or sum(len(t) for t in tensors) != rows.num_rows:
            shapes = [list(tensor.shape) for tensor in tensors]
            raise InputError(
                f"rows: expected outputs with samples in the first dimension, {rows.num_rows} in all, "
                f"got the shapes {shapes}"
            )
        joined = torch.cat(list(tensors))
        return joined if rows.order is None else joined.index_select(0, order.argsort().to(joined.device))

    return join_outputs(outputs, join)
