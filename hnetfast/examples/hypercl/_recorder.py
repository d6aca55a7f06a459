"""A TensorBoard writer that remembers what was written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Recorder:
    """Passes scalars on to a writer, and keeps them: for figures, and for a run that goes on later.

    Args:
        writer: The writer.
    """

    def __init__(self, writer: SummaryWriter) -> None:
        self._writer = writer
        self.scalars: dict[str, list[tuple[int, float]]] = {}

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """Write a number.

        Args:
            tag: Its name.
            value: The number.
            step: When it was measured.
        """
        self.scalars.setdefault(tag, []).append((step, value))
        self._writer.add_scalar(tag, value, step)

    def state_dict(self) -> dict[str, Tensor]:
        """Return all numbers: for each tag pairs of step and value, float64 ``[n, 2]``."""
        return {tag: torch.tensor(pairs, dtype=torch.float64) for tag, pairs in self.scalars.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Write again what another recorder had written.

        Args:
            state: What its :meth:`state_dict` returned.
        """
        for tag, pairs in state.items():
            for step, value in pairs.tolist():
                self.add_scalar(tag, value, int(step))

    def close(self) -> None:
        """Close the writer."""
        self._writer.close()
