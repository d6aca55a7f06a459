"""Ranges of what ``chunked_mlp`` generates, each computed when it is needed and kept by nobody.

Only what the last layer reads is kept, ``[B, N, K]``. A range of outputs takes rows of the last layer's
matrix at both its ends, where it begins and ends within chunks, and the whole matrix for the chunks between.

The backward pass adds what each range contributes to the gradients of that matrix and of what it is
multiplied with, in sums that all ranges share, and goes on below the last layer once, with the sums: the
ranges depend on one scalar, which depends on all tensors of the network and whose gradient is therefore asked
for last. The gradient of a range itself is asked for as soon as the operations that use it have theirs, and
freed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hnetfast._errors import UnsupportedError
from hnetfast.ops._deferred_tensor import DeferredTensor
from hnetfast.ops._library import without_autocast
from hnetfast.ops._mlp_layers import hidden_backward, sizes_of
from hnetfast.ops._register import AUTOCAST_DTYPES
from hnetfast.ops.chunked_mlp import chunked_mlp, hidden_layers
from hnetfast.ops.grouped_mlp import Group

_LEAST_CHUNKS = 2  # at once: of a single one, the op without hidden layers adds in another order
_FEW_OUTPUTS, _FEW_CHUNKS = 1 << 18, 8  # at once at least: fewer chunks cost more in reading the matrix
_ALIGNED = 16  # elements; where tensors lie between multiples of that decides on bits of libraries' results


class OutputRanges:
    """The outputs of a network for B conditions, as tensors that are generated when they are needed.

    Their bits are those of :func:`~hnetfast.ops.chunked_mlp` where that is compiled for a CPU, as long as all
    sets of a call are alike; elsewhere they agree within rounding.

    Args:
        group: The network and its inputs.
        num_outputs: Outputs of a condition.

    Attributes:
        num_conditions: B.
    """

    def __init__(self, group: Group, num_outputs: int) -> None:
        self._num_outputs = num_outputs
        group = _lowered(group)
        tensors = [*group.inputs, *group.weights, *group.biases]
        needs = [torch.is_grad_enabled() and tensor.requires_grad for tensor in tensors]
        self._layer = _LastLayer(group, needs)
        self._joint = _Join.apply(self._layer, *tensors) if any(needs) else None
        self.num_conditions = self._layer.sizes[0]

    def tensors(self, shapes: Sequence[Sequence[int]], first: int, last: int, stacked: bool) -> list[Tensor]:
        """Cut the outputs of some conditions into tensors, which lie in memory as those of all outputs would.

        Args:
            shapes: Their shapes, one after the other.
            first: The first condition.
            last: The one after the last.
            stacked: Whether tensors have the number of conditions in front; else there is one condition.

        Returns:
            Deferred tensors ``[last - first, *shape]``, or ``[*shape]``.
        """
        found, start = [], 0
        for shape in shapes:
            stop = start + prod(shape)
            full = (last - first, *shape) if stacked else tuple(shape)
            gap = (self._num_outputs - (stop - start)) % _ALIGNED
            offset = (first * self._num_outputs + start) % _ALIGNED
            outputs = _Range(start, stop, first, last, full, offset, stop - start + gap)
            if self._joint is None:
                found.append(_deferred(self._layer, outputs))
            else:
                found.append(_Generate.apply(self._joint, self._layer, outputs))
            start = stop
        return found


class _Range(NamedTuple):
    """Outputs of several conditions.

    Attributes:
        start: The first output of each.
        stop: The one after the last.
        first: The first condition.
        last: The one after the last.
        shape: Shape of the tensor that they are.
        offset: Where it begins in its memory.
        pitch: Elements between two conditions in memory.
    """

    start: int
    stop: int
    first: int
    last: int
    shape: tuple[int, ...]
    offset: int
    pitch: int

    def extent(self) -> int:
        """Elements of its memory."""
        return self.offset + (self.last - self.first) * self.pitch

    def strides(self) -> tuple[int, ...]:
        """Strides of the tensor."""
        strides = torch.empty(self.shape, device="meta").stride()
        return strides if self.last - self.first == 1 else (self.pitch, *strides[1:])


class _Piece(NamedTuple):
    """Outputs ``[begin, end)`` of each of the ``count`` chunks from ``chunk`` on."""

    chunk: int
    count: int
    begin: int
    end: int


@dataclass
class _Sums:
    """Gradients so far: of the last matrix, of its bias, of what is multiplied with it ``[B, N, K]``."""

    weight: Tensor | None
    bias: Tensor | None
    rows: Tensor | None


class _LastLayer:
    """The last layer of a network and what it reads, without a graph."""

    def __init__(self, group: Group, needs: Sequence[bool]) -> None:
        inputs, weights, biases, self._activation = group
        self._tensors = [tensor.detach() for tensor in (*inputs, *weights, *biases)]
        self._versions = [_version(tensor) for tensor in self._tensors]
        self._needs = needs
        num_inputs, self._num_weights = len(inputs), len(weights)
        self._inputs = self._tensors[:num_inputs]
        self._weights = self._tensors[num_inputs : num_inputs + self._num_weights]
        self._biases = self._tensors[num_inputs + self._num_weights :]
        self._matrix = self._weights[-1]
        self._matrix_at = num_inputs + self._num_weights - 1
        self.sizes = sizes_of(inputs)
        self._sums: dict[int, _Sums] = {}  # of every backward pass that is under way
        with torch.no_grad(), without_autocast(self._matrix.device.type):
            if self._num_weights > 1:
                self._hidden = hidden_layers(self._inputs, self._weights, self._biases, self._activation)
                width = self._matrix.shape[1]
                self._rows = self._hidden[:, self._hidden.shape[1] - width :].reshape(*self.sizes, width)
                self._parts = [self._rows]
            else:
                self._parts = self._inputs
                self._rows = torch.cat([part.expand(*self.sizes, -1) for part in inputs], dim=2).detach()

    def generate(self, outputs: _Range) -> Tensor:
        """The values of a range."""
        self._check_unchanged()
        with torch.no_grad(), without_autocast(self._matrix.device.type):
            count = outputs.last - outputs.first
            memory = self._matrix.new_empty(outputs.extent())
            rows = memory.as_strided(
                (count, outputs.stop - outputs.start), (outputs.pitch, 1), outputs.offset
            )
            at = 0
            for piece in self._pieces(outputs):
                values = self._generate_piece(piece, outputs)
                rows[:, at : at + values.shape[1]] = values
                at += values.shape[1]
            return memory.as_strided(outputs.shape, outputs.strides(), outputs.offset)

    def _generate_piece(self, piece: _Piece, outputs: _Range) -> Tensor:
        chunk, count, begin, end = piece
        num_chunks = self.sizes[1]
        parts = []
        for part in self._parts:
            if part.shape[1] != 1:
                stop = chunk + max(count, min(num_chunks, _LEAST_CHUNKS))
                of_chunks = part[:, chunk:stop]
                if stop > num_chunks:
                    of_chunks = torch.cat([of_chunks, part[:, : stop - num_chunks]], dim=1)
                part = of_chunks
            parts.append(part if part.shape[0] == 1 else part[outputs.first : outputs.last])
        bias = [bias[begin:end] for bias in self._biases[-1:]]
        return chunked_mlp(parts, [self._matrix[begin:end]], bias, "identity", count * (end - begin))

    def _pieces(self, outputs: _Range) -> Iterator[_Piece]:
        size, (at, stop) = len(self._matrix), outputs[:2]
        most = max(_FEW_OUTPUTS // max(size, 1), _FEW_CHUNKS)
        if at == stop:
            yield _Piece(0, 1, 0, 0)
        while at < stop:
            chunk, begin = divmod(at, size)
            count = 1 if begin else min(max((stop - at) // size, 1), most)
            end = min(size, begin + stop - at)
            yield _Piece(chunk, count, begin, end)
            at += count * (end - begin)

    def add_gradient(self, grad: Tensor, outputs: _Range) -> None:
        """Add what a range contributes to the sums of this backward pass.

        Args:
            grad: The gradient of the tensor.
            outputs: The range.
        """
        self._check_unchanged()
        sums = self._sums.get(torch._C._current_graph_task_id()) or self._new_sums()
        num_conditions = outputs.last - outputs.first
        grad = grad.reshape(num_conditions, -1)
        some, at = slice(outputs.first, outputs.last), 0
        for chunk, count, begin, end in self._pieces(outputs):
            size, chunks = end - begin, slice(chunk, chunk + count)
            of_piece = grad[:, at : at + count * size].reshape(num_conditions * count, size)
            at += count * size
            matrix, rows = self._matrix[begin:end], self._rows[some, chunks].flatten(0, 1)
            of_piece, matrix, rows = (t.to(_sum_dtype(t)) for t in (of_piece, matrix, rows))
            if sums.weight is not None:
                sums.weight[begin:end].addmm_(of_piece.t(), rows)
            if sums.bias is not None:
                sums.bias[begin:end] += of_piece.sum(0)
            if sums.rows is not None:
                sums.rows[some, chunks] += (of_piece @ matrix).view(num_conditions, count, -1)

    def _new_sums(self) -> _Sums:
        bias_at = len(self._needs) - 1 if self._biases else None
        of_last = {self._matrix_at, bias_at}
        below = any(need for i, need in enumerate(self._needs) if i not in of_last)

        def zeros(like: Tensor) -> Tensor:
            return torch.zeros_like(like, dtype=_sum_dtype(like), memory_format=torch.contiguous_format)

        sums = _Sums(
            zeros(self._matrix) if self._needs[self._matrix_at] else None,
            zeros(self._biases[-1]) if bias_at is not None and self._needs[bias_at] else None,
            zeros(self._rows) if below else None,
        )
        self._sums[torch._C._current_graph_task_id()] = sums
        return sums

    def gradients(self) -> list[Tensor | None]:
        """The gradients of the network's tensors, from the sums of this backward pass, which are freed."""
        sums = self._sums.pop(torch._C._current_graph_task_id(), None)
        found: list[Tensor | None] = [None] * len(self._needs)
        if sums is None:
            return found
        if sums.rows is not None and self._num_weights > 1:
            network = self._inputs, self._weights, self._biases, self._activation
            found = hidden_backward(sums.rows.flatten(0, 1), self._hidden, *network, self._needs, self.sizes)
        elif sums.rows is not None:
            columns = sums.rows.split([part.shape[2] for part in self._inputs], dim=2)
            for i, (part, of_part) in enumerate(zip(self._inputs, columns, strict=True)):
                found[i] = of_part.sum_to_size(part.shape) if self._needs[i] else None
        found[self._matrix_at] = sums.weight
        if self._biases:
            found[-1] = sums.bias
        dtype = self._matrix.dtype
        return [
            None if grad is None or not need else grad.to(dtype)
            for grad, need in zip(found, self._needs, strict=True)
        ]

    def zero(self) -> Tensor:
        """The gradient of the scalar that all ranges depend on."""
        return self._matrix.new_zeros(())

    def _check_unchanged(self) -> None:
        if any(_version(t) != before for t, before in zip(self._tensors, self._versions, strict=True)):
            raise RuntimeError(
                "lazy: a parameter or an input of the hypernetwork has been modified by an inplace "
                "operation since the forward pass, so the weights cannot be generated once more; call "
                "backward() before the optimiser's step()"
            )


