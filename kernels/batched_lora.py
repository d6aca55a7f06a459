"""Launchers of ``batched_lora``: two forward, four backward, adapters and rows are not copied."""

from collections.abc import Sequence

import torch
from torch import Tensor

from . import chunked_mlp_tiles as tiles
from .batched_lora_kernels import (
    _batched_lora_down_kernel,
    _batched_lora_sums_kernel,
    _batched_lora_up_kernel,
)
from .chunked_mlp import _device_of

_BLOCK_ROWS = 16  # the fewest that a product takes; often an adapter has no more
# Terms of a product at a time: in float32, all of a block are held in registers.
_DOWN_TERMS, _UP_TERMS = 32, 16
_MOST_RANK = 32  # of a block
_BLOCK_WIDTH = 64


def batched_lora_forward(
    x: Tensor,
    a: Tensor,
    b: Tensor,
    base: Tensor | None,
    scale: float,
    offsets: Tensor,
    order: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Apply the adapters.

    Args:
        x: Inputs [R, in].
        a: First matrices [N, rank, in].
        b: Second matrices [N, out, rank].
        base: What is added [R, out], or None.
        scale: Factor of the adapters.
        offsets: Where the rows of each adapter begin [N + 1].
        order: The rows sorted by adapter [R], None if they are sorted.

    Returns:
        The results [R, out], and what is between the two products [R, rank], sorted, in float32.
    """
    hidden = x.new_empty((x.shape[0], a.shape[1]), dtype=torch.float32)
    out = (x if base is None else base).new_empty((x.shape[0], b.shape[1]))
    with _device_of(x):
        _down(x, a, offsets, order, hidden, 1.0)
        _up(hidden, b.mT, base, offsets, order, out, scale)
    return out, hidden


def batched_lora_backward(
    grad_out: Tensor,
    hidden: Tensor,
    x: Tensor,
    a: Tensor,
    b: Tensor,
    scale: float,
    offsets: Tensor,
    order: Tensor | None,
    needs: Sequence[bool],
) -> list[Tensor]:
    """Gradients of x, a and b.

    Args:
        grad_out: Gradient of the results [R, out].
        hidden: What ``batched_lora_forward`` returned.
        x: As given to it, like all that follow.
        a: See there.
        b: See there.
        scale: See there.
        offsets: See there.
        order: See there.
        needs: Which gradients are wanted.

    Returns:
        The gradients; an empty tensor where none is wanted.
    """
    found = [t.new_empty(tuple(t.shape) if need else (0,)) for t, need in zip((x, a, b), needs, strict=False)]
    with _device_of(x):
        if needs[0] or needs[1]:
            grad_hidden = hidden.new_empty(tuple(hidden.shape))
            _down(grad_out, b.mT, offsets, order, grad_hidden, scale)
            if needs[0]:
                _up(grad_hidden, a, None, offsets, order, found[0], 1.0)
            if needs[1]:
                _sums(grad_hidden, x, offsets, order, found[1], 1.0)
        if needs[2]:
            _sums(hidden.contiguous(), grad_out, offsets, order, found[2].mT, scale)
    return found


def _options(*tensors: Tensor) -> dict:
    """How products are computed: in tf32 where it was asked for, or where all that is read is exact in it."""
    exact = all(t.dtype in (torch.bfloat16, torch.float16) for t in tensors)
    precision = tiles.input_precision(tensors[0].dtype if exact else torch.float32)
    return {"BLOCK_ROWS": _BLOCK_ROWS, "PRECISION": precision, "num_warps": 4}


def _rank_block(rank: int) -> int:
    return min(tiles.padded_width(rank), _MOST_RANK)


def _count(size: int, block: int) -> int:
    return -(-size // block)


def _down(
    rows: Tensor, matrices: Tensor, offsets: Tensor, order: Tensor | None, out: Tensor, scale: float
) -> None:
    """out[r] = scale · matrices[i(r)] rows[order[r]], of matrices [N, rank, width]."""
    num_adapters, rank, width = matrices.shape
    if out.numel() == 0:
        return
    rows = rows if rows.stride(1) == 1 else rows.contiguous()
    grid = _count(len(rows), _BLOCK_ROWS), _count(rank, _rank_block(rank))
    _batched_lora_down_kernel[grid](
        *(rows, matrices, offsets, offsets if order is None else order, out),
        *(len(rows), num_adapters, rank, width, rows.stride(0), *matrices.stride(), scale),
        HAS_ORDER=order is not None,
        BLOCK_RANK=_rank_block(rank),
        BLOCK_WIDTH=_DOWN_TERMS,
        **_options(rows, matrices),
    )


def _up(
    hidden: Tensor,
    matrices: Tensor,
    base: Tensor | None,
    offsets: Tensor,
    order: Tensor | None,
    out: Tensor,
    scale: float,
) -> None:
    """out[order[r]] = base[order[r]] + scale · matrices[i(r)]ᵀ hidden[r], of matrices [N, rank, width]."""
    num_adapters, rank, width = matrices.shape
    if out.numel() == 0:
        return
    if base is not None and base.stride(1) != 1:
        base = base.contiguous()
    grid = _count(len(out), _BLOCK_ROWS), _count(width, _BLOCK_WIDTH)
    _batched_lora_up_kernel[grid](
        *(hidden, matrices, out if base is None else base, offsets),
        *(offsets if order is None else order, out),
        *(len(out), num_adapters, rank, width, 0 if base is None else base.stride(0), *matrices.stride()),
        scale,
        HAS_BASE=base is not None,
        HAS_ORDER=order is not None,
        BLOCK_RANK=_UP_TERMS,
        BLOCK_WIDTH=_BLOCK_WIDTH,
        **_options(matrices, out),
    )


def _sums(
    hidden: Tensor, rows: Tensor, offsets: Tensor, order: Tensor | None, out: Tensor, scale: float
) -> None:
    """out[i] = scale · Σ_r hidden[r] rows[order[r]]ᵀ over the rows of adapter i; out is [N, rank, width]."""
    num_adapters, rank, width = out.shape
    if out.numel() == 0:
        return
    rows = rows if rows.stride(1) == 1 else rows.contiguous()
    grid = num_adapters, _count(width, _BLOCK_WIDTH), _count(rank, _rank_block(rank))
    _batched_lora_sums_kernel[grid](
        *(hidden, rows, offsets, offsets if order is None else order, out),
        *(len(rows), num_adapters, rank, width, rows.stride(0), *out.stride()[1:], scale),
        HAS_ORDER=order is not None,
        BLOCK_RANK=_rank_block(rank),
        BLOCK_WIDTH=_BLOCK_WIDTH,
        **_options(rows, out),
    )
