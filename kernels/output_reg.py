"""Launcher and kernel of ``output_reg``: the hidden layers of networks, and how they have changed.

Notation as in ``chunked_mlp.py``; everything is float32.
"""

from collections.abc import Callable, Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import chunked_mlp_tiles as tiles
from .chunked_mlp_hidden import (
    HiddenLayers,
    Rows,
    alike,
    blocks,
    by_row,
    columns_of,
    layers_of,
    options,
    rows_of_parts,
    tasks_of,
    tensors_by_row,
    widest,
)
from .chunked_mlp_hidden_kernels import _activate, _expm1, _find_task, _input_rows, _pick, _pick_of
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
    width,
    OTHER_IS_OLD: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Return now[x, w] + Σ_k x·w and change[x, w] + Σ_k x·(w − w*) + δ·w*, k < width.

    ``other`` holds x* = x − δ, or δ itself.
    """
    o_k = tl.arange(0, BLOCK_K)
    for i_k in range(0, width, BLOCK_K):
        m_k = o_k < width - i_k
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
def _accumulate_parts(
    b_now,
    b_change,
    i_net,
    o_row,
    m_row,
    num_chunks,
    o_unit,
    m_unit,
    p_inputs,
    p_old_inputs,
    p_columns,
    p_old_columns,
    PART_WIDTHS: tl.constexpr,
    IN_WIDTHS: tl.constexpr,
    CONDITION_STRIDES: tl.constexpr,
    CHUNK_STRIDES: tl.constexpr,
    OLD_CONDITION_STRIDES: tl.constexpr,
    OLD_CHUNK_STRIDES: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Do ``_accumulate_change`` for all parts of the input; tuples as in ``_hidden_change_kernel``."""
    for i_part in tl.static_range(len(PART_WIDTHS)):
        part_width = _pick_of(i_net, PART_WIDTHS, i_part)
        condition_stride = _pick_of(i_net, CONDITION_STRIDES, i_part)
        o_part = _input_rows(o_row, num_chunks, condition_stride, _pick_of(i_net, CHUNK_STRIDES, i_part))
        old_stride = _pick_of(i_net, OLD_CONDITION_STRIDES, i_part)
        o_old = _input_rows(o_row, num_chunks, old_stride, _pick_of(i_net, OLD_CHUNK_STRIDES, i_part))
        b_now, b_change = _accumulate_change(
            b_now,
            b_change,
            _pick(i_net, p_inputs[i_part]),
            o_part * part_width,
            _pick(i_net, p_old_inputs[i_part]),
            o_old * part_width,
            m_row,
            _pick(i_net, p_columns[i_part]),
            _pick(i_net, p_old_columns[i_part]),
            o_unit * _pick(i_net, IN_WIDTHS),
            m_unit,
            part_width,
            True,
            BLOCK_K,
            PRECISION,
        )
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


