"""The Triton kernels of hidden layers; their launchers are in ``chunked_mlp_hidden.py``.

Notation: B conditions, N chunks, R = B·N rows (row r = b·N + i), K features. A launch serves several networks
of the same depth. Tuples hold something of each network, or one thing that is the same for all; nested ones
do for each layer or part of the input. Every kernel loads, converts to float32, computes, and stores; none
uses atomics, so results are reproducible bit for bit. Offsets that can pass 2³¹ are int64.
"""

import triton
import triton.language as tl

_UNSPECIALIZED = ["tasks", "num_conditions", "rows", "row_groups"]


@triton.jit
def _pick(i, values):
    """Return values[i]; a single value is that of every i."""
    picked = values[0]
    for k in tl.static_range(1, len(values)):
        picked = tl.where(i == k, values[k], picked)
    return picked


@triton.jit
def _pick_of(i, VALUES: tl.constexpr, ROW: tl.constexpr):
    """Return VALUES[ROW][i]."""
    picked = VALUES[ROW][0]
    for k in tl.static_range(1, len(VALUES[ROW])):
        picked = tl.where(i == k, VALUES[ROW][k], picked)
    return picked


@triton.jit
def _find_task(i_program, tasks):
    """Return the task that a program belongs to, and the first program of it; tasks has that of each."""
    i_task = 0
    i_first = 0
    for k in tl.static_range(1, len(tasks)):
        is_later = i_program >= tasks[k]
        i_task = tl.where(is_later, k, i_task)
        i_first = tl.where(is_later, tasks[k], i_first)
    return i_task, i_first


@triton.jit
def _expm1(b_x):
    """Return exp(x) − 1 in float32, [...] → [...]; a Taylor sum near 0, where that would cancel."""
    b_series = 1.0 + b_x * (1.0 / 7.0)
    b_series = 1.0 + b_x * (1.0 / 6.0) * b_series
    b_series = 1.0 + b_x * (1.0 / 5.0) * b_series
    b_series = 1.0 + b_x * (1.0 / 4.0) * b_series
    b_series = 1.0 + b_x * (1.0 / 3.0) * b_series
    b_series = 1.0 + b_x * (1.0 / 2.0) * b_series
    return tl.where(tl.abs(b_x) < 0.35, b_x * b_series, tl.exp(b_x) - 1.0)


@triton.jit
def _activate(b_x, ACTIVATION: tl.constexpr):
    """Return act(x), [...] → [...]; written with comparisons that let NaN through, as PyTorch does."""
    if ACTIVATION == "relu":
        b_x = tl.where(b_x < 0.0, 0.0, b_x)
    elif ACTIVATION == "sigmoid":
        b_x = 1.0 / (1.0 + tl.exp(-b_x))
    elif ACTIVATION == "tanh":
        b_decay = _expm1(-2.0 * tl.abs(b_x))
        b_tanh = -b_decay / (2.0 + b_decay)
        b_x = tl.where(b_x < 0.0, -b_tanh, b_tanh)
    elif ACTIVATION == "elu":
        b_x = tl.where(b_x > 0.0, b_x, _expm1(b_x))
    elif ACTIVATION == "leaky_relu":
        b_x = tl.where(b_x < 0.0, 0.01 * b_x, b_x)
    else:
        tl.static_assert(ACTIVATION == "identity", "unknown activation")
    return b_x


@triton.jit
def _activation_gradient(b_grad, b_h, ACTIVATION: tl.constexpr):
    """Return grad · act'(z), [...] → [...], the derivative taken from h = act(z)."""
    if ACTIVATION == "relu":
        b_grad = tl.where(b_h > 0.0, b_grad, 0.0)
    elif ACTIVATION == "sigmoid":
        b_grad = b_grad * (b_h * (1.0 - b_h))
    elif ACTIVATION == "tanh":
        b_grad = b_grad * (1.0 - b_h * b_h)
    elif ACTIVATION == "elu":
        b_grad = tl.where(b_h > 0.0, b_grad, b_grad * (b_h + 1.0))
    elif ACTIVATION == "leaky_relu":
        b_grad = tl.where(b_h > 0.0, b_grad, 0.01 * b_grad)
    else:
        tl.static_assert(ACTIVATION == "identity", "unknown activation")
    return b_grad


