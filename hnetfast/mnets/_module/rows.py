"""Which set of weights each sample of a batch is computed with, for layers that compute with all sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hnetfast._errors import InputError, InputTypeError
from hnetfast.ops.batched_lora import AdapterRows


class SampleRows:
    """The sets of weights of the samples of one batch, as its layers meet them.

    A layer may see the samples themselves, more rows than samples (all tokens, or windows, one sample's after
    the other's), or a single row that all samples share.

    Args:
        rows: The set of each sample.
        per_set: How many samples each set has if all have as many and those of a set follow each other,
            else None.
    """

    def __init__(self, rows: AdapterRows, per_set: int | None = None) -> None:
        self._rows, self._per_set = rows, per_set
        self._index: dict[tuple[int, torch.device], Tensor] = {}

    @property
    def num_samples(self) -> int:
        """How many samples the batch has."""
        return self._rows.num_rows

    def spread(self, tensor: Tensor, place: str) -> Tensor:
        """Give every sample its row of what a layer gets or returns.

        Args:
            tensor: ``[rows, ...]``, or ``[1, ...]`` for all samples.
            place: Name of the layer.

        Returns:
            A tensor whose first dimension is a multiple of the number of samples.

        Raises:
            ValueError: It has another number of rows, or is nested, so that nothing tells which sample is
                where.
        """
        if tensor.is_nested:
            raise InputError(
                f"rows: {place!r} computes with a nested tensor, which samples cannot be told apart in; make "
                "nn.TransformerEncoder with enable_nested_tensor=False, or use forward"
            )
        size = tensor.shape[0] if tensor.ndim else 0
        if size == 1 and self.num_samples != 1:
            return tensor.expand(self.num_samples, *tensor.shape[1:])
        if tensor.ndim == 0 or (size % self.num_samples if self.num_samples else size):
            raise InputError(
                f"rows: {place!r} computes with the shape {list(tensor.shape)}, whose first dimension is no "
                f"multiple of the {self.num_samples} samples, so that they cannot be told apart there; use "
                "forward, one set after the other"
            )
        return tensor

    def of(self, tensor: Tensor) -> AdapterRows:
        """The rows of a tensor that :meth:`spread` returned, for :func:`~hnetfast.ops.batched_lora`.

        Args:
            tensor: The tensor.
        """
        return self._rows.repeated(self._times(tensor))

    def select(self, values: Tensor, tensor: Tensor) -> Tensor:
        """For every row of a tensor the value of its set.

        Args:
            values: ``[B, ...]``.
            tensor: ``[rows, ...]``, which :meth:`spread` returned.

        Returns:
            ``[rows, ...]``.
        """
        return values.index_select(0, self.index(tensor))

    def index(self, tensor: Tensor) -> Tensor:
        """For every row of a tensor its set.

        Args:
            tensor: ``[rows, ...]``, which :meth:`spread` returned.

        Returns:
            int64 ``[rows]``.
        """
        key = tensor.shape[0], tensor.device
        if key not in self._index:
            rows = self.of(tensor).to(tensor.device)
            sets = torch.arange(rows.num_adapters, device=tensor.device)
            index = sets.repeat_interleave(rows.offsets.diff(), output_size=rows.num_rows)
            if rows.order is not None:
                index = torch.empty_like(index).index_copy_(0, rows.order, index)
            self._index[key] = index
        return self._index[key]

    def linear(self, x: Tensor, weights: Tensor) -> Tensor:
        """Multiply every row by the matrix of its set.

        Args:
            x: ``[rows, ..., in]``, which :meth:`spread` returned.
            weights: ``[B, out, in]``.

        Returns:
            ``[rows, ..., out]``.
        """
        num_vectors = x.shape[1:-1].numel()
        if self._per_set is None:
            matrices = self.select(weights, x)  # [rows, out, in]
            products = torch.bmm(x.reshape(x.shape[0], num_vectors, x.shape[-1]), matrices.mT)
        else:
            num_vectors *= self._per_set * self._times(x)
            products = torch.bmm(x.reshape(weights.shape[0], num_vectors, x.shape[-1]), weights.mT)
        return products.reshape(*x.shape[:-1], weights.shape[1])

    def _times(self, tensor: Tensor) -> int:
        return tensor.shape[0] // self.num_samples if self.num_samples else 1


def as_rows(rows: Any, num_sets: int, num_samples: int) -> AdapterRows:
    """Check what says which samples belong to which set of weights.

    Args:
        rows: Argument ``rows`` of ``forward_batched``.
        num_sets: How many sets there are.
        num_samples: How many samples the batch has.

    Raises:
        TypeError: It is neither a list of counts nor :class:`~hnetfast.ops.AdapterRows`.
        ValueError: The numbers do not fit.
    """
    if rows is None:
        raise InputTypeError("rows: expected counts, or AdapterRows, got None")
    hint = ""
    if not isinstance(rows, AdapterRows):
        try:
            rows = AdapterRows(counts=rows)
        except InputError as error:
            raise type(error)(f"rows: {error}") from None
        if rows.num_adapters == num_samples:
            hint = f"; to say the set of each sample, pass AdapterRows(index=…, num_adapters={num_sets})"
    if rows.num_adapters != num_sets:
        raise InputError(
            f"rows: expected a count for each of {num_sets} sets of weights, got {rows.num_adapters}{hint}"
        )
    if rows.num_rows != num_samples:
        raise InputError(
            f"rows: expected one for each of the {num_samples} samples of the batch, "
            f"got {rows.num_rows} in all"
        )
    return rows


def samples_of_sets(rows: AdapterRows) -> Sequence[Tensor]:
    """The indices of the samples of every set.

    Args:
        rows: The set of each sample.
    """
    order = rows.order
    if order is None:
        order = torch.arange(rows.num_rows, device=rows.offsets.device)
    return order.split(rows.offsets.diff().tolist())