class _Join(torch.autograd.Function):
    """A scalar that depends on all tensors of a network."""

    @staticmethod
    def forward(ctx: Any, layer: _LastLayer, *tensors: Tensor) -> Tensor:
        ctx.layer = layer
        ctx.save_for_backward(*tensors)  # as if they were needed, so that autograd sees when they are changed
        return tensors[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        _ = ctx.saved_tensors
        return None, *ctx.layer.gradients()


class _Generate(torch.autograd.Function):
    """A range of outputs, which are not generated yet."""

    @staticmethod
    def forward(ctx: Any, joint: Tensor, layer: _LastLayer, outputs: _Range) -> Tensor:
        ctx.layer, ctx.outputs = layer, outputs
        ctx.set_materialize_grads(False)
        return _deferred(layer, outputs, lambda deferred: _Use.apply(deferred, layer, outputs))

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        if grad is not None:  # of operations that autograd does not see, such as functions of others
            _add_gradient(ctx, grad)
        return ctx.layer.zero(), None, None


class _Use(torch.autograd.Function):
    """A range of outputs where an operation uses it, after which autograd takes its gradient at once."""

    @staticmethod
    def forward(ctx: Any, deferred: Tensor, layer: _LastLayer, outputs: _Range) -> Tensor:
        ctx.layer, ctx.outputs = layer, outputs
        return _deferred(layer, outputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        _add_gradient(ctx, grad)
        return None, None, None


def _add_gradient(ctx: Any, grad: Tensor) -> None:
    if torch.is_grad_enabled():
        raise UnsupportedError(
            "lazy: expected create_graph=False, weights generated when they are needed have no gradients of "
            "gradients; pass the weights themselves"
        )
    ctx.layer.add_gradient(grad, ctx.outputs)


def _deferred(layer: _LastLayer, outputs: _Range, at_use: Callable | None = None) -> DeferredTensor:
    matrix = layer._matrix
    memory = torch.empty(outputs.extent(), dtype=matrix.dtype, device="meta")
    like = memory.as_strided(outputs.shape, outputs.strides(), outputs.offset)
    return DeferredTensor(like, matrix.device, partial(layer.generate, outputs), at_use)


def _sum_dtype(tensor: Tensor) -> torch.dtype:
    """Half and bfloat16 would round what a range adds to the sum of those before it."""
    return tensor.dtype if tensor.dtype == torch.float64 else torch.float32


def _version(tensor: Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version


def _lowered(group: Group) -> Group:
    """Cast the tensors as the op would be called with under automatic mixed precision."""
    device = group.weights[0].device.type
    if not torch.is_autocast_enabled(device):
        return group
    dtype = torch.get_autocast_dtype(device)

    def cast(tensors: Sequence[Tensor]) -> list[Tensor]:
        return [t.to(dtype) if t.dtype in AUTOCAST_DTYPES else t for t in tensors]

    return Group(cast(group.inputs), cast(group.weights), cast(group.biases), group.activation)
