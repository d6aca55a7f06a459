"""Launchers and kernels of ``output_reg`` for the last layers of several networks, narrow ones in float32.

With the matrix M = [D W*] of a last layer and the rows X of what it reads, see ``hnetfast.ops.output_reg``:
the squares MᵀM and XᵀsX, and from them the gradients. Notation and tuples as in
``chunked_mlp_hidden_kernels.py``; C is 2·K, and 1 more if there are biases.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import chunked_mlp_tiles as tiles
from .chunked_mlp_hidden import (
    HiddenLayers,
    OuterProducts,
    alike,
    blocks,
    hidden_layers_backward,
    options,
    sum_parts,
    sums_over_rows,
    tasks_of,
)
from .chunked_mlp_hidden_kernels import _find_task, _pick
from .output_reg import hidden_change


@triton.jit(do_not_specialize=["tasks"])
def _layer_change_kernel(
    p_weights,
    p_old_weights,
    p_biases,
    p_old_biases,
    p_matrices,
    tasks,
    SIZES: tl.constexpr,
    WIDTHS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Compute M = [W − W*, b − b* if there are biases, W*], [S, C]; a program does BLOCK_ROWS rows of one."""
    i_net, i_first = _find_task(tl.program_id(0), tasks)
    width = _pick(i_net, WIDTHS)
    o_row = (tl.program_id(0) - i_first).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    m_row = o_row < _pick(i_net, SIZES)
    o_column = tl.arange(0, BLOCK_K)
    o_in_weight = o_row[:, None] * width + o_column[None, :]
    m_weight = m_row[:, None] & (o_column < width)[None, :]
    b_weight = tl.load(_pick(i_net, p_weights) + o_in_weight, mask=m_weight, other=0.0)
    b_old = tl.load(_pick(i_net, p_old_weights) + o_in_weight, mask=m_weight, other=0.0)
    layer_columns = width
    if len(p_biases) > 0:
        layer_columns = width + 1
    p_row = _pick(i_net, p_matrices) + o_row * (layer_columns + width)
    p_block = p_row[:, None] + o_column[None, :]
    tl.store(p_block, b_weight - b_old, mask=m_weight)
    tl.store(p_block + layer_columns, b_old, mask=m_weight)
    if len(p_biases) > 0:
        b_bias = tl.load(_pick(i_net, p_biases) + o_row, mask=m_row, other=0.0)
        b_old_bias = tl.load(_pick(i_net, p_old_biases) + o_row, mask=m_row, other=0.0)
        tl.store(p_row + width, b_bias - b_old_bias, mask=m_row)


