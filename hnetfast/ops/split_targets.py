"""Cut generated weights, one flat row a condition, into the tensors of the target network.

Unlike other ops, these return views, which no op with a schema of its own may: they are composites, their
gradients part of the C++, and transforms of PyTorch see the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod

import torch
from torch import Tensor

from hnetfast.ops._library import EXTENSION_LOADED, LIBRARY, takes_plain_tensors

LIBRARY.define("split_targets(Tensor flat, int[] dims, int[] ranks) -> Tensor[]")
LIBRARY.define("split_stacked(Tensor flat, int[] dims, int[] ranks) -> Tensor[]")
_TARGETS = torch.ops.hnetfast.split_targets.default
_STACKED = torch.ops.hnetfast.split_stacked.default


def split_targets(flat: Tensor, shapes: Sequence[Sequence[int]]) -> list[list[Tensor]]:
    """View every row of ``flat`` as a list of tensors with the given shapes.

    Each result is a tensor of its own to autograd, which allows changing it in place. A change of it or of
    ``flat`` is noticed in the backward pass wherever the graph holds any of them, as with views.

    All gradients of the tensors meet in one concatenation; a ``narrow`` for each tensor would add up as many
    zero-padded copies of the whole gradient.

    Args:
        flat: Generated weights, contiguous, shape ``[B, n]``.
        shapes: Shapes of the target tensors; their sizes add up to ``n``.

    Returns:
        ``B`` lists of ``len(shapes)`` tensors in the memory of ``flat``.

    Raises:
        ValueError, RuntimeError: The sizes do not add up to ``n``.
    """
    # Tracing and torch.func do not allow an op's results to share memory either.
    if EXTENSION_LOADED and takes_plain_tensors():
        tensors = _TARGETS(flat, *_flat_shapes(tuple(map(tuple, shapes))))
    else:
        tensors = split_targets_reference(flat, shapes)
    count = len(shapes)
    return [tensors[b * count : (b + 1) * count] for b in range(flat.shape[0])]


def split_stacked(flat: Tensor, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
    """View the rows of ``flat`` as tensors of the given shapes, those of all conditions in one tensor.

    Args:
        flat: Generated weights, contiguous rows, shape ``[B, n]``.
        shapes: Shapes of the target tensors; their sizes add up to ``n``.

    Returns:
        ``len(shapes)`` tensors ``[B, *shape]`` in the memory of ``flat``, ``n`` elements apart in the first
        dimension.

    Raises:
        ValueError, RuntimeError: The sizes do not add up to ``n``.
    """
    if EXTENSION_LOADED and takes_plain_tensors() and flat.stride(1) == 1:
        return _STACKED(flat, *_flat_shapes(tuple(map(tuple, shapes))))
    return split_stacked_reference(flat, shapes)


def split_stacked_reference(flat: Tensor, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
    """Cut rows into tensors, those of all rows stacked, in plain PyTorch.

    Args:
        flat: ``[B, n]``.
        shapes: Shapes of the tensors of a row.

    Returns:
        Views ``[B, *shape]``, one for each shape.
    """
    pieces = flat.split_with_sizes([prod(shape) for shape in shapes], 1)
    return [piece.view(flat.shape[0], *shape) for piece, shape in zip(pieces, shapes, strict=True)]


@lru_cache(maxsize=64)
def _flat_shapes(shapes: tuple[tuple[int, ...], ...]) -> tuple[list[int], list[int]]:
    """All sizes in a row, and the rank of each shape: an operator's schema has no lists of lists."""
    return [size for shape in shapes for size in shape], [len(shape) for shape in shapes]


def split_targets_reference(flat: Tensor, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
    """Cut rows into tensors, those of one row after the other, in plain PyTorch.

    Args:
        flat: ``[B, n]``.
        shapes: Shapes of the tensors of a row.

    Returns:
        Views of these shapes, ``B`` times as many.
    """
    pieces = flat.reshape(-1).split_with_sizes([prod(shape) for shape in shapes] * flat.shape[0])
    return [piece.view(shape) for piece, shape in zip(pieces, list(shapes) * flat.shape[0], strict=True)]
