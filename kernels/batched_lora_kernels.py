"""The Triton kernels of ``hnetfast::batched_lora``; their launchers are in ``batched_lora.py``.

Notation: R rows sorted by adapter, N adapters; rows of adapter i are offsets[i] ≤ r < offsets[i + 1], and row
r lies in place order[r] of what is not sorted. Matrices [N, rank, width] lie anywhere: three strides. A block
has the same few rows whatever their number, so that no row's sums depend on how many others there are. The
rows of several adapters in a block are done one adapter after the other.
"""

import triton
import triton.language as tl

_UNSPECIALIZED = ["num_rows", "num_adapters"]


@triton.jit
def _find_adapter(p_offsets, num_adapters, row):
    """Return the adapter of a row: the last one that begins there or before."""
    i_low = row * 0
    i_high = i_low + num_adapters
    while i_high - i_low > 1:
        i_middle = (i_low + i_high) // 2
        is_before = tl.load(p_offsets + i_middle) <= row
        i_low = tl.where(is_before, i_middle, i_low)
        i_high = tl.where(is_before, i_high, i_middle)
    return i_low


@triton.jit
def _places(p_order, o_row, m_row, HAS_ORDER: tl.constexpr):
    """Return where sorted rows lie."""
    if HAS_ORDER:
        return tl.load(p_order + o_row, mask=m_row, other=0)
    return o_row


