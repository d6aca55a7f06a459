"""``output_reg`` by products of matrices in plain PyTorch, which can be traced and differentiated repeatedly.

Mathematics and names as in :mod:`hnetfast.ops.output_reg`.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hnetfast.ops._activations import ACTIVATIONS
from hnetfast.ops._corrections import Corrections
from hnetfast.ops._mlp_layers import sizes_of
from hnetfast.ops.grouped_mlp import Group

_FEATURES_AT_ONCE = 1 << 22  # elements of the last layer's input, for as many conditions as that are


def by_products(current: Group, previous: Group, split: int, scaling: Tensor) -> Tensor:
    """Compute the sum over conditions, corrections aside.

    Args:
        current: The network as it is.
        previous: The network as it was, and its inputs then.
        split: Outputs of the last chunk that count.
        scaling: A factor for each condition, ``[B]``.

    Returns:
        The sum, a scalar.
    """
    count, num_chunks = sizes_of(current.inputs)
    layer, old_layer = ((g.weights[-1], g.biases[-1] if g.biases else None) for g in (current, previous))
    matrices = _layer_matrices(*layer, *old_layer, split)

    def of_conditions(begin: int, end: int) -> Tensor:
        groups = [_select(group, begin, end) for group in (current, previous)]
        now, change = _last_input(groups[0], groups[1], end - begin, num_chunks)
        return _change_of_rows(now, change, scaling[begin:end], *matrices)

    step = max(1, _FEATURES_AT_ONCE // (num_chunks * layer[0].shape[1]))
    if step >= count:
        return of_conditions(0, count)
    total = scaling.new_zeros(())
    for begin in range(0, count, step):
        end = min(begin + step, count)
        part = checkpoint(of_conditions, begin, end, use_reentrant=False, preserve_rng_state=False)
        total = total + cast(Tensor, part)
    return total


def _select(group: Group, begin: int, end: int) -> Group:
    return group._replace(inputs=[p if p.shape[0] == 1 else p[begin:end] for p in group.inputs])


def _last_input(current: Group, previous: Group, count: int, num_chunks: int) -> tuple[Tensor, Tensor]:
    """What the last layer reads, ``[B, N, K]``, and its change."""
    layers, change = hidden_and_change(current, previous, count, num_chunks)
    return layers[-1].expand(count, num_chunks, -1), change.expand(count, num_chunks, -1)


def hidden_and_change(
    current: Group, previous: Group, count: int, num_chunks: int
) -> tuple[list[Tensor], Tensor]:
    """What hidden layers give, or else the input, ``[B or 1, N or 1, width]`` each; and its last change.

    The change goes through the layers itself, as the difference of two results would hold little but their
    rounding errors.

    Args:
        current: The network as it is.
        previous: The network as it was, and its inputs then.
        count: Number of conditions B.
        num_chunks: Number of chunks N.

    Returns:
        What each hidden layer gives, and the change of the last one.
    """
    if len(current.weights) == 1:
        now, then = (
            torch.cat([p.expand(count, num_chunks, -1) for p in g.inputs], dim=2) for g in (current, previous)
        )
        return [now], now - then
    layers = []
    widths = [part.shape[2] for part in current.inputs]
    parts = zip(
        current.inputs,
        previous.inputs,
        current.weights[0].split(widths, 1),
        previous.weights[0].split(widths, 1),
        strict=True,
    )
    after = change = cast(Tensor, 0.0)  # there are parts
    for x, y, weight, old_weight in parts:
        after = after + x.detach() @ weight.detach().t()
        change = change + (x @ (weight - old_weight).t() + (x - y) @ old_weight.t())
    for i in range(len(current.weights) - 1):
        if i > 0:
            weight, old_weight = current.weights[i], previous.weights[i]
            after = now.detach() @ weight.detach().t()
            change = now @ (weight - old_weight).t() + change @ old_weight.t()
        if current.biases:
            after = after + current.biases[i].detach()
            change = change + (current.biases[i] - previous.biases[i])
        now, change = _activate(after, change, current.activation)
        layers.append(now)
    return layers, change


def _activate(after: Tensor, change: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    """The result, and by how much it differs from that for ``after - change``, without cancellation.

    Only ``change`` has a graph, which is that of ``after`` too: gradients for both meet before they go on.
    """
    before = (after - change).detach()
    after = after + (change - change.detach())
    kind = ACTIVATIONS[activation]
    now, then = kind.function(after), kind.function(before)
    small = change.clamp(-1, 1) if kind.small else change  # formulas overflow beyond
    exact = kind.change(small, before, after, now, then)
    applies = change == small
    if kind.kink:
        applies = applies & ((after > 0) == (before > 0))
    return now, torch.where(applies, exact, now - then)


def _changed_layer(weight, bias, old_weight, old_bias) -> Tensor:
    """D, ``[S, C]``."""
    change = weight - old_weight
    return change if bias is None else torch.cat([change, (bias - old_bias).unsqueeze(1)], dim=1)


def _layer_matrices(weight, bias, old_weight, old_bias, split):
    """``DᵀD``, ``DᵀW*`` and ``W*ᵀW*``, each of the first ``split`` outputs and of the others."""
    change = _changed_layer(weight, bias, old_weight, old_bias)
    results = []
    for rows in (slice(0, split), slice(split, None)):
        d, old = change[rows], old_weight[rows]
        results.append((d.t() @ d, d.t() @ old, old.t() @ old))
    return tuple(torch.stack(parts) for parts in zip(*results, strict=True))


def _change_of_rows(now, change, scaling, changes, mixed, unchanged):
    """The sum over rows: the last one of a condition meets the first part of the matrices, others both."""
    total = 0.0
    for chunks, of_part in ((slice(-1, None), lambda m: m[0]), (slice(0, -1), lambda m: m.sum(0))):
        h, difference = now[:, chunks].flatten(0, 1), change[:, chunks].flatten(0, 1)
        factors = scaling.repeat_interleave(now[:, chunks].shape[1]).unsqueeze(1)
        if changes.shape[1] > now.shape[2]:
            h = torch.cat([h, h.new_ones(h.shape[0], 1)], dim=1)
        scaled_difference = factors * difference
        total = (
            total
            + (of_part(changes) * (h.t() @ (factors * h))).sum()
            + 2 * (of_part(mixed) * (h.t() @ scaled_difference)).sum()
            + (of_part(unchanged) * (difference.t() @ scaled_difference)).sum()
        )
    return total


def corrected(current: Group, previous: Group, scaling: Tensor, corrections: Corrections) -> Tensor:
    """Compute the sum of the squares of single outputs that :func:`by_products` has too many.

    Args:
        current: The network as it is.
        previous: The network as it was, and its inputs then.
        scaling: A factor for each condition, ``[B]``.
        corrections: Which outputs, and how much of their squares.

    Returns:
        The sum, a scalar.
    """
    count, _ = sizes_of(current.inputs)
    size, device = current.weights[-1].shape[0], scaling.device
    order, chunks, rows, lengths = corrections.remembered(
        ("by chunks", size, device), lambda: _by_chunks(corrections, size, device)
    )
    factors = corrections.factors_like(scaling).index_select(1, order) * scaling.unsqueeze(1)
    factors = factors.expand(count, -1)

    def of_chunks(group: Group) -> Group:
        return group._replace(
            inputs=[p if p.shape[1] == 1 else p.index_select(1, chunks) for p in group.inputs]
        )

    now, change = _last_input(of_chunks(current), of_chunks(previous), count, len(chunks))
    weight, old_weight = current.weights[-1].index_select(0, rows), previous.weights[-1].index_select(0, rows)
    bias_change = None
    if current.biases:
        bias_change = (current.biases[-1] - previous.biases[-1]).index_select(0, rows)
    total, start = scaling.new_zeros(()), 0
    for i, length in enumerate(lengths):
        of_chunk = slice(start, start + length)
        start += length
        d = now[:, i] @ (weight - old_weight)[of_chunk].t() + change[:, i] @ old_weight[of_chunk].t()
        if bias_change is not None:
            d = d + bias_change[of_chunk]
        total = total + (factors[:, of_chunk] * d.square()).sum()
    return total


def _by_chunks(
    corrections: Corrections, size: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, list[int]]:
    """The order of corrections by chunks, these chunks, rows of the layer, and how many each chunk has."""
    order = torch.argsort(corrections.positions)
    positions = corrections.positions[order]
    chunks, lengths = torch.unique_consecutive(positions // size, return_counts=True)
    return order.to(device), chunks.to(device), (positions % size).to(device), lengths.tolist()
