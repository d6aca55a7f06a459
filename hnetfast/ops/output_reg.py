"""How much the outputs of a network have changed for several conditions, without generating them.

With the input rows ``h`` of the last layer (a row for each condition and chunk), the layer ``A = [W b]`` of S
outputs, and what they were, ``h*`` and ``A* = [W* b*]``, the outputs of a row differ by ``d = D h̃ + W* Δ``
where ``D = A - A*``, ``h̃ = [h 1]`` and ``Δ = h - h*``. With a factor s for each row the squares sum up to

    Σ s ‖d‖² = ⟨DᵀD, Σ s h̃ h̃ᵀ⟩ + 2 ⟨DᵀW*, Σ s h̃ Δᵀ⟩ + ⟨W*ᵀW*, Σ s Δ Δᵀ⟩

of which the first factors depend on the layer alone and the second ones on the rows alone: see
docs/regulariser.md for its gradients and its rounding. For few rows that is more work than all ``d``:
``squared_change.py``.

Other ops have one schema; this is a function that picks a form by sizes, by what does not count and by device
(``_output_reg_form.py``). What the forms keep differs, and of the compiled one even by values: in double
precision where single would lose digits. A trace could not know, and no reference would keep the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple, cast

import torch
from torch import Tensor

from hnetfast.ops._corrections import Corrections
from hnetfast.ops._library import EXTENSION_LOADED, LIBRARY, takes_plain_tensors, without_autocast
from hnetfast.ops._mlp_layers import sizes_of
from hnetfast.ops._output_reg_closed import OfChunks, Problem, closed_form
from hnetfast.ops._output_reg_form import Form, lists_of
from hnetfast.ops._output_reg_grouped import closed_forms
from hnetfast.ops._output_reg_products import by_products, corrected
from hnetfast.ops.chunked_mlp import chunked_mlp_reference
from hnetfast.ops.grouped_mlp import Group
from hnetfast.ops.squared_change import check_change, squared_change

LIBRARY.define(
    "output_reg(Tensor[] inputs, Tensor[] weights, Tensor[] biases, Tensor[] previous_inputs, "
    "Tensor[] previous_weights, Tensor[] previous_biases, str activation, int num_outputs, Tensor scaling, "
    "bool gradients) -> Tensor[]"
)
LIBRARY.define(
    "output_reg_backward(Tensor grad, Tensor first, Tensor second, Tensor weight, Tensor? bias, "
    "Tensor previous_weight, Tensor? previous_bias, int chunks, int num_outputs) -> (Tensor, Tensor)"
)

_OP = torch.ops.hnetfast.output_reg.default
_BACKWARD_OP = torch.ops.hnetfast.output_reg_backward.default
_KERNEL_DTYPES = (torch.float32, torch.float64)
_ROWS_AT_MOST = 1 << 24  # elements of the last layer's input that the closed form holds at once
_PADDING_AT_MOST = 1 << 16  # outputs computed with the corrections of the closed form that are none
_NARROW = 128  # width of hidden layers of networks that go together
_PRODUCTS_AT_MOST = 1 << 27  # outputs of their last layer times its squared width; library products do more
_NETWORKS_AT_ONCE, _PARTS_AT_ONCE = 16, 110  # the latter of inputs, and layers: arguments of kernels are few


def output_reg(
    current: Group,
    previous: Group,
    num_outputs: int,
    scaling: Tensor | None = None,
    corrections: Corrections | None = None,
) -> Tensor:
    """Sum over conditions of the squared change of what a network generates for them.

    Output regularisation: von Oswald et al., "Continual learning with hypernetworks", 2020, eq. 2. The cost
    of the last layer does not depend on the number of conditions, and no output is generated. Half and
    bfloat16 are computed in float32, and automatic mixed precision does not apply: differences of weights
    would be lost in rounding.

    Args:
        current: The network and its inputs for B conditions, as :func:`hnetfast.ops.chunked_mlp` takes them.
        previous: The same as it was; no gradient reaches it. It may be of another dtype.
        num_outputs: Outputs of a condition that count; only some of the last chunk's may not.
        scaling: A factor for each condition, ``[B]``; 1 by default.
        corrections: Outputs that count in part, or not at all.

    Returns:
        Scalar, differentiable with respect to the tensors of ``current``, twice too.

    Raises:
        ValueError: Sizes that do not fit; the argument is named.
    """
    if has_few_rows(current):
        return _of_few_rows(current, previous, num_outputs, scaling, corrections)
    split, count = _check(current, previous, num_outputs)
    if _takes_closed_form(current, count, scaling):
        return _by_closed_form(current, previous, split, count, scaling, corrections)
    if corrections is not None and sizes_of(current.inputs)[1] == 1:
        total = _change_without(current, previous, num_outputs, scaling, corrections)
        if total is not None:
            return total
    weight = current.weights[-1]
    device, dtype = weight.device.type, weight.dtype
    if dtype in (torch.float16, torch.bfloat16):
        current = _convert(current, lambda t: t.float())
        weight = current.weights[-1]
    previous = _convert(previous, lambda t: _constant(t, weight.dtype))
    scaling = weight.new_ones(count) if scaling is None else _scaling_like(weight, scaling, count)
    with without_autocast(device):
        if _has_kernel(current, previous) and not scaling.requires_grad:
            total = _compiled(current, previous, split, num_outputs, scaling)(_tensors(current))
        else:
            total = by_products(current, previous, split, scaling)
        if corrections is not None and len(corrections):
            total = total - corrected(current, previous, scaling, corrections)
    return total.to(dtype)


def _change_without(
    current: Group, previous: Group, num_outputs: int, scaling: Tensor | None, corrections: Corrections
) -> Tensor | None:
    """The same for a single chunk, if there are outputs that count for no condition, else None.

    Their rows of the last layer are left out. To subtract their squares, which may be far larger than those
    of the others, would leave rounding errors, and gradients of what has none.
    """
    size = len(current.weights[-1])
    device = current.weights[-1].device
    rows = corrections.remembered(
        ("rows that count", size, num_outputs, device),
        lambda: _rows_that_count(corrections, size, num_outputs, device),
    )
    if rows is None:
        return None
    lengths, pieces = rows
    if not pieces:  # zero, and so are all gradients
        return cast(Tensor, sum(t[:0].sum() for tensors in current[:3] for t in tensors))
    split = [[t.split(lengths) for t in (g.weights[-1], *g.biases[-1:])] for g in (current, previous)]
    total = cast(Tensor, 0.0)  # there are pieces
    for part in pieces:
        groups = []
        for group, of_tensors in zip((current, previous), split, strict=True):
            last, *bias = [
                ps[part.pieces[0]] if len(part.pieces) == 1 else torch.cat([ps[i] for i in part.pieces])
                for ps in of_tensors
            ]
            groups.append(
                group._replace(weights=[*group.weights[:-1], last], biases=[*group.biases[:-1], *bias])
            )
        rest = part.corrections
        if corrections._scaled is not None:
            rest = rest.with_factors(corrections._scaled.index_select(1, part.left))
        total = total + output_reg(groups[0], groups[1], part.num_rows, scaling, rest)
    return total


class _Rows(NamedTuple):
    """Pieces of the last layer, their rows, and the corrections among these, some of the given ones."""

    pieces: list[int]
    num_rows: int
    corrections: Corrections
    left: Tensor


def _rows_that_count(
    corrections: Corrections, size: int, num_outputs: int, device: torch.device
) -> tuple[list[int], list[_Rows]] | None:
    """Lengths of pieces that the last layer is cut into, and which of them count; None if all of them do."""
    never = corrections.positions[(corrections.factors == 1).all(0)].unique()
    if len(never) == 0:
        return None
    counts = torch.ones(size, dtype=torch.bool, device="cpu")
    counts[never] = False
    counts[num_outputs:] = False
    kept, lengths = torch.unique_consecutive(counts, return_counts=True)
    kept, lengths = kept.tolist(), lengths.tolist()
    starts = [0, *accumulate(lengths)]
    found = sorted((i for i in range(len(kept)) if kept[i]), key=lambda i: -lengths[i])
    results = []
    for pieces in filter(None, (found[:1], found[1:])):  # the longest piece is not copied
        rows = torch.cat([torch.arange(starts[i], starts[i + 1], device="cpu") for i in pieces])
        places = torch.full((size,), -1, device="cpu")
        places[rows] = torch.arange(len(rows), device="cpu")
        positions = places[corrections.positions]
        left = (positions >= 0).nonzero().flatten()
        rest = Corrections(positions[left], corrections.factors[:, left])
        results.append(_Rows(pieces, len(rows), rest, left.to(device)))
    return lengths, results


def output_reg_reference(
    current: Group,
    previous: Group,
    num_outputs: int,
    scaling: Tensor | None = None,
    corrections: Corrections | None = None,
) -> Tensor:
    """Compute what :func:`output_reg` does, from the outputs.

    Args:
        current: The network as it is.
        previous: The network as it was, and its inputs then.
        num_outputs: Number of outputs a condition.
        scaling: A factor for each condition, ``[B]``.
        corrections: Outputs that count less.

    Returns:
        The sum, a scalar.
    """
    with torch.no_grad():
        former = chunked_mlp_reference(*previous, num_outputs)
    squares = (chunked_mlp_reference(*current, num_outputs) - former).square()
    total = squares.sum(1)
    if corrections is not None:
        factors = corrections.factors_like(squares)
        total = total - (squares[:, corrections.positions_on(squares.device)] * factors).sum(1)
    return total.sum() if scaling is None else total @ scaling.to(squares)


def _check(current: Group, previous: Group, num_outputs: int) -> tuple[int, int]:
    """Outputs of the last chunk that count, and the number of conditions."""
    check_change("output_reg", current, previous, num_outputs)
    count, num_chunks = sizes_of(current.inputs)
    return num_outputs - (num_chunks - 1) * len(current.weights[-1]), count


def _scaling_like(weight: Tensor, scaling: Tensor, count: int) -> Tensor:
    if scaling.shape != (count,):
        raise ValueError(f"output_reg: scaling has shape {tuple(scaling.shape)}, expected [{count}]")
    return scaling.to(weight)


def _tensors(group: Group) -> list[Tensor]:
    return [*group.inputs, *group.weights, *group.biases]


def _convert(group: Group, function: Callable[[Tensor], Tensor]) -> Group:
    inputs, weights, biases = ([function(t) for t in tensors] for tensors in group[:3])
    return Group(inputs, weights, biases, group.activation)


def _constant(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    # Autograd does not save tensors made in inference mode.
    copy = not torch.compiler.is_compiling() and tensor.is_inference()
    return tensor.detach().to(dtype, copy=copy)


def _has_kernel(*groups: Group) -> bool:
    tensors = [t for group in groups for ts in group[:3] for t in ts]
    dtype = tensors[0].dtype
    return (
        EXTENSION_LOADED
        and dtype in _KERNEL_DTYPES
        and all(t.dtype == dtype and t.device.type == "cpu" for t in tensors)
        and takes_plain_tensors()
    )


# --- few rows, on a CPU ---------------------------------------------------------------------------


def has_few_rows(current: Group) -> bool:
    """Return whether computing all changes is less work than the products of the last layer.

    Args:
        current: The network and its inputs.
    """
    if not (current.inputs and current.weights):
        return False
    weight = current.weights[-1]
    count, num_chunks = sizes_of(current.inputs)
    # In multiply-adds for each output: 6 rows · K (but rows fill vectors) against 5 K².
    rows = -(-count * num_chunks // 16) * 16
    return weight.device.type == "cpu" and 6 * rows <= 5 * (weight.shape[-1] + (len(current.biases) > 0))


def _of_few_rows(
    current: Group,
    previous: Group,
    num_outputs: int,
    scaling: Tensor | None,
    corrections: Corrections | None,
) -> Tensor:
    weight = current.weights[-1]
    dtype = weight.dtype
    if dtype in (torch.float16, torch.bfloat16):
        current = _convert(current, lambda t: t.float())
        weight = current.weights[-1]
    if any(t.dtype != weight.dtype for ts in previous[:3] for t in ts):
        previous = _convert(previous, lambda t: t.to(weight.dtype))
    factors = None
    if scaling is not None:
        factors = _scaling_like(weight, scaling, sizes_of(current.inputs)[0]).unsqueeze(1)
    if corrections is not None and len(corrections):
        counts = corrections.counts_like(weight, num_outputs)
        factors = counts if factors is None else factors * counts
    if factors is None:
        factors = weight.new_ones(1, 1)
    elif not factors.requires_grad:
        factors = _constant(factors, weight.dtype)
    with without_autocast("cpu"):
        return squared_change(current, previous, num_outputs, factors).to(dtype)


# --- gradients in closed form, on a GPU -----------------------------------------------------------


def _takes_closed_form(current: Group, count: int, scaling: Tensor | None) -> bool:
    weight = current.weights[-1]
    return (
        weight.device.type != "cpu"
        and takes_plain_tensors()
        and not (scaling is not None and scaling.requires_grad)
        and 0 < count * sizes_of(current.inputs)[1] * weight.shape[1] <= _ROWS_AT_MOST
    )


def _by_closed_form(
    current: Group,
    previous: Group,
    split: int,
    count: int,
    scaling: Tensor | None,
    corrections: Corrections | None,
) -> Tensor:
    dtype = current.weights[-1].dtype
    current, problem = _problem(current, previous, split, count, scaling, corrections)
    return closed_form(problem, list(map(len, current[:3])))(_tensors(current)).to(dtype)


def _problem(
    current: Group,
    previous: Group,
    split: int,
    count: int,
    scaling: Tensor | None,
    corrections: Corrections | None,
) -> tuple[Group, Problem]:
    """The network in the dtype of the closed form, and what is constant in it."""
    if current.weights[-1].dtype in (torch.float16, torch.bfloat16):
        current = _convert(current, lambda t: t.float())
    weight = current.weights[-1]
    previous = _convert(previous, lambda t: _constant(t, weight.dtype))
    if scaling is not None:
        scaling = _scaling_like(weight, scaling, count)
    size, num_chunks = len(weight), sizes_of(current.inputs)[1]
    never, parts = None, []
    if corrections is not None and len(corrections):
        plan = corrections.remembered(
            ("closed form", size, num_chunks, weight.device, weight.dtype),
            lambda: _closed_form_plan(corrections, size, num_chunks, weight),
        )
        never = plan.never
        for part in plan.parts:
            factors = part.factors
            if corrections._scaled is not None:
                scaled = corrections.factors_like(weight).index_select(1, part.order)
                factors = torch.zeros_like(factors).flatten(1).index_add_(1, part.slots, scaled, alpha=-1)
                factors = factors.view_as(part.factors)
            if scaling is not None:
                factors = factors * scaling.view(-1, 1, 1)
            parts.append(OfChunks(part.chunks, part.rows, factors))

    counts, activation = list(map(len, current[:3])), current.activation

    def differentiable(tensors: Sequence[Tensor]) -> Tensor:
        group = Group(*lists_of(counts, tensors), activation)
        factors = tensors[0].new_ones(count) if scaling is None else scaling
        total = by_products(group, previous, split, factors)
        if corrections is not None and len(corrections):
            total = total - corrected(group, previous, factors, corrections)
        return total

    sizes = count, num_chunks
    return current, Problem(previous[:3], activation, sizes, split, scaling, never, parts, differentiable)


class _PlanOfChunks(NamedTuple):
    """Chunks and rows that corrections are of, their negative factors ``[B or 1, P, E]``, which of the
    corrections these are, and where in the last two dimensions.
    """

    chunks: Tensor
    rows: Tensor
    factors: Tensor
    order: Tensor
    slots: Tensor


class _Plan(NamedTuple):
    """Rows of the last layer that never count, and the other corrections."""

    never: Tensor | None
    parts: list[_PlanOfChunks]


def _closed_form_plan(corrections: Corrections, size: int, num_chunks: int, like: Tensor) -> _Plan:
    never, left = None, torch.arange(len(corrections), device="cpu")
    if num_chunks == 1:
        out = (corrections.factors == 1).all(0)
        if bool(out.any()):
            never = corrections.positions[out].unique()
            left = left[~torch.isin(corrections.positions, never)]
            never = never.to(like.device)
    positions = corrections.positions[left]
    chunks, rows = (positions // size).unique(), (positions % size).unique()
    if len(chunks) * len(rows) <= _PADDING_AT_MOST + 2 * len(left):
        groups = [left] if len(left) else []
    else:
        groups = [left[positions // size == chunk] for chunk in chunks.tolist()]
    return _Plan(never, [_plan_of_chunks(corrections, order, size, like) for order in groups])


def _plan_of_chunks(corrections: Corrections, order: Tensor, size: int, like: Tensor) -> _PlanOfChunks:
    chunks, i_chunk = (corrections.positions[order] // size).unique(return_inverse=True)
    rows, i_row = (corrections.positions[order] % size).unique(return_inverse=True)
    slots = i_chunk * len(rows) + i_row
    factors = corrections.factors.new_zeros(len(corrections.factors), len(chunks) * len(rows))
    factors = (
        factors.index_add_(1, slots, corrections.factors[:, order], alpha=-1)
        .view(-1, len(chunks), len(rows))
        .to(like)
    )
    return _PlanOfChunks(*(t.to(like.device) for t in (chunks, rows, factors, order, slots)))


# --- several networks -----------------------------------------------------------------------------


class Term(NamedTuple):
    """Arguments of :func:`output_reg`."""

    current: Group
    previous: Group
    num_outputs: int
    scaling: Tensor | None = None
    corrections: Corrections | None = None


def output_regs(terms: Sequence[Term]) -> list[Tensor | None]:
    """What :func:`output_reg` computes for several networks, for some of them together on a GPU.

    Args:
        terms: The arguments for each of them.

    Returns:
        Scalars that add up to the whole: the k-th is that of the k-th network alone, or that of it and later
        ones, for which there is None.
    """
    results: list[Tensor | None] = [None] * len(terms)
    batches: dict[tuple, list[tuple[int, Group, Problem]]] = {}
    for i, term in enumerate(terms):
        network = _network_of_batch(term)
        if network is None:
            results[i] = output_reg(*term)
            continue
        current, problem = network
        shape = len(current.weights), len(current.biases), current.activation, problem.sizes[0]
        key = *shape, id(term.scaling), current.weights[-1].device
        batches.setdefault(key, []).append((i, *network))
    for of_key in batches.values():
        parts = max(len(group.inputs) + len(group.weights) for _, group, _ in of_key)
        step = max(1, min(_NETWORKS_AT_ONCE, _PARTS_AT_ONCE // parts))
        for start in range(0, len(of_key), step):
            numbers, groups, problems = zip(*of_key[start : start + step], strict=True)
            if len(groups) == 1:
                results[numbers[0]] = output_reg(*terms[numbers[0]])
                continue
            counts = [len(tensors) for group in groups for tensors in group[:3]]
            tensors = [t for kind in range(3) for group in groups for t in group[kind]]
            results[numbers[0]] = closed_forms(problems, counts)(tensors)
    return results


def _network_of_batch(term: Term) -> tuple[Group, Problem] | None:
    """A network that goes with others."""
    current, previous, num_outputs, scaling, corrections = term
    if not (current.weights and _takes_closed_form(current, 1, scaling)):
        return None  # no need to check it twice
    split, count = _check(current, previous, num_outputs)
    size, width = current.weights[-1].shape
    if not (
        _takes_closed_form(current, count, scaling)
        and current.weights[-1].dtype == torch.float32
        and len(current.weights) > 1
        and max(len(weight) for weight in current.weights[:-1]) <= _NARROW
        and size * width**2 <= _PRODUCTS_AT_MOST
        and split == size
        and (corrections is None or corrections._scaled is None)
    ):
        return None
    return _problem(current, previous, split, count, scaling, corrections)


# --- compiled, on a CPU ---------------------------------------------------------------------------


def _compiled(current: Group, previous: Group, split: int, num_outputs: int, scaling: Tensor) -> Form:
    """The form that computes the gradients below the last layer with the loss, in one pass over the rows."""
    counts, has_bias = list(map(len, current[:3])), len(current.biases) > 0
    last = [counts[0] + counts[1] - 1, *([sum(counts) - 1] if has_bias else [])]

    def forward(tensors: Sequence[Tensor], gradients: bool) -> tuple[Tensor, list[Tensor]]:
        loss, *kept = _OP(*lists_of(counts, tensors), *previous, num_outputs, scaling, gradients)
        return loss, kept

    def backward(grad, tensors, kept, needs) -> list[Tensor | None]:
        first, second, *others = kept
        others = iter(others)
        results = [None if i in last else next(others) for i in range(len(tensors))]
        results = [r if r is None or not need else grad * r for r, need in zip(results, needs, strict=True)]
        if any(needs[i] for i in last):
            lists = tensors, _tensors(previous)
            layers = [t for ts in lists for t in (ts[last[0]], ts[-1] if has_bias else None)]
            sizes = sizes_of(tensors[: counts[0]])[1], num_outputs
            for i, found in zip(last, _BACKWARD_OP(grad, first, second, *layers, *sizes), strict=False):
                results[i] = found
        return results

    def differentiable(tensors: Sequence[Tensor]) -> Tensor:
        return by_products(Group(*lists_of(counts, tensors), previous.activation), previous, split, scaling)

    return Form([*_tensors(previous), scaling], forward, backward, differentiable)
