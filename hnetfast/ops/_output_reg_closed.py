"""``output_reg`` with gradients in closed form, on devices where every operation is a launch.

With the matrix ``M = [D W*]`` of the last layer and the rows ``x = [h̃ Δ]`` (see
:mod:`hnetfast.ops.output_reg`) outputs have changed by ``M x``, and with ``G = MᵀM`` and ``F = Σ s x xᵀ``

    Σ s ‖M x‖² = ⟨G, F⟩        ∂/∂A = 2 M F[:, h̃]        ∂/∂h = 2 s G[h̃ and Δ, :] x

Below the last layer these are gradients of the network as it is: what it was is a constant.

The ops here are called below autograd, by the function that has the gradients, so they register none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor

from hnetfast import _env
from hnetfast.ops._library import LIBRARY, check_tensor
from hnetfast.ops._mlp_layers import check_needs, check_network, hidden_backward
from hnetfast.ops._output_reg_form import Form, lists_of
from hnetfast.ops._output_reg_products import hidden_and_change
from hnetfast.ops.grouped_mlp import Group

LIBRARY.define(
    "hidden_change(Tensor[] inputs, Tensor[] weights, Tensor[] biases, Tensor[] previous_inputs, "
    "Tensor[] previous_weights, Tensor[] previous_biases, str activation, int conditions, int chunks) "
    "-> (Tensor, Tensor)"
)
LIBRARY.define(
    "hidden_change_backward(Tensor grad, Tensor hidden, Tensor[] inputs, Tensor[] weights, Tensor[] biases, "
    "str activation, int conditions, int chunks, bool[] needs) -> Tensor[]"
)
_CHANGE = torch.ops.hnetfast.hidden_change.default
_CHANGE_BACKWARD = torch.ops.hnetfast.hidden_change_backward.default


# --- rows of the last layer -----------------------------------------------------------------------


def _check_sizes(op: str, name: str, inputs: Sequence[Tensor], conditions: int, chunks: int) -> None:
    if min(conditions, chunks) < 0:
        raise ValueError(
            f"{op}: got {conditions} conditions, {chunks} chunks, accepted are numbers from 0 on"
        )
    for i, part in enumerate(inputs):
        if part.shape[0] not in (1, conditions) or part.shape[1] not in (1, chunks):
            raise ValueError(
                f"{op}: {name}[{i}] has shape {tuple(part.shape)}, expected [{conditions} or 1, "
                f"{chunks} or 1, width]"
            )


def _check_change(
    inputs,
    weights,
    biases,
    previous_inputs,
    previous_weights,
    previous_biases,
    activation,
    conditions,
    chunks,
    op="hidden_change",
) -> None:
    check_network(op, inputs, weights, biases, activation)
    check_network(op, previous_inputs, previous_weights, previous_biases, activation)
    _check_sizes(op, "inputs", inputs, conditions, chunks)
    _check_sizes(op, "previous_inputs", previous_inputs, conditions, chunks)
    for name, now, then in (
        ("inputs", inputs, previous_inputs),
        ("weights", weights, previous_weights),
        ("biases", biases, previous_biases),
    ):
        if len(now) != len(then):
            raise ValueError(f"{op}: {len(then)} previous_{name} for {len(now)} {name}")
        for i, (t, old) in enumerate(zip(now, then, strict=True)):
            shape = (*old.shape[:2], t.shape[2]) if name == "inputs" else tuple(t.shape)
            check_tensor(op, f"previous_{name}[{i}]", old, shape, t)


def _check_change_backward(
    grad, hidden, inputs, weights, biases, activation, conditions, chunks, needs
) -> None:
    op = "hidden_change_backward"
    check_network(op, inputs, weights, biases, activation)
    _check_sizes(op, "inputs", inputs, conditions, chunks)
    rows, width = conditions * chunks, sum(weight.shape[0] for weight in weights[:-1])
    check_tensor(op, "grad", grad, (rows, weights[-1].shape[1]), weights[0])
    check_tensor(op, "hidden", hidden, (rows, width) if len(weights) > 1 else (0,), weights[0])
    check_needs(op, needs, [*inputs, *weights, *biases])


def _change_reference(
    inputs,
    weights,
    biases,
    previous_inputs,
    previous_weights,
    previous_biases,
    activation,
    conditions,
    chunks,
):
    groups = (
        Group(inputs, weights, biases, activation),
        Group(previous_inputs, previous_weights, previous_biases, activation),
    )
    layers, change = hidden_and_change(*groups, conditions, chunks)
    last = layers[-1].expand(conditions, chunks, -1).flatten(0, 1)
    one = [last.new_ones(len(last), 1)] if biases else []
    rows = torch.cat([last, *one, change.expand(conditions, chunks, -1).flatten(0, 1)], dim=1)
    if len(weights) == 1:
        return rows, last.new_empty(0)
    return rows, torch.cat([h.expand(conditions, chunks, -1).flatten(0, 1) for h in layers], dim=1)


def _change_backward_reference(
    grad, hidden, inputs, weights, biases, activation, conditions, chunks, needs
) -> list[Tensor]:
    """From the gradient of what the last layer reads those of all tensors, empty for the last layer."""
    sizes = conditions, chunks
    if len(weights) > 1:
        found = hidden_backward(grad, hidden, inputs, weights, biases, activation, needs, sizes)
    else:
        parts = grad.view(*sizes, weights[0].shape[1]).split([part.shape[2] for part in inputs], dim=2)
        pairs = zip(parts, inputs, strict=True)
        found = [g.sum_to_size(part.shape).clone(memory_format=torch.contiguous_format) for g, part in pairs]
        found += [None] * (len(needs) - len(inputs))
    return [grad.new_empty(0) if g is None or not need else g for g, need in zip(found, needs, strict=True)]


def _change_op(*arguments):
    _check_change(*arguments)
    return _change_reference(*arguments)


def _change_backward_op(*arguments) -> list[Tensor]:
    _check_change_backward(*arguments)
    return _change_backward_reference(*arguments)


LIBRARY.impl("hidden_change", _change_op, "CompositeExplicitAutograd")
LIBRARY.impl("hidden_change_backward", _change_backward_op, "CompositeExplicitAutograd")


def _change_triton(inputs, weights, biases, *rest):
    from hnetfast.kernels import output_reg as kernels  # pyright: ignore[reportMissingImports]

    _check_change(inputs, weights, biases, *rest)
    if not kernels.takes(weights[0].dtype, weights):
        return _change_reference(inputs, weights, biases, *rest)
    *old, activation, conditions, chunks = rest
    networks = [_hidden_layers(lists, chunks) for lists in ((inputs, weights, biases), old)]
    with torch.cuda.device_of(weights[0]):
        rows, _, hidden = kernels.hidden_change(networks[:1], networks[1:], activation, conditions)
    return rows.view(conditions * chunks, -1), hidden.view(conditions * chunks, -1)


def _hidden_layers(network, chunks: int):
    from hnetfast.kernels.chunked_mlp_hidden import HiddenLayers  # pyright: ignore[reportMissingImports]

    inputs, weights, biases = network
    lists = inputs, weights[:-1], biases[:-1]
    return HiddenLayers(*([t.contiguous() for t in tensors] for tensors in lists), chunks)


def _change_backward_triton(
    grad, hidden, inputs, weights, biases, activation, conditions, chunks, needs
) -> list[Tensor]:
    from hnetfast.kernels import chunked_mlp_hidden  # pyright: ignore[reportMissingImports]
    from hnetfast.kernels import output_reg as kernels  # pyright: ignore[reportMissingImports]

    arguments = inputs, weights, biases, activation, conditions, chunks, needs
    _check_change_backward(grad, hidden, *arguments)
    if not kernels.takes(weights[0].dtype, weights) or grad.numel() == 0:
        return _change_backward_reference(grad, hidden, *arguments)
    layers = _hidden_layers((inputs, weights, biases), chunks)
    with torch.cuda.device_of(grad):
        arguments = [grad], [hidden.contiguous()], [layers], activation, conditions, [needs]
        (found,) = chunked_mlp_hidden.hidden_layers_backward(*arguments)
    return [grad.new_empty(0) if g is None else g for g in found]


if _env.backend() == "auto" and find_spec("triton"):
    LIBRARY.impl("hidden_change", _change_triton, "CUDA")
    LIBRARY.impl("hidden_change_backward", _change_backward_triton, "CUDA")


# --- the loss and its gradients -------------------------------------------------------------------


class OfChunks(NamedTuple):
    """Outputs of chunks to subtract.

    Attributes:
        chunks: Numbers of P chunks, int64 ``[P]``.
        rows: Rows of the last layer, int64 ``[E]``.
        factors: Negative factors ``[B or 1, P, E]``.
    """

    chunks: Tensor
    rows: Tensor
    factors: Tensor

    def count(self, conditions: int) -> int:
        """How many outputs of B conditions these are."""
        return conditions * len(self.chunks) * len(self.rows)


def subtract(
    rows: Tensor, matrix: Tensor, part: OfChunks, change: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute the changes of outputs to subtract, and these times their factors.

    Args:
        rows: What the last layer reads, and its change, ``[B, N, C]``.
        matrix: ``[D W*]`` of the last layer, ``[S, C]``.
        part: Which outputs.
        change: Filled with their changes, ``[B·P·E]``; their product with the next is negative.
        weights: Filled with their changes times factors.

    Returns:
        The rows and rows of the matrix that they are products of, ``[B·P, C]`` and ``[E, C]``.
    """
    x = (rows if rows.shape[1] == 1 else rows.index_select(1, part.chunks)).flatten(0, 1)
    m = matrix.index_select(0, part.rows)
    shape = len(rows), len(part.chunks), len(part.rows)
    torch.mm(x, m.t(), out=change.view(-1, shape[2]))
    torch.mul(change.view(shape), part.factors, out=weights.view(shape))
    return x, m


