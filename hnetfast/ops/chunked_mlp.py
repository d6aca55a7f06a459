"""Chunked weight generation: an MLP applied to every pair of a condition and a chunk.

Notation: ``B`` conditions, ``N`` chunks, ``S`` chunk size, ``K`` width of the last hidden layer, ``R = B·N``
rows, ``n ≤ N·S`` outputs a condition. With the input parts ``x_p`` of condition ``b`` and chunk ``i``::

    h_1[b, i] = act(Σ_p W_1[:, p] x_p[b, i] + b_1)        the first layer is separable over the parts
    h_l[b, i] = act(W_l h_{l-1}[b, i] + b_l)
    out[b]    = concat_i(W_L h_{L-1}[b, i] + b_L)[:n]

A part is as large as what it varies with: chunk embeddings are ``[1, N, C]``, condition embeddings
``[B, 1, E]``. The expanded input ``[B·N, C + E]`` is never built.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hnetfast.ops._activations import ACTIVATIONS
from hnetfast.ops._library import check_dense, check_tensor, loop_over_batch
from hnetfast.ops._mlp_layers import (
    DTYPES,
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

__all__ = ["ACTIVATIONS", "DTYPES", "chunked_mlp", "chunked_mlp_reference"]


def chunked_mlp(
    inputs: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    activation: str,
    num_outputs: int,
) -> Tensor:
    """Generate ``num_outputs`` weights for each condition, chunk by chunk, in one pass.

    Chunked hypernetworks: von Oswald et al., "Continual learning with hypernetworks", 2020, section 2.3.

    Args:
        inputs: Parts of the input, each ``[B or 1, N or 1, width]``, floating point; the network reads their
            concatenation, in list order, broadcast over conditions and chunks.
        weights: Layer matrices ``[out, in]``; the last is ``[S, K]``.
        biases: One vector a layer, or an empty list.
        activation: Of the hidden layers, one of ``ACTIVATIONS``. The output is linear.
        num_outputs: Outputs a condition, ``n ≤ N·S``; what the last chunk has beyond that is never computed.

    Returns:
        Contiguous tensor ``[B, n]``, differentiable with respect to every tensor, twice too.

    Raises:
        ValueError, RuntimeError: Sizes, dtypes or devices that do not fit; the argument is named.

    Example:
        A linear network of chunk embeddings ``[1, N, 2]`` and conditions ``[B, 1, 3]``, N = 4 and B = 2:

        >>> chunks, conditions = torch.randn(1, 4, 2), torch.randn(2, 1, 3)
        >>> weight, bias = torch.randn(10, 5), torch.randn(10)
        >>> chunked_mlp([chunks, conditions], [weight], [bias], "relu", 37).shape
        torch.Size([2, 37])
    """
    return _OP(inputs, weights, biases, activation, num_outputs)[0]


def hidden_layers(
    inputs: Sequence[Tensor], weights: Sequence[Tensor], biases: Sequence[Tensor], activation: str
) -> Tensor:
    """Results of the hidden layers side by side, after their activation, bit by bit as outputs are made of.

    Args:
        inputs: Parts of the input, each ``[B or 1, N or 1, width]``.
        weights: Matrices of all layers ``[out, in]``, of the last too, which is the second at least.
        biases: One vector a layer, or an empty list.
        activation: Of the hidden layers, one of ``ACTIVATIONS``.

    Returns:
        Tensor ``[B·N, Σ widths]``, without a graph.
    """
    with torch.no_grad():  # a single output, as without any there would be nothing to compute
        weights, biases = [*weights[:-1], weights[-1][:1]], [*biases[:-1], *(b[:1] for b in biases[-1:])]
        return _OP(inputs, weights, biases, activation, 1, True)[1]


# --- reference ------------------------------------------------------------------------------------


def _check(inputs, weights, biases, activation: str, num_outputs: int, op: str = "chunked_mlp") -> None:
    check_network(op, inputs, weights, biases, activation)
    (_, num_chunks), chunk_size = sizes_of(inputs), weights[-1].shape[0]
    if not 0 <= num_outputs <= num_chunks * chunk_size:
        raise ValueError(
            f"{op}: num_outputs is {num_outputs}, accepted is 0 to {num_chunks} chunks × {chunk_size}"
        )


def _check_backward(grad_out, hidden, inputs, weights, biases, activation: str, needs) -> None:
    op = "chunked_mlp_backward"
    check_dense(op, "grad_out", grad_out)
    if grad_out.dim() != 2:
        raise ValueError(f"{op}: grad_out has shape {tuple(grad_out.shape)}, expected [conditions, outputs]")
    _check(inputs, weights, biases, activation, grad_out.shape[1], op)
    num_conditions, num_chunks = sizes_of(inputs)
    check_tensor(op, "grad_out", grad_out, (num_conditions, grad_out.shape[1]), weights[0])
    width = sum(weight.shape[0] for weight in weights[:-1])
    saved = (num_conditions * num_chunks, width) if len(weights) > 1 else (0,)
    check_tensor(op, "hidden", hidden, saved, weights[0])
    check_needs(op, needs, [*inputs, *weights, *biases])


def chunked_mlp_reference(inputs, weights, biases, activation: str, num_outputs: int) -> Tensor:
    """Compute what :func:`chunked_mlp` does, in plain differentiable PyTorch.

    Args:
        inputs: Parts of the input, each ``[B or 1, N or 1, width]``.
        weights: Weight of each layer ``[out, in]``.
        biases: Bias of each layer ``[out]``, or none.
        activation: Name of the activation function of the hidden layers.
        num_outputs: Number of outputs a condition.

    Returns:
        The outputs ``[B, num_outputs]``.
    """
    out = mlp_layers(inputs, weights, biases, activation)[-1]  # [B or 1, N or 1, S]
    out = out.expand(*sizes_of(inputs), -1)
    return out.flatten(1)[:, :num_outputs].contiguous()


def _forward_reference(inputs, weights, biases, activation, num_outputs, save_hidden=False):
    _check(inputs, weights, biases, activation, num_outputs)
    num_conditions, num_chunks = sizes_of(inputs)
    *hidden, out = mlp_layers(inputs, weights, biases, activation)
    out = (
        out.expand(num_conditions, num_chunks, -1)
        .flatten(1)[:, :num_outputs]
        .clone(memory_format=torch.contiguous_format)
    )
    if not save_hidden or not hidden:
        return out, out.new_empty(0)
    rows = num_conditions * num_chunks
    hidden = [h.expand(num_conditions, num_chunks, -1).reshape(rows, h.shape[2]) for h in hidden]
    return out, torch.cat(hidden, dim=1)


def _backward_reference(grad_out, hidden, inputs, weights, biases, activation, needs):
    _check_backward(grad_out, hidden, inputs, weights, biases, activation, needs)
    return backward_of_active(grad_out, hidden, inputs, weights, biases, activation, needs, sizes_of(inputs))


def _differentiable_backward(grad_out, hidden, inputs, weights, biases, activation, needs):
    sizes = sizes_of(inputs)
    hidden = differentiable_hidden(inputs, weights, biases, activation, sizes)
    return mlp_backward(grad_out, hidden, inputs, weights, biases, activation, needs, sizes)


# --- Triton, on a GPU -----------------------------------------------------------------------------


def _forward_triton(inputs, weights, biases, activation, num_outputs, save_hidden=False):
    from hnetfast.kernels.chunked_mlp import chunked_mlp_forward  # pyright: ignore[reportMissingImports]

    _check(inputs, weights, biases, activation, num_outputs)
    return chunked_mlp_forward(inputs, weights, biases, activation, num_outputs, save_hidden)


def _backward_triton(grad_out, hidden, inputs, weights, biases, activation, needs):
    from hnetfast.kernels.chunked_mlp import chunked_mlp_backward  # pyright: ignore[reportMissingImports]

    _check_backward(grad_out, hidden, inputs, weights, biases, activation, needs)
    hidden = hidden.contiguous()  # hooks on saved tensors may change layouts
    network = inputs, weights, biases, activation
    return chunked_mlp_backward(grad_out, hidden, *network, needs, hidden_backward)


# --- tracing --------------------------------------------------------------------------------------


def _forward_fake(inputs, weights, biases, activation, num_outputs, save_hidden=False):
    _check(inputs, weights, biases, activation, num_outputs)
    num_conditions, num_chunks = sizes_of(inputs)
    out = inputs[0].new_empty(num_conditions, num_outputs)
    width = sum(w.shape[0] for w in weights[:-1])
    if not save_hidden or len(weights) == 1:
        return out, out.new_empty(0)
    return out, out.new_empty(num_conditions * num_chunks, width)


def _backward_fake(grad_out, hidden, inputs, weights, biases, activation, needs):
    _check_backward(grad_out, hidden, inputs, weights, biases, activation, needs)
    tensors = [*inputs, *weights, *biases]
    return [t.new_empty(t.shape if need else 0) for t, need in zip(tensors, needs, strict=True)]


# --- vmap ------------------------------------------------------------------------------------------


def _vmap(op, info, in_dims, inputs, weights, biases, activation, num_outputs, save_hidden=False):
    if any(d is not None for d in (*in_dims[1], *in_dims[2])):  # batched weights
        args = (inputs, weights, biases, activation, num_outputs, save_hidden)
        return loop_over_batch(op, info, (*in_dims, None)[:6], *args)
    parts, num_conditions = fold_batch(inputs, in_dims[0], info.batch_size)
    out, hidden = op(parts, weights, biases, activation, num_outputs, save_hidden)
    out = out.unflatten(0, (info.batch_size, num_conditions))
    if not save_hidden or len(weights) == 1:
        return (out, hidden), (0, None)
    return (out, hidden.unflatten(0, (info.batch_size, -1))), (0, 0)


# --- registration ---------------------------------------------------------------------------------

register_op(
    "chunked_mlp_backward(Tensor grad_out, Tensor hidden, Tensor[] inputs, Tensor[] weights, "
    "Tensor[] biases, str activation, bool[] needs) -> Tensor[]",
    _backward_reference,
    _backward_fake,
    differentiable=_differentiable_backward,
    cuda=_backward_triton,
)
_OP = register_op(
    "chunked_mlp(Tensor[] inputs, Tensor[] weights, Tensor[] biases, str activation, SymInt num_outputs, "
    "bool save_hidden=False) -> (Tensor out, Tensor hidden)",
    _forward_reference,
    _forward_fake,
    vmap=_vmap,
    cuda=_forward_triton,
    autocast=lowered,
)
