"""Outputs of a network whose squared changes count in part, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hnetfast.ops._library import remembered


def _to_keep(tensor: Tensor) -> Tensor:
    with torch.inference_mode(False):  # autograd could not save a tensor made in it
        tensor = tensor.cpu()
        return tensor.clone() if tensor.is_inference() else tensor


class Corrections:
    """Squares of single outputs, times factors, to subtract.

    What was found out about them, and copies on other devices, are kept with the object: no step of training
    looks at them again or waits for a copy.

    Args:
        positions: Numbers of the outputs, int64 ``[E]``.
        factors: ``[B or 1, E]``.
        scaled: Factors to use instead, where those only tell which outputs never count.
    """

    def __init__(self, positions: Tensor, factors: Tensor, scaled: Tensor | None = None) -> None:
        self.positions, self.factors = map(_to_keep, (positions, factors))
        self._scaled = scaled
        self._known: dict[tuple, Any] = {}

    def __len__(self) -> int:
        return len(self.positions)

    def with_factors(self, scaled: Tensor) -> Corrections:
        """Replace the factors, and keep what has been found out about the positions.

        Args:
            scaled: The factors, of the shape of ``factors``.

        Returns:
            The new corrections.
        """
        other = Corrections(self.positions, self.factors, scaled)
        other._known = self._known
        return other

    def factors_like(self, tensor: Tensor) -> Tensor:
        """Return the factors in a tensor's dtype, on its device.

        Args:
            tensor: The tensor.
        """
        if self._scaled is not None:
            return self._scaled.to(tensor)
        return self.remembered(("factors", tensor.device, tensor.dtype), lambda: self.factors.to(tensor))

    def counts_like(self, tensor: Tensor, num_outputs: int) -> Tensor:
        """Return by how much the square of each output counts, ``[B or 1, num_outputs]``.

        Args:
            tensor: A tensor of the same dtype and device.
            num_outputs: Number of outputs of a condition.
        """

        def counts(factors: Tensor) -> Tensor:
            ones = factors.new_ones(len(factors), num_outputs)
            return ones.index_add(1, self.positions_on(tensor.device), factors, alpha=-1)

        if self._scaled is not None:
            return counts(self.factors_like(tensor))
        key = "counts", num_outputs, tensor.device, tensor.dtype
        return self.remembered(key, lambda: counts(self.factors_like(tensor)))

    def positions_on(self, device: torch.device) -> Tensor:
        """Return the positions on a device.

        Args:
            device: The device.
        """
        return self.remembered(("positions", device), lambda: self.positions.to(device))

    def split(self, lengths: Sequence[int]) -> list[Corrections]:
        """Return the corrections of each of several networks, whose positions count from its first output.

        Args:
            lengths: Their numbers of outputs.
        """
        return remembered(self._known, ("split", *lengths), lambda: self._split(lengths))

    def _split(self, lengths: Sequence[int]) -> list[Corrections]:
        results, start = [], 0
        for length in lengths:
            found = (self.positions >= start) & (self.positions < start + length)
            results.append(Corrections(self.positions[found] - start, self.factors[:, found]))
            start += length
        return results

    def remembered(self, key: tuple, find: Callable[[], Any]) -> Any:
        """Find something out once.

        Args:
            key: What it is.
            find: Finds it out.

        Returns:
            What ``find`` returned.
        """
        return find() if torch.compiler.is_compiling() else remembered(self._known, key, find)
