"""The Triton kernels of ``hnetfast::chunked_mlp``; their launchers are in ``chunked_mlp.py``.

Notation: B conditions, N chunks, S chunk size, n outputs, R = B·N rows (row r = b·N + i), K features.
Every kernel loads, converts to float32, computes, and stores; none uses atomics, so results are reproducible
bit for bit. Offsets that can pass 2³¹ are int64.
"""

import triton
import triton.language as tl

_UNSPECIALIZED = ["num_rows", "num_chunks", "chunk_size", "num_outputs", "repeat", "row_groups"]


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
def _input_rows(o_row, num_chunks, BY_CONDITION: tl.constexpr, BY_CHUNK: tl.constexpr):
    """Return which row of an input [B or 1, N or 1, width] each row of the hidden layers reads."""
    if BY_CONDITION and BY_CHUNK:
        o_input = o_row
    elif BY_CONDITION:
        o_input = o_row // num_chunks
    elif BY_CHUNK:
        o_input = o_row % num_chunks
    else:
        o_input = o_row * 0
    return o_input.to(tl.int64)


@triton.jit
def _accumulate_product(
    b_sum,
    p_x,
    o_x,
    m_x,
    p_w,
    o_w,
    m_w,
    WIDTH: tl.constexpr,
    DOT_WIDTH: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
    NUM_STAGES: tl.constexpr,
    W_STRIDE: tl.constexpr = 1,
):
    """Return sum[x, w] + Σ_k x[x, k] · w[w, k], k < WIDTH; [BX, BW], offsets of rows [BX] and [BW].

    Neighbouring k of w are W_STRIDE elements apart. The first DOT_WIDTH features go through `tl.dot` in
    blocks; the few left over are added one at a time, which is cheaper than padding them to a block of 16.
    """
    o_k = tl.arange(0, BLOCK_K)
    for i_k in tl.range(0, DOT_WIDTH, BLOCK_K, num_stages=NUM_STAGES):
        m_k = o_k < WIDTH - i_k
        b_x = tl.load(p_x + i_k + (o_x[:, None] + o_k[None, :]), mask=m_x[:, None] & m_k[None, :], other=0.0)
        p_block = p_w + i_k * W_STRIDE + (o_w[None, :] + o_k[:, None] * W_STRIDE)
        b_w = tl.load(p_block, mask=m_w[None, :] & m_k[:, None], other=0.0)
        b_sum = tl.dot(b_x.to(tl.float32), b_w.to(tl.float32), b_sum, input_precision=PRECISION)
    for i_k in tl.static_range(DOT_WIDTH, WIDTH):
        b_x_column = tl.load(p_x + i_k + o_x, mask=m_x, other=0.0).to(tl.float32)
        b_w_column = tl.load(p_w + i_k * W_STRIDE + o_w, mask=m_w, other=0.0).to(tl.float32)
        b_sum += b_x_column[:, None] * b_w_column[None, :]
    return b_sum


