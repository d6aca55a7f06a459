"""What the weights that a hypernetwork generates are made of."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from hnetfast.ops.grouped_mlp import Group


class Part(NamedTuple):
    """A source of generated weights for B conditions.

    Attributes:
        source: A network and its inputs, as :func:`hnetfast.ops.chunked_mlp` takes them, or a tensor
            ``[B or 1, num_outputs]``.
        num_outputs: Number of outputs of a condition, the first ones.
    """

    source: Group | Tensor
    num_outputs: int
