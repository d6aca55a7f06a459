"""How much the outputs of a hypernetwork have changed, for several conditions, without generating them.

With the last hidden layer's results ``h`` for R rows (pairs of a condition and a chunk), the linear last
layer ``A = [W b]`` of S outputs, and ``h*``, ``A*`` what they were, the outputs of a row differ by
``d = D h̃ + W* Δ`` where ``D = A - A*``, ``h̃ = [h 1]`` and ``Δ = h - h*``. Its square sums up to

    Σ s ‖d‖² = ⟨DᵀD, Σ s h̃ h̃ᵀ⟩ + 2 ⟨DᵀW*, Σ s h̃ Δᵀ⟩ + ⟨W*ᵀW*, Σ s Δ Δᵀ⟩

of which the first factors depend on the layer alone and the second ones on the rows alone: see
docs/regulariser.md for where this comes from and for its rounding.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hnetfast.ops._library import EXTENSION_LOADED, LIBRARY, takes_plain_tensors
from hnetfast.ops._mlp_layers import activate, sizes_of
from hnetfast.ops.chunked_mlp import chunked_mlp, chunked_mlp_reference
from hnetfast.ops.grouped_mlp import Group

LIBRARY.define(
    "difference_grams(Tensor weight, Tensor? bias, Tensor previous_weight, Tensor? previous_bias, int split) "
    "-> (Tensor, Tensor, Tensor)"
)
LIBRARY.define(
    "difference_grams_backward(Tensor grad_changes, Tensor grad_mixed, Tensor weight, Tensor? bias, "
    "Tensor previous_weight, Tensor? previous_bias, int split) -> (Tensor, Tensor)"
)

_OP = torch.ops.hnetfast.difference_grams.default
_BACKWARD_OP = torch.ops.hnetfast.difference_grams_backward.default
_KERNEL_DTYPES = (torch.float32, torch.float64)
_FEATURES_AT_ONCE = 1 << 22  # elements of the last hidden layer, for as many conditions as that are


class Units(NamedTuple):
    """Outputs that do not count: conditions ``[E]`` and positions among their outputs ``[E]``."""

    conditions: Tensor
    positions: Tensor


def output_reg(
    current: Group,
    previous: Group,
    num_outputs: int,
    scaling: Tensor | None = None,
    ignored: Units | None = None,
) -> Tensor:
    """Sum over conditions of the squared change of what a network generates for them.

    Output regularisation: von Oswald et al., "Continual learning with hypernetworks", 2020, eq. 2. The cost
    of the last layer does not depend on the number of conditions, and no output is generated.

    Args:
        current: The network and its inputs for B conditions, as :func:`hnetfast.ops.chunked_mlp` takes them.
        previous: The same as it was; no gradient reaches it.
        num_outputs: Outputs of a condition that count.
        scaling: A factor for each condition ``[B]``; 1 by default.
        ignored: Outputs that do not count.

    Returns:
        Scalar, differentiable with respect to the tensors of ``current``, twice too.
    """
    previous = _detached(previous)
    count, num_chunks = map(max, zip(sizes_of(current.inputs), sizes_of(previous.inputs), strict=True))
    weight, bias = current.weights[-1], current.biases[-1] if current.biases else None
    old_weight, old_bias = previous.weights[-1], previous.biases[-1] if previous.biases else None
    split = num_outputs - (num_chunks - 1) * weight.shape[0]  # outputs of the last chunk that count
    if not 0 < split <= weight.shape[0]:
        raise ValueError(
            f"output_reg: num_outputs is {num_outputs}, accepted for {num_chunks} chunks of "
            f"{weight.shape[0]} is {(num_chunks - 1) * weight.shape[0] + 1} to {num_chunks * weight.shape[0]}"
        )
    grams = difference_grams(weight, bias, old_weight, old_bias, split)
    scaling = weight.new_ones(count) if scaling is None else scaling.to(weight)
    step = max(1, _FEATURES_AT_ONCE // (num_chunks * weight.shape[1]))

    def of_conditions(begin: int, end: int) -> Tensor:
        now = _features(_select(current, begin, end), end - begin, num_chunks)
        with torch.no_grad():
            then = _features(_select(previous, begin, end), end - begin, num_chunks)
        factors = scaling[begin:end]
        total = _change(now, then, factors, grams, bias is not None)
        if ignored is not None:
            layers = (weight, bias, old_weight, old_bias)
            total = total - _change_of_units(now, then, factors, layers, ignored, begin)
        return total

    if step >= count:
        return of_conditions(0, count)
    total = weight.new_zeros(())
    for begin in range(0, count, step):
        end = min(begin + step, count)
        total = total + checkpoint(of_conditions, begin, end, use_reentrant=False, preserve_rng_state=False)
    return total


def output_reg_reference(
    current: Group,
    previous: Group,
    num_outputs: int,
    scaling: Tensor | None = None,
    ignored: Units | None = None,
) -> Tensor:
    """What :func:`output_reg` computes, from the outputs."""
    difference = chunked_mlp_reference(*current, num_outputs) - chunked_mlp_reference(
        *_detached(previous), num_outputs
    )
    squares = difference.square()
    if ignored is not None:
        squares = squares.index_put(tuple(ignored), squares.new_zeros(()))
    squares = squares.sum(1)
    return squares.sum() if scaling is None else squares @ scaling.to(squares)


def _detached(group: Group) -> Group:
    return Group(*([t.detach() for t in tensors] for tensors in group[:3]), group.activation)


def _select(group: Group, begin: int, end: int) -> Group:
    return group._replace(inputs=[p if p.shape[0] == 1 else p[begin:end] for p in group.inputs])


def _features(group: Group, count: int, num_chunks: int) -> Tensor:
    """Last hidden layer ``[B, N, K]``, or the inputs where there is none."""
    if len(group.weights) == 1:
        return torch.cat([part.expand(count, num_chunks, -1) for part in group.inputs], dim=2)
    width = group.weights[-2].shape[0]
    chunks_of_inputs = sizes_of(group.inputs)[1]
    flat = chunked_mlp(
        group.inputs, group.weights[:-1], group.biases[:-1], group.activation, chunks_of_inputs * width
    )
    hidden = activate(flat.unflatten(1, (chunks_of_inputs, width)), group.activation)
    return hidden.expand(count, num_chunks, width)


def _change(now: Tensor, then: Tensor, scaling: Tensor, grams, has_bias: bool) -> Tensor:
    """Σ s ‖d‖² over all rows: chunks but the last see the whole layer, the last one sees its first part."""
    total = 0.0
    for part, chunks in ((0, slice(None)), (1, slice(0, -1))):
        if now[:, chunks].shape[1] == 0 or (part == 1 and grams[0].shape[0] == 1):
            continue
        h = now[:, chunks].flatten(0, 1)
        difference = (now[:, chunks] - then[:, chunks]).flatten(0, 1)
        if has_bias:
            h = torch.cat([h, h.new_ones(h.shape[0], 1)], dim=1)
        factors = scaling.repeat_interleave(h.shape[0] // scaling.shape[0]).unsqueeze(1)
        weighted, weighted_difference = factors * h, factors * difference
        changes, mixed, unchanged = (gram[part] for gram in grams)
        total = (
            total
            + (changes * (h.t() @ weighted)).sum()
            + 2 * (mixed * (h.t() @ weighted_difference)).sum()
            + (unchanged * (difference.t() @ weighted_difference)).sum()
        )
    return total


def _change_of_units(now, then, scaling, layers, ignored: Units, begin: int) -> Tensor:
    """Σ s d² over single outputs."""
    weight, bias, old_weight, old_bias = layers
    chosen = (ignored.conditions >= begin) & (ignored.conditions < begin + now.shape[0])
    conditions, positions = ignored.conditions[chosen] - begin, ignored.positions[chosen]
    chunks, rows = positions // weight.shape[0], positions % weight.shape[0]
    h, difference = now[conditions, chunks], (now - then)[conditions, chunks]
    changed = ((weight[rows] - old_weight[rows]) * h).sum(1) + (old_weight[rows] * difference).sum(1)
    if bias is not None:
        changed = changed + bias[rows] - old_bias[rows]
    return scaling[conditions] @ changed.square()


# --- what depends on the layer alone --------------------------------------------------------------


def difference_grams(
    weight: Tensor, bias: Tensor | None, previous_weight: Tensor, previous_bias: Tensor | None, split: int
) -> tuple[Tensor, Tensor, Tensor]:
    """``DᵀD``, ``DᵀW*`` and ``W*ᵀW*`` of the first ``split`` outputs and of the others.

    Args:
        weight: ``[S, K]``.
        bias: ``[S]`` or None.
        previous_weight: ``W*``, which no gradient reaches.
        previous_bias: ``b*``, likewise.
        split: Number of outputs in the first part.

    Returns:
        Tensors ``[2, C, C]``, ``[2, C, K]`` and ``[2, K, K]`` with C = K + 1 if there is a bias, else K.
    """
    if (
        EXTENSION_LOADED
        and weight.device.type == "cpu"
        and weight.dtype in _KERNEL_DTYPES
        and weight.dtype == previous_weight.dtype
        and not torch.is_autocast_enabled("cpu")
        and takes_plain_tensors()
    ):
        return _DifferenceGrams.apply(weight, bias, previous_weight, previous_bias, split)
    return difference_grams_reference(weight, bias, previous_weight, previous_bias, split)


def difference_grams_reference(weight, bias, previous_weight, previous_bias, split):
    """The same in plain PyTorch."""
    change = weight - previous_weight
    if bias is not None:
        change = torch.cat([change, (bias - previous_bias).unsqueeze(1)], dim=1)
    results = []
    for rows in (slice(0, split), slice(split, None)):
        d, old = change[rows], previous_weight[rows]
        results.append((d.t() @ d, d.t() @ old, old.t() @ old))
    return tuple(torch.stack(parts) for parts in zip(*results, strict=True))


def _backward_reference(grad_changes, grad_mixed, weight, bias, previous_weight, previous_bias, split):
    change = weight - previous_weight
    if bias is not None:
        change = torch.cat([change, (bias - previous_bias).unsqueeze(1)], dim=1)
    parts = []
    for part, rows in enumerate((slice(0, split), slice(split, None))):
        q, r = grad_changes[part], grad_mixed[part]
        parts.append(change[rows] @ (q + q.t()) + previous_weight[rows] @ r.t())
    grad = torch.cat(parts)
    if bias is None:
        return grad, grad.new_empty(0)
    return grad[:, :-1], grad[:, -1]


LIBRARY.impl("difference_grams", difference_grams_reference, "CompositeExplicitAutograd")
LIBRARY.impl("difference_grams_backward", _backward_reference, "CompositeExplicitAutograd")


@torch.library.register_fake("hnetfast::difference_grams", lib=LIBRARY)
def _fake(weight, bias, previous_weight, previous_bias, split):
    width = weight.shape[1]
    columns = width + (bias is not None)
    sizes = ((2, columns, columns), (2, columns, width), (2, width, width))
    return tuple(weight.new_empty(size) for size in sizes)


@torch.library.register_fake("hnetfast::difference_grams_backward", lib=LIBRARY)
def _backward_fake(grad_changes, grad_mixed, weight, bias, previous_weight, previous_bias, split):
    return torch.empty_like(weight), weight.new_empty(0 if bias is None else bias.shape)


class _DifferenceGrams(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight, bias, previous_weight, previous_bias, split):
        ctx.save_for_backward(weight, bias, previous_weight, previous_bias)
        ctx.split = split
        changes, mixed, unchanged = _OP(weight, bias, previous_weight, previous_bias, split)
        ctx.mark_non_differentiable(unchanged)
        return changes, mixed, unchanged

    @staticmethod
    def backward(ctx, grad_changes, grad_mixed, _):
        backward = _backward_reference if torch.is_grad_enabled() else _BACKWARD_OP
        grad_weight, grad_bias = backward(grad_changes, grad_mixed, *ctx.saved_tensors, ctx.split)
        need_weight, need_bias = ctx.needs_input_grad[:2]
        return grad_weight if need_weight else None, grad_bias if need_bias else None, None, None, None