@triton.jit(do_not_specialize=_UNSPECIALIZED)
def _chunked_mlp_hidden_kernel(
    p_inputs,
    p_weights,
    p_biases,
    p_hidden,
    num_rows,
    num_chunks,
    PARTS: tl.constexpr,
    WIDTHS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_WIDTHS: tl.constexpr,
    DOT_WIDTHS: tl.constexpr,
    IN_WIDTH: tl.constexpr,
    HIDDEN_PITCH: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
    NUM_STAGES: tl.constexpr,
):
    """Compute h_1[r] = act(Σ_parts W_1[:, part]·x_part[row of r] + b_1) and h_l = act(W_l·h_{l-1} + b_l).

    The layers lie side by side in hidden [R, Σ widths]. Tuples, an entry a part or a layer: inputs
    [B or 1, N or 1, width]; weights [out, in]; biases [out]; PARTS (width, first column in W_1, varies with
    the condition, varies with the chunk); COLUMNS where the layers begin in hidden; DOT_WIDTHS of the parts,
    then of the layers. Each program does BLOCK_ROWS rows of all layers; a layer reads the previous one back
    from its own rows of hidden, so that many layers need no more registers than one.
    """
    o_local = tl.arange(0, BLOCK_ROWS)
    o_row = tl.program_id(0) * BLOCK_ROWS + o_local
    m_row = o_row < num_rows
    p_hidden_rows = p_hidden + tl.program_id(0).to(tl.int64) * (BLOCK_ROWS * HIDDEN_PITCH)
    for i_layer in tl.static_range(len(WIDTHS)):
        o_unit = tl.arange(0, BLOCK_WIDTHS[i_layer])
        m_unit = o_unit < WIDTHS[i_layer]
        b_bias = (o_unit * 0).to(tl.float32)
        if HAS_BIAS:
            b_bias += tl.load(p_biases[i_layer] + o_unit, mask=m_unit, other=0.0).to(tl.float32)
        b_sum = tl.zeros([BLOCK_ROWS, 1], dtype=tl.float32) + b_bias[None, :]
        if i_layer == 0:
            for i_part in tl.static_range(len(PARTS)):
                o_part = _input_rows(o_row, num_chunks, PARTS[i_part][2], PARTS[i_part][3])
                b_sum = _accumulate_product(
                    b_sum,
                    p_inputs[i_part],
                    o_part * PARTS[i_part][0],
                    m_row,
                    p_weights[0] + PARTS[i_part][1],
                    o_unit * IN_WIDTH,
                    m_unit,
                    PARTS[i_part][0],
                    DOT_WIDTHS[i_part],
                    BLOCK_K,
                    PRECISION,
                    NUM_STAGES,
                )
        else:
            b_sum = _accumulate_product(
                b_sum,
                p_hidden_rows + COLUMNS[i_layer - 1],
                o_local * HIDDEN_PITCH,
                m_row,
                p_weights[i_layer],
                o_unit * WIDTHS[i_layer - 1],
                m_unit,
                WIDTHS[i_layer - 1],
                DOT_WIDTHS[len(PARTS) + i_layer - 1],
                BLOCK_K,
                PRECISION,
                NUM_STAGES,
            )
        b_hidden = _activate(b_sum, ACTIVATION).to(p_hidden.dtype.element_ty)
        p_layer = p_hidden_rows + COLUMNS[i_layer] + (o_local[:, None] * HIDDEN_PITCH + o_unit[None, :])
        tl.store(p_layer, b_hidden, mask=m_row[:, None] & m_unit[None, :])
        # The next layer's loads of these rows come from other threads of the same program.
        tl.debug_barrier()


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


@triton.jit(do_not_specialize=_UNSPECIALIZED)
def _chunked_mlp_hidden_bwd_kernel(
    p_grad_features,
    p_hidden,
    p_weights,
    p_grads,
    num_rows,
    FEATURE_PITCH: tl.constexpr,
    WIDTHS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_WIDTHS: tl.constexpr,
    DOT_WIDTHS: tl.constexpr,
    PITCH: tl.constexpr,
    ACTIVATION: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
    NUM_STAGES: tl.constexpr,
):
    """Compute the gradients of what all hidden layers are before their activation, g_l.

    g_L = grad_features · act'(h_L), g_l = (W_{l+1}ᵀ·g_{l+1}) · act'(h_l). Layers lie side by side in hidden
    and in grads [R, Σ widths], the latter float32; grad_features [R, K]. Tuples, an entry a layer from the
    last to the first: weights [out, in], of which that of the first is not read; COLUMNS where layers begin.
    Programs as in the forward kernel: each does BLOCK_ROWS rows of all layers and reads those of the layer
    above back.
    """
    o_local = tl.arange(0, BLOCK_ROWS)
    m_row = tl.program_id(0) * BLOCK_ROWS + o_local < num_rows
    i_first = tl.program_id(0).to(tl.int64) * BLOCK_ROWS
    p_rows = p_grads + i_first * PITCH
    for i_layer in tl.static_range(len(WIDTHS)):
        o_unit = tl.arange(0, BLOCK_WIDTHS[i_layer])
        m_unit = o_unit < WIDTHS[i_layer]
        m_layer = m_row[:, None] & m_unit[None, :]
        if i_layer == 0:
            o_in_features = o_local[:, None] * FEATURE_PITCH + o_unit[None, :]
            p_features = p_grad_features + i_first * FEATURE_PITCH + o_in_features
            b_grad = tl.load(p_features, mask=m_layer, other=0.0).to(tl.float32)
        else:
            b_grad = _accumulate_product(
                tl.zeros([BLOCK_ROWS, 1], dtype=tl.float32) + (o_unit * 0).to(tl.float32)[None, :],
                p_rows + COLUMNS[i_layer - 1],
                o_local * PITCH,
                m_row,
                p_weights[i_layer - 1],
                o_unit,
                m_unit,
                WIDTHS[i_layer - 1],
                DOT_WIDTHS[i_layer - 1],
                BLOCK_K,
                PRECISION,
                NUM_STAGES,
                WIDTHS[i_layer],
            )
        o_in_layer = COLUMNS[i_layer] + (o_local[:, None] * PITCH + o_unit[None, :])
        b_h = tl.load(p_hidden + i_first * PITCH + o_in_layer, mask=m_layer, other=0.0).to(tl.float32)
        tl.store(p_rows + o_in_layer, _activation_gradient(b_grad, b_h, ACTIVATION), mask=m_layer)
        tl.debug_barrier()


