"""Some rows of bytes as numbers from 0 to 1: the batches of handlers of images."""

from __future__ import annotations

import torch
from torch import Tensor

from hnetfast.ops._library import check_dense
from hnetfast.ops._register import register_op


def pixel_rows(pixels: Tensor, rows: Tensor) -> Tensor:
    """Return ``pixels[rows] / 255``.

    Args:
        pixels: Bytes, uint8 ``[N, D]``, contiguous.
        rows: Which rows, int64 ``[n]``; negative ones count from the end.

    Returns:
        New tensor, float64 ``[n, D]``, correctly rounded.

    Raises:
        ValueError: If shapes or dtypes are others.
        IndexError: If a row is not there.
    """
    return _OP(pixels, rows)


def pixel_rows_reference(pixels: Tensor, rows: Tensor) -> Tensor:
    """Pick rows of pixels, in plain PyTorch.

    Args:
        pixels: uint8 ``[N, D]``.
        rows: Which rows, int64 ``[n]``.

    Returns:
        Numbers from 0 to 1, float64 ``[n, D]``.

    Raises:
        ValueError: If an argument has another type or shape.
    """
    _check(pixels, rows)
    # A tensor as divisor: a GPU would multiply by the reciprocal of a number.
    return pixels[rows].to(torch.float64) / torch.tensor(255.0, dtype=torch.float64, device=pixels.device)


def _check(pixels: Tensor, rows: Tensor) -> None:
    check_dense("pixel_rows", "pixels", pixels)
    check_dense("pixel_rows", "rows", rows)
    if pixels.dim() != 2 or pixels.dtype != torch.uint8:
        raise ValueError(f"pixel_rows: pixels is {pixels.dtype} {list(pixels.shape)}, expected uint8 [N, D]")
    if rows.dim() != 1 or rows.dtype != torch.int64:
        raise ValueError(f"pixel_rows: rows is {rows.dtype} {list(rows.shape)}, expected int64 [n]")
    if pixels.device != rows.device:
        raise ValueError(f"pixel_rows: rows is on {rows.device}, expected {pixels.device} as of pixels")


def _fake(pixels, rows):
    _check(pixels, rows)
    return pixels.new_empty((rows.shape[0], pixels.shape[1]), dtype=torch.float64)


_OP = register_op("pixel_rows(Tensor pixels, Tensor rows) -> Tensor", pixel_rows_reference, _fake)
