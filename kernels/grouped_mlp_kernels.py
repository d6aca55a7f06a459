"""The Triton kernels of the output layers of ``hnetfast::grouped_mlp``; their launchers are in
``grouped_mlp.py``.

A launch serves several networks, whose outputs go to places in one result [B, n]; notation and tuples as in
``chunked_mlp_hidden_kernels.py``, and S chunk size. The targets [N, S] of a network are the places of its
outputs, negative where one is not used.
"""

import triton
import triton.language as tl

from .chunked_mlp_hidden_kernels import _accumulate_product, _find_task, _pick

_UNSPECIALIZED = ["tasks", "num_conditions", "num_outputs", "num_groups", "group_pitch"]


@triton.jit
def _places(p_targets, o_row, m_row, o_size, m_size, num_chunks, chunk_size, num_outputs):
    """Return where in the result rows of a network go, [rows, size], and which of their elements do."""
    o_target = (o_row % num_chunks).to(tl.int64)[:, None] * chunk_size + o_size[None, :]
    b_target = tl.load(p_targets + o_target, mask=m_row[:, None] & m_size[None, :], other=-1).to(tl.int64)
    return (o_row // num_chunks).to(tl.int64)[:, None] * num_outputs + b_target, b_target >= 0


@triton.jit(do_not_specialize=_UNSPECIALIZED)
def _grouped_mlp_fwd_kernel(
    p_features,
    p_weights,
    p_biases,
    p_targets,
    p_out,
    tasks,
    num_conditions,
    num_outputs,
    CHUNKS: tl.constexpr,
    CHUNK_SIZES: tl.constexpr,
    WIDTHS: tl.constexpr,
    LEFT_OVER: tl.constexpr,
    FEATURE_PITCHES: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Compute out[r // N, targets[r % N, j]] = Σ_k features[r, k] · weight[j, k] + bias[j].

    features [R, K], weight [S, K], bias [S], if any. A program does BLOCK_ROWS rows of BLOCK_SIZE outputs;
    those of one tile of weight are neighbours in the grid, as in ``_chunked_mlp_fwd_kernel``.
    """
    i_net, i_first = _find_task(tl.program_id(0), tasks)
    num_chunks = _pick(i_net, CHUNKS)
    chunk_size = _pick(i_net, CHUNK_SIZES)
    width = _pick(i_net, WIDTHS)
    feature_pitch = _pick(i_net, FEATURE_PITCHES)
    num_rows = num_conditions * num_chunks
    num_blocks = tl.cdiv(num_rows, BLOCK_ROWS)
    i_tile = (tl.program_id(0) - i_first) // num_blocks
    i_block = (tl.program_id(0) - i_first) % num_blocks
    o_in_tile = tl.arange(0, BLOCK_SIZE)
    o_size = i_tile * BLOCK_SIZE + o_in_tile
    m_size = o_size < chunk_size
    o_in_block = tl.arange(0, BLOCK_ROWS)
    o_row = i_block * BLOCK_ROWS + o_in_block
    m_row = o_row < num_rows
    b_out = _accumulate_product(
        tl.zeros([BLOCK_ROWS, BLOCK_SIZE], dtype=tl.float32),
        _pick(i_net, p_features) + i_block.to(tl.int64) * (BLOCK_ROWS * feature_pitch),
        o_in_block * feature_pitch,
        m_row,
        _pick(i_net, p_weights) + i_tile.to(tl.int64) * (BLOCK_SIZE * width),
        o_in_tile * width,
        m_size,
        width,
        LEFT_OVER,
        BLOCK_K,
        PRECISION,
        1,
    )
    if len(p_biases) > 0:
        b_out += tl.load(_pick(i_net, p_biases) + o_size, mask=m_size, other=0.0).to(tl.float32)[None, :]
    p_places = _pick(i_net, p_targets)
    o_out, m_out = _places(p_places, o_row, m_row, o_size, m_size, num_chunks, chunk_size, num_outputs)
    tl.store(p_out + o_out, b_out.to(p_out.dtype.element_ty), mask=m_out)


@triton.jit(do_not_specialize=_UNSPECIALIZED)
def _grouped_mlp_weights_bwd_kernel(
    p_grad_out,
    p_targets,
    p_features,
    p_grad_weights,
    p_grad_biases,
    tasks,
    num_conditions,
    num_outputs,
    num_groups,
    group_pitch,
    CHUNKS: tl.constexpr,
    CHUNK_SIZES: tl.constexpr,
    WIDTHS: tl.constexpr,
    FEATURE_PITCHES: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Compute grad_weight[j, k] = Σ_r g[r, j] · features[r, k] and grad_bias[j] = Σ_r g[r, j].

    g[r, j] = grad_out[r // N, targets[r % N, j]], 0 where an output is not used. A program has one tile of
    BLOCK_SIZE outputs and every num_groups-th block of rows; the sums of a group of rows lie group_pitch
    behind those of the one before, where a second kernel adds them in order.
    """
    i_group = tl.program_id(0) % num_groups
    i_net, i_first = _find_task(tl.program_id(0) // num_groups, tasks)
    i_tile = tl.program_id(0) // num_groups - i_first
    num_chunks = _pick(i_net, CHUNKS)
    chunk_size = _pick(i_net, CHUNK_SIZES)
    width = _pick(i_net, WIDTHS)
    feature_pitch = _pick(i_net, FEATURE_PITCHES)
    p_places = _pick(i_net, p_targets)
    p_block = _pick(i_net, p_features)
    num_rows = num_conditions * num_chunks
    o_size = i_tile * BLOCK_SIZE + tl.arange(0, BLOCK_SIZE)
    m_size = o_size < chunk_size
    o_feature = tl.arange(0, BLOCK_K)
    m_feature = o_feature < width
    b_grad_weight = tl.zeros([BLOCK_SIZE, BLOCK_K], dtype=tl.float32)
    b_grad_bias = tl.zeros([BLOCK_SIZE], dtype=tl.float32)
    for i_block in range(i_group, tl.cdiv(num_rows, BLOCK_ROWS), num_groups):
        o_row = i_block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
        m_row = o_row < num_rows
        o_out, m_out = _places(p_places, o_row, m_row, o_size, m_size, num_chunks, chunk_size, num_outputs)
        b_grad = tl.load(p_grad_out + o_out, mask=m_out, other=0.0).to(tl.float32)
        o_features = o_row.to(tl.int64)[:, None] * feature_pitch + o_feature[None, :]
        m_features = m_row[:, None] & m_feature[None, :]
        b_features = tl.load(p_block + o_features, mask=m_features, other=0.0).to(tl.float32)
        b_grad_weight = tl.dot(tl.trans(b_grad), b_features, b_grad_weight, input_precision=PRECISION)
        b_grad_bias += tl.sum(b_grad, axis=0)
    o_group = i_group.to(tl.int64) * group_pitch
    p_grad_weight = _pick(i_net, p_grad_weights) + o_group
    o_weight = o_size.to(tl.int64)[:, None] * width + o_feature[None, :]
    b_stored = b_grad_weight.to(p_grad_weight.dtype.element_ty)
    tl.store(p_grad_weight + o_weight, b_stored, mask=m_size[:, None] & m_feature[None, :])
    if len(p_grad_biases) > 0:
        p_grad_bias = _pick(i_net, p_grad_biases) + o_group
        tl.store(p_grad_bias + o_size, b_grad_bias.to(p_grad_bias.dtype.element_ty), mask=m_size)


@triton.jit(do_not_specialize=_UNSPECIALIZED)
def _grouped_mlp_features_bwd_kernel(
    p_grad_out,
    p_targets,
    p_weights,
    p_grad_features,
    tasks,
    num_conditions,
    num_outputs,
    num_groups,
    group_pitch,
    CHUNKS: tl.constexpr,
    CHUNK_SIZES: tl.constexpr,
    WIDTHS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Compute grad_features[r, k] = Σ_j g[r, j] · weight[j, k], g as in ``_grouped_mlp_weights_bwd_kernel``.

    A program has one block of rows and every num_groups-th tile of BLOCK_SIZE outputs; groups as there.
    """
    i_group = tl.program_id(0) % num_groups
    i_net, i_first = _find_task(tl.program_id(0) // num_groups, tasks)
    i_block = tl.program_id(0) // num_groups - i_first
    num_chunks = _pick(i_net, CHUNKS)
    chunk_size = _pick(i_net, CHUNK_SIZES)
    width = _pick(i_net, WIDTHS)
    p_places = _pick(i_net, p_targets)
    p_weight = _pick(i_net, p_weights)
    num_rows = num_conditions * num_chunks
    o_row = i_block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    m_row = o_row < num_rows
    o_feature = tl.arange(0, BLOCK_K)
    m_feature = o_feature < width
    b_grad_features = tl.zeros([BLOCK_ROWS, BLOCK_K], dtype=tl.float32)
    for i_tile in range(i_group, tl.cdiv(chunk_size, BLOCK_SIZE), num_groups):
        o_size = i_tile * BLOCK_SIZE + tl.arange(0, BLOCK_SIZE)
        m_size = o_size < chunk_size
        o_out, m_out = _places(p_places, o_row, m_row, o_size, m_size, num_chunks, chunk_size, num_outputs)
        b_grad = tl.load(p_grad_out + o_out, mask=m_out, other=0.0).to(tl.float32)
        o_weight = o_size.to(tl.int64)[:, None] * width + o_feature[None, :]
        m_weight = m_size[:, None] & m_feature[None, :]
        b_weight = tl.load(p_weight + o_weight, mask=m_weight, other=0.0).to(tl.float32)
        b_grad_features = tl.dot(b_grad, b_weight, b_grad_features, input_precision=PRECISION)
    p_sum = _pick(i_net, p_grad_features) + i_group.to(tl.int64) * group_pitch
    o_sum = o_row.to(tl.int64)[:, None] * width + o_feature[None, :]
    tl.store(p_sum + o_sum, b_grad_features, mask=m_row[:, None] & m_feature[None, :])
