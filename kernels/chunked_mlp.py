"""Launchers of the ``chunked_mlp`` kernels: forward and backward on a GPU.

Notation: B conditions, N chunks, S chunk size, n outputs, R = B·N rows (row r = b·N + i), K width of the
last hidden layer. Narrow layers run in Triton kernels, wide or float64 ones through library products. Nothing
here reads device memory from the host, so a call can be captured in a CUDA graph. CPU tensors work under
Triton's interpreter.
"""

import contextlib
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from . import chunked_mlp_hidden
from . import chunked_mlp_library as library
from . import chunked_mlp_products as products
from .chunked_mlp_hidden import HiddenLayers

# ``hidden_backward`` of ops, which no kernel imports.
Below = Callable[..., list[Tensor | None]]


class _Run(NamedTuple):
    """Neighbouring parts of the input that vary with the same index, hence share a product."""

    parts: tuple[int, ...]
    column: int
    width: int
    varies_with_chunk: bool


def chunked_mlp_forward(
    inputs: list[Tensor],
    weights: list[Tensor],
    biases: list[Tensor],
    activation: str,
    num_outputs: int,
    save_hidden: bool,
) -> tuple[Tensor, Tensor]:
    """Generate the outputs of all conditions.

    Args:
        inputs: Parts of the input, each [B or 1, N or 1, width].
        weights: Matrices [out, in] of the layers; the last is [S, K].
        biases: Vectors [out] of the layers, or none.
        activation: Activation of the hidden layers.
        num_outputs: n, at most N·S.
        save_hidden: Whether to return the hidden layers for the backward pass.

    Returns:
        The outputs [B, n], and the values of all hidden layers after the activation [R, Σ widths], empty if
        there are none or ``save_hidden`` is false.
    """
    num_conditions, num_chunks = _batch_sizes(inputs)
    out = inputs[0].new_empty((num_conditions, num_outputs))
    hidden_width = sum(weight.shape[0] for weight in weights[:-1])
    keep_hidden = save_hidden and len(weights) > 1
    if out.numel() == 0:
        return out, out.new_empty((num_conditions * num_chunks, hidden_width) if keep_hidden else 0)
    inputs, weights, biases = (
        [tensor.contiguous() for tensor in group] for group in (inputs, weights, biases)
    )
    with _device_of(out):
        if len(weights) == 1:
            _forward_without_hidden(inputs, weights[0], biases, out, num_chunks)
            return out, out.new_empty(0)
        layers = HiddenLayers(inputs, weights[:-1], biases[:-1], num_chunks)
        if products.is_fused(out.dtype, *layers.widths):
            hidden = chunked_mlp_hidden.hidden_layers([layers], activation, num_conditions)
            hidden = hidden.view(num_conditions * num_chunks, -1)
        else:
            hidden = library.hidden_layers(
                *layers[:3], activation, num_conditions, num_chunks, keep_all=save_hidden
            )
        features = hidden[:, hidden.shape[1] - weights[-1].shape[1] :]
        offset = biases[-1][None] if biases else None
        products.product(features, weights[-1], offset, out, num_chunks, repeat=1)
    return out, hidden if keep_hidden else out.new_empty(0)


