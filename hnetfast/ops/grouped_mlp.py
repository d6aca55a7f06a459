"""Generation by several networks, whose chunks go to given places of one result.

Each group is a network as in :mod:`hnetfast.ops.chunked_mlp`: applied to every pair of a condition and one of
its own ``N_g`` chunks, it gives rows of ``S_g`` numbers. Pieces of these rows are stored where the placement
says, so that tensors of the target network are put together without a pass of their own::

    out[b, places_g[i, s] + j] = row_g[b, i, bounds_g[s] + j]       for 0 ≤ j < bounds_g[s + 1] - bounds_g[s]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from hnetfast.ops._library import check_dense, check_tensor, loop_over_batch, remembered
from hnetfast.ops._mlp_layers import (
    backward_of_active,
    check_needs,
    check_network,
    differentiable_hidden,
    fold_batch,
    hidden_backward,
    mlp_backward,
    mlp_layers,
    sizes_of,
)
from hnetfast.ops._register import lowered, register_op


class Group(NamedTuple):
    """Arguments of one network, see :func:`hnetfast.ops.chunked_mlp`."""

    inputs: Sequence[Tensor]
    weights: Sequence[Tensor]
    biases: Sequence[Tensor]
    activation: str


def grouped_mlp(groups: Sequence[Group], placement: Tensor, num_outputs: int) -> Tensor:
    """Generate ``num_outputs`` weights for each condition with several networks.

    Structured chunking: Sacramento et al., "Economical ensembles with hypernetworks", 2020.

    Args:
        groups: The networks. Their parts of inputs are ``[B or 1, N_g or 1, width]``.
        placement: Where pieces of the chunks are stored, int64 ``[length]`` on the CPU, see
            :func:`pack_placement`. Each output must be stored exactly once.
        num_outputs: Outputs a condition.

    Returns:
        Contiguous tensor ``[B, num_outputs]``, differentiable with respect to every tensor of the groups,
        twice too.

    Raises:
        ValueError, RuntimeError: Sizes, dtypes or devices that do not fit; the argument is named.
    """
    inputs, weights, biases, counts, activations = [], [], [], [], []
    for group in groups:
        inputs.extend(group.inputs)
        weights.extend(group.weights)
        biases.extend(group.biases)
        counts.extend((len(group.inputs), len(group.weights), len(group.biases)))
        activations.append(group.activation)
    return _OP(inputs, weights, biases, counts, activations, placement, num_outputs)[0]


def pack_placement(bounds: Sequence[Tensor], places: Sequence[Tensor]) -> Tensor:
    """Put the placement of all groups into one tensor.

    Args:
        bounds: For each group the columns that its pieces begin at, from 0 on, and ``S_g``: int64
            ``[pieces + 1]``.
        places: For each group the output that a piece of a chunk begins at, -1 if it is not stored: int64
            ``[N_g, pieces]``.

    Returns:
        For each group ``pieces``, ``bounds`` and ``places``, one after the other: int64 ``[length]``.
    """
    parts = []
    for group_bounds, group_places in zip(bounds, places, strict=True):
        parts += [torch.tensor([group_places.shape[1]], device="cpu"), group_bounds, group_places.flatten()]
    return torch.cat(parts)


# --- reference ------------------------------------------------------------------------------------


def _split(inputs, weights, biases, counts, activations, op: str = "grouped_mlp") -> list[Group]:
    lists = [[*inputs], [*weights], [*biases]]
    if (
        not activations
        or len(counts) != 3 * len(activations)
        or min(counts) < 0
        or any(sum(counts[k::3]) != len(tensors) for k, tensors in enumerate(lists))
    ):
        raise ValueError(
            f"{op}: counts {list(counts)} do not add up to {len(inputs)} inputs, {len(weights)} "
            f"weights and {len(biases)} biases of {len(activations)} groups"
        )
    groups = []
    for i, activation in enumerate(activations):
        own = []
        for k, tensors in enumerate(lists):
            own.append(tensors[: counts[3 * i + k]])
            del tensors[: counts[3 * i + k]]
        groups.append(Group._make([*own, activation]))
    return groups


def _check(groups: Sequence[Group], placement: Tensor, num_outputs: int, op: str = "grouped_mlp") -> None:
    for group in groups:
        check_network(op, *group)
    first = groups[0].weights[0]
    for i, group in enumerate(groups):
        weight = group.weights[0]
        if weight.dtype != first.dtype or weight.device != first.device:
            raise ValueError(
                f"{op}: weights of group {i} are {weight.dtype} on {weight.device}, those of group 0 "
                f"{first.dtype} on {first.device}"
            )
    _group_sizes(groups)
    check_dense(op, "placement", placement)
    if placement.dtype != torch.int64 or placement.dim() != 1 or placement.device.type != "cpu":
        raise ValueError(
            f"{op}: placement is {placement.dtype} {tuple(placement.shape)} on {placement.device}, expected "
            "torch.int64 [length] on the CPU"
        )
    if num_outputs < 0:
        raise ValueError(f"{op}: num_outputs is {num_outputs}, accepted are numbers from 0 on")


def _check_backward(grad_out, hidden, groups: Sequence[Group], placement: Tensor, needs) -> None:
    op = "grouped_mlp_backward"
    check_dense(op, "grad_out", grad_out)
    if grad_out.dim() != 2:
        raise ValueError(f"{op}: grad_out has shape {tuple(grad_out.shape)}, expected [conditions, outputs]")
    _check(groups, placement, grad_out.shape[1], op)
    sizes, weight = _group_sizes(groups), groups[0].weights[0]
    check_tensor(op, "grad_out", grad_out, (sizes[0][0], grad_out.shape[1]), weight)
    check_tensor(
        op, "hidden", hidden, (sum(_saved(g, s) for g, s in zip(groups, sizes, strict=True)),), weight
    )
    check_needs(op, needs, [t for group in groups for tensors in group[:3] for t in tensors])


def _saved(group: Group, sizes: tuple[int, int]) -> int:
    """How many numbers the hidden layers of a group give."""
    return sizes[0] * sizes[1] * sum(weight.shape[0] for weight in group.weights[:-1])


def _group_sizes(groups: Sequence[Group]) -> list[tuple[int, int]]:
    """Numbers of conditions and chunks of each group."""
    sizes = [sizes_of(group.inputs) for group in groups]
    conditions = max((b for b, _ in sizes if b != 1), default=1)
    for i, (b, _) in enumerate(sizes):
        if b not in (1, conditions):
            raise ValueError(f"grouped_mlp: group {i} has {b} conditions, another one {conditions}")
    return [(conditions, n) for _, n in sizes]


# What was found out about placements: 8 to 16 bytes an output and device, as long as the placement is there.
_found: Any = WeakTensorKeyDictionary()


def _remembered(placement: Tensor, key: tuple, find: Callable[[], Any]) -> Any:
    """Find something out about a placement once, and anew when it was changed in place."""
    if placement.is_inference():  # has no version that tells
        return find()
    version, known = _found.get(placement, (None, None))
    if version != placement._version:
        known = {}
        _found[placement] = placement._version, known
    return remembered(known, key, find)


def source_indices(
    placement: Tensor, chunks: Sequence[int], rows: Sequence[int], num_outputs: int, device
) -> Tensor:
    """For every output the number of its source, in the groups' rows ``[N_g, S_g]`` one after the other.

    Args:
        placement: Where pieces of the chunks are stored, int64 ``[length]`` on the CPU.
        chunks: ``N_g`` of each group.
        rows: ``S_g`` of each group.
        num_outputs: Outputs a condition.
        device: Where the result is wanted.

    Returns:
        int64 ``[num_outputs]``.

    Raises:
        ValueError: If an output is stored several times or not at all, pieces are not those of rows, or the
            placement has another length.
    """
    key = ("sources", device, num_outputs, *chunks, *rows)
    return _remembered(placement, key, lambda: _find_sources(placement, chunks, rows, num_outputs).to(device))


def _find_sources(placement: Tensor, chunks: Sequence[int], rows: Sequence[int], num_outputs: int) -> Tensor:
    sources = torch.full((num_outputs,), -1, device="cpu")
    start = position = stored = 0
    wrong = ValueError(f"grouped_mlp: placement does not store each of {num_outputs} outputs exactly once")
    for count, row in zip(chunks, rows, strict=True):
        pieces = int(placement[position]) if position < len(placement) else -1
        if pieces < 0 or position + 2 + pieces * (count + 1) > len(placement):
            raise wrong
        bounds = placement[position + 1 : position + 2 + pieces]
        places = placement[position + 2 + pieces : position + 2 + pieces * (count + 1)].view(count, pieces)
        position += 2 + pieces * (count + 1)
        lengths = bounds.diff().expand(count, pieces)
        if int(bounds[0]) != 0 or int(bounds[-1]) != row or bool((lengths <= 0).any()):
            raise ValueError(
                f"grouped_mlp: placement: bounds of pieces are {bounds.tolist()}, expected increasing "
                f"columns from 0 to {row}"
            )
        begins = start + torch.arange(count, device="cpu")[:, None] * row + bounds[:-1]
        kept = places >= 0
        lengths, begins, places = lengths[kept], begins[kept], places[kept]
        if bool((places > num_outputs - lengths).any()):
            raise wrong
        firsts = (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
        within = torch.arange(int(lengths.sum()), device="cpu") - firsts
        sources[places.repeat_interleave(lengths) + within] = begins.repeat_interleave(lengths) + within
        start += count * row
        stored += len(within)
    if position != len(placement) or stored != num_outputs or bool((sources < 0).any()):
        raise wrong
    return sources


def grouped_mlp_reference(groups: Sequence[Group], placement: Tensor, num_outputs: int) -> Tensor:
    """Compute what :func:`grouped_mlp` does, in plain differentiable PyTorch.

    Args:
        groups: The networks and their inputs.
        placement: Where pieces of the chunks are stored, int64 ``[length]`` on the CPU.
        num_outputs: Number of outputs a condition.

    Returns:
        The outputs ``[B, num_outputs]``.
    """
    sizes = _group_sizes(groups)
    rows = [
        mlp_layers(*group)[-1].expand(*size, -1).flatten(1) for group, size in zip(groups, sizes, strict=True)
    ]
    rows = torch.cat(rows, dim=1)
    return rows.index_select(1, _sources(groups, placement, num_outputs, rows.device))


def _sources(groups: Sequence[Group], placement: Tensor, num_outputs: int, device) -> Tensor:
    chunks, rows = [n for _, n in _group_sizes(groups)], [len(group.weights[-1]) for group in groups]
    return source_indices(placement, chunks, rows, num_outputs, device)


def _forward_reference(
    inputs, weights, biases, counts, activations, placement, num_outputs, save_hidden=False
):
    groups = _split(inputs, weights, biases, counts, activations)
    _check(groups, placement, num_outputs)
    out = grouped_mlp_reference(groups, placement, num_outputs)
    if not save_hidden:
        return out, out.new_empty(0)
    hidden = [differentiable_hidden(*g, s) for g, s in zip(groups, _group_sizes(groups), strict=True)]
    hidden = [h.flatten() for h in hidden if h is not None]
    return out, torch.cat(hidden) if hidden else out.new_empty(0)


def _backward_reference(grad_out, hidden, inputs, weights, biases, counts, activations, placement, needs):
    groups = _split(inputs, weights, biases, counts, activations)
    _check_backward(grad_out, hidden, groups, placement, needs)
    sizes = _group_sizes(groups)
    parts = hidden.split([_saved(group, size) for group, size in zip(groups, sizes, strict=True)])
    layers = [
        part.reshape(*size, sum(weight.shape[0] for weight in group.weights[:-1]))
        for part, group, size in zip(parts, groups, sizes, strict=True)
    ]
    return _backward(grad_out, layers, groups, placement, needs, backward_of_active)


def _backward(grad_out, layers, groups, placement, needs, backward):
    sizes = _group_sizes(groups)
    lengths = [n * group.weights[-1].shape[0] for group, (_, n) in zip(groups, sizes, strict=True)]
    sources = _sources(groups, placement, grad_out.shape[1], grad_out.device)
    grad_rows = grad_out.new_zeros(grad_out.shape[0], sum(lengths)).index_copy(1, sources, grad_out)
    grads = ([], [], [])
    for group, hidden, size, grad in zip(groups, layers, sizes, grad_rows.split(lengths, 1), strict=True):
        lists = group[:3]
        found = backward(grad, hidden, *group, [True] * sum(map(len, lists)), size)
        for all_grads, tensors in zip(grads, lists, strict=True):
            all_grads.extend(found[: len(tensors)])
            del found[: len(tensors)]
    grads = [*grads[0], *grads[1], *grads[2]]
    return [g if need else g.new_empty(0) for g, need in zip(grads, needs, strict=True)]


def _differentiable_backward(
    grad_out, hidden, inputs, weights, biases, counts, activations, placement, needs
):
    groups = _split(inputs, weights, biases, counts, activations)
    layers = [differentiable_hidden(*g, s) for g, s in zip(groups, _group_sizes(groups), strict=True)]
    return _backward(grad_out, layers, groups, placement, needs, mlp_backward)


# --- Triton, on a GPU -----------------------------------------------------------------------------


def group_places(
    placement: Tensor,
    chunks: Sequence[int],
    rows: Sequence[int],
    num_outputs: int,
    device: torch.device,
    narrow: Sequence[bool],
) -> list[tuple[Tensor, Tensor | None]]:
    """Where the elements of each group's chunks go.

    Args:
        placement: Where pieces of the chunks are stored, int64 ``[length]`` on the CPU.
        chunks: ``N_g`` of each group.
        rows: ``S_g`` of each group.
        num_outputs: Outputs a condition.
        device: Where the results are wanted.
        narrow: Which groups run together with others.

    Returns:
        For each narrow group the outputs that its elements ``[N_g, S_g]`` are, -1 for one that is not stored.
        For another one the int64 outputs, and the numbers of the elements stored there, or None for all.
    """
    sizes = [n * s for n, s in zip(chunks, rows, strict=True)]

    def find() -> list[tuple[Tensor, Tensor | None]]:
        targets = torch.full((sum(sizes),), -1, device="cpu")
        targets[_find_sources(placement, chunks, rows, num_outputs)] = torch.arange(num_outputs, device="cpu")
        found = []
        for of_group, is_narrow in zip(targets.split(sizes), narrow, strict=True):
            if is_narrow:
                small = of_group.int() if num_outputs < 2**31 else of_group
                found.append((small.to(device, copy=True), None))
                continue
            kept = (of_group >= 0).nonzero().flatten()
            whole = len(kept) == len(of_group)
            found.append((of_group[kept].to(device), None if whole else kept.to(device)))
        return found

    return _remembered(placement, ("places", device, num_outputs, *chunks, *rows, *narrow), find)


def _on_gpu(groups: Sequence[Group], placement: Tensor, num_outputs: int) -> tuple:
    """What the launchers take: sizes of the groups, and where their chunks go."""
    from hnetfast.kernels.grouped_mlp import is_narrow  # pyright: ignore[reportMissingImports]

    sizes = _group_sizes(groups)
    rows = [group.weights[-1].shape[0] for group in groups]
    device, narrow = groups[0].weights[0].device, [is_narrow(group.weights) for group in groups]
    return sizes, group_places(placement, [n for _, n in sizes], rows, num_outputs, device, narrow)


def _forward_triton(inputs, weights, biases, counts, activations, placement, num_outputs, save_hidden=False):
    from hnetfast.kernels.grouped_mlp import grouped_mlp_forward  # pyright: ignore[reportMissingImports]

    groups = _split(inputs, weights, biases, counts, activations)
    _check(groups, placement, num_outputs)
    return grouped_mlp_forward(groups, *_on_gpu(groups, placement, num_outputs), num_outputs, save_hidden)


def _backward_triton(grad_out, hidden, inputs, weights, biases, counts, activations, placement, needs):
    from hnetfast.kernels.grouped_mlp import grouped_mlp_backward  # pyright: ignore[reportMissingImports]

    groups = _split(inputs, weights, biases, counts, activations)
    _check_backward(grad_out, hidden, groups, placement, needs)
    sizes, places = _on_gpu(groups, placement, grad_out.shape[1])
    of_kinds = _split(
        needs[: len(inputs)],
        needs[len(inputs) : len(inputs) + len(weights)],
        needs[len(inputs) + len(weights) :],
        counts,
        activations,
    )
    wanted = [[*kinds[0], *kinds[1], *kinds[2]] for kinds in of_kinds]
    found = grouped_mlp_backward(
        grad_out, hidden.contiguous(), groups, sizes, places, wanted, hidden_backward
    )
    grads = ([], [], [])
    for group, of_group in zip(groups, found, strict=True):
        for all_grads, tensors in zip(grads, group[:3], strict=True):
            all_grads.extend(of_group[: len(tensors)])
            del of_group[: len(tensors)]
    return [*grads[0], *grads[1], *grads[2]]


# --- tracing --------------------------------------------------------------------------------------


def _forward_fake(inputs, weights, biases, counts, activations, placement, num_outputs, save_hidden=False):
    groups = _split(inputs, weights, biases, counts, activations)
    _check(groups, placement, num_outputs)
    sizes = _group_sizes(groups)
    out = weights[0].new_empty(sizes[0][0], num_outputs)
    saved = sum(_saved(group, size) for group, size in zip(groups, sizes, strict=True)) if save_hidden else 0
    return out, out.new_empty(saved)


def _backward_fake(grad_out, hidden, inputs, weights, biases, counts, activations, placement, needs):
    groups = _split(inputs, weights, biases, counts, activations)
    _check_backward(grad_out, hidden, groups, placement, needs)
    tensors = [*inputs, *weights, *biases]
    return [t.new_empty(t.shape if need else 0) for t, need in zip(tensors, needs, strict=True)]


# --- vmap ------------------------------------------------------------------------------------------


def _vmap(op, info, in_dims, inputs, weights, biases, *args):
    if any(d is not None for d in (*in_dims[1], *in_dims[2])):  # batched weights
        return loop_over_batch(op, info, in_dims, inputs, weights, biases, *args)
    counts, activations, placement, num_outputs, save_hidden = args if len(args) == 5 else (*args, False)
    parts, conditions = fold_batch(inputs, in_dims[0], info.batch_size)
    out, hidden = op(parts, weights, biases, counts, activations, placement, num_outputs, save_hidden)
    out = out.unflatten(0, (info.batch_size, conditions))
    if hidden.numel() == 0:
        return (out, hidden), (0, None)
    groups = _split(parts, weights, biases, counts, activations)
    lengths = [_saved(group, size) for group, size in zip(groups, _group_sizes(groups), strict=True)]
    hidden = [
        h.view(info.batch_size, n // info.batch_size)
        for h, n in zip(hidden.split(lengths), lengths, strict=True)
    ]
    return (out, torch.cat(hidden, dim=1)), (0, 0)


# --- registration ---------------------------------------------------------------------------------

register_op(
    "grouped_mlp_backward(Tensor grad_out, Tensor hidden, Tensor[] inputs, Tensor[] weights, "
    "Tensor[] biases, int[] counts, str[] activations, Tensor placement, bool[] needs) -> Tensor[]",
    _backward_reference,
    _backward_fake,
    differentiable=_differentiable_backward,
    cuda=_backward_triton,
)
_OP = register_op(
    "grouped_mlp(Tensor[] inputs, Tensor[] weights, Tensor[] biases, int[] counts, str[] activations, "
    "Tensor placement, SymInt num_outputs, bool save_hidden=False) -> (Tensor out, Tensor hidden)",
    _forward_reference,
    _forward_fake,
    vmap=_vmap,
    cuda=_forward_triton,
    autocast=lowered,
)