def subtract_from_layer(
    weight: Tensor | None, bias: Tensor | None, width: int, part: OfChunks, weights: Tensor, x: Tensor
) -> None:
    """Put the share of :func:`subtract` into the gradients of weight ``[S, K]`` and bias ``[S]``."""
    of_layer = weights.view(-1, len(part.rows)).t() @ x[:, : width + 1]
    if weight is not None:
        weight.index_add_(0, part.rows, of_layer[:, :width], alpha=2)  # no row is named twice
    if bias is not None:
        bias.index_add_(0, part.rows, of_layer[:, width], alpha=2)


def subtract_from_features(features: Tensor, part: OfChunks, weights: Tensor, m: Tensor) -> None:
    """Put the share of :func:`subtract` into the gradient of what the last layer reads, ``[B, N, K]``."""
    width = features.shape[2]
    of_part = weights.view(-1, len(part.rows)) @ (m[:, :width] + m[:, m.shape[1] - width :])
    features.index_add_(1, part.chunks, of_part.view(len(features), -1, width), alpha=2)


class Problem(NamedTuple):
    """What is constant: the network as it was, and how its outputs count.

    Attributes:
        previous: Inputs, weights and biases.
        activation: Of the hidden layers.
        sizes: Numbers of conditions and of chunks.
        split: Outputs of the last chunk that count.
        scaling: A factor for each condition, ``[B]``, or None.
        never: Rows of the last layer that do not count, or None.
        corrections: Squares to subtract.
        differentiable: Computes the same from all tensors such that gradients can be differentiated again.
    """

    previous: tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]]
    activation: str
    sizes: tuple[int, int]
    split: int
    scaling: Tensor | None
    never: Tensor | None
    corrections: Sequence[OfChunks]
    differentiable: Callable[[Sequence[Tensor]], Tensor]

    def constants(self) -> list[Tensor]:
        """Return what the loss depends on besides its arguments."""
        tensors = [t for part in self.previous for t in part]
        return tensors if self.scaling is None else [*tensors, self.scaling]


