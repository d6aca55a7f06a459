"""By how much all outputs of a network have changed, from the changes of its parameters.

Notation as in :mod:`hnetfast.ops.chunked_mlp`; ``*`` marks what was, ``f`` are factors. With what the last
layer reads, ``h``, and its change ``Δ = h - h*``::

    d[b]  = concat_i((W - W*) h[b, i] + W* Δ[b, i] + (b - b*))[:n]
    loss  = Σ f[b, o] d[b, o]²

No two outputs are subtracted, whose rounding errors would be as large as those of the outputs. The gradients
are those of the network for ``2 f d``, since what it was is constant.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hnetfast.ops._library import check_dense, check_tensor
from hnetfast.ops._mlp_layers import check_needs, check_network, differentiable_hidden, mlp_backward, sizes_of
from hnetfast.ops._output_reg_products import hidden_and_change
from hnetfast.ops._register import register_op
from hnetfast.ops.chunked_mlp import chunked_mlp_reference
from hnetfast.ops.grouped_mlp import Group


def squared_change(current: Group, previous: Group, num_outputs: int, factors: Tensor) -> Tensor:
    """Sum of the squared changes of all outputs, each times its factor.

    Args:
        current: The network and its inputs for B conditions, as :func:`hnetfast.ops.chunked_mlp` takes them,
            in single or double precision.
        previous: The same as it was, in the same dtype; no gradient reaches it.
        num_outputs: Outputs of a condition, ``n``; all chunks but the last are whole.
        factors: ``[B or 1, n or 1]``, in the same dtype. With a factor of 0 a change
            counts as 0 even if it is not finite.

    Returns:
        Scalar, differentiable with respect to the tensors of ``current`` and the factors, twice too.

    Raises:
        TypeError, ValueError: Sizes, dtypes or devices that do not fit; the argument is named.
    """
    inputs, weights, biases, activation = current
    return _OP(inputs, weights, biases, factors, activation, num_outputs, *previous[:3])[0]


# --- reference ------------------------------------------------------------------------------------


def check_change(op: str, current: Group, previous: Group, num_outputs: int) -> None:
    """Check a network, and that what it was has the same sizes.

    Args:
        op: The op that they were given to.
        current: The network as it is.
        previous: The network as it was, and its inputs then.
        num_outputs: Outputs of a condition.

    Raises:
        ValueError: If not; the argument is named.
    """
    for group in (current, previous):
        check_network(op, *group)
    sizes, before = sizes_of(current.inputs), sizes_of(previous.inputs)
    if sizes != before:
        raise ValueError(f"{op}: previous is for {before} conditions and chunks, current for {sizes}")
    shapes, old_shapes = ([tuple(t.shape) for t in (*g.weights, *g.biases)] for g in (current, previous))
    if shapes != old_shapes or current.activation != previous.activation:
        raise ValueError(
            f"{op}: previous has layers of shapes {old_shapes} and activation {previous.activation!r}, "
            f"current has {shapes} and {current.activation!r}"
        )
    widths, old_widths = ([part.shape[2] for part in g.inputs] for g in (current, previous))
    if widths != old_widths:
        raise ValueError(f"{op}: previous has inputs of widths {old_widths}, current of {widths}")
    size, width = current.weights[-1].shape
    if sizes[1] == 0 or width == 0:
        raise ValueError(
            f"{op}: got {sizes[1]} chunks and a last layer of width {width}, accepted is at least 1 of each"
        )
    least = (sizes[1] - 1) * size + 1
    if not least <= num_outputs < least + size:
        raise ValueError(
            f"{op}: num_outputs is {num_outputs}, accepted for {sizes[1]} chunks of {size} is {least} to "
            f"{sizes[1] * size}"
        )


def _check_factors(op: str, factors: Tensor, weight: Tensor, conditions: int, outputs: int) -> None:
    check_dense(op, "factors", factors)
    shape = tuple(factors.shape)
    fits = len(shape) == 2 and shape[0] in (1, conditions) and shape[1] in (1, outputs)
    if not fits or factors.dtype != weight.dtype or factors.device != weight.device:
        raise ValueError(
            f"{op}: factors is {factors.dtype} {shape} on {factors.device}, expected {weight.dtype} "
            f"[{conditions} or 1, {outputs} or 1] on {weight.device}"
        )


def _check(current: Group, previous: Group, num_outputs: int, factors: Tensor) -> tuple[int, int]:
    op = "squared_change"
    check_change(op, current, previous, num_outputs)
    weight, before = current.weights[-1], previous.weights[-1]
    if weight.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{op}: weights[0] is {weight.dtype}, accepted are float32 and float64")
    if (before.dtype, before.device) != (weight.dtype, weight.device):
        raise ValueError(
            f"{op}: previous is {before.dtype} on {before.device}, current {weight.dtype} on {weight.device}"
        )
    sizes = sizes_of(current.inputs)
    _check_factors(op, factors, weight, sizes[0], num_outputs)
    return sizes


def _that_count(factors: Tensor, change: Tensor) -> Tensor:
    """The changes, 0 for those that are not finite where the factor is 0."""
    return torch.where((factors != 0) | change.isfinite(), change, 0)


def _checked(
    inputs, weights, biases, factors, activation, num_outputs, *rest: Any
) -> tuple[Group, Group, tuple[int, int], bool]:
    """The network, what it was (without gradients), conditions and chunks, and the last argument."""
    lists, save_hidden = rest[:3], len(rest) > 3 and rest[3]
    old_inputs, old_weights, old_biases = ([t.detach() for t in tensors] for tensors in lists)
    current = Group(inputs, weights, biases, activation)
    previous = Group(old_inputs, old_weights, old_biases, activation)
    return current, previous, _check(current, previous, num_outputs, factors), save_hidden


def _forward_reference(*args):
    current, previous, sizes, save_hidden = _checked(*args)
    weights, biases, factors, num_outputs = current.weights, current.biases, args[3], args[5]
    layers, delta = hidden_and_change(current, previous, *sizes)
    old_weight = previous.weights[-1]
    change = layers[-1] @ (weights[-1] - old_weight).t() + delta @ old_weight.t()
    if biases:
        change = change + (biases[-1] - previous.biases[-1])
    change = change.expand(*sizes, -1).flatten(1)[:, :num_outputs].contiguous()
    loss = (factors * _that_count(factors, change).square()).sum()
    if not save_hidden or len(weights) == 1 or sizes[0] == 0:
        return loss, change, change.new_empty(0)
    hidden = torch.cat([h.expand(*sizes, -1) for h in layers], dim=2)
    return loss, change, hidden.flatten(0, 1)


def _check_backward(grad_loss, change, hidden, inputs, weights, biases, factors, activation, needs):
    op = "squared_change_backward"
    check_network(op, inputs, weights, biases, activation)
    sizes, outputs = sizes_of(inputs), change.shape[1]
    check_tensor(op, "grad_loss", grad_loss, (), weights[0])
    check_tensor(op, "change", change, (sizes[0], outputs), weights[0])
    if outputs > sizes[1] * len(weights[-1]):
        raise ValueError(
            f"{op}: change has {outputs} outputs, accepted are at most {sizes[1] * len(weights[-1])}"
        )
    width = sum(len(weight) for weight in weights[:-1])
    check_tensor(
        op, "hidden", hidden, (sizes[0] * sizes[1], width) if width and sizes[0] else (0,), weights[0]
    )
    _check_factors(op, factors, weights[0], sizes[0], outputs)
    check_needs(op, needs, [*inputs, *weights, *biases, factors])


def _gradients(grad_loss, change, hidden, inputs, weights, biases, factors, activation, needs):
    change = _that_count(factors, change)
    grad = 2 * grad_loss * factors * change
    sizes, size = sizes_of(inputs), len(weights[-1])
    if sizes[1] == 1 and factors.shape[1] > 1:  # outputs that never count may be anything: 0 times infinity
        never = F.pad((factors == 0).all(0), (0, size - factors.shape[1]))
        weights = [*weights[:-1], weights[-1].masked_fill(never.unsqueeze(1), 0)]
    grads = mlp_backward(grad, hidden, inputs, weights, biases, activation, needs[:-1], sizes)
    of_factors = (grad_loss * change.square()).sum_to_size(factors.shape) if needs[-1] else grad.new_empty(0)
    return [*grads, of_factors]


def _backward_reference(*args):
    _check_backward(*args)
    return _gradients(*args)


def _differentiable_backward(grad_loss, change, hidden, inputs, weights, biases, factors, activation, needs):
    out = chunked_mlp_reference(inputs, weights, biases, activation, change.shape[1])
    change = change.detach() + (out - out.detach())  # what the network was is constant
    hidden = differentiable_hidden(inputs, weights, biases, activation, sizes_of(inputs))
    return _gradients(grad_loss, change, hidden, inputs, weights, biases, factors, activation, needs)


# --- tracing --------------------------------------------------------------------------------------


def _forward_fake(*args):
    current, _, sizes, save_hidden = _checked(*args)
    weights, factors, num_outputs = current.weights, args[3], args[5]
    loss, change = factors.new_empty(()), factors.new_empty(sizes[0], num_outputs)
    if not save_hidden or len(weights) == 1 or sizes[0] == 0:
        return loss, change, factors.new_empty(0)
    return loss, change, factors.new_empty(sizes[0] * sizes[1], sum(len(weight) for weight in weights[:-1]))


def _backward_fake(*args):
    _check_backward(*args)
    inputs, weights, biases, factors, _, needs = args[3:]
    tensors = [*inputs, *weights, *biases, factors]
    return [t.new_empty(t.shape if need else 0) for t, need in zip(tensors, needs, strict=True)]


# --- registration ---------------------------------------------------------------------------------

register_op(
    "squared_change_backward(Tensor grad_loss, Tensor change, Tensor hidden, Tensor[] inputs, "
    "Tensor[] weights, Tensor[] biases, Tensor factors, str activation, bool[] needs) -> Tensor[]",
    _backward_reference,
    _backward_fake,
    differentiable=_differentiable_backward,
)
_OP = register_op(
    "squared_change(Tensor[] inputs, Tensor[] weights, Tensor[] biases, Tensor factors, str activation, "
    "int num_outputs, Tensor[] previous_inputs, Tensor[] previous_weights, Tensor[] previous_biases, "
    "bool save_hidden=False) -> (Tensor loss, Tensor change, Tensor hidden)",
    _forward_reference,
    _forward_fake,
)
