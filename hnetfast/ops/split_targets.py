"""Cut generated weights, one flat row a condition, into the tensors of the target network."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from torch import Tensor


def split_targets(flat: Tensor, shapes: Sequence[Sequence[int]]) -> list[list[Tensor]]:
    """View every row of ``flat`` as a list of tensors with the given shapes.

    One split for all conditions: its backward pass is a single concatenation, where a ``narrow`` for each
    tensor would add up as many zero-padded copies of the whole gradient.

    Args:
        flat: Generated weights, shape ``[B, n]``.
        shapes: Shapes of the target tensors; their sizes add up to ``n``.

    Returns:
        ``B`` lists of ``len(shapes)`` views of ``flat``.
    """
    num_conditions, num_targets = flat.shape[0], len(shapes)
    sizes = [prod(shape) for shape in shapes]
    pieces = flat.reshape(-1).split_with_sizes(sizes * num_conditions)
    views = [piece.view(shape) for piece, shape in zip(pieces, list(shapes) * num_conditions, strict=True)]
    return [views[i : i + num_targets] for i in range(0, len(views), num_targets)]
