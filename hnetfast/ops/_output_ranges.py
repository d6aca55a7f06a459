"""Ranges of what MLPs generate, each computed when it is needed and kept by nobody.

Only what the last layers read is kept, ``[B, N, K]``. A range of outputs takes rows of a last layer's matrix
at both its ends, where it begins and ends within chunks, and the whole matrix for the chunks between.

The backward pass adds what each range contributes to the gradients of that matrix and of what it is
multiplied with, in sums that all ranges share, and goes on below the last layer once, with the sums: the
ranges depend on one scalar, which depends on all tensors of the networks and whose gradient is therefore
asked for last. The gradient of a range itself is asked for as soon as the operations that use it have theirs,
and freed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, chain
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

_FEW_OUTPUTS, _FEW_CHUNKS = 1 << 18, 8  # at once at least: fewer chunks cost more in reading the matrix
_SHORT_RUN, _FEW_RUNS = 64, 1024  # outputs; runs that may be shorter
_ALIGNED = 16  # elements; where tensors lie between multiples of that decides on bits of libraries' results


def check_runs(runs: tuple[Tensor, Tensor], num_outputs: int) -> None:
    """Refuse outputs that are generated in so short runs that the calls would take most of the time.

    Args:
        runs: Where they begin, as :class:`OutputRanges` takes it.
        num_outputs: Outputs of a condition.

    Raises:
        NotImplementedError: If they are.
    """
    if len(runs[0]) > _FEW_RUNS + num_outputs // _SHORT_RUN:
        raise UnsupportedError(
            f"lazy: expected weights in runs of {_SHORT_RUN} outputs or more on average, got "
            f"{num_outputs} in {len(runs[0])} runs"
        )


class OutputRanges:
    """The outputs of networks for B conditions, as tensors that are generated when they are needed.

    Their bits are those of the ops that generate all of them where these are compiled for a CPU, as long as
    all sets of a call are alike; elsewhere they agree within rounding.

    Args:
        groups: The networks and their inputs, with B conditions each.
        counts: Outputs of a condition, of each.
        runs: Where runs of outputs begin: among those that are asked for, in ascending order, and among those
            of the networks, one after the other. Integers on a CPU.
        num_outputs: Outputs that are asked for, of a condition.

    Attributes:
        num_conditions: B.
    """

    def __init__(
        self, groups: Sequence[Group], counts: Sequence[int], runs: tuple[Tensor, Tensor], num_outputs: int
    ) -> None:
        self._first, self._begins = runs
        self._num_outputs = num_outputs
        self._bounds = [0, *accumulate(counts)]  # of the networks, among their outputs
        groups = [_lowered(group) for group in groups]
        tensors = [[*group.inputs, *group.weights, *group.biases] for group in groups]
        needs = [[torch.is_grad_enabled() and t.requires_grad for t in own] for own in tensors]
        self._layers = _LastLayers([_LastLayer(group, own) for group, own in zip(groups, needs, strict=True)])
        is_needed = any(map(any, needs))
        self._joint = _Join.apply(self._layers, *chain.from_iterable(tensors)) if is_needed else None
        self.num_conditions = self._layers.layers[0].sizes[0]

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
            outputs = _Range(self._runs(start, stop), first, last, full, offset, stop - start + gap)
            if self._joint is None:
                found.append(_deferred(self._layers, outputs))
            else:
                found.append(_Generate.apply(self._joint, self._layers, outputs))
            start = stop
        return found

    def _runs(self, start: int, stop: int) -> list[_Run]:
        """Where outputs ``[start, stop)`` of a condition come from, one after the other."""
        found = []
        positions = torch.tensor([start, max(stop - 1, start)], device="cpu")
        first_run, last_run = (torch.searchsorted(self._first, positions, right=True) - 1).tolist()
        chosen = slice(first_run, last_run + 1)
        stops = [*self._first[chosen][1:].tolist(), stop]
        for first, begin, end in zip(
            self._first[chosen].tolist(), self._begins[chosen].tolist(), stops, strict=True
        ):
            at = begin + max(start - first, 0)
            last = at + end - max(start, first)
            while at < last:
                i = bisect_right(self._bounds, at) - 1  # the network
                stop_at = min(last, self._bounds[i + 1])
                found.append(_Run(i, at - self._bounds[i], stop_at - self._bounds[i]))
                at = stop_at
        return found


class _Run(NamedTuple):
    """Outputs of a network for a condition.

    Attributes:
        network: Its number.
        start: The first output.
        stop: The one after the last.
    """

    network: int
    start: int
    stop: int


class _Range(NamedTuple):
    """Outputs of several conditions.

    Attributes:
        runs: Where they come from, for each condition.
        first: The first condition.
        last: The one after the last.
        shape: Shape of the tensor that they are.
        offset: Where it begins in its memory.
        pitch: Elements between two conditions in memory.
    """

    runs: list[_Run]
    first: int
    last: int
    shape: tuple[int, ...]
    offset: int
    pitch: int

    def extent(self) -> int:
        """Elements of its memory."""
        return self.offset + (self.last - self.first) * self.pitch

    def num_outputs(self) -> int:
        """Outputs of each condition."""
        return sum(run.stop - run.start for run in self.runs)

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


class _LastLayers:
    """The last layers of networks that generate together."""

    def __init__(self, layers: list[_LastLayer]) -> None:
        self.layers = layers
        self.matrix = layers[0].matrix  # whose dtype and device are those of all

    def generate(self, outputs: _Range) -> Tensor:
        """The values of a range."""
        with torch.no_grad(), without_autocast(self.matrix.device.type):
            memory = self.matrix.new_empty(outputs.extent())
            shape = outputs.last - outputs.first, outputs.num_outputs()
            rows = memory.as_strided(shape, (outputs.pitch, 1), outputs.offset)
            for run, columns in zip(outputs.runs, self._columns(rows, outputs), strict=True):
                self.layers[run.network].generate(columns, run, outputs.first, outputs.last)
            return memory.as_strided(outputs.shape, outputs.strides(), outputs.offset)

    def add_gradient(self, grad: Tensor, outputs: _Range) -> None:
        """Add what a range contributes to the sums of this backward pass; ``grad`` is its gradient."""
        rows = grad.reshape(outputs.last - outputs.first, outputs.num_outputs())
        for layer in self.layers:  # also those whose outputs nobody uses have gradients, of zeros
            layer.start_sums()
        for run, columns in zip(outputs.runs, self._columns(rows, outputs), strict=True):
            self.layers[run.network].add_gradient(columns, run, outputs.first, outputs.last)

    def gradients(self) -> list[Tensor | None]:
        """The gradients of all tensors of all networks, from the sums of this backward pass."""
        return [grad for layer in self.layers for grad in layer.gradients()]

    @staticmethod
    def _columns(rows: Tensor, outputs: _Range) -> Sequence[Tensor]:
        return rows.split([run.stop - run.start for run in outputs.runs], 1) if outputs.runs else ()


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
        self.matrix = self._weights[-1]
        self._matrix_at = num_inputs + self._num_weights - 1
        self.sizes = sizes_of(inputs)
        self._sums: dict[int, _Sums] = {}  # of every backward pass that is under way
        with torch.no_grad(), without_autocast(self.matrix.device.type):
            if self._num_weights > 1:
                self._hidden = hidden_layers(self._inputs, self._weights, self._biases, self._activation)
                width = self.matrix.shape[1]
                self._rows = self._hidden[:, self._hidden.shape[1] - width :].reshape(*self.sizes, width)
                self._parts = [self._rows]
            else:
                self._parts = self._inputs
                self._rows = torch.cat([part.expand(*self.sizes, -1) for part in inputs], dim=2).detach()

    def generate(self, to: Tensor, run: _Run, first: int, last: int) -> None:
        """Write the outputs of a run for conditions ``[first, last)`` into ``to``, a row for each."""
        self._check_unchanged()
        at = 0
        for piece in self._pieces(run):
            values = self._generate_piece(piece, first, last)
            to[:, at : at + values.shape[1]] = values
            at += values.shape[1]

    def _generate_piece(self, piece: _Piece, first: int, last: int) -> Tensor:
        chunk, count, begin, end = piece
        num_chunks, parts = self.sizes[1], []
        # Of a single chunk, the op without hidden layers adds what it reads side by side in another order.
        least = min(num_chunks, 2) if len(self._parts) > 1 else 1
        for part in self._parts:
            if part.shape[1] != 1:
                stop = chunk + max(count, least)
                of_chunks = part[:, chunk:stop]
                if stop > num_chunks:
                    of_chunks = torch.cat([of_chunks, part[:, : stop - num_chunks]], dim=1)
                part = of_chunks
            parts.append(part if part.shape[0] == 1 else part[first:last])
        bias = [bias[begin:end] for bias in self._biases[-1:]]
        return chunked_mlp(parts, [self.matrix[begin:end]], bias, "identity", count * (end - begin))

    def _pieces(self, run: _Run) -> Iterator[_Piece]:
        size, (_, at, stop) = len(self.matrix), run
        most = max(_FEW_OUTPUTS // max(size, 1), _FEW_CHUNKS)
        while at < stop:
            chunk, begin = divmod(at, size)
            count = 1 if begin else min(max((stop - at) // size, 1), most)
            end = min(size, begin + stop - at)
            yield _Piece(chunk, count, begin, end)
            at += count * (end - begin)

    def add_gradient(self, grad: Tensor, run: _Run, first: int, last: int) -> None:
        """Add what a run contributes to the sums of this backward pass.

        Args:
            grad: The gradient of its outputs ``[last - first, size]``.
            run: The run.
            first: The first condition.
            last: The one after the last.
        """
        self._check_unchanged()
        sums = self._sums[torch._C._current_graph_task_id()]
        num_conditions, some, at = last - first, slice(first, last), 0
        for chunk, count, begin, end in self._pieces(run):
            size, chunks = end - begin, slice(chunk, chunk + count)
            of_piece = grad[:, at : at + count * size].reshape(num_conditions * count, size)
            at += count * size
            matrix, rows = self.matrix[begin:end], self._rows[some, chunks].flatten(0, 1)
            of_piece, matrix, rows = (t.to(_sum_dtype(t)) for t in (of_piece, matrix, rows))
            if sums.weight is not None:
                sums.weight[begin:end].addmm_(of_piece.t(), rows)
            if sums.bias is not None:
                sums.bias[begin:end] += of_piece.sum(0)
            if sums.rows is not None:
                sums.rows[some, chunks] += (of_piece @ matrix).view(num_conditions, count, -1)

    def start_sums(self) -> None:
        """Make the sums of this backward pass, unless there are some."""
        task = torch._C._current_graph_task_id()
        if task in self._sums:
            return
        bias_at = len(self._needs) - 1 if self._biases else None
        of_last = {self._matrix_at, bias_at}
        below = any(need for i, need in enumerate(self._needs) if i not in of_last)

        def zeros(like: Tensor) -> Tensor:
            return torch.zeros_like(like, dtype=_sum_dtype(like), memory_format=torch.contiguous_format)

        self._sums[task] = _Sums(
            zeros(self.matrix) if self._needs[self._matrix_at] else None,
            zeros(self._biases[-1]) if bias_at is not None and self._needs[bias_at] else None,
            zeros(self._rows) if below else None,
        )

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
        dtype = self.matrix.dtype
        return [
            None if grad is None or not need else grad.to(dtype)
            for grad, need in zip(found, self._needs, strict=True)
        ]

    def _check_unchanged(self) -> None:
        if any(_version(t) != before for t, before in zip(self._tensors, self._versions, strict=True)):
            raise RuntimeError(
                "lazy: a parameter or an input of the hypernetwork has been modified by an inplace "
                "operation since the forward pass, so the weights cannot be generated once more; call "
                "backward() before the optimiser's step()"
            )


class _Join(torch.autograd.Function):
    """A scalar that depends on all tensors of the networks."""

    @staticmethod
    def forward(ctx: Any, layers: _LastLayers, *tensors: Tensor) -> Tensor:
        ctx.layers = layers
        ctx.save_for_backward(*tensors)  # as if they were needed, so that autograd sees when they are changed
        return tensors[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        _ = ctx.saved_tensors
        return None, *ctx.layers.gradients()


class _Generate(torch.autograd.Function):
    """A range of outputs, which are not generated yet."""

    @staticmethod
    def forward(ctx: Any, joint: Tensor, layers: _LastLayers, outputs: _Range) -> Tensor:
        ctx.layers, ctx.outputs = layers, outputs
        ctx.set_materialize_grads(False)
        return _deferred(layers, outputs, lambda deferred: _Use.apply(deferred, layers, outputs))

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        if grad is not None:  # of operations that autograd does not see, such as functions of others
            _add_gradient(ctx, grad)
        return ctx.layers.matrix.new_zeros(()), None, None


class _Use(torch.autograd.Function):
    """A range of outputs where an operation uses it, after which autograd takes its gradient at once."""

    @staticmethod
    def forward(ctx: Any, deferred: Tensor, layers: _LastLayers, outputs: _Range) -> Tensor:
        ctx.layers, ctx.outputs = layers, outputs
        return _deferred(layers, outputs)

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
    ctx.layers.add_gradient(grad, ctx.outputs)


def _deferred(layers: _LastLayers, outputs: _Range, at_use: Callable | None = None) -> DeferredTensor:
    memory = torch.empty(outputs.extent(), dtype=layers.matrix.dtype, device="meta")
    like = memory.as_strided(outputs.shape, outputs.strides(), outputs.offset)
    return DeferredTensor(like, layers.matrix.device, partial(layers.generate, outputs), at_use)


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
