"""The closed form of ``output_reg`` for several networks at once, in few launches on a GPU.

Mathematics and names as in :mod:`hnetfast.ops._output_reg_closed`. Every chunk of these networks is whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from typing import cast

import torch
from torch import Tensor

from hnetfast import _env
from hnetfast.ops._library import LIBRARY, check_dense, check_tensor
from hnetfast.ops._mlp_layers import check_needs, check_network
from hnetfast.ops._output_reg_closed import (
    Problem,
    _change_backward_reference,
    _change_reference,
    _check_change,
    _check_sizes,
    subtract,
    subtract_from_features,
    subtract_from_layer,
)
from hnetfast.ops._output_reg_form import Form, lists_of
from hnetfast.ops.grouped_mlp import Group, _split

LIBRARY.define(
    "grouped_change(Tensor[] inputs, Tensor[] weights, Tensor[] biases, Tensor[] previous_inputs, "
    "Tensor[] previous_weights, Tensor[] previous_biases, int[] counts, str activation, int conditions, "
    "int[] chunks, Tensor? scaling, Tensor[] never) -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
LIBRARY.define(
    "grouped_change_backward(Tensor grad, Tensor? others, Tensor scaled, Tensor hidden, Tensor matrices, "
    "Tensor squares, Tensor[] inputs, Tensor[] weights, Tensor[] biases, int[] counts, str activation, "
    "int conditions, int[] chunks, bool[] needs) -> Tensor[]"
)
_CHANGE = torch.ops.hnetfast.grouped_change.default
_CHANGE_BACKWARD = torch.ops.hnetfast.grouped_change_backward.default


def _groups(op: str, inputs, weights, biases, counts, activation: str, chunks: Sequence[int]) -> list[Group]:
    groups = _split(inputs, weights, biases, counts, [activation] * len(chunks), op)
    for i, group in enumerate(groups):
        check_network(op, *group)
        if len(group.weights) < 2:
            raise ValueError(f"{op}: group {i} has no hidden layers")
        first = groups[0]
        if len(group.weights) != len(first.weights) or len(group.biases) != len(first.biases):
            raise ValueError(
                f"{op}: group {i} has {len(group.weights)} weights and {len(group.biases)} biases, group 0 "
                f"{len(first.weights)} and {len(first.biases)}"
            )
        weight = group.weights[0]
        check_tensor(op, f"weights[0] of group {i}", weight, tuple(weight.shape), first.weights[0])
    return groups


def _check(
    inputs,
    weights,
    biases,
    previous_inputs,
    previous_weights,
    previous_biases,
    counts,
    activation,
    conditions,
    chunks,
    scaling,
    never,
) -> tuple[list[Group], list[Group]]:
    """The networks, and as they were."""
    op = "grouped_change"
    groups = _groups(op, inputs, weights, biases, counts, activation, chunks)
    old = _groups(op, previous_inputs, previous_weights, previous_biases, counts, activation, chunks)
    for group, former, number in zip(groups, old, chunks, strict=True):
        _check_change(*group[:3], *former[:3], activation, conditions, number, op)
    if scaling is not None:
        check_tensor(op, "scaling", scaling, (conditions,), weights[0])
    if len(never) != len(groups):
        raise ValueError(f"{op}: {len(never)} never for {len(groups)} groups")
    for i, (rows, group) in enumerate(zip(never, groups, strict=True)):
        check_dense(op, f"never[{i}]", rows)
        if rows.dtype != torch.int64 or rows.dim() != 1 or rows.device != weights[0].device:
            raise ValueError(
                f"{op}: never[{i}] is {rows.dtype} {tuple(rows.shape)} on {rows.device}, expected "
                f"torch.int64 [rows] on {weights[0].device}"
            )
        size = len(group.weights[-1])
        if rows.device.type == "cpu" and bool(((rows < 0) | (rows >= size)).any()):
            raise ValueError(f"{op}: never[{i}] is {rows.tolist()}, expected rows from 0 to {size - 1}")
    return groups, old


def _check_backward(
    grad,
    others,
    scaled,
    hidden,
    matrices,
    squares,
    inputs,
    weights,
    biases,
    counts,
    activation,
    conditions,
    chunks,
    needs,
) -> list[Group]:
    op = "grouped_change_backward"
    groups = _groups(op, inputs, weights, biases, counts, activation, chunks)
    for group, number in zip(groups, chunks, strict=True):
        _check_sizes(op, "inputs", group.inputs, conditions, number)
    rows, columns = [conditions * number for number in chunks], list(map(_columns, groups))
    widths, sizes = map(_hidden_width, groups), [len(group.weights[-1]) for group in groups]
    for name, tensor, shape in (
        ("grad", grad, ()),
        ("scaled", scaled, (sum(n * c for n, c in zip(rows, columns, strict=True)),)),
        ("hidden", hidden, (sum(n * width for n, width in zip(rows, widths, strict=True)),)),
        ("matrices", matrices, (sum(size * c for size, c in zip(sizes, columns, strict=True)),)),
        ("squares", squares, (2, sum(c * c for c in columns))),
    ):
        check_tensor(op, name, tensor, shape, weights[0])
    if others is not None:
        counts = [n * group.weights[-1].shape[1] for n, group in zip(rows, groups, strict=True)]
        check_tensor(op, "others", others, (sum(counts),), weights[0])
    check_needs(op, needs, [*inputs, *weights, *biases])
    return groups


def _columns(group: Group) -> int:
    """C of the last layer."""
    return 2 * group.weights[-1].shape[1] + (1 if group.biases else 0)


def _hidden_width(group: Group) -> int:
    return sum(weight.shape[0] for weight in group.weights[:-1])


def _change_op(*arguments) -> tuple[Tensor, ...]:
    """Rows (none if they are not scaled), scaled rows, hidden layers and matrices of all networks; and the
    squares of matrices, and of rows.
    """
    groups, old = _check(*arguments)
    *_, conditions, chunks, scaling, never = arguments
    results: tuple[list[Tensor], ...] = ([], [], [], [], [], [])
    for group, former, number, out in zip(groups, old, chunks, never, strict=True):
        rows, hidden = _change_reference(*group[:3], *former[:3], group.activation, conditions, number)
        scaled = rows
        if scaling is not None:
            scaled = (rows.view(conditions, number, rows.shape[1]) * scaling.view(-1, 1, 1)).view_as(rows)
        layer = [group.weights[-1] - former.weights[-1], former.weights[-1]]
        if group.biases:
            layer.insert(1, (group.biases[-1] - former.biases[-1]).unsqueeze(1))
        matrix = torch.cat(layer, dim=1).index_fill_(0, out, 0)
        unscaled = rows[:0] if scaling is None else rows
        found = unscaled, scaled, hidden, matrix, matrix.t() @ matrix, scaled.t() @ rows
        for of_all, result in zip(results, found, strict=True):
            of_all.append(result.flatten())
    *saved, of_matrices, of_rows = map(torch.cat, results)
    return *saved, torch.stack((of_matrices, of_rows))


def _change_backward_op(grad, others, scaled, hidden, matrices, squares, *rest) -> list[Tensor]:
    groups = _check_backward(grad, others, scaled, hidden, matrices, squares, *rest)
    *_, activation, conditions, chunks, needs = rest
    columns = [_columns(group) for group in groups]
    rows = [conditions * number for number in chunks]
    of_layers, of_rows = (_each(half, columns, columns) for half in squares)
    xs, layers = _each(scaled, rows, columns), _each(hidden, rows, map(_hidden_width, groups))
    if others is not None:
        others = _each(others, rows, [group.weights[-1].shape[1] for group in groups])
    ys = _each(matrices, [len(group.weights[-1]) for group in groups], columns)
    found: list[list[Tensor]] = []
    for i, (group, number) in enumerate(zip(groups, chunks, strict=True)):
        width = group.weights[-1].shape[1]
        layer_columns = columns[i] - width
        of_features = xs[i] @ (of_layers[i][:, :width] + of_layers[i][:, layer_columns:]) * (2 * grad)
        of_features = of_features if others is None else of_features + others[i]
        of_matrix = ys[i] @ of_rows[i][:, :layer_columns] * (2 * grad)
        wanted = [True] * sum(map(len, group[:3]))
        arguments = of_features, layers[i], *group[:3], activation, conditions, number, wanted
        grads = _change_backward_reference(*arguments)
        grads[len(group.inputs) + len(group.weights) - 1] = of_matrix[:, :width].contiguous()
        if group.biases:
            grads[-1] = of_matrix[:, width].contiguous()
        found.append(grads)
    return _in_order(groups, found, needs, grad)


def _each(flat: Tensor, counts: Sequence[int], columns) -> list[Tensor]:
    """Matrices that lie one after the other."""
    shapes = list(zip(counts, columns, strict=True))
    return [p.view(shape) for p, shape in zip(flat.split([n * c for n, c in shapes]), shapes, strict=True)]


def _in_order(groups: Sequence[Group], found: Sequence[list[Tensor]], needs, grad: Tensor) -> list[Tensor]:
    """The gradients of all inputs, all weights and all biases, empty where none is needed."""
    lists: tuple[list, ...] = ([], [], [])
    for group, grads in zip(groups, found, strict=True):
        start = 0
        for of_kind, tensors in zip(lists, group[:3], strict=True):
            of_kind += grads[start : start + len(tensors)]
            start += len(tensors)
    grads = [g for of_kind in lists for g in of_kind]
    return [g if need else grad.new_empty(0) for g, need in zip(grads, needs, strict=True)]


LIBRARY.impl("grouped_change", _change_op, "CompositeExplicitAutograd")
LIBRARY.impl("grouped_change_backward", _change_backward_op, "CompositeExplicitAutograd")


# --- Triton, on a GPU -----------------------------------------------------------------------------


def _have_kernels(groups: Sequence[Group], conditions: int, chunks: Sequence[int]) -> bool:
    from hnetfast.kernels.output_reg import takes  # pyright: ignore[reportMissingImports]

    return conditions * min(chunks) > 0 and all(takes(g.weights[0].dtype, g.weights) for g in groups)


def _layers_of(groups: Sequence[Group], chunks: Sequence[int]) -> tuple[list, list[list[Tensor]]]:
    """Hidden layers as launchers take them, and the last layers."""
    from hnetfast.kernels.chunked_mlp_hidden import HiddenLayers  # pyright: ignore[reportMissingImports]

    hidden, last = [], []
    for group, number in zip(groups, chunks, strict=True):
        inputs, weights, biases = ([t.contiguous() for t in tensors] for tensors in group[:3])
        hidden.append(HiddenLayers(inputs, weights[:-1], biases[:-1], number))
        last.append([weights[-1], *biases[-1:]])
    return hidden, last


def _change_triton(*arguments) -> tuple[Tensor, ...]:
    from hnetfast.kernels.output_reg_layers import changes  # pyright: ignore[reportMissingImports]

    groups, old = _check(*arguments)
    *_, activation, conditions, chunks, scaling, never = arguments
    if not _have_kernels(groups, conditions, chunks):
        return _change_op(*arguments)
    (hidden, last), (old_hidden, old_last) = _layers_of(groups, chunks), _layers_of(old, chunks)
    scaling = None if scaling is None else scaling.contiguous()
    with torch.cuda.device_of(last[0][0]):
        return changes(hidden, old_hidden, last, old_last, never, activation, conditions, scaling)


def _change_backward_triton(grad, others, scaled, hidden, matrices, squares, *rest) -> list[Tensor]:
    from hnetfast.kernels.output_reg_layers import changes_backward  # pyright: ignore[reportMissingImports]

    groups = _check_backward(grad, others, scaled, hidden, matrices, squares, *rest)
    inputs, weights, _, counts, activation, conditions, chunks, needs = rest
    if not _have_kernels(groups, conditions, chunks):
        return _change_backward_op(grad, others, scaled, hidden, matrices, squares, *rest)
    first_bias = len(inputs) + len(weights)
    of_kinds = needs[: len(inputs)], needs[len(inputs) : first_bias], needs[first_bias:]
    wanted = [[*a, *b, *c] for a, b, c, _ in _split(*of_kinds, counts, [activation] * len(chunks))]
    saved = [t.contiguous() for t in (scaled, hidden, matrices, squares)]
    networks = _layers_of(groups, chunks)
    with torch.cuda.device_of(grad):
        found = changes_backward(grad, others, *saved, *networks, activation, conditions, wanted)
    return _in_order(groups, found, needs, grad)


if _env.backend() == "auto" and find_spec("triton"):
    LIBRARY.impl("grouped_change", _change_triton, "CUDA")
    LIBRARY.impl("grouped_change_backward", _change_backward_triton, "CUDA")


# --- the loss and its gradients -------------------------------------------------------------------


def closed_forms(problems: Sequence[Problem], counts: Sequence[int]) -> Form:
    """The form of the sum of several problems, with so many inputs, weights and biases of each network.

    They have the same activation, number of conditions and scaling.
    """
    activation, (conditions, _), scaling = problems[0].activation, problems[0].sizes, problems[0].scaling
    rest = counts, activation, conditions, [problem.sizes[1] for problem in problems]
    corrections = [(i, part) for i, problem in enumerate(problems) for part in problem.corrections]

    def forward(tensors: Sequence[Tensor], gradients: bool) -> tuple[Tensor, list[Tensor]]:
        previous = [[t for problem in problems for t in problem.previous[kind]] for kind in range(3)]
        nothing = torch.empty(0, dtype=torch.int64, device=tensors[0].device)
        never = [nothing if problem.never is None else problem.never for problem in problems]
        rows, *kept = _CHANGE(*lists_of(counts, tensors), *previous, *rest, scaling, never)
        loss = torch.dot(*kept[-1])
        if corrections:
            loss = loss + _subtract(rest, tensors, rows if len(rows) else kept[0], kept, corrections)
        return loss, kept

    def differentiable(tensors: Sequence[Tensor]) -> Tensor:
        groups = _split(*lists_of(counts, tensors), counts, [activation] * len(problems))
        losses = [
            p.differentiable([t for ts in g[:3] for t in ts]) for p, g in zip(problems, groups, strict=True)
        ]
        return cast(Tensor, sum(losses))

    constants = [t for problem in problems for t in problem.constants()]
    return Form(constants, forward, partial(_gradients, rest, corrections), differentiable)


def _last_layers(counts: Sequence[int], tensors: Sequence[Tensor]) -> tuple[list[int], list[int | None]]:
    """Where among all tensors weight and bias, if there is one, of the last layers are."""
    weights, biases = [], []
    place, first_bias = sum(counts[::3]), sum(counts[::3]) + sum(counts[1::3])
    for of_weights, of_biases in zip(counts[1::3], counts[2::3], strict=True):
        place, first_bias = place + of_weights, first_bias + of_biases
        weights.append(place - 1)
        biases.append(first_bias - 1 if of_biases else None)
    return weights, biases


def _subtract(rest, tensors, rows: Tensor, saved: list[Tensor], corrections) -> Tensor:
    """What corrections add to the loss; what their gradients need is appended to what is saved."""
    counts, _, conditions, chunks = rest
    weights, biases = _last_layers(counts, tensors)
    sizes, widths = zip(*(tensors[place].shape for place in weights), strict=True)
    columns = [2 * width + (bias is not None) for width, bias in zip(widths, biases, strict=True)]
    of_rows = _each(rows, [conditions * number for number in chunks], columns)
    matrices = _each(saved[2], sizes, columns)
    lengths = [part.count(conditions) for _, part in corrections]
    pair = rows.new_empty(2, sum(lengths))
    inputs, outputs = [], []
    for (i, part), change, weighted in zip(corrections, *(half.split(lengths) for half in pair), strict=True):
        x, m = subtract(of_rows[i].view(conditions, chunks[i], -1), matrices[i], part, change, weighted)
        inputs.append(x)
        outputs.append(m)
    saved += [pair[1], *inputs, *outputs]
    return torch.dot(*pair)


def _gradients(rest, corrections, grad: Tensor, tensors, kept, needs: Sequence[bool]) -> list[Tensor]:
    counts, _, conditions, chunks = rest
    main, others = kept[:4], None
    if corrections:
        weights, biases = _last_layers(counts, tensors)
        widths = [tensors[place].shape[1] for place in weights]
        weighted, inputs, outputs = (
            kept[4] * grad,
            kept[5 : 5 + len(corrections)],
            kept[5 + len(corrections) :],
        )
        weighted = weighted.split([part.count(conditions) for _, part in corrections])
        rows = [conditions * number for number in chunks]
        others = grad.new_zeros(sum(n * width for n, width in zip(rows, widths, strict=True)))
        features = _each(others, rows, widths)
        for (i, part), of_part, m in zip(corrections, weighted, outputs, strict=True):
            subtract_from_features(features[i].view(conditions, chunks[i], -1), part, of_part, m)
    found = _CHANGE_BACKWARD(grad, others, *main, *lists_of(counts, tensors), *rest, needs)
    for k, (i, part) in enumerate(corrections):
        weight, bias = (found[p] if p is not None and needs[p] else None for p in (weights[i], biases[i]))
        if weight is not None or bias is not None:
            subtract_from_layer(weight, bias, widths[i], part, weighted[k], inputs[k])
    return found