@triton.jit
def _input_rows(o_row, num_chunks, condition_stride, chunk_stride):
    """Return which row of an input [B or 1, N or 1, width] each row of the hidden layers reads."""
    return (o_row // num_chunks * condition_stride + o_row % num_chunks * chunk_stride).to(tl.int64)


@triton.jit
def _accumulate_product(
    b_sum,
    p_x,
    o_x,
    m_x,
    p_w,
    o_w,
    m_w,
    width,
    LEFT_OVER: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
    NUM_STAGES: tl.constexpr,
    w_stride=1,
):
    """Return sum[x, w] + Σ_k x[x, k] · w[w, k], k < width; [BX, BW], offsets of rows [BX] and [BW].

    Neighbouring k of w are w_stride elements apart. Features go through `tl.dot` in blocks, but for the last
    LEFT_OVER: these are added one at a time, which is cheaper than padding them to a block of 16.
    """
    o_k = tl.arange(0, BLOCK_K)
    for i_k in tl.range(0, width - LEFT_OVER, BLOCK_K, num_stages=NUM_STAGES):
        m_k = o_k < width - i_k
        b_x = tl.load(p_x + i_k + (o_x[:, None] + o_k[None, :]), mask=m_x[:, None] & m_k[None, :], other=0.0)
        p_block = p_w + i_k * w_stride + (o_w[None, :] + o_k[:, None] * w_stride)
        b_w = tl.load(p_block, mask=m_w[None, :] & m_k[:, None], other=0.0)
        b_sum = tl.dot(b_x.to(tl.float32), b_w.to(tl.float32), b_sum, input_precision=PRECISION)
    for i_left in tl.static_range(LEFT_OVER):
        i_k = width - LEFT_OVER + i_left
        b_x_column = tl.load(p_x + i_k + o_x, mask=m_x, other=0.0).to(tl.float32)
        b_w_column = tl.load(p_w + i_k * w_stride + o_w, mask=m_w, other=0.0).to(tl.float32)
        b_sum += b_x_column[:, None] * b_w_column[None, :]
    return b_sum


@triton.jit(do_not_specialize=_UNSPECIALIZED)
def _chunked_mlp_hidden_kernel(
    p_inputs,
    p_columns,
    p_weights,
    p_biases,
    p_hidden,
    tasks,
    num_conditions,
    CHUNKS: tl.constexpr,
    PART_WIDTHS: tl.constexpr,
    CONDITION_STRIDES: tl.constexpr,
    CHUNK_STRIDES: tl.constexpr,
    IN_WIDTHS: tl.constexpr,
    WIDTHS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_WIDTHS: tl.constexpr,
    LEFT_OVERS: tl.constexpr,
    PITCHES: tl.constexpr,
    ACTIVATION: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
    NUM_STAGES: tl.constexpr,
):
    """Compute h_1[r] = act(Σ_parts W_1[:, part]·x_part[row of r] + b_1) and h_l = act(W_l·h_{l-1} + b_l).

    The layers lie side by side in hidden [R, PITCH], beginning at COLUMNS. By part: inputs [B or 1, N or 1,
    width], columns of W_1 [out, IN_WIDTH], and how far apart the rows of conditions and of chunks are; by
    layer from the second: weights [out, in]; by layer: biases [out], if any. LEFT_OVERS of the parts, then
    of the layers. Each program does BLOCK_ROWS rows of all layers of a network; a layer reads the previous
    one back from its own rows of hidden, so that many layers need no more registers than one.
    """
    i_net, i_first = _find_task(tl.program_id(0), tasks)
    i_block = tl.program_id(0) - i_first
    num_chunks = _pick(i_net, CHUNKS)
    pitch = _pick(i_net, PITCHES)
    o_local = tl.arange(0, BLOCK_ROWS)
    o_row = i_block * BLOCK_ROWS + o_local
    m_row = o_row < num_conditions * num_chunks
    p_rows = _pick(i_net, p_hidden) + i_block.to(tl.int64) * (BLOCK_ROWS * pitch)
    for i_layer in tl.static_range(len(WIDTHS)):
        o_unit = tl.arange(0, BLOCK_WIDTHS[i_layer])
        m_unit = o_unit < _pick_of(i_net, WIDTHS, i_layer)
        b_bias = (o_unit * 0).to(tl.float32)
        if len(p_biases) > 0:
            b_bias += tl.load(_pick(i_net, p_biases[i_layer]) + o_unit, mask=m_unit, other=0.0).to(tl.float32)
        b_sum = tl.zeros([BLOCK_ROWS, 1], dtype=tl.float32) + b_bias[None, :]
        if i_layer == 0:
            for i_part in tl.static_range(len(PART_WIDTHS)):
                part_width = _pick_of(i_net, PART_WIDTHS, i_part)
                o_part = _input_rows(
                    o_row,
                    num_chunks,
                    _pick_of(i_net, CONDITION_STRIDES, i_part),
                    _pick_of(i_net, CHUNK_STRIDES, i_part),
                )
                b_sum = _accumulate_product(
                    b_sum,
                    _pick(i_net, p_inputs[i_part]),
                    o_part * part_width,
                    m_row,
                    _pick(i_net, p_columns[i_part]),
                    o_unit * _pick(i_net, IN_WIDTHS),
                    m_unit,
                    part_width,
                    LEFT_OVERS[i_part],
                    BLOCK_K,
                    PRECISION,
                    NUM_STAGES,
                )
        else:
            in_width = _pick_of(i_net, WIDTHS, i_layer - 1)
            b_sum = _accumulate_product(
                b_sum,
                p_rows + _pick_of(i_net, COLUMNS, i_layer - 1),
                o_local * pitch,
                m_row,
                _pick(i_net, p_weights[i_layer - 1]),
                o_unit * in_width,
                m_unit,
                in_width,
                LEFT_OVERS[len(PART_WIDTHS) + i_layer - 1],
                BLOCK_K,
                PRECISION,
                NUM_STAGES,
            )
        b_hidden = _activate(b_sum, ACTIVATION).to(p_rows.dtype.element_ty)
        p_layer = p_rows + _pick_of(i_net, COLUMNS, i_layer) + (o_local[:, None] * pitch + o_unit[None, :])
        tl.store(p_layer, b_hidden, mask=m_row[:, None] & m_unit[None, :])
        # The next layer's loads of these rows come from other threads of the same program.
        tl.debug_barrier()


@triton.jit(do_not_specialize=_UNSPECIALIZED)
def _chunked_mlp_hidden_bwd_kernel(
    p_grad_features,
    p_hidden,
    p_weights,
    p_grads,
    tasks,
    num_conditions,
    CHUNKS: tl.constexpr,
    FEATURE_PITCHES: tl.constexpr,
    WIDTHS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_WIDTHS: tl.constexpr,
    LEFT_OVERS: tl.constexpr,
    PITCHES: tl.constexpr,
    ACTIVATION: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
    NUM_STAGES: tl.constexpr,
):
    """Compute the gradients of what all hidden layers are before their activation, g_l.

    g_L = grad_features · act'(h_L), g_l = (W_{l+1}ᵀ·g_{l+1}) · act'(h_l). Layers lie side by side in hidden
    and in grads [R, PITCH], the latter float32; grad_features [R, K]. By layer from the last to the first:
    COLUMNS where layers begin; weights [out, in], without that of the first. Programs as in the forward
    kernel: each does BLOCK_ROWS rows of all layers and reads those of the layer above back.
    """
    i_net, i_before = _find_task(tl.program_id(0), tasks)
    i_block = tl.program_id(0) - i_before
    pitch = _pick(i_net, PITCHES)
    feature_pitch = _pick(i_net, FEATURE_PITCHES)
    o_local = tl.arange(0, BLOCK_ROWS)
    m_row = i_block * BLOCK_ROWS + o_local < num_conditions * _pick(i_net, CHUNKS)
    i_first = i_block.to(tl.int64) * BLOCK_ROWS
    p_rows = _pick(i_net, p_grads) + i_first * pitch
    p_hidden_rows = _pick(i_net, p_hidden) + i_first * pitch
    for i_layer in tl.static_range(len(WIDTHS)):
        o_unit = tl.arange(0, BLOCK_WIDTHS[i_layer])
        width = _pick_of(i_net, WIDTHS, i_layer)
        m_unit = o_unit < width
        m_layer = m_row[:, None] & m_unit[None, :]
        if i_layer == 0:
            o_in_features = o_local[:, None] * feature_pitch + o_unit[None, :]
            p_features = _pick(i_net, p_grad_features) + i_first * feature_pitch + o_in_features
            b_grad = tl.load(p_features, mask=m_layer, other=0.0).to(tl.float32)
        else:
            b_grad = _accumulate_product(
                tl.zeros([BLOCK_ROWS, 1], dtype=tl.float32) + (o_unit * 0).to(tl.float32)[None, :],
                p_rows + _pick_of(i_net, COLUMNS, i_layer - 1),
                o_local * pitch,
                m_row,
                _pick(i_net, p_weights[i_layer - 1]),
                o_unit,
                m_unit,
                _pick_of(i_net, WIDTHS, i_layer - 1),
                LEFT_OVERS[i_layer - 1],
                BLOCK_K,
                PRECISION,
                NUM_STAGES,
                width,
            )
        o_in_layer = _pick_of(i_net, COLUMNS, i_layer) + (o_local[:, None] * pitch + o_unit[None, :])
        b_h = tl.load(p_hidden_rows + o_in_layer, mask=m_layer, other=0.0).to(tl.float32)
        tl.store(p_rows + o_in_layer, _activation_gradient(b_grad, b_h, ACTIVATION), mask=m_layer)
        tl.debug_barrier()


@triton.jit(do_not_specialize=_UNSPECIALIZED)
def _chunked_mlp_hidden_sums_kernel(
    p_x,
    p_grads,
    p_partial,
    tasks,
    rows,
    row_groups,
    CHUNKS: tl.constexpr,
    CONDITION_STRIDES: tl.constexpr,
    CHUNK_STRIDES: tl.constexpr,
    OUT_WIDTHS: tl.constexpr,
    IN_WIDTHS: tl.constexpr,
    GRAD_PITCHES: tl.constexpr,
    X_PITCHES: tl.constexpr,
    MATRICES: tl.constexpr,
    MATRIX_PITCHES: tl.constexpr,
    BIASES: tl.constexpr,
    NUM_SUMS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Compute matrix[o, k] = Σ_r grads[r, o] · x[row of r, k] and bias[o] = Σ_r grads[r, o].

    Tuples have an entry for each matrix, or set of columns of the first one: x is a part of the input, rows
    of which lie as in the forward kernel, or a hidden layer; grads what ``_chunked_mlp_hidden_bwd_kernel``
    computes of the layer above; rows how many these are. A program does a tile of one matrix for every
    row_groups-th block of rows, and leaves it in partial [row_groups, NUM_SUMS], where the matrix begins at
    MATRICES, and the bias at BIASES unless that is negative.
    """
    i_task = tl.program_id(0) // row_groups
    i_group = tl.program_id(0) % row_groups
    i_matrix, i_first = _find_task(i_task, tasks)
    i_tile = i_task - i_first
    num_chunks = _pick(i_matrix, CHUNKS)
    condition_stride = _pick(i_matrix, CONDITION_STRIDES)
    chunk_stride = _pick(i_matrix, CHUNK_STRIDES)
    out_width = _pick(i_matrix, OUT_WIDTHS)
    in_width = _pick(i_matrix, IN_WIDTHS)
    grad_pitch = _pick(i_matrix, GRAD_PITCHES)
    x_pitch = _pick(i_matrix, X_PITCHES)
    p_x_matrix = _pick(i_matrix, p_x)
    p_grads_matrix = _pick(i_matrix, p_grads)
    num_rows = _pick(i_matrix, rows)
    num_in_tiles = tl.cdiv(in_width, BLOCK)
    o_out = i_tile // num_in_tiles * BLOCK + tl.arange(0, BLOCK)
    o_in = i_tile % num_in_tiles * BLOCK + tl.arange(0, BLOCK)
    m_out = o_out < out_width
    m_in = o_in < in_width
    b_matrix = tl.zeros([BLOCK, BLOCK], dtype=tl.float32)
    b_bias = tl.zeros([BLOCK], dtype=tl.float32)
    for i_block in range(i_group, tl.cdiv(num_rows, BLOCK_ROWS), row_groups):
        o_row = i_block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
        m_row = o_row < num_rows
        o_x = _input_rows(o_row, num_chunks, condition_stride, chunk_stride)
        p_grad = p_grads_matrix + o_row.to(tl.int64)[:, None] * grad_pitch + o_out[None, :]
        b_grad = tl.load(p_grad, mask=m_row[:, None] & m_out[None, :], other=0.0)
        p_row = p_x_matrix + o_x[:, None] * x_pitch + o_in[None, :]
        b_x = tl.load(p_row, mask=m_row[:, None] & m_in[None, :], other=0.0).to(tl.float32)
        b_matrix = tl.dot(tl.trans(b_grad), b_x, b_matrix, input_precision=PRECISION)
        b_bias += tl.sum(b_grad, axis=0)
    p_sums = p_partial + i_group.to(tl.int64) * NUM_SUMS
    o_in_matrix = o_out[:, None] * _pick(i_matrix, MATRIX_PITCHES) + o_in[None, :]
    p_matrix = p_sums + _pick(i_matrix, MATRICES) + o_in_matrix
    tl.store(p_matrix, b_matrix, mask=m_out[:, None] & m_in[None, :])
    bias = _pick(i_matrix, BIASES)
    tl.store(p_sums + bias + o_out, b_bias, mask=m_out & (bias >= 0) & (i_tile % num_in_tiles == 0))


@triton.jit(do_not_specialize=_UNSPECIALIZED)
def _chunked_mlp_inputs_bwd_kernel(
    p_grads,
    p_columns,
    p_grad_inputs,
    tasks,
    num_conditions,
    FIRST: tl.constexpr,
    STEPS: tl.constexpr,
    COUNTS: tl.constexpr,
    OF_ALL_CONDITIONS: tl.constexpr,
    OUT_WIDTHS: tl.constexpr,
    IN_WIDTHS: tl.constexpr,
    PITCHES: tl.constexpr,
    WEIGHT_PITCHES: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_IN: tl.constexpr,
):
    """Compute the gradients of the parts of the input, grad_part[q] = (Σ_r g_1[r]) · W_1[:, part].

    Row q of a part meets the COUNT rows, times B if OF_ALL_CONDITIONS, that begin with q·FIRST and are STEP
    apart. Tuples have an entry for each part: grads [R, PITCH] begin with those of the first layer [R, OUT];
    columns [OUT, IN] of its matrix; tasks the first program. A program does one row of a part, [IN].
    """
    i_part, i_first = _find_task(tl.program_id(0), tasks)
    i_row = tl.program_id(0) - i_first
    o_unit = tl.arange(0, BLOCK_WIDTH)
    m_unit = o_unit < _pick(i_part, OUT_WIDTHS)
    in_width = _pick(i_part, IN_WIDTHS)
    first = i_row * _pick(i_part, FIRST)
    step = _pick(i_part, STEPS)
    count = _pick(i_part, COUNTS)
    count = tl.where(_pick(i_part, OF_ALL_CONDITIONS) > 0, count * num_conditions, count)
    p_rows = _pick(i_part, p_grads) + o_unit[None, :]
    pitch = _pick(i_part, PITCHES)
    b_sum = tl.zeros([BLOCK_WIDTH], dtype=tl.float32)
    for i_first_row in range(0, count, BLOCK_ROWS):
        o_row = i_first_row + tl.arange(0, BLOCK_ROWS)
        p_block = p_rows + (first + o_row * step).to(tl.int64)[:, None] * pitch
        b_sum += tl.sum(tl.load(p_block, mask=(o_row < count)[:, None] & m_unit[None, :], other=0.0), 0)
    p_weight = _pick(i_part, p_columns) + o_unit[:, None] * _pick(i_part, WEIGHT_PITCHES)
    p_out = _pick(i_part, p_grad_inputs) + i_row.to(tl.int64) * in_width
    for i_in in range(0, in_width, BLOCK_IN):
        o_in = i_in + tl.arange(0, BLOCK_IN)
        m_in = o_in < in_width
        b_weight = tl.load(p_weight + o_in[None, :], mask=m_unit[:, None] & m_in[None, :], other=0.0)
        b_grad = tl.sum(b_weight.to(tl.float32) * b_sum[:, None], axis=0)
        tl.store(p_out + o_in, b_grad.to(p_out.dtype.element_ty), mask=m_in)


@triton.jit(do_not_specialize=["tasks", "sizes", "starts", "num_elements", "num_parts"])
def _chunked_mlp_reduce_kernel(
    p_parts,
    p_sums,
    tasks,
    sizes,
    starts,
    num_elements,
    num_parts,
    BLOCK_PARTS: tl.constexpr,
    BLOCK_ELEMENTS: tl.constexpr,
):
    """Compute sums[i][e] = Σ_p parts[p, starts[i] + e] in a fixed order; parts [P, num_elements] float32.

    Tuples have an entry for each tensor: sums [sizes[i]]; tasks the first program of each.
    """
    i_tensor, i_first = _find_task(tl.program_id(0), tasks)
    o_element = (tl.program_id(0) - i_first).to(tl.int64) * BLOCK_ELEMENTS + tl.arange(0, BLOCK_ELEMENTS)
    m_element = o_element < _pick(i_tensor, sizes)
    p_tensor = p_parts + _pick(i_tensor, starts) + o_element
    b_sum = tl.zeros([BLOCK_ELEMENTS], dtype=tl.float32)
    for i_part in range(0, num_parts, BLOCK_PARTS):
        o_part = i_part + tl.arange(0, BLOCK_PARTS)
        p_block = p_tensor[None, :] + o_part.to(tl.int64)[:, None] * num_elements
        b_part = tl.load(p_block, mask=(o_part < num_parts)[:, None] & m_element[None, :], other=0.0)
        b_sum += tl.sum(b_part, axis=0)
    p_sum = _pick(i_tensor, p_sums) + o_element
    tl.store(p_sum, b_sum.to(p_sum.dtype.element_ty), mask=m_element)