@triton.jit(do_not_specialize=["tasks", "num_conditions"])
def _hidden_change_kernel(
    p_inputs,
    p_old_inputs,
    p_columns,
    p_old_columns,
    p_weights,
    p_old_weights,
    p_biases,
    p_old_biases,
    p_hidden,
    p_change,
    p_rows,
    p_scaling,
    tasks,
    num_conditions,
    CHUNKS: tl.constexpr,
    PART_WIDTHS: tl.constexpr,
    CONDITION_STRIDES: tl.constexpr,
    CHUNK_STRIDES: tl.constexpr,
    OLD_CONDITION_STRIDES: tl.constexpr,
    OLD_CHUNK_STRIDES: tl.constexpr,
    IN_WIDTHS: tl.constexpr,
    WIDTHS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_WIDTHS: tl.constexpr,
    PITCHES: tl.constexpr,
    ROW_PITCHES: tl.constexpr,
    ACTIVATION: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Compute all hidden layers h_l, and δ_l = h_l − h*_l layer by layer, never as a difference of results.

    Layers lie side by side in hidden and change [R, PITCH]. What the last layer reads is also left in rows
    [R, ROW_PITCH]: h_L, a 1 if there are biases, δ_L; and if there is a scaling [B], in second rows times
    that of the condition. Tuples as in ``_chunked_mlp_hidden_kernel``, those that
    begin with "old" for the networks as they were.
    """
    i_net, i_before = _find_task(tl.program_id(0), tasks)
    i_block = tl.program_id(0) - i_before
    num_chunks = _pick(i_net, CHUNKS)
    pitch = _pick(i_net, PITCHES)
    row_pitch = _pick(i_net, ROW_PITCHES)
    o_local = tl.arange(0, BLOCK_ROWS)
    o_row = i_block * BLOCK_ROWS + o_local
    m_row = o_row < num_conditions * num_chunks
    i_first = i_block.to(tl.int64) * BLOCK_ROWS
    p_hidden_rows = _pick(i_net, p_hidden) + i_first * pitch
    p_change_rows = _pick(i_net, p_change) + i_first * pitch
    for i_layer in tl.static_range(len(WIDTHS)):
        o_unit = tl.arange(0, BLOCK_WIDTHS[i_layer])
        width = _pick_of(i_net, WIDTHS, i_layer)
        m_unit = o_unit < width
        b_bias = (o_unit * 0).to(tl.float32)
        b_bias_change = b_bias
        if len(p_biases) > 0:
            b_bias = tl.load(_pick(i_net, p_biases[i_layer]) + o_unit, mask=m_unit, other=0.0)
            p_old_bias = _pick(i_net, p_old_biases[i_layer])
            b_bias_change = b_bias - tl.load(p_old_bias + o_unit, mask=m_unit, other=0.0)
        b_now = tl.zeros([BLOCK_ROWS, 1], dtype=tl.float32) + b_bias[None, :]
        b_change = tl.zeros([BLOCK_ROWS, 1], dtype=tl.float32) + b_bias_change[None, :]
        if i_layer == 0:
            b_now, b_change = _accumulate_parts(
                b_now,
                b_change,
                *(i_net, o_row, m_row, num_chunks, o_unit, m_unit),
                *(p_inputs, p_old_inputs, p_columns, p_old_columns),
                *(PART_WIDTHS, IN_WIDTHS),
                *(CONDITION_STRIDES, CHUNK_STRIDES, OLD_CONDITION_STRIDES, OLD_CHUNK_STRIDES),
                BLOCK_K,
                PRECISION,
            )
        else:
            in_width = _pick_of(i_net, WIDTHS, i_layer - 1)
            column = _pick_of(i_net, COLUMNS, i_layer - 1)
            b_now, b_change = _accumulate_change(
                b_now,
                b_change,
                p_hidden_rows + column,
                o_local * pitch,
                p_change_rows + column,
                o_local * pitch,
                m_row,
                _pick(i_net, p_weights[i_layer - 1]),
                _pick(i_net, p_old_weights[i_layer - 1]),
                o_unit * in_width,
                m_unit,
                in_width,
                False,
                BLOCK_K,
                PRECISION,
            )
        b_now, b_change = _activate_change(b_now, b_change, ACTIVATION)
        m_layer = m_row[:, None] & m_unit[None, :]
        o_in_layer = _pick_of(i_net, COLUMNS, i_layer) + (o_local[:, None] * pitch + o_unit[None, :])
        tl.store(p_hidden_rows + o_in_layer, b_now, mask=m_layer)
        tl.store(p_change_rows + o_in_layer, b_change, mask=m_layer)
        if i_layer == len(WIDTHS) - 1:
            b_factor = tl.full([BLOCK_ROWS], 1.0, dtype=tl.float32)
            for i_copy in tl.static_range(len(p_rows)):
                if i_copy == 1:
                    b_factor = tl.load(p_scaling + o_row // num_chunks, mask=m_row, other=0.0)
                p_row = _pick(i_net, p_rows[i_copy]) + (i_first + o_local) * row_pitch
                p_block = p_row[:, None] + o_unit[None, :]
                tl.store(p_block, b_now * b_factor[:, None], mask=m_layer)
                tl.store(p_block + (row_pitch - width), b_change * b_factor[:, None], mask=m_layer)
                if len(p_biases) > 0:
                    tl.store(p_row + width, b_factor, mask=m_row)
        tl.debug_barrier()


def takes(dtype: torch.dtype, weights: Sequence[Tensor]) -> bool:
    """Whether :func:`hidden_change` is for such a network: one with narrow hidden layers, in float32."""
    return dtype == torch.float32 and len(weights) > 1 and is_fused(dtype, *(len(w) for w in weights[:-1]))


def hidden_change(
    networks: Sequence[HiddenLayers],
    old: Sequence[HiddenLayers],
    activation: str,
    num_conditions: int,
    scaling: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the hidden layers and their change, in one launch.

    Args:
        networks: The hidden layers of networks of the same depth, float32.
        old: The same as they were.
        activation: Of the hidden layers.
        num_conditions: B.
        scaling: A factor for each condition, ``[B]``.

    Returns:
        What the last layers read, a 1 if there are biases, and its change, ``[R, 2·K (+ 1)]`` of each network
        one after the other; this times the scaling; and all hidden layers ``[R, Σ widths]`` of each.
    """
    widths = [network.widths for network in networks]
    counts = [num_conditions * network.num_chunks for network in networks]
    pitches = [2 * network.widths[-1] + bool(network.biases) for network in networks]
    sizes = [count * sum(of_network) for count, of_network in zip(counts, widths, strict=True)]
    row_sizes = [count * pitch for count, pitch in zip(counts, pitches, strict=True)]
    first, old_first = ([network.weights[0] for network in group] for group in (networks, old))
    rows, hidden = first[0].new_empty(sum(row_sizes)), first[0].new_empty(sum(sizes))
    scaled = rows if scaling is None else torch.empty_like(rows)
    tile = tiles.hidden_change_tile(len(networks), widest(widths))
    tasks, programs = tasks_of(blocks(count, tile.block_rows) for count in counts)
    if programs == 0:
        return rows, scaled, hidden
    change = torch.empty_like(hidden)
    chunks = [network.num_chunks for network in networks]

    def pairs(function: Callable[[HiddenLayers], Sequence[Tensor]]) -> tuple[Rows, Rows]:
        return (
            tensors_by_row([function(network) for network in networks], first),
            tensors_by_row([function(network) for network in old], old_first),
        )

    _hidden_change_kernel[(programs,)](
        *pairs(lambda network: network.inputs),
        *pairs(columns_of),
        *pairs(lambda network: network.weights[1:]),
        *pairs(lambda network: network.biases),
        hidden.split(sizes),
        change.split(sizes),
        tuple(t.split(row_sizes) for t in ((rows,) if scaling is None else (rows, scaled))),
        rows if scaling is None else scaling,
        tasks,
        num_conditions,
        CHUNKS=alike(chunks),
        PART_WIDTHS=by_row([part.shape[2] for part in network.inputs] for network in networks),
        **rows_of_parts([network.inputs for network in networks], chunks),
        **rows_of_parts([network.inputs for network in old], chunks, "OLD_"),
        IN_WIDTHS=alike(weight.shape[1] for weight in first),
        **layers_of(widths),
        ROW_PITCHES=alike(pitches),
        ACTIVATION=activation,
        BLOCK_ROWS=tile.block_rows,
        BLOCK_K=tile.block_k,
        PRECISION=tiles.input_precision(torch.float32),
        **options(tile),
    )
    return rows, scaled, hidden