def chunked_mlp_backward(
    grad_out: Tensor,
    hidden: Tensor,
    inputs: list[Tensor],
    weights: list[Tensor],
    biases: list[Tensor],
    activation: str,
    needs: list[bool],
    below: Below,
) -> list[Tensor]:
    """Gradients of the inputs, weights and biases.

    Args:
        grad_out: Gradient of the outputs [B, n].
        hidden: What ``chunked_mlp_forward`` saved, [R, Σ widths].
        inputs: As given to ``chunked_mlp_forward``.
        weights: As given to ``chunked_mlp_forward``.
        biases: As given to ``chunked_mlp_forward``.
        activation: As given to ``chunked_mlp_forward``.
        needs: Whether each tensor of inputs + weights + biases needs its gradient.
        below: Computes the gradients below the last layer where they are not for a Triton kernel.

    Returns:
        The gradients in the order of ``needs``; an empty tensor where none is needed.
    """
    tensors = [*inputs, *weights, *biases]
    if grad_out.numel() == 0:
        return [
            torch.zeros_like(t) if need else t.new_empty(0) for t, need in zip(tensors, needs, strict=True)
        ]
    num_conditions, num_chunks = _batch_sizes(inputs)
    grad_out = grad_out.contiguous()
    inputs, weights, biases = (
        [tensor.contiguous() for tensor in group] for group in (inputs, weights, biases)
    )
    need_inputs = needs[: len(inputs)]
    need_weights = needs[len(inputs) : len(inputs) + len(weights)]
    need_biases = needs[len(inputs) + len(weights) :]
    grads: list[Tensor | None]
    with _device_of(grad_out):
        if len(weights) == 1:
            grads = _backward_without_hidden(
                grad_out, inputs, weights[0], num_chunks, need_inputs, need_weights[0], any(need_biases)
            )[: len(tensors)]
        else:
            needs_below = any(need_inputs) or any(need_weights[:-1]) or any(need_biases[:-1])
            grad_weight = torch.empty_like(weights[-1]) if need_weights[-1] else None
            grad_offset, grad_features = products.product_backward(
                grad_out,
                hidden[:, hidden.shape[1] - weights[-1].shape[1] :],
                weights[-1],
                grad_weight,
                num_chunks,
                1,
                bool(biases) and need_biases[-1],
                needs_below,
            )
            grads = [None] * len(tensors)
            if needs_below:
                layers = HiddenLayers(inputs, weights[:-1], biases[:-1], num_chunks)
                if products.is_fused(hidden.dtype, *layers.widths):
                    args = [grad_features], [hidden], [layers], activation, num_conditions, [needs]
                    grads = chunked_mlp_hidden.hidden_layers_backward(*args)[0]
                else:
                    network, sizes = (inputs, weights, biases), (num_conditions, num_chunks)
                    grads = below(grad_features, hidden, *network, activation, needs, sizes)
            grads[len(inputs) + len(weights) - 1] = grad_weight
            if biases:
                grads[-1] = None if grad_offset is None else grad_offset[0]
    return [
        _as_result(grad, tensor) if need else tensor.new_empty(0)
        for tensor, grad, need in zip(tensors, grads, needs, strict=True)
    ]


def _as_result(grad: Tensor, tensor: Tensor) -> Tensor:
    """The gradient in the tensor's dtype and shape, contiguous and in storage of its own."""
    grad = grad.to(tensor.dtype).reshape(tensor.shape)
    if grad.is_contiguous() and grad.untyped_storage().nbytes() == grad.nbytes:
        return grad
    return grad.clone(memory_format=torch.contiguous_format)


def _batch_sizes(inputs: Sequence[Tensor]) -> tuple[int, int]:
    """B and N: where a part has another size than 1, that size (which may be 0)."""
    sizes = [[part.shape[axis] for part in inputs if part.shape[axis] != 1] for axis in (0, 1)]
    return tuple(axis_sizes[0] if axis_sizes else 1 for axis_sizes in sizes)


def _device_of(tensor: Tensor) -> contextlib.AbstractContextManager:
    if tensor.is_cuda and tensor.device.index != torch.cuda.current_device():
        return torch.cuda.device(tensor.device)
    return contextlib.nullcontext()


def _separate(inputs: Sequence[Tensor], num_chunks: int) -> list[_Run] | None:
    """The runs of parts of a single layer whose product can be formed apart, or None if they cannot be.

    The parts that vary with the chunk must be neighbours: their product is the one that fills all conditions.
    """
    if num_chunks == 1 or any(part.shape[0] > 1 and part.shape[1] > 1 for part in inputs):
        return None
    runs, column = [], 0
    for varies, group in itertools.groupby(range(len(inputs)), key=lambda i: inputs[i].shape[1] > 1):
        parts = tuple(group)
        width = sum(inputs[i].shape[2] for i in parts)
        runs.append(_Run(parts, column, width, varies))
        column += width
    return runs if sum(run.varies_with_chunk for run in runs) == 1 else None


def _rows_of(inputs: Sequence[Tensor], run: _Run, num_rows: int) -> Tensor:
    """The input of a run, [num_rows, width]; a copy only if several parts or broadcast ones make it up."""
    parts = [inputs[i].reshape(-1, inputs[i].shape[2]).expand(num_rows, -1) for i in run.parts]
    return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0].contiguous()


