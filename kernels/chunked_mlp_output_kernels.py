"""The Triton kernels of the output layer of ``hnetfast::chunked_mlp``; their launchers are in
``chunked_mlp_products.py``.

Notation: B conditions, N chunks, S chunk size, n outputs, R = B·N rows (row r = b·N + i), K features.
Every kernel loads, converts to float32, computes, and stores; none uses atomics, so results are reproducible
bit for bit. Offsets that can pass 2³¹ are int64.
"""

import triton
import triton.language as tl

from .chunked_mlp_hidden_kernels import _accumulate_product

_UNSPECIALIZED = ["num_rows", "num_chunks", "chunk_size", "num_outputs", "repeat", "row_groups"]


@triton.jit(do_not_specialize=_UNSPECIALIZED)
def _chunked_mlp_fwd_kernel(
    p_features,
    p_weight,
    p_offset,
    p_out,
    num_rows,
    num_chunks,
    chunk_size,
    num_outputs,
    repeat,
    WIDTH: tl.constexpr,
    LEFT_OVER: tl.constexpr,
    FEATURE_PITCH: tl.constexpr,
    WEIGHT_PITCH: tl.constexpr,
    HAS_OFFSET: tl.constexpr,
    REPEATED: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
    NUM_STAGES: tl.constexpr,
    ALIGNMENT: tl.constexpr,
):
    """Compute out[r // N + b, (r % N)·S + j] = Σ_k features[r, k] · weight[j, k] + offset[b, j], b < repeat.

    features [rows, K], weight [S, K], offset [repeat, S], out [conditions, n]. With hidden layers rows = R
    and repeat = 1 (offset is the bias); without them rows = N, repeat = B and offset is the conditions' own
    product, so that a product of N rows fills all B conditions. Elements past n are not written. A program
    does BLOCK_ROWS rows of BLOCK_SIZE outputs. The programs of one tile of weight are neighbours in the grid:
    device memory is read for the first, the others find it in the L2 cache.
    """
    num_blocks = tl.cdiv(num_rows, BLOCK_ROWS)
    i_tile = tl.program_id(0) // num_blocks
    i_block = tl.program_id(0) % num_blocks
    o_in_tile = tl.arange(0, BLOCK_SIZE)
    o_size = i_tile * BLOCK_SIZE + o_in_tile
    m_size = o_size < chunk_size
    o_in_block = tl.arange(0, BLOCK_ROWS)
    o_row = i_block * BLOCK_ROWS + o_in_block
    m_row = o_row < num_rows
    b_product = _accumulate_product(
        tl.zeros([BLOCK_ROWS, BLOCK_SIZE], dtype=tl.float32),
        p_features + i_block.to(tl.int64) * (BLOCK_ROWS * FEATURE_PITCH),
        o_in_block * FEATURE_PITCH,
        m_row,
        p_weight + i_tile.to(tl.int64) * (BLOCK_SIZE * WEIGHT_PITCH),
        o_in_tile * WEIGHT_PITCH,
        m_size,
        WIDTH,
        LEFT_OVER,
        BLOCK_K,
        PRECISION,
        NUM_STAGES,
    )
    o_chunk = (o_row % num_chunks).to(tl.int64) * chunk_size
    # How many outputs of this row's chunk exist: fewer than S in the last chunk, none past the last row.
    size = tl.where(m_row, tl.maximum(tl.minimum(num_outputs - o_chunk, chunk_size), 0), 0).to(tl.int32)
    size = tl.multiple_of(size, ALIGNMENT)
    m_out = o_size[None, :] < size[:, None]
    o_out = tl.multiple_of((o_row // num_chunks).to(tl.int64) * num_outputs + o_chunk, ALIGNMENT)
    p_rows = p_out + o_out[:, None] + o_size[None, :]
    if REPEATED:
        for i_repeat in range(repeat):
            p_offset_row = p_offset + i_repeat * chunk_size.to(tl.int64)
            b_offset = tl.load(p_offset_row + o_size, mask=m_size, other=0.0).to(tl.float32)
            o_repeat = tl.multiple_of(i_repeat * num_outputs.to(tl.int64), ALIGNMENT)
            b_out = b_product + b_offset[None, :]
            tl.store(p_rows + o_repeat, b_out.to(p_out.dtype.element_ty), mask=m_out)
    else:
        if HAS_OFFSET:
            b_product += tl.load(p_offset + o_size, mask=m_size, other=0.0).to(tl.float32)[None, :]
        tl.store(p_rows, b_product.to(p_out.dtype.element_ty), mask=m_out)


@triton.jit
def _backward_of_tile(
    b_grad_features,
    i_tile,
    i_rows,
    is_first_tile,
    p_grad_out,
    p_features,
    p_weight,
    p_grad_weight,
    p_grad_offset,
    p_partial,
    num_rows,
    num_chunks,
    chunk_size,
    num_outputs,
    repeat,
    row_groups,
    WIDTH: tl.constexpr,
    FEATURE_PITCH: tl.constexpr,
    WEIGHT_PITCH: tl.constexpr,
    GRAD_WEIGHT_PITCH: tl.constexpr,
    PARTIAL_PITCH: tl.constexpr,
    NEED_WEIGHT: tl.constexpr,
    NEED_OFFSET: tl.constexpr,
    NEED_FEATURES: tl.constexpr,
    REPEATED: tl.constexpr,
    ONE_BLOCK: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
    NUM_STAGES: tl.constexpr,
    ALIGNMENT: tl.constexpr,
):
    """Do ``_chunked_mlp_bwd_kernel`` for one tile of outputs; the sums over tiles go in and come out.

    grad_features [BLOCK_ROWS, BLOCK_K] in registers if ONE_BLOCK, else partial [rows, PARTIAL_PITCH].
    """
    o_in_tile = tl.arange(0, BLOCK_SIZE)
    o_size = i_tile * BLOCK_SIZE + o_in_tile
    m_size = o_size < chunk_size
    o_feature = tl.arange(0, BLOCK_K)
    m_feature = o_feature < WIDTH
    m_weight = m_size[:, None] & m_feature[None, :]
    o_in_block = tl.arange(0, BLOCK_ROWS)
    b_grad_weight = tl.zeros([BLOCK_SIZE, BLOCK_K], dtype=tl.float32)
    b_grad_sum = tl.zeros([BLOCK_ROWS, BLOCK_SIZE], dtype=tl.float32)
    for i_block in range(i_rows, tl.cdiv(num_rows, BLOCK_ROWS), row_groups):
        o_row = i_block * BLOCK_ROWS + o_in_block
        m_row = o_row < num_rows
        o_first_row = tl.cast(i_block, tl.int64) * BLOCK_ROWS
        o_chunk = (o_row % num_chunks).to(tl.int64) * chunk_size
        size = tl.where(m_row, tl.maximum(tl.minimum(num_outputs - o_chunk, chunk_size), 0), 0).to(tl.int32)
        size = tl.multiple_of(size, ALIGNMENT)
        m_out = o_size[None, :] < size[:, None]
        o_out = tl.multiple_of((o_row // num_chunks).to(tl.int64) * num_outputs + o_chunk, ALIGNMENT)
        p_rows = p_grad_out + o_out[:, None] + o_size[None, :]
        if REPEATED:
            b_grad = tl.zeros([BLOCK_ROWS, BLOCK_SIZE], dtype=tl.float32)
            for i_repeat in tl.range(0, repeat, num_stages=NUM_STAGES):
                o_repeat = tl.multiple_of(i_repeat * num_outputs.to(tl.int64), ALIGNMENT)
                b_part = tl.load(p_rows + o_repeat, mask=m_out, other=0.0).to(tl.float32)
                b_grad += b_part
                if NEED_OFFSET:
                    b_column = tl.sum(b_part, axis=0)
                    o_offset = (i_rows.to(tl.int64) * repeat + i_repeat) * chunk_size + o_size
                    if i_block != i_rows:
                        b_column += tl.load(p_grad_offset + o_offset, mask=m_size, other=0.0)
                    tl.store(p_grad_offset + o_offset, b_column, mask=m_size)
            # The next block of rows reads grad_offset back, each thread also what others wrote.
            tl.debug_barrier()
        else:
            b_grad = tl.load(p_rows, mask=m_out, other=0.0).to(tl.float32)
            if NEED_OFFSET:
                b_grad_sum += b_grad
        if NEED_WEIGHT:
            o_in_features = o_in_block[:, None] * FEATURE_PITCH + o_feature[None, :]
            p_block = p_features + o_first_row * FEATURE_PITCH
            m_block = m_row[:, None] & m_feature[None, :]
            b_features = tl.load(p_block + o_in_features, mask=m_block, other=0.0).to(tl.float32)
            b_grad_weight = tl.dot(tl.trans(b_grad), b_features, b_grad_weight, input_precision=PRECISION)
        if NEED_FEATURES:
            p_tile = p_weight + tl.cast(i_tile, tl.int64) * (BLOCK_SIZE * WEIGHT_PITCH)
            o_in_weight = o_in_tile[:, None] * WEIGHT_PITCH + o_feature[None, :]
            b_weight = tl.load(p_tile + o_in_weight, mask=m_weight, other=0.0).to(tl.float32)
            if ONE_BLOCK:
                b_grad_features = tl.dot(b_grad, b_weight, b_grad_features, input_precision=PRECISION)
            else:
                o_in_partial = o_in_block[:, None] * PARTIAL_PITCH + o_feature[None, :]
                p_sum = p_partial + o_first_row * PARTIAL_PITCH + o_in_partial
                m_sum = m_row[:, None] & (o_feature < PARTIAL_PITCH)[None, :]
                b_sum = tl.dot(b_grad, b_weight, input_precision=PRECISION)
                if not is_first_tile:
                    b_sum += tl.load(p_sum, mask=m_sum, other=0.0)
                tl.store(p_sum, b_sum, mask=m_sum)
    if NEED_WEIGHT:
        o_first = i_rows.to(tl.int64) * chunk_size + i_tile * BLOCK_SIZE
        o_in_grad = o_in_tile[:, None] * GRAD_WEIGHT_PITCH + o_feature[None, :]
        p_grad = p_grad_weight + o_first * GRAD_WEIGHT_PITCH + o_in_grad
        tl.store(p_grad, b_grad_weight.to(p_grad_weight.dtype.element_ty), mask=m_weight)
    if NEED_OFFSET and not REPEATED:
        o_offset = i_rows.to(tl.int64) * chunk_size + o_size
        tl.store(p_grad_offset + o_offset, tl.sum(b_grad_sum, axis=0), mask=m_size)
    return b_grad_features


@triton.jit(do_not_specialize=_UNSPECIALIZED)
def _chunked_mlp_bwd_kernel(
    p_grad_out,
    p_features,
    p_weight,
    p_grad_weight,
    p_grad_offset,
    p_grad_features,
    num_rows,
    num_chunks,
    chunk_size,
    num_outputs,
    repeat,
    row_groups,
    WIDTH: tl.constexpr,
    FEATURE_PITCH: tl.constexpr,
    WEIGHT_PITCH: tl.constexpr,
    GRAD_WEIGHT_PITCH: tl.constexpr,
    PARTIAL_PITCH: tl.constexpr,
    NEED_WEIGHT: tl.constexpr,
    NEED_OFFSET: tl.constexpr,
    NEED_FEATURES: tl.constexpr,
    REPEATED: tl.constexpr,
    ONE_BLOCK: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
    NUM_STAGES: tl.constexpr,
    ALIGNMENT: tl.constexpr,
):
    """Compute the gradients of weight, offset and features of ``_chunked_mlp_fwd_kernel``.

    With g[b, r, j] = grad_out[r // N + b, (r % N)·S + j], 0 past n, and g[r, j] = Σ_b g[b, r, j], b < repeat:
    grad_weight[j, k] = Σ_r g[r, j] · features[r, k], grad_offset[b, j] = Σ_r g[b, r, j],
    grad_features[r, k] = Σ_j g[r, j] · weight[j, k].

    A pass reads grad_out [conditions, n] once. A program has the tiles i, i + tile_groups, … of BLOCK_SIZE
    outputs (only tile i unless NEED_FEATURES) and every row_groups-th block of rows, and leaves its part of
    the sums in grad_weight [row_groups, S, K], grad_offset [row_groups, repeat, S] and grad_features
    [tile_groups, rows, PARTIAL_PITCH], where a second kernel adds them in order. A tile's grad_weight stays
    in registers; grad_features does only if the program has ONE_BLOCK of rows, and is otherwise added up in
    this program's own part of the workspace.
    """
    tile_groups = tl.num_programs(0) // row_groups
    i_tiles = tl.program_id(0) // row_groups
    i_rows = tl.program_id(0) % row_groups
    p_partial = p_grad_features + i_tiles.to(tl.int64) * num_rows * PARTIAL_PITCH
    b_grad_features = tl.zeros([BLOCK_ROWS, BLOCK_K], dtype=tl.float32)
    if not NEED_FEATURES:
        _backward_of_tile(
            *(b_grad_features, i_tiles, i_rows, True),
            *(p_grad_out, p_features, p_weight, p_grad_weight, p_grad_offset, p_partial),
            *(num_rows, num_chunks, chunk_size, num_outputs, repeat, row_groups),
            *(WIDTH, FEATURE_PITCH, WEIGHT_PITCH, GRAD_WEIGHT_PITCH, PARTIAL_PITCH),
            *(NEED_WEIGHT, NEED_OFFSET, NEED_FEATURES, REPEATED, ONE_BLOCK),
            *(BLOCK_ROWS, BLOCK_SIZE, BLOCK_K, PRECISION, NUM_STAGES, ALIGNMENT),
        )
    else:
        for i_tile in range(i_tiles, tl.cdiv(chunk_size, BLOCK_SIZE), tile_groups):
            b_grad_features = _backward_of_tile(
                *(b_grad_features, i_tile, i_rows, i_tile == i_tiles),
                *(p_grad_out, p_features, p_weight, p_grad_weight, p_grad_offset, p_partial),
                *(num_rows, num_chunks, chunk_size, num_outputs, repeat, row_groups),
                *(WIDTH, FEATURE_PITCH, WEIGHT_PITCH, GRAD_WEIGHT_PITCH, PARTIAL_PITCH),
                *(NEED_WEIGHT, NEED_OFFSET, NEED_FEATURES, REPEATED, ONE_BLOCK),
                *(BLOCK_ROWS, BLOCK_SIZE, BLOCK_K, PRECISION, NUM_STAGES, ALIGNMENT),
            )
            # The next tile reads this program's sums of grad_features back.
            tl.debug_barrier()
    if NEED_FEATURES and ONE_BLOCK:
        o_feature = tl.arange(0, BLOCK_K)
        o_row = i_rows * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
        p_sum = p_partial + o_row.to(tl.int64)[:, None] * PARTIAL_PITCH + o_feature[None, :]
        m_sum = (o_row < num_rows)[:, None] & (o_feature < PARTIAL_PITCH)[None, :]
        tl.store(p_sum, b_grad_features, mask=m_sum)
