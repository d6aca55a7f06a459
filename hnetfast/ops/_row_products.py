"""Products of rows with a matrix on a CPU, in plain PyTorch, such that the bits of a row depend on it alone.

A library chooses its algorithm, and with it the order of the sums, by the number of rows, by their addresses
and by the number of threads. All of this is fixed here: rows are copied to aligned addresses and multiplied
in blocks of a number of rows that the caller knows, as several products that no two threads share.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_ALIGNED = 16  # elements: rows begin at multiples of the longest vector register
_MOST_ROWS, _FEWEST_ROWS = 64, 8  # of a block: powers of two, with others the place of a row counts
_SMALL_REDUCED = 1 << 12  # elements of a matrix of half or bfloat16 for which the number of rows counts
_REDUCED = (torch.float16, torch.bfloat16)


def times(x: Tensor, weight: Tensor, usual_rows: int, bias: Tensor | None = None) -> Tensor:
    """Multiply rows with a matrix.

    Args:
        x: Rows ``[R, K]``.
        weight: Transposed matrix ``[S, K]``. Where its rows are not contiguous, bits depend on all rows of
            ``x``, but not on the number of threads.
        usual_rows: How many rows there are at least, as a rule; bits depend on this number.
        bias: Is added to each row, ``[S]``.

    Returns:
        Tensor ``[R, S]``.
    """
    if x.device.type != "cpu":
        return F.linear(x, weight, bias)
    if 1 not in weight.stride():
        weight = weight.contiguous()
    if x.dtype in _REDUCED:
        return _reduced(x.contiguous(), weight, usual_rows, bias)
    num_rows, width = x.shape
    size = _FEWEST_ROWS
    while 4 * size <= usual_rows and size < _MOST_ROWS:
        size *= 2
    count = max(-(-num_rows // size), 2)  # a single product takes another way through the library
    blocks = F.pad(x, (0, -width % _ALIGNED, 0, count * size - num_rows))
    blocks = blocks.view(count, size, blocks.shape[1])[:, :, :width]
    result = torch.bmm(blocks, weight.t().expand(count, -1, -1)).flatten(0, 1)[:num_rows]
    return result if bias is None else result + bias


def _reduced(x: Tensor, weight: Tensor, usual_rows: int, bias: Tensor | None) -> Tensor:
    """The same for half and bfloat16: from two rows on there is one order for matrices that are not small."""
    if weight.numel() <= _SMALL_REDUCED:
        start = None if bias is None else bias.float()
        return times(x.float(), weight.float(), usual_rows, start).to(x.dtype)
    rows = torch.cat([x, x]) if len(x) == 1 else x
    return F.linear(rows, weight, bias)[: len(x)]