def _all_rows(inputs: Sequence[Tensor], num_conditions: int, num_chunks: int) -> Tensor:
    """The whole input [R, in], for a single layer that cannot be separated."""
    parts = [part.expand(num_conditions, num_chunks, -1) for part in inputs]
    return torch.cat(parts, dim=2).reshape(num_conditions * num_chunks, -1)


def _forward_without_hidden(
    inputs: Sequence[Tensor], weight: Tensor, biases: Sequence[Tensor], out: Tensor, num_chunks: int
) -> None:
    """Fill out with P[chunk] + Q[condition]: N + B rows of products, not N·B, where the input separates."""
    num_conditions = out.shape[0]
    offset = biases[0][None] if biases else None
    runs = _separate(inputs, num_chunks)
    if runs is None:
        products.product(
            _all_rows(inputs, num_conditions, num_chunks), weight, offset, out, num_chunks, repeat=1
        )
        return
    for run in runs:
        if not run.varies_with_chunk:
            rows = _rows_of(inputs, run, num_conditions)
            columns = weight[:, run.column : run.column + run.width]
            dtype = torch.float32 if products.is_fused(out.dtype, run.width) else out.dtype
            total = out.new_empty((num_conditions, weight.shape[0]), dtype=dtype)
            if offset is None or offset.shape[0] == 1:
                products.product(rows, columns, offset, total, num_chunks=1, repeat=1)
            else:
                products.product(rows, columns, None, total, num_chunks=1, repeat=1)
                total += offset
            offset = total
    run = next(run for run in runs if run.varies_with_chunk)
    rows = _rows_of(inputs, run, num_chunks)
    products.product(
        rows, weight[:, run.column : run.column + run.width], offset, out, num_chunks, repeat=num_conditions
    )


def _backward_without_hidden(
    grad_out: Tensor,
    inputs: Sequence[Tensor],
    weight: Tensor,
    num_chunks: int,
    need_inputs: Sequence[bool],
    need_weight: bool,
    need_bias: bool,
) -> list[Tensor | None]:
    """Gradients of inputs..., weight, bias of a single layer; one read of grad_out gives both its sums."""
    num_conditions = grad_out.shape[0]
    grad_weight = torch.empty_like(weight) if need_weight else None
    grads: list[Tensor | None] = [None] * len(inputs)
    runs = _separate(inputs, num_chunks)
    if runs is None:
        rows = _all_rows(inputs, num_conditions, num_chunks)
        grad_bias, grad_rows = products.product_backward(
            grad_out, rows, weight, grad_weight, num_chunks, 1, need_bias, any(need_inputs)
        )
        if grad_rows is not None:
            library.split_input_gradient(grad_rows, inputs, need_inputs, num_conditions, num_chunks, grads)
        return [*grads, grad_weight, None if grad_bias is None else grad_bias[0]]

    def backward_of(run: _Run, grad: Tensor, num_rows: int, repeat: int, need_offset: bool) -> Tensor | None:
        columns = slice(run.column, run.column + run.width)
        grad_offset, grad_rows = products.product_backward(
            grad,
            _rows_of(inputs, run, num_rows),
            weight[:, columns],
            None if grad_weight is None else grad_weight[:, columns],
            num_rows if run.varies_with_chunk else 1,
            repeat,
            need_offset,
            any(need_inputs[i] for i in run.parts),
        )
        if grad_rows is not None:
            sizes = (1, num_rows) if run.varies_with_chunk else (num_rows, 1)
            parts = [inputs[i] for i in run.parts]
            part_grads: list[Tensor | None] = [None] * len(parts)
            part_needs = [need_inputs[i] for i in run.parts]
            library.split_input_gradient(grad_rows, parts, part_needs, *sizes, part_grads)
            for i, grad in zip(run.parts, part_grads, strict=True):
                grads[i] = grad
        return grad_offset

    condition_runs = [run for run in runs if not run.varies_with_chunk]
    need_sums = need_bias or any(need_weight or need_inputs[i] for run in condition_runs for i in run.parts)
    run = next(run for run in runs if run.varies_with_chunk)
    sums = backward_of(run, grad_out, num_chunks, num_conditions, need_sums)
    if sums is not None:
        for run in condition_runs:
            backward_of(run, sums, num_conditions, 1, False)
    return [*grads, grad_weight, sums.sum(0) if need_bias else None]