@triton.jit(do_not_specialize=["tasks", "rows"])
def _layer_gradients_kernel(
    p_grad,
    p_y,
    p_squares,
    p_out,
    p_last,
    tasks,
    rows,
    WIDTHS: tl.constexpr,
    COLUMNS: tl.constexpr,
    FOLDS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Compute out[r, k] = 2 · grad · Σ_c y[r, c] · f[c, k], k < WIDTH, and last[r], that of k = WIDTH.

    y [rows, COLUMNS], f [COLUMNS, COLUMNS]. FOLD says how far right of a column of f another one lies that is
    added to it, or is 0 for none; only then there is a last one, and only if there are biases. Tuples have an
    entry for each product; a program does BLOCK_ROWS rows.
    """
    i_product, i_first = _find_task(tl.program_id(0), tasks)
    width = _pick(i_product, WIDTHS)
    columns = _pick(i_product, COLUMNS)
    fold = _pick(i_product, FOLDS)
    p_f = _pick(i_product, p_squares)
    o_row = (tl.program_id(0) - i_first).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    m_row = o_row < _pick(i_product, rows)
    p_y_rows = _pick(i_product, p_y) + o_row * columns
    o_out = tl.arange(0, BLOCK_WIDTH)
    m_out = o_out < width
    b_out = tl.zeros([BLOCK_ROWS, BLOCK_WIDTH], dtype=tl.float32)
    b_last = tl.zeros([BLOCK_ROWS], dtype=tl.float32)
    for i_column in range(0, columns, BLOCK_K):
        o_column = i_column + tl.arange(0, BLOCK_K)
        m_column = o_column < columns
        m_y = m_row[:, None] & m_column[None, :]
        b_y = tl.load(p_y_rows[:, None] + o_column[None, :], mask=m_y, other=0.0)
        m_f = m_column[:, None] & m_out[None, :]
        p_block = p_f + o_column[:, None] * columns + o_out[None, :]
        b_f = tl.load(p_block, mask=m_f, other=0.0)
        b_f += tl.load(p_block + fold, mask=m_f & (fold > 0), other=0.0)
        b_out = tl.dot(b_y, b_f, b_out, input_precision=PRECISION)
        if len(p_last) > 0:
            b_f_last = tl.load(p_f + o_column * columns + width, mask=m_column & (fold == 0), other=0.0)
            b_last += tl.sum(b_y * b_f_last[None, :], axis=1)
    b_factor = 2.0 * tl.load(p_grad)
    p_block = _pick(i_product, p_out) + o_row[:, None] * width + o_out[None, :]
    tl.store(p_block, b_out * b_factor, mask=m_row[:, None] & m_out[None, :])
    if len(p_last) > 0:
        tl.store(_pick(i_product, p_last) + o_row, b_last * b_factor, mask=m_row & (fold == 0))


def changes(
    networks: Sequence[HiddenLayers],
    old: Sequence[HiddenLayers],
    layers: Sequence[Sequence[Tensor]],
    old_layers: Sequence[Sequence[Tensor]],
    never: Sequence[Tensor],
    activation: str,
    num_conditions: int,
    scaling: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Compute what the loss is made of.

    Args:
        networks: The hidden layers of networks of the same depth.
        old: The same as they were.
        layers: Weight and bias, if any, of the last layer of each.
        old_layers: The same as they were.
        never: Rows of the last layers that do not count.
        activation: Of the hidden layers.
        num_conditions: B.
        scaling: A factor for each condition, ``[B]``.

    Returns:
        The rows ``[R, C]`` of each network one after the other, if there is a scaling; likewise the scaled
        rows, all hidden layers, and the matrices ``[S, C]``; and squares ``[2, Σ C²]``: the products of the
        first half with the second add up to the loss.
    """
    rows, scaled, hidden = hidden_change(networks, old, activation, num_conditions, scaling)
    widths = [layer[0].shape[1] for layer in layers]
    sizes = [len(layer[0]) for layer in layers]
    columns = [2 * width + len(layer) - 1 for width, layer in zip(widths, layers, strict=True)]
    counts = [num_conditions * network.num_chunks for network in networks]
    lengths = [size * c for size, c in zip(sizes, columns, strict=True)]
    matrices = rows.new_empty(sum(lengths))
    block_k = tiles.padded_width(max(widths))
    block_rows = 2048 // block_k
    tasks, programs = tasks_of(blocks(size, block_rows) for size in sizes)
    _layer_change_kernel[(programs,)](
        *(tuple(layer[0] for layer in each) for each in (layers, old_layers)),
        *(tuple(layer[1] for layer in each if len(layer) > 1) for each in (layers, old_layers)),
        matrices.split(lengths),
        tasks,
        SIZES=alike(sizes),
        WIDTHS=alike(widths),
        BLOCK_ROWS=block_rows,
        BLOCK_K=block_k,
        num_warps=4,
    )
    of_layers = _each(matrices, sizes, columns)
    for matrix, out in zip(of_layers, never, strict=True):
        if len(out):
            matrix.index_fill_(0, out, 0)
    pairs = [*zip(of_layers, of_layers, strict=True)]
    pairs += zip(_each(rows, counts, columns), _each(scaled, counts, columns), strict=True)
    products, start = [], 0
    for x, y in pairs:
        c = x.shape[1]
        products.append(OuterProducts(x, y, 1, (1, 0), c, c, start, c, -1))
        start += c * c
    tile = tiles.squares_tile(max(columns))
    # Networks differ much in size: with many programs for each, most of those of the small ones have no rows.
    partial = sums_over_rows(products, start, tile, tiles.input_precision(torch.float32), crowd=4)
    squares = rows.new_empty(2, start // 2)
    sum_parts(partial, [(squares, 0)])
    return rows if scaling is not None else rows.new_empty(0), scaled, hidden, matrices, squares


def _each(flat: Tensor, counts: Sequence[int], columns: Sequence[int]) -> list[Tensor]:
    """Matrices that lie one after the other."""
    parts = flat.split([count * c for count, c in zip(counts, columns, strict=True)])
    return [part.view(count, c) for part, count, c in zip(parts, counts, columns, strict=True)]


def changes_backward(
    grad: Tensor,
    others: Tensor | None,
    scaled: Tensor,
    hidden: Tensor,
    matrices: Tensor,
    squares: Tensor,
    networks: Sequence[HiddenLayers],
    layers: Sequence[Sequence[Tensor]],
    activation: str,
    num_conditions: int,
    needs: Sequence[Sequence[bool]],
) -> list[list[Tensor | None]]:
    """Gradients of the inputs, weights and biases of each network, as ``needs`` has them.

    Args:
        grad: Gradient of the loss, scalar.
        others: What else there is of the gradients of what the last layers read, ``[R, K]`` of each network.
        scaled: What :func:`changes` returned, like the next three.
        hidden: See there.
        matrices: See there.
        squares: See there.
        networks: As given to it.
        layers: As given to it.
        activation: As given to it.
        num_conditions: B.
        needs: For each network whether its inputs, weights and biases need gradients.

    Returns:
        The gradients in the order of ``needs``; some that are not needed too.
    """
    has_bias = len(layers[0]) > 1
    widths = [layer[0].shape[1] for layer in layers]
    sizes = [len(layer[0]) for layer in layers]
    columns = [2 * width + has_bias for width in widths]
    counts = [num_conditions * network.num_chunks for network in networks]
    of_layers, of_rows = (_each(half, columns, columns) for half in squares)
    weights = [scaled.new_empty(size, width) for size, width in zip(sizes, widths, strict=True)]
    biases = [scaled.new_empty(size) for size in sizes] if has_bias else []
    all_features = scaled.new_empty(sum(count * width for count, width in zip(counts, widths, strict=True)))
    features = _each(all_features, counts, widths)
    ys = _each(matrices, sizes, columns) + _each(scaled, counts, columns)
    tile = tiles.hidden_tile()._replace(block_rows=32)
    tasks, programs = tasks_of(blocks(len(y), tile.block_rows) for y in ys)
    _layer_gradients_kernel[(programs,)](
        grad,
        tuple(ys),
        (*of_rows, *of_layers),
        (*weights, *features),
        (*biases, *biases),  # the second half is not written
        tasks,
        tuple(map(len, ys)),
        WIDTHS=alike(widths * 2),
        COLUMNS=alike(columns * 2),
        FOLDS=(0,) * len(widths) + tuple(width + has_bias for width in widths),
        BLOCK_ROWS=tile.block_rows,
        BLOCK_WIDTH=tiles.padded_width(max(widths)),
        BLOCK_K=tile.block_k,
        PRECISION=tiles.input_precision(torch.float32),
        **options(tile),
    )
    if others is not None:
        all_features += others
    shapes = [sum(network.widths) for network in networks]
    found = hidden_layers_backward(
        features, _each(hidden, counts, shapes), networks, activation, num_conditions, needs
    )
    for i, (grads, network) in enumerate(zip(found, networks, strict=True)):
        grads[len(network.inputs) + len(network.weights)] = weights[i]
        if has_bias:
            grads[-1] = biases[i]
    return found