def closed_form(problem: Problem, counts: Sequence[int]) -> Form:
    """The form of one network, with so many inputs, weights and biases."""
    backward = partial(_gradients, problem, counts)
    return Form(problem.constants(), partial(_loss, problem, counts), backward, problem.differentiable)


def _loss(
    problem: Problem, counts: Sequence[int], tensors: Sequence[Tensor], gradients: bool
) -> tuple[Tensor, list[Tensor]]:
    lists = lists_of(counts, tensors)
    conditions, chunks = problem.sizes
    rows, hidden = _CHANGE(*lists, *problem.previous, problem.activation, conditions, chunks)
    matrix = _matrix(lists, problem)
    cut = _cut(problem, len(matrix))
    columns, kinds = matrix.shape[1], len(cut)
    rows = rows.view(conditions, chunks, columns)
    scaled = _scaled(rows, problem.scaling, kinds)
    # One inner product is the whole loss: of these and those, square matrices and then corrections.
    lengths = _lengths(problem, kinds, columns)
    pairs = matrix.new_empty(2, sum(lengths))
    (products, *changes), (sums, *weighted) = (half.split(lengths) for half in pairs)
    torch.mm(scaled.flatten(2).flatten(0, 1).t(), rows.flatten(0, 1), out=sums.view(-1, columns))
    for of_kind, product in zip(cut, products.view(kinds, columns, columns), strict=True):
        torch.mm(matrix[of_kind].t(), matrix[of_kind], out=product)
    inputs, outputs = [], []  # of the corrections
    for part, change, weights in zip(problem.corrections, changes, weighted, strict=True):
        x, m = subtract(rows, matrix, part, change, weights)
        inputs.append(x)
        outputs.append(m)
    return torch.dot(*pairs), [hidden, scaled, matrix, pairs, *inputs, *outputs]