@triton.jit(do_not_specialize=_UNSPECIALIZED)
def _batched_lora_down_kernel(
    p_rows,
    p_matrices,
    p_offsets,
    p_order,
    p_out,
    num_rows,
    num_adapters,
    rank,
    width,
    row_stride,
    adapter_stride,
    rank_stride,
    width_stride,
    scale,
    HAS_ORDER: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_RANK: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Compute out[r, k] = scale · Σ_j rows[order[r], j] · matrices[i(r), k, j].

    rows [R, width], out [R, rank], sorted. A program does BLOCK_ROWS rows of BLOCK_RANK results.
    """
    first_row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS
    o_row = first_row + tl.arange(0, BLOCK_ROWS)
    m_row = o_row < num_rows
    end_row = tl.minimum(first_row + BLOCK_ROWS, num_rows)
    p_places = p_rows + _places(p_order, o_row, m_row, HAS_ORDER) * row_stride
    o_rank = tl.program_id(1).to(tl.int64) * BLOCK_RANK + tl.arange(0, BLOCK_RANK)
    m_rank = o_rank < rank
    i_adapter = _find_adapter(p_offsets, num_adapters, first_row)
    b_out = tl.zeros([BLOCK_ROWS, BLOCK_RANK], dtype=tl.float32)
    first = tl.load(p_offsets + i_adapter)
    while first < end_row:
        last = tl.load(p_offsets + i_adapter + 1)
        m_own = m_row & (o_row >= first) & (o_row < last)
        p_matrix = p_matrices + i_adapter * adapter_stride + o_rank * rank_stride
        b_sum = tl.zeros([BLOCK_ROWS, BLOCK_RANK], dtype=tl.float32)
        # None of an adapter without rows.
        for i_width in range(0, tl.where(last > first, width, 0), BLOCK_WIDTH):
            o_width = i_width + tl.arange(0, BLOCK_WIDTH).to(tl.int64)
            m_width = o_width < width
            m_rows = m_own[:, None] & m_width[None, :]
            b_rows = tl.load(p_places[:, None] + o_width[None, :], mask=m_rows, other=0.0)
            p_block = p_matrix[None, :] + o_width[:, None] * width_stride
            b_matrix = tl.load(p_block, mask=m_width[:, None] & m_rank[None, :], other=0.0)
            b_sum = tl.dot(b_rows.to(tl.float32), b_matrix.to(tl.float32), b_sum, input_precision=PRECISION)
        b_out = tl.where(m_own[:, None], b_sum, b_out)
        first = last
        i_adapter += 1
    p_result = p_out + o_row[:, None] * rank + o_rank[None, :]
    tl.store(p_result, b_out * scale, mask=m_row[:, None] & m_rank[None, :])


@triton.jit(do_not_specialize=_UNSPECIALIZED)
def _batched_lora_up_kernel(
    p_hidden,
    p_matrices,
    p_base,
    p_offsets,
    p_order,
    p_out,
    num_rows,
    num_adapters,
    rank,
    width,
    base_stride,
    adapter_stride,
    rank_stride,
    width_stride,
    scale,
    HAS_BASE: tl.constexpr,
    HAS_ORDER: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_RANK: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Compute out[order[r], j] = base[order[r], j] + scale · Σ_k hidden[r, k] · matrices[i(r), k, j].

    hidden [R, rank], sorted, base and out [R, width]. A program does BLOCK_ROWS rows of BLOCK_WIDTH results.
    """
    first_row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS
    o_row = first_row + tl.arange(0, BLOCK_ROWS)
    m_row = o_row < num_rows
    end_row = tl.minimum(first_row + BLOCK_ROWS, num_rows)
    o_place = _places(p_order, o_row, m_row, HAS_ORDER)
    o_width = tl.program_id(1).to(tl.int64) * BLOCK_WIDTH + tl.arange(0, BLOCK_WIDTH)
    m_width = o_width < width
    i_adapter = _find_adapter(p_offsets, num_adapters, first_row)
    b_out = tl.zeros([BLOCK_ROWS, BLOCK_WIDTH], dtype=tl.float32)
    first = tl.load(p_offsets + i_adapter)
    while first < end_row:
        last = tl.load(p_offsets + i_adapter + 1)
        m_own = m_row & (o_row >= first) & (o_row < last)
        p_matrix = p_matrices + i_adapter * adapter_stride + o_width * width_stride
        b_sum = tl.zeros([BLOCK_ROWS, BLOCK_WIDTH], dtype=tl.float32)
        for i_rank in range(0, tl.where(last > first, rank, 0), BLOCK_RANK):
            o_rank = i_rank + tl.arange(0, BLOCK_RANK).to(tl.int64)
            m_rank = o_rank < rank
            p_block = p_hidden + o_row[:, None] * rank + o_rank[None, :]
            b_hidden = tl.load(p_block, mask=m_own[:, None] & m_rank[None, :], other=0.0)
            p_block = p_matrix[None, :] + o_rank[:, None] * rank_stride
            b_matrix = tl.load(p_block, mask=m_rank[:, None] & m_width[None, :], other=0.0)
            b_sum = tl.dot(b_hidden, b_matrix.to(tl.float32), b_sum, input_precision=PRECISION)
        b_out = tl.where(m_own[:, None], b_sum, b_out)
        first = last
        i_adapter += 1
    m_out = m_row[:, None] & m_width[None, :]
    b_out *= scale
    if HAS_BASE:
        p_block = p_base + o_place[:, None] * base_stride + o_width[None, :]
        b_out += tl.load(p_block, mask=m_out, other=0.0).to(tl.float32)
    p_result = p_out + o_place[:, None] * width + o_width[None, :]
    tl.store(p_result, b_out.to(p_out.dtype.element_ty), mask=m_out)


@triton.jit(do_not_specialize=_UNSPECIALIZED)
def _batched_lora_sums_kernel(
    p_hidden,
    p_rows,
    p_offsets,
    p_order,
    p_out,
    num_rows,
    num_adapters,
    rank,
    width,
    row_stride,
    rank_stride,
    width_stride,
    scale,
    HAS_ORDER: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_RANK: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Compute out[i, k, j] = scale · Σ_r hidden[r, k] · rows[order[r], j] over the rows of adapter i.

    hidden [R, rank], sorted, rows [R, width], out [N, rank, width] in one of two layouts. A program does
    BLOCK_RANK × BLOCK_WIDTH results of one adapter, row after row.
    """
    i_adapter = tl.program_id(0).to(tl.int64)
    o_width = tl.program_id(1).to(tl.int64) * BLOCK_WIDTH + tl.arange(0, BLOCK_WIDTH)
    m_width = o_width < width
    o_rank = tl.program_id(2).to(tl.int64) * BLOCK_RANK + tl.arange(0, BLOCK_RANK)
    m_rank = o_rank < rank
    last = tl.load(p_offsets + i_adapter + 1)
    b_sum = tl.zeros([BLOCK_RANK, BLOCK_WIDTH], dtype=tl.float32)
    for i_row in range(tl.load(p_offsets + i_adapter), last, BLOCK_ROWS):
        o_row = i_row + tl.arange(0, BLOCK_ROWS)
        m_row = o_row < last
        p_block = p_hidden + o_row[None, :] * rank + o_rank[:, None]
        b_hidden = tl.load(p_block, mask=m_row[None, :] & m_rank[:, None], other=0.0)
        o_place = _places(p_order, o_row, m_row, HAS_ORDER)
        p_block = p_rows + o_place[:, None] * row_stride + o_width[None, :]
        b_rows = tl.load(p_block, mask=m_row[:, None] & m_width[None, :], other=0.0)
        b_sum = tl.dot(b_hidden, b_rows.to(tl.float32), b_sum, input_precision=PRECISION)
    p_matrix = p_out + i_adapter * width * rank
    p_result = p_matrix + o_rank[:, None] * rank_stride + o_width[None, :] * width_stride
    b_sum *= scale
    tl.store(p_result, b_sum.to(p_out.dtype.element_ty), mask=m_rank[:, None] & m_width[None, :])