@triton.jit
def _sum_of_outer_products(
    p_matrix,
    p_bias,
    i_tile,
    i_group,
    p_grads,
    p_x,
    num_rows,
    num_chunks,
    row_groups,
    OUT_WIDTH: tl.constexpr,
    IN_WIDTH: tl.constexpr,
    GRAD_PITCH: tl.constexpr,
    X_PITCH: tl.constexpr,
    MATRIX_PITCH: tl.constexpr,
    OF_CONDITION: tl.constexpr,
    OF_CHUNK: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Compute matrix[o, k] = Σ_r grads[r, o] · x[row of r, k] and bias[o] = Σ_r grads[r, o] for one tile.

    Rows are those of every row_groups-th block from i_group on; x has one for each condition, chunk or both.
    """
    num_in_tiles: tl.constexpr = (IN_WIDTH + BLOCK - 1) // BLOCK
    o_out = i_tile // num_in_tiles * BLOCK + tl.arange(0, BLOCK)
    o_in = i_tile % num_in_tiles * BLOCK + tl.arange(0, BLOCK)
    m_out = o_out < OUT_WIDTH
    m_in = o_in < IN_WIDTH
    b_matrix = tl.zeros([BLOCK, BLOCK], dtype=tl.float32)
    b_bias = tl.zeros([BLOCK], dtype=tl.float32)
    for i_block in range(i_group, tl.cdiv(num_rows, BLOCK_ROWS), row_groups):
        o_row = i_block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
        m_row = o_row < num_rows
        o_x = _input_rows(o_row, num_chunks, OF_CONDITION, OF_CHUNK)
        p_grad = p_grads + o_row.to(tl.int64)[:, None] * GRAD_PITCH + o_out[None, :]
        b_grad = tl.load(p_grad, mask=m_row[:, None] & m_out[None, :], other=0.0)
        p_row = p_x + o_x[:, None] * X_PITCH + o_in[None, :]
        b_x = tl.load(p_row, mask=m_row[:, None] & m_in[None, :], other=0.0).to(tl.float32)
        b_matrix = tl.dot(tl.trans(b_grad), b_x, b_matrix, input_precision=PRECISION)
        b_bias += tl.sum(b_grad, axis=0)
    o_in_matrix = o_out[:, None] * MATRIX_PITCH + o_in[None, :]
    tl.store(p_matrix + o_in_matrix, b_matrix, mask=m_out[:, None] & m_in[None, :])
    if HAS_BIAS:
        tl.store(p_bias + o_out, b_bias, mask=m_out & (i_tile % num_in_tiles == 0))


@triton.jit(do_not_specialize=_UNSPECIALIZED)
def _chunked_mlp_hidden_sums_kernel(
    p_inputs,
    p_hidden,
    p_grads,
    p_partial,
    num_rows,
    num_chunks,
    row_groups,
    PARTS: tl.constexpr,
    WIDTHS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PITCH: tl.constexpr,
    IN_WIDTH: tl.constexpr,
    MATRICES: tl.constexpr,
    BIASES: tl.constexpr,
    NUM_SUMS: tl.constexpr,
    TASKS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Compute the gradients of the hidden layers' matrices and biases, sums of g_lᵀ·h_{l-1} and g_l.

    Inputs, hidden, PARTS, WIDTHS and COLUMNS as in the forward kernel; grads [R, Σ widths] is what
    ``_chunked_mlp_hidden_bwd_kernel`` computes. TASKS has the first program of each part, then of each layer
    but the first, then their number; a program does a tile of one matrix for every row_groups-th block of
    rows, and leaves it in partial [row_groups, NUM_SUMS], where matrix and bias of layer l begin at
    MATRICES[l] and BIASES[l].
    """
    i_task = tl.program_id(0) // row_groups
    i_group = tl.program_id(0) % row_groups
    p_sums = p_partial + i_group.to(tl.int64) * NUM_SUMS
    for i_part in tl.static_range(len(PARTS)):
        if (i_task >= TASKS[i_part]) & (i_task < TASKS[i_part + 1]):
            _sum_of_outer_products(
                p_sums + MATRICES[0] + PARTS[i_part][1],
                p_sums + BIASES[0],
                i_task - TASKS[i_part],
                i_group,
                p_grads,
                p_inputs[i_part],
                num_rows,
                num_chunks,
                row_groups,
                WIDTHS[0],
                PARTS[i_part][0],
                PITCH,
                PARTS[i_part][0],
                IN_WIDTH,
                PARTS[i_part][2],
                PARTS[i_part][3],
                i_part == 0,
                BLOCK_ROWS,
                BLOCK,
                PRECISION,
            )
    for i_layer in tl.static_range(1, len(WIDTHS)):
        if (i_task >= TASKS[len(PARTS) + i_layer - 1]) & (i_task < TASKS[len(PARTS) + i_layer]):
            _sum_of_outer_products(
                p_sums + MATRICES[i_layer],
                p_sums + BIASES[i_layer],
                i_task - TASKS[len(PARTS) + i_layer - 1],
                i_group,
                p_grads + COLUMNS[i_layer],
                p_hidden + COLUMNS[i_layer - 1],
                num_rows,
                num_chunks,
                row_groups,
                WIDTHS[i_layer],
                WIDTHS[i_layer - 1],
                PITCH,
                PITCH,
                WIDTHS[i_layer - 1],
                True,
                True,
                True,
                BLOCK_ROWS,
                BLOCK,
                PRECISION,
            )


@triton.jit(do_not_specialize=_UNSPECIALIZED)
def _chunked_mlp_inputs_bwd_kernel(
    p_grads,
    p_weight,
    p_grad_inputs,
    num_rows,
    num_chunks,
    PARTS: tl.constexpr,
    TASKS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    PITCH: tl.constexpr,
    IN_WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_IN: tl.constexpr,
):
    """Compute the gradients of the parts of the input, grad_part[q] = (Σ_r g_1[r]) · W_1[:, part].

    Row q of a part meets the rows r that read it. grads [R, PITCH] begins with those of the first layer,
    [R, WIDTH]; weight [WIDTH, IN_WIDTH]. PARTS as in the forward kernel, TASKS the first program of each; a
    program does one row of a part, [width].
    """
    i_program = tl.program_id(0)
    o_unit = tl.arange(0, BLOCK_WIDTH)
    m_unit = o_unit < WIDTH
    for i_part in tl.static_range(len(PARTS)):
        if (i_program >= TASKS[i_part]) & (i_program < TASKS[i_part + 1]):
            i_row = i_program - TASKS[i_part]
            if PARTS[i_part][2] and PARTS[i_part][3]:
                first, step, count = i_row, 1, 1
            elif PARTS[i_part][2]:
                first, step, count = i_row * num_chunks, 1, num_chunks
            elif PARTS[i_part][3]:
                first, step, count = i_row, num_chunks, num_rows // num_chunks
            else:
                first, step, count = 0, 1, num_rows
            b_sum = tl.zeros([BLOCK_WIDTH], dtype=tl.float32)
            for i_first in range(0, count, BLOCK_ROWS):
                o_row = i_first + tl.arange(0, BLOCK_ROWS)
                p_rows = p_grads + (first + o_row * step).to(tl.int64)[:, None] * PITCH + o_unit[None, :]
                b_sum += tl.sum(
                    tl.load(p_rows, mask=(o_row < count)[:, None] & m_unit[None, :], other=0.0), 0
                )
            for i_in in range(0, PARTS[i_part][0], BLOCK_IN):
                o_in = i_in + tl.arange(0, BLOCK_IN)
                m_in = o_in < PARTS[i_part][0]
                p_block = p_weight + PARTS[i_part][1] + o_unit[:, None] * IN_WIDTH + o_in[None, :]
                b_weight = tl.load(p_block, mask=m_unit[:, None] & m_in[None, :], other=0.0).to(tl.float32)
                b_grad = tl.sum(b_weight * b_sum[:, None], axis=0)
                p_out = p_grad_inputs[i_part] + i_row.to(tl.int64) * PARTS[i_part][0] + o_in
                tl.store(p_out, b_grad.to(p_grad_inputs[i_part].dtype.element_ty), mask=m_in)


@triton.jit(do_not_specialize=["num_parts"])
def _chunked_mlp_reduce_all_kernel(
    p_parts,
    p_sums,
    num_parts,
    SIZES: tl.constexpr,
    STARTS: tl.constexpr,
    TASKS: tl.constexpr,
    NUM_ELEMENTS: tl.constexpr,
    BLOCK_ELEMENTS: tl.constexpr,
):
    """Compute sums[i][e] = Σ_p parts[p, STARTS[i] + e] in a fixed order; parts [P, NUM_ELEMENTS] float32.

    Tuples, an entry a tensor: sums [SIZES[i]]; TASKS the first program of each, and their number.
    """
    i_program = tl.program_id(0)
    for i_tensor in tl.static_range(len(SIZES)):
        if (i_program >= TASKS[i_tensor]) & (i_program < TASKS[i_tensor + 1]):
            o_element = (i_program - TASKS[i_tensor]) * BLOCK_ELEMENTS + tl.arange(0, BLOCK_ELEMENTS)
            m_element = o_element < SIZES[i_tensor]
            b_sum = tl.zeros([BLOCK_ELEMENTS], dtype=tl.float32)
            for i_part in range(num_parts):
                p_part = p_parts + tl.cast(i_part, tl.int64) * NUM_ELEMENTS + STARTS[i_tensor] + o_element
                b_sum += tl.load(p_part, mask=m_element, other=0.0)
            p_sum = p_sums[i_tensor] + o_element
            tl.store(p_sum, b_sum.to(p_sums[i_tensor].dtype.element_ty), mask=m_element)


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
    DOT_WIDTH: tl.constexpr,
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
        DOT_WIDTH,
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
            b_grad_features,
            i_tiles,
            i_rows,
            True,
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
            WIDTH,
            FEATURE_PITCH,
            WEIGHT_PITCH,
            GRAD_WEIGHT_PITCH,
            PARTIAL_PITCH,
            NEED_WEIGHT,
            NEED_OFFSET,
            NEED_FEATURES,
            REPEATED,
            ONE_BLOCK,
            BLOCK_ROWS,
            BLOCK_SIZE,
            BLOCK_K,
            PRECISION,
            NUM_STAGES,
            ALIGNMENT,
        )
    else:
        for i_tile in range(i_tiles, tl.cdiv(chunk_size, BLOCK_SIZE), tile_groups):
            b_grad_features = _backward_of_tile(
                b_grad_features,
                i_tile,
                i_rows,
                i_tile == i_tiles,
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
                WIDTH,
                FEATURE_PITCH,
                WEIGHT_PITCH,
                GRAD_WEIGHT_PITCH,
                PARTIAL_PITCH,
                NEED_WEIGHT,
                NEED_OFFSET,
                NEED_FEATURES,
                REPEATED,
                ONE_BLOCK,
                BLOCK_ROWS,
                BLOCK_SIZE,
                BLOCK_K,
                PRECISION,
                NUM_STAGES,
                ALIGNMENT,
            )
            # The next tile reads this program's sums of grad_features back.
            tl.debug_barrier()
    if NEED_FEATURES and ONE_BLOCK:
        o_feature = tl.arange(0, BLOCK_K)
        o_row = i_rows * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
        p_sum = p_partial + o_row.to(tl.int64)[:, None] * PARTIAL_PITCH + o_feature[None, :]
        m_sum = (o_row < num_rows)[:, None] & (o_feature < PARTIAL_PITCH)[None, :]
        tl.store(p_sum, b_grad_features, mask=m_sum)


@triton.jit(do_not_specialize=["num_parts"])
def _chunked_mlp_reduce_kernel(
    p_parts,
    p_sum,
    num_elements,
    num_parts,
    BLOCK_PARTS: tl.constexpr,
    BLOCK_ELEMENTS: tl.constexpr,
):
    """Compute sum[e] = Σ_p parts[p, e] in a fixed order; parts [P, E] float32, sum [E]."""
    o_element = tl.program_id(0).to(tl.int64) * BLOCK_ELEMENTS + tl.arange(0, BLOCK_ELEMENTS)
    m_element = o_element < num_elements
    b_sum = tl.zeros([BLOCK_ELEMENTS], dtype=tl.float32)
    for i_part in range(0, num_parts, BLOCK_PARTS):
        o_part = i_part + tl.arange(0, BLOCK_PARTS)
        p_block = p_parts + o_part.to(tl.int64)[:, None] * num_elements + o_element[None, :]
        b_part = tl.load(p_block, mask=(o_part < num_parts)[:, None] & m_element[None, :], other=0.0)
        b_sum += tl.sum(b_part, axis=0)
    tl.store(p_sum + o_element, b_sum.to(p_sum.dtype.element_ty), mask=m_element)
