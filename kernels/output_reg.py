"""Launcher and kernel of ``output_reg``: the hidden layers of a network, and how they have changed.

Notation as in ``chunked_mlp.py``; everything is float32.
"""

import itertools
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import chunked_mlp_tiles as tiles
from .chunked_mlp_kernels import _activate, _expm1, _input_rows
from .chunked_mlp_products import is_fused


@triton.jit
def _accumulate_change(
    b_now,
    b_change,
    p_x,
    o_x,
    p_other,
    o_other,
    m_x,
    p_w,
    p_old_w,
    o_w,
    m_w,
    WIDTH: tl.constexpr,
    OTHER_IS_OLD: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Return now[x, w] + Σ_k x·w and change[x, w] + Σ_k x·(w − w*) + δ·w*, k < WIDTH.

    ``other`` holds x* = x − δ, or δ itself.
    """
    o_k = tl.arange(0, BLOCK_K)
    for i_k in range(0, WIDTH, BLOCK_K):
        m_k = o_k < WIDTH - i_k
        m_rows = m_x[:, None] & m_k[None, :]
        m_columns = m_w[None, :] & m_k[:, None]
        o_in_w = i_k + (o_w[None, :] + o_k[:, None])
        b_x = tl.load(p_x + i_k + (o_x[:, None] + o_k[None, :]), mask=m_rows, other=0.0)
        b_other = tl.load(p_other + i_k + (o_other[:, None] + o_k[None, :]), mask=m_rows, other=0.0)
        b_w = tl.load(p_w + o_in_w, mask=m_columns, other=0.0)
        b_old_w = tl.load(p_old_w + o_in_w, mask=m_columns, other=0.0)
        b_delta = b_x - b_other if OTHER_IS_OLD else b_other
        b_now = tl.dot(b_x, b_w, b_now, input_precision=PRECISION)
        b_change = tl.dot(b_x, b_w - b_old_w, b_change, input_precision=PRECISION)
        b_change = tl.dot(b_delta, b_old_w, b_change, input_precision=PRECISION)
    return b_now, b_change


@triton.jit
def _activate_change(b_now, b_change, ACTIVATION: tl.constexpr):
    """Return act(z) and act(z) − act(z − δ), the latter without cancellation."""
    b_before = b_now - b_change
    b_act, b_old = _activate(b_now, ACTIVATION), _activate(b_before, ACTIVATION)
    # Beyond 1 there is nothing to cancel, and formulas overflow.
    b_small = tl.minimum(tl.maximum(b_change, -1.0), 1.0)
    m_exact = b_small == b_change
    m_same = (b_now > 0.0) == (b_before > 0.0)
    if ACTIVATION == "relu":
        b_exact = tl.where(b_now > 0.0, b_change, 0.0)
        m_exact = m_same
    elif ACTIVATION == "leaky_relu":
        b_exact = tl.where(b_now > 0.0, b_change, 0.01 * b_change)
        m_exact = m_same
    elif ACTIVATION == "tanh":
        b_exact = _activate(b_small, "tanh") * (1.0 - b_act * b_old)
    elif ACTIVATION == "sigmoid":
        b_exact = -_expm1(-b_small) * b_act * (1.0 - b_old)
    elif ACTIVATION == "elu":
        b_below = tl.exp(tl.minimum(b_before, 0.0)) * _expm1(b_small)
        b_exact = tl.where(b_now > 0.0, b_change, b_below)
        m_exact = m_exact & m_same
    else:
        b_exact = b_change
    return b_act, tl.where(m_exact, b_exact, b_act - b_old)


@triton.jit(do_not_specialize=["num_rows", "num_chunks"])
def _hidden_change_kernel(
    p_inputs,
    p_old_inputs,
    p_weights,
    p_old_weights,
    p_biases,
    p_old_biases,
    p_hidden,
    p_change,
    p_rows,
    num_rows,
    num_chunks,
    PARTS: tl.constexpr,
    OLD_PARTS: tl.constexpr,
    WIDTHS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_WIDTHS: tl.constexpr,
    IN_WIDTH: tl.constexpr,
    PITCH: tl.constexpr,
    ROWS_PITCH: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Compute all hidden layers h_l, and δ_l = h_l − h*_l layer by layer, never as a difference of results.

    Layers lie side by side in hidden and change [R, PITCH]. What the last layer reads is also left in rows
    [R, ROWS_PITCH]: h_L, a 1 if HAS_BIAS, δ_L. Tuples as in ``_chunked_mlp_hidden_kernel``, those that begin
    with "old" for the network as it was.
    """
    o_local = tl.arange(0, BLOCK_ROWS)
    o_row = tl.program_id(0) * BLOCK_ROWS + o_local
    m_row = o_row < num_rows
    i_first = tl.program_id(0).to(tl.int64) * BLOCK_ROWS
    p_hidden_rows = p_hidden + i_first * PITCH
    p_change_rows = p_change + i_first * PITCH
    for i_layer in tl.static_range(len(WIDTHS)):
        o_unit = tl.arange(0, BLOCK_WIDTHS[i_layer])
        m_unit = o_unit < WIDTHS[i_layer]
        b_bias = (o_unit * 0).to(tl.float32)
        b_bias_change = b_bias
        if HAS_BIAS:
            b_bias = tl.load(p_biases[i_layer] + o_unit, mask=m_unit, other=0.0)
            b_bias_change = b_bias - tl.load(p_old_biases[i_layer] + o_unit, mask=m_unit, other=0.0)
        b_now = tl.zeros([BLOCK_ROWS, 1], dtype=tl.float32) + b_bias[None, :]
        b_change = tl.zeros([BLOCK_ROWS, 1], dtype=tl.float32) + b_bias_change[None, :]
        if i_layer == 0:
            for i_part in tl.static_range(len(PARTS)):
                o_part = _input_rows(o_row, num_chunks, PARTS[i_part][2], PARTS[i_part][3])
                o_old = _input_rows(o_row, num_chunks, OLD_PARTS[i_part][2], OLD_PARTS[i_part][3])
                b_now, b_change = _accumulate_change(
                    b_now,
                    b_change,
                    p_inputs[i_part],
                    o_part * PARTS[i_part][0],
                    p_old_inputs[i_part],
                    o_old * PARTS[i_part][0],
                    m_row,
                    p_weights[0] + PARTS[i_part][1],
                    p_old_weights[0] + PARTS[i_part][1],
                    o_unit * IN_WIDTH,
                    m_unit,
                    PARTS[i_part][0],
                    True,
                    BLOCK_K,
                    PRECISION,
                )
        else:
            b_now, b_change = _accumulate_change(
                b_now,
                b_change,
                p_hidden_rows + COLUMNS[i_layer - 1],
                o_local * PITCH,
                p_change_rows + COLUMNS[i_layer - 1],
                o_local * PITCH,
                m_row,
                p_weights[i_layer],
                p_old_weights[i_layer],
                o_unit * WIDTHS[i_layer - 1],
                m_unit,
                WIDTHS[i_layer - 1],
                False,
                BLOCK_K,
                PRECISION,
            )
        b_now, b_change = _activate_change(b_now, b_change, ACTIVATION)
        m_layer = m_row[:, None] & m_unit[None, :]
        o_in_layer = COLUMNS[i_layer] + (o_local[:, None] * PITCH + o_unit[None, :])
        tl.store(p_hidden_rows + o_in_layer, b_now, mask=m_layer)
        tl.store(p_change_rows + o_in_layer, b_change, mask=m_layer)
        if i_layer == len(WIDTHS) - 1:
            p_row = p_rows + (i_first + o_local)[:, None] * ROWS_PITCH + o_unit[None, :]
            tl.store(p_row, b_now, mask=m_layer)
            tl.store(p_row + (ROWS_PITCH - WIDTHS[i_layer]), b_change, mask=m_layer)
            if HAS_BIAS:
                p_one = p_rows + (i_first + o_local) * ROWS_PITCH + WIDTHS[i_layer]
                tl.store(p_one, (o_local * 0 + 1).to(tl.float32), mask=m_row)
        tl.debug_barrier()


def takes(dtype: torch.dtype, weights: Sequence[Tensor]) -> bool:
    """Whether :func:`hidden_change` is for such a network: one with narrow hidden layers, in float32."""
    return dtype == torch.float32 and len(weights) > 1 and is_fused(dtype, *(len(w) for w in weights[:-1]))


def hidden_change(
    network: tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]],
    old: tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]],
    activation: str,
    num_conditions: int,
    num_chunks: int,
) -> tuple[Tensor, Tensor]:
    """Compute the hidden layers and their change.

    Args:
        network: Inputs, weights and biases as ``chunked_mlp_forward`` takes them, float32.
        old: The same as they were.
        activation: Of the hidden layers.
        num_conditions: B.
        num_chunks: N.

    Returns:
        What the last layer reads, a 1 if there are biases, and its change, ``[R, 2·K (+ 1)]``; and all hidden
        layers ``[R, Σ widths]``.
    """
    inputs, weights, biases = ([t.contiguous() for t in tensors] for tensors in network)
    old_inputs, old_weights, old_biases = ([t.contiguous() for t in tensors] for tensors in old)
    widths = [weight.shape[0] for weight in weights[:-1]]
    num_rows, pitch = num_conditions * num_chunks, sum(widths)
    rows_pitch = 2 * widths[-1] + (1 if biases else 0)
    rows = inputs[0].new_empty((num_rows, rows_pitch))
    hidden = inputs[0].new_empty((num_rows, pitch))
    if num_rows == 0:
        return rows, hidden
    change = inputs[0].new_empty((num_rows, pitch))
    columns = list(itertools.accumulate((part.shape[2] for part in inputs), initial=0))

    def parts_of(tensors: Sequence[Tensor]) -> tuple[tuple, ...]:
        return tuple(
            (part.shape[2], column, part.shape[0] > 1, part.shape[1] > 1)
            for part, column in zip(tensors, columns, strict=False)
        )

    tile = tiles.hidden_tile()
    _hidden_change_kernel[(-(-num_rows // tile.block_rows),)](
        tuple(inputs),
        tuple(old_inputs),
        tuple(weights[:-1]),
        tuple(old_weights[:-1]),
        tuple(biases[:-1]),
        tuple(old_biases[:-1]),
        hidden,
        change,
        rows,
        num_rows,
        num_chunks,
        PARTS=parts_of(inputs),
        OLD_PARTS=parts_of(old_inputs),
        WIDTHS=tuple(widths),
        COLUMNS=tuple(itertools.accumulate(widths[:-1], initial=0)),
        BLOCK_WIDTHS=tuple(tiles.padded_width(width) for width in widths),
        IN_WIDTH=weights[0].shape[1],
        PITCH=pitch,
        ROWS_PITCH=rows_pitch,
        HAS_BIAS=len(biases) > 0,
        ACTIVATION=activation,
        BLOCK_ROWS=tile.block_rows,
        BLOCK_K=tile.block_k,
        PRECISION=tiles.input_precision(torch.float32),
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )
    return rows, hidden
