"""An MLP applied to every pair of a condition and a chunk, in plain PyTorch: what several ops are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from hnetfast.ops._activations import ACTIVATIONS, activate_rows, activation_named
from hnetfast.ops._library import check_dense
from hnetfast.ops._row_products import times

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def sizes_of(inputs: Sequence[Tensor]) -> tuple[int, int]:
    """Number of conditions and of chunks that the parts broadcast to."""
    num_conditions = num_chunks = 1
    for part in inputs:
        if part.shape[0] != 1:
            num_conditions = part.shape[0]
        if part.shape[1] != 1:
            num_chunks = part.shape[1]
    return num_conditions, num_chunks


def check_network(op: str, inputs, weights, biases, activation: str) -> None:
    """Check the tensors of one network.

    Raises:
        ValueError: What does not fit, by its argument's name.
    """
    if not inputs or not weights:
        raise ValueError(f"{op}: inputs and weights must not be empty, got {len(inputs)}, {len(weights)}")
    activation_named(op, activation)
    if biases and len(biases) != len(weights):
        raise ValueError(f"{op}: {len(biases)} biases for {len(weights)} weights; give one each or none")
    for name, tensors in (("inputs", inputs), ("weights", weights), ("biases", biases)):
        for tensor in tensors:
            check_dense(op, name, tensor)
    for i, part in enumerate(inputs):
        if part.dim() != 3:
            raise ValueError(
                f"{op}: inputs[{i}] has shape {tuple(part.shape)}, expected "
                "[conditions or 1, chunks or 1, width]"
            )
    num_conditions, num_chunks = sizes_of(inputs)
    for i, part in enumerate(inputs):
        if part.shape[0] not in (1, num_conditions) or part.shape[1] not in (1, num_chunks):
            raise ValueError(
                f"{op}: inputs[{i}] has shape {tuple(part.shape)}, expected "
                f"[{num_conditions} or 1, {num_chunks} or 1, width]"
            )
    width = sum(part.shape[2] for part in inputs)
    for i, weight in enumerate(weights):
        if weight.dim() != 2 or weight.shape[1] != width:
            raise ValueError(f"{op}: weights[{i}] has shape {tuple(weight.shape)}, expected [out, {width}]")
        width = weight.shape[0]
        if biases and tuple(biases[i].shape) != (width,):
            raise ValueError(f"{op}: biases[{i}] has shape {tuple(biases[i].shape)}, expected [{width}]")
    first = weights[0]
    if first.dtype not in DTYPES:
        raise ValueError(f"{op}: weights[0] is {first.dtype}, accepted are {', '.join(map(str, DTYPES))}")
    for name, tensors in (("inputs", inputs), ("weights", weights), ("biases", biases)):
        for i, tensor in enumerate(tensors):
            if tensor.dtype != first.dtype or tensor.device != first.device:
                raise ValueError(
                    f"{op}: {name}[{i}] is {tensor.dtype} on {tensor.device}, but weights[0] is "
                    f"{first.dtype} on {first.device}"
                )


def check_needs(op: str, needs: Sequence[bool], tensors: Sequence[Tensor]) -> None:
    """Check that a backward pass was told of every tensor whether its gradient is wanted.

    Raises:
        ValueError: If not.
    """
    if len(needs) != len(tensors):
        raise ValueError(f"{op}: {len(needs)} needs for {len(tensors)} tensors")


def mlp_layers(inputs, weights, biases, activation: str) -> list[Tensor]:
    """Results of all layers, the hidden ones after their activation: ``[B or 1, N or 1, width]`` each.

    The bits of a condition's results do not depend on the other conditions.
    """
    _, num_chunks = sizes_of(inputs)

    def linear(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        weight = weight if weight.stride(1) == 1 else weight.contiguous()
        return times(rows.flatten(0, 1), weight, num_chunks, bias).view(*rows.shape[:2], len(weight))

    columns = weights[0].split([part.shape[2] for part in inputs], dim=1)
    x = cast(Tensor, sum(linear(part, w) for part, w in zip(inputs, columns, strict=True)))
    if biases:
        x = x + biases[0]
    results = []
    for i, weight in enumerate(weights[1:], start=1):
        h = activate_rows(x.flatten(0, 1), ACTIVATIONS[activation].function)
        results.append(h.view(x.shape))
        x = linear(results[-1], weight, biases[i] if biases else None)
    return [*results, x]


def differentiable_hidden(inputs, weights, biases, activation: str, sizes: tuple[int, int]) -> Tensor | None:
    """Results of the hidden layers side by side, with a graph; None if there are none."""
    hidden = [h.expand(*sizes, -1) for h in mlp_layers(inputs, weights, biases, activation)[:-1]]
    return torch.cat(hidden, dim=2) if hidden else None


def mlp_backward(grad_out, hidden, inputs, weights, biases, activation, needs, sizes):
    """Gradients of the tensors from that of all outputs ``[B, n]``, in plain PyTorch.

    Args:
        grad_out: Gradient; a last chunk that is not whole is taken as zeros.
        hidden: Results of the hidden layers side by side, ``[B·N, Σ widths]``.
        inputs: Parts of the input in the forward pass, each ``[B or 1, N or 1, width]``.
        weights: Weight of each layer ``[out, in]``.
        biases: Bias of each layer ``[out]``, or none.
        activation: Name of the activation function of the hidden layers.
        needs: Which gradients are wanted, in the order of the tensors.
        sizes: Numbers of conditions and of chunks.

    Returns:
        A tensor for each, empty if it was not wanted.
    """
    weight, widths = weights[-1], [len(weight) for weight in weights[:-1]]
    tail = sizes[1] * len(weight) - grad_out.shape[1]
    grad = F.pad(grad_out, (0, tail)).reshape(sizes[0] * sizes[1], len(weight))
    if widths:
        arguments = inputs, weights, biases, activation, needs, sizes
        grads = hidden_backward(times(grad, weight.t(), sizes[1]), hidden, *arguments)
        rows = hidden.reshape(len(grad), sum(widths))[:, sum(widths[:-1]) :]
        grads[len(inputs) + len(widths)] = _outer(grad, rows)
    else:
        grads = _first_layer_backward(grad, inputs, weight, needs, sizes)
    if biases:
        grads[-1] = grad.sum(0)
    return [grad.new_empty(0) if g is None or not need else g for g, need in zip(grads, needs, strict=True)]


def hidden_backward(grad, hidden, inputs, weights, biases, activation, needs, sizes) -> list[Tensor | None]:
    """Gradients below the last layer from that of what it reads, in plain PyTorch.

    Args:
        grad: Gradient of the last hidden layer, ``[B·N, K]``; all others are computed in its dtype.
        hidden: As for :func:`mlp_backward`, like all that follows; there is a hidden layer.
        inputs: See there.
        weights: See there.
        biases: See there.
        activation: See there.
        needs: See there.
        sizes: See there.

    Returns:
        A tensor for each that is wanted, else None, as for the last layer.
    """
    grads: list[Tensor | None] = [None] * len(needs)
    first_bias = len(inputs) + len(weights)
    widths = [len(weight) for weight in weights[:-1]]
    layers = hidden.reshape(len(grad), sum(widths)).to(grad.dtype).split(widths, dim=1)
    for i in reversed(range(len(widths))):
        grad = ACTIVATIONS[activation].gradient(grad, layers[i])
        if biases and needs[first_bias + i]:
            grads[first_bias + i] = grad.sum(0)
        if i > 0:
            if needs[len(inputs) + i]:
                grads[len(inputs) + i] = _outer(grad, layers[i - 1])
            if not any((*needs[: len(inputs) + i], *needs[first_bias : first_bias + i])):
                return grads
            grad = times(grad, weights[i].to(grad.dtype).t(), sizes[1])
    of_first = _first_layer_backward(grad, inputs, weights[0], needs, sizes)
    return [*of_first[: len(inputs) + 1], *grads[len(inputs) + 1 :]]


def _outer(grad: Tensor, x: Tensor) -> Tensor:
    """The gradient of a weight ``[out, in]``: the sum over all rows."""
    return times(grad.t(), x.t(), grad.shape[1])


def _first_layer_backward(grad: Tensor, inputs, weight: Tensor, needs, sizes) -> list[Tensor | None]:
    """Gradients of the inputs and of the first weight, from that of what it gives ``[B·N, width]``."""
    grads: list[Tensor | None] = [None] * len(needs)
    grad = grad.view(*sizes, len(weight))
    sums, of_columns = {}, []
    columns = weight.to(grad.dtype).split([part.shape[2] for part in inputs], dim=1)
    for i, (part, of_part) in enumerate(zip(inputs, columns, strict=True)):
        # A part that does not vary with the conditions (chunks) meets the sum of the gradient over them.
        key = part.shape[0] == sizes[0], part.shape[1] == sizes[1]
        if key not in sums:
            sums[key] = grad.sum_to_size(*part.shape[:2], len(weight)).flatten(0, 1)
        if needs[len(inputs)]:
            of_columns.append(_outer(sums[key], part.flatten(0, 1).to(grad.dtype)))
        if needs[i]:
            grads[i] = times(sums[key], of_part.t(), sizes[1]).view(part.shape)
    if of_columns:
        grads[len(inputs)] = torch.cat(of_columns, dim=1)
    return grads


def backward_of_active(grad_out, hidden, inputs, weights, biases, activation, needs, sizes):
    """The same without conditions that have no gradient: bits are those of a call for the others alone.

    Arguments and result as for :func:`mlp_backward`; not differentiable.
    """
    arguments = weights, biases, activation, needs
    num_conditions, num_chunks = sizes
    if grad_out.device.type != "cpu" or num_conditions < 2:  # elsewhere looking would be waiting
        return mlp_backward(grad_out, hidden, inputs, *arguments, sizes)
    active = grad_out.any(1).nonzero().flatten()
    if len(active) in (0, num_conditions):
        return mlp_backward(grad_out, hidden, inputs, *arguments, sizes)
    parts = [part if part.shape[0] == 1 else part[active] for part in inputs]
    width = sum(weight.shape[0] for weight in weights[:-1])
    rows = hidden.reshape(num_conditions, num_chunks * width)[active] if len(weights) > 1 else hidden
    results = mlp_backward(grad_out[active], rows, parts, *arguments, (len(active), num_chunks))
    for i, part in enumerate(inputs):
        if needs[i] and part.shape[0] != 1:
            results[i] = torch.zeros_like(part).index_copy_(0, active, results[i])
    return results


def fold_batch(inputs, in_dims, batch_size: int) -> tuple[list[Tensor], int]:
    """Make the batch of ``vmap`` part of the conditions: ``[V, B or 1, N or 1, w]`` to ``[V·B, N or 1, w]``.

    Args:
        inputs: Parts of the input.
        in_dims: The batched dimension of each, or None.
        batch_size: ``V``.

    Returns:
        The parts, and ``B``.
    """
    inner = [p if d is None else p.movedim(d, 0)[0] for p, d in zip(inputs, in_dims, strict=True)]
    num_conditions, _ = sizes_of(inner)
    parts = []
    for part, dim in zip(inputs, in_dims, strict=True):
        if dim is None and part.shape[0] == 1:
            parts.append(part)
            continue
        part = part.expand(batch_size, *part.shape) if dim is None else part.movedim(dim, 0)
        parts.append(part.expand(-1, num_conditions, -1, -1).flatten(0, 1))
    return parts, num_conditions