def _cut(problem: Problem, size: int) -> list[slice]:
    """Rows of the last layer that all chunks meet, and those, if any, that all but the last one do."""
    if problem.sizes[1] == 1 or problem.split == size:
        return [slice(0, problem.split)]
    return [slice(0, problem.split), slice(problem.split, size)]


def _lengths(problem: Problem, kinds: int, columns: int) -> list[int]:
    """Numbers of elements of the square matrices, and of the outputs to subtract."""
    return [kinds * columns**2, *(part.count(problem.sizes[0]) for part in problem.corrections)]


def _scaled(rows: Tensor, scaling: Tensor | None, kinds: int) -> Tensor:
    """What of the rows [B, N, C] meets each kind of rows of the last layer, [B, N, kinds, C]."""
    rows = rows.unsqueeze(2)
    if kinds == 1:
        return rows if scaling is None else rows * scaling.view(-1, 1, 1, 1)
    rows = rows.expand(-1, -1, kinds, -1)
    scaled = rows.contiguous() if scaling is None else rows * scaling.view(-1, 1, 1, 1)
    scaled[:, -1, 1].zero_()
    return scaled


def _gradients(problem, counts, grad, tensors, kept, needs) -> list[Tensor | None]:
    lists, first_bias = lists_of(counts, tensors), counts[0] + counts[1]
    hidden, scaled, matrix, pairs, *chosen = kept
    (conditions, chunks), corrections = problem.sizes, problem.corrections
    inputs, outputs = chosen[: len(corrections)], chosen[len(corrections) :]
    has_bias = len(tensors) > first_bias
    width, columns = lists[1][-1].shape[1], matrix.shape[1]
    layer_columns = width + has_bias
    cut = _cut(problem, len(matrix))
    lengths = _lengths(problem, len(cut), columns)
    (products, *_), (sums, *weighted) = (half.split(lengths) for half in pairs * grad)
    results: list[Tensor | None] = [None] * len(tensors)

    last = [first_bias - 1, len(tensors) - 1] if has_bias else [first_bias - 1]
    if any(needs[i] for i in last):
        weight = matrix.new_empty(len(matrix), width)
        bias = matrix.new_empty(len(matrix))
        for of_kind, of_rows in zip(cut, sums.view(-1, columns, columns), strict=True):
            weight[of_kind].addmm_(matrix[of_kind], of_rows[:, :width], beta=0, alpha=2)
            if has_bias:
                bias[of_kind].addmv_(matrix[of_kind], of_rows[:, width], beta=0, alpha=2)
        if len(cut) == 1 and problem.split < len(matrix):
            weight[problem.split :].zero_()
            bias[problem.split :].zero_()
        for part, weights, x in zip(corrections, weighted, inputs, strict=True):
            subtract_from_layer(weight, bias if has_bias else None, width, part, weights, x)
        for i, of_layer in zip(last, (weight, bias), strict=False):
            results[i] = of_layer if needs[i] else None
    if any(need for i, need in enumerate(needs) if i not in last):
        folded = products.view(-1, columns)[:, :width] + products.view(-1, columns)[:, layer_columns:]
        of_rows = matrix.new_empty(conditions * chunks, width)
        of_rows.addmm_(scaled.flatten(2).flatten(0, 1), folded, beta=0, alpha=2)
        for part, weights, m in zip(corrections, weighted, outputs, strict=True):
            subtract_from_features(of_rows.view(conditions, chunks, width), part, weights, m)
        below = [need and i not in last for i, need in enumerate(needs)]
        found = _CHANGE_BACKWARD(of_rows, hidden, *lists, problem.activation, *problem.sizes, below)
        for i, need in enumerate(below):
            results[i] = found[i] if need else results[i]
    return results


def _matrix(lists: Sequence[Sequence[Tensor]], problem: Problem) -> Tensor:
    """``[D W*]``, zero where outputs never count."""
    (_, weights, biases), (_, old_weights, old_biases) = lists, problem.previous
    weight, old = weights[-1], old_weights[-1]
    width = weight.shape[1]
    matrix = weight.new_empty(len(weight), 2 * width + (1 if biases else 0))
    torch.sub(weight, old, out=matrix[:, :width])
    if biases:
        torch.sub(biases[-1], old_biases[-1], out=matrix[:, width])
    matrix[:, matrix.shape[1] - width :] = old
    if problem.never is not None:
        matrix.index_fill_(0, problem.never, 0)
    return matrix
