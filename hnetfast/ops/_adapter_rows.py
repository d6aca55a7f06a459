"""Which rows of a batch belong to which adapter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hnetfast._checks import check_integer
from hnetfast._errors import InputError, InputTypeError
from hnetfast.ops._library import may_remember


class AdapterRows:
    """Which rows of a batch belong to which adapter, made once and used by all layers of a network.

    It is not to be made inside of a compiled function, which may be given one.

    Args:
        counts: Integers ``[N]``: that many rows of adapter 0, then that many of adapter 1, and so on. An
            adapter may have none.
        index: Integers ``[R]``, the adapter of each row, in any order. It is sorted here, once, and no row
            is moved for that. Excludes ``counts``.
        num_adapters: How many adapters there are, N; needed with ``index``.

    Attributes:
        num_adapters: N.
        num_rows: How many rows there are, R.
        offsets: Where the rows of each adapter begin once sorted, and R, int64 ``[N + 1]``.
        order: The rows sorted by adapter, int64 ``[R]``; None where they are sorted anyway.

    Raises:
        TypeError: Something is not an integer, or not one of the arguments was given.
        ValueError: A count is negative, there is no such adapter, or the arguments exclude each other.

    Example:
        >>> AdapterRows(counts=[2, 0, 1]).offsets
        tensor([0, 2, 2, 3])
        >>> AdapterRows(index=[1, 0, 1], num_adapters=3).order
        tensor([1, 0, 2])
    """

    def __init__(
        self,
        counts: Tensor | Sequence[int] | None = None,
        index: Tensor | Sequence[int] | None = None,
        num_adapters: int | None = None,
    ) -> None:
        if counts is not None:
            if index is not None:
                raise InputError("index: excludes counts, which was given too")
            values = _integers("counts", counts)
            for i, count in enumerate(values.tolist()):
                check_integer(f"counts[{i}]", count, 0)
            if num_adapters not in (None, len(values)):
                raise InputError(f"counts: expected {num_adapters} counts, got {len(values)}")
            order = None
        elif index is not None:
            if num_adapters is None:
                raise InputTypeError("index: needs num_adapters, got None")
            values, order = _of_index(index, check_integer("num_adapters", num_adapters, 0))
        else:
            raise InputTypeError("counts: expected counts, or an index, got neither")
        self.num_adapters: int = len(values)
        self.offsets: Tensor = torch.cat([values.new_zeros(1), values.cumsum(0)])
        self.order: Tensor | None = order
        self.num_rows: int = int(self.offsets[-1])
        self._made: dict[tuple, AdapterRows] = {}

    def repeated(self, times: int) -> AdapterRows:
        """Return the same for a batch in which as many rows follow each other in place of each.

        Those of the tokens of a sequence, for one; ``batched_lora`` does that where ``x`` has such.

        Args:
            times: How many rows, at least 0.

        Returns:
            Rows of the same adapters, the same object in every call.

        Raises:
            TypeError: It is no integer.
            ValueError: It is negative.
        """
        times = check_integer("times", times, 0)
        return self if times == 1 else self._like(self.offsets.device, times)

    def to(self, device: torch.device | str) -> AdapterRows:
        """Return the same on a device.

        Args:
            device: The device.

        Returns:
            Rows of the same adapters, the same object in every call.
        """
        device = torch.device(device)
        return self if device == self.offsets.device else self._like(device, 1)

    def _like(self, device: torch.device, times: int) -> AdapterRows:
        made = self._made.get((device, times))
        if made is None:
            with torch.inference_mode(False):  # autograd could not save tensors made in it
                made = object.__new__(AdapterRows)
                made.num_adapters, made.num_rows, made._made = self.num_adapters, self.num_rows * times, {}
                made.offsets, made.order = (self.offsets * times).to(device), self.order
                if self.order is not None:
                    steps = torch.arange(times, device=self.order.device)
                    made.order = (self.order[:, None] * times + steps).flatten().to(device)
            if may_remember():
                self._made[device, times] = made
        return made

    def __repr__(self) -> str:
        """Show how many there are of what."""
        kind = "sorted" if self.order is None else "in any order"
        return f"AdapterRows({self.num_rows} rows of {self.num_adapters} adapters, {kind})"


def _integers(name: str, values: Any) -> Tensor:
    """A vector of int64."""
    if not isinstance(values, Tensor):
        try:
            entries = list(values)
        except TypeError:
            raise InputTypeError(f"{name}: expected a list or a vector of integers, got {values!r}") from None
        for i, entry in enumerate(entries):
            if not hasattr(entry, "__index__"):
                raise InputTypeError(f"{name}[{i}]: expected an integer, got {entry!r}")
        values = torch.tensor([check_integer(f"{name}[{i}]", v, -(2**63)) for i, v in enumerate(entries)])
        values = values.long()  # without entries it is a vector of floating point
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise InputTypeError(f"{name}: expected integers, got {values.dtype}")
    if values.dim() != 1:
        raise InputError(f"{name}: expected a vector, got the shape {list(values.shape)}")
    return values.detach().long()


def _of_index(index: Any, num_adapters: int) -> tuple[Tensor, Tensor | None]:
    """How many rows each adapter has, and the rows sorted by adapter, None if they are."""
    values = _integers("index", index)
    wrong = (values < 0) | (values >= num_adapters)
    if wrong.any():
        i = int(wrong.nonzero()[0])
        raise InputError(f"index[{i}]: expected an adapter in [0, {num_adapters}), got {int(values[i])}")
    counts = torch.zeros(num_adapters, dtype=torch.int64, device=values.device)
    counts.scatter_add_(0, values, torch.ones_like(values))
    is_sorted = bool((values[1:] >= values[:-1]).all())
    return counts, None if is_sorted else values.argsort(stable=True)
