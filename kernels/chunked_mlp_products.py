"""Launchers of single ``chunked_mlp`` kernels: the hidden layers, the output product and its backward pass.

Each picks its tile, its grid and the order of its sums from the shapes alone, or hands wide and float64
layers to library products.
"""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from . import chunked_mlp_library as library
from . import chunked_mlp_tiles as tiles
from .chunked_mlp_kernels import (
    _chunked_mlp_bwd_kernel,
    _chunked_mlp_fwd_kernel,
    _chunked_mlp_hidden_bwd_kernel,
    _chunked_mlp_hidden_kernel,
    _chunked_mlp_hidden_sums_kernel,
    _chunked_mlp_inputs_bwd_kernel,
    _chunked_mlp_reduce_all_kernel,
    _chunked_mlp_reduce_kernel,
)


def is_fused(dtype: torch.dtype, *widths: int) -> bool:
    return dtype != torch.float64 and max(widths) <= tiles.MAX_FUSED_WIDTH


def _alignment(dtype: torch.dtype, *sizes: int) -> int:
    """How many elements, at most 16 bytes, divide all sizes: what kernels may assume of rows."""
    return math.gcd(16 // dtype.itemsize, *sizes)


def _options(tile: tiles.Tile) -> dict[str, int]:
    return {"num_warps": tile.num_warps, "num_stages": tile.num_stages}


def hidden_layers(
    inputs: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    activation: str,
    num_conditions: int,
    num_chunks: int,
    keep_all: bool,
) -> Tensor:
    """All hidden layers [R, Σ widths]; at least the last one where they need not be kept."""
    widths = [weight.shape[0] for weight in weights]
    if not is_fused(inputs[0].dtype, *widths):
        return library.hidden_layers(
            inputs, weights, biases, activation, num_conditions, num_chunks, keep_all
        )
    num_rows = num_conditions * num_chunks
    hidden = inputs[0].new_empty((num_rows, sum(widths)))
    precision = tiles.input_precision(hidden.dtype)
    tile = tiles.hidden_tile()
    part_widths = [part.shape[2] for part in inputs]
    columns = itertools.accumulate(part_widths, initial=0)
    _chunked_mlp_hidden_kernel[(-(-num_rows // tile.block_rows),)](
        tuple(inputs),
        tuple(weights),
        tuple(biases[: len(weights)]),
        hidden,
        num_rows,
        num_chunks,
        PARTS=tuple(
            (part.shape[2], column, part.shape[0] > 1, part.shape[1] > 1)
            for part, column in zip(inputs, columns, strict=False)
        ),
        WIDTHS=tuple(widths),
        COLUMNS=tuple(itertools.accumulate(widths[:-1], initial=0)),
        BLOCK_WIDTHS=tuple(tiles.padded_width(width) for width in widths),
        DOT_WIDTHS=tuple(
            tiles.dot_width(width, tile.block_k, precision) for width in part_widths + widths[:-1]
        ),
        IN_WIDTH=sum(part_widths),
        HIDDEN_PITCH=hidden.shape[1],
        HAS_BIAS=len(biases) > 0,
        ACTIVATION=activation,
        BLOCK_ROWS=tile.block_rows,
        BLOCK_K=tile.block_k,
        PRECISION=precision,
        NUM_STAGES=tile.num_stages,
        **_options(tile),
    )
    return hidden


def hidden_layers_backward(
    grad_features: Tensor,
    hidden: Tensor,
    inputs: Sequence[Tensor],
    weights: Sequence[Tensor],
    has_bias: bool,
    activation: str,
    num_conditions: int,
    num_chunks: int,
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """Gradients of everything below the last layer, see ``chunked_mlp_library.hidden_layers_backward``.

    Four launches, however many layers there are.
    """
    widths = [weight.shape[0] for weight in weights]
    if not is_fused(hidden.dtype, *widths):
        return library.hidden_layers_backward(
            grad_features, hidden, inputs, weights, has_bias, activation, num_conditions, num_chunks, needs
        )
    grads: list[Tensor | None] = [None] * len(needs)
    num_rows, pitch = hidden.shape
    precision = tiles.input_precision(hidden.dtype)
    tile = tiles.hidden_tile()
    if grad_features.stride(1) != 1:
        grad_features = grad_features.contiguous()
    columns = tuple(itertools.accumulate(widths[:-1], initial=0))
    row_grads = torch.empty((num_rows, pitch), dtype=torch.float32, device=hidden.device)
    _chunked_mlp_hidden_bwd_kernel[(-(-num_rows // tile.block_rows),)](
        grad_features,
        hidden,
        tuple(reversed(weights)),
        row_grads,
        num_rows,
        FEATURE_PITCH=grad_features.stride(0),
        WIDTHS=tuple(reversed(widths)),
        COLUMNS=tuple(reversed(columns)),
        BLOCK_WIDTHS=tuple(tiles.padded_width(width) for width in reversed(widths)),
        DOT_WIDTHS=tuple(tiles.dot_width(width, tile.block_k, precision) for width in reversed(widths)),
        PITCH=pitch,
        ACTIVATION=activation,
        BLOCK_ROWS=tile.block_rows,
        BLOCK_K=tile.block_k,
        PRECISION=precision,
        NUM_STAGES=tile.num_stages,
        **_options(tile),
    )
    part_columns = itertools.accumulate((part.shape[2] for part in inputs), initial=0)
    parts = tuple(
        (part.shape[2], column, part.shape[0] > 1, part.shape[1] > 1)
        for part, column in zip(inputs, part_columns, strict=False)
    )
    first_weight, first_bias = len(inputs), len(inputs) + len(weights) + 1
    of_biases = needs[first_bias : first_bias + len(weights)] if has_bias else []
    if any(needs[first_weight : first_weight + len(weights)]) or any(of_biases):
        _sums_over_rows(row_grads, hidden, inputs, weights, parts, columns, num_chunks, needs, grads)
    if any(needs[:first_weight]):
        rows = [
            part.shape[0] * part.shape[1] if need else 0 for part, need in zip(inputs, needs, strict=False)
        ]
        for i, part in enumerate(inputs):
            grads[i] = torch.empty_like(part) if needs[i] else None
        tasks = tuple(itertools.accumulate(rows, initial=0))
        _chunked_mlp_inputs_bwd_kernel[(tasks[-1],)](
            row_grads,
            weights[0],
            tuple(part if grad is None else grad for part, grad in zip(inputs, grads, strict=False)),
            num_rows,
            num_chunks,
            PARTS=parts,
            TASKS=tasks,
            WIDTH=widths[0],
            BLOCK_WIDTH=tiles.padded_width(widths[0]),
            PITCH=pitch,
            IN_WIDTH=weights[0].shape[1],
            BLOCK_ROWS=32,
            BLOCK_IN=32,
            num_warps=4,
        )
    return grads


def _sums_over_rows(
    row_grads: Tensor,
    hidden: Tensor,
    inputs: Sequence[Tensor],
    weights: Sequence[Tensor],
    parts: tuple[tuple, ...],
    columns: tuple[int, ...],
    num_chunks: int,
    needs: Sequence[bool],
    grads: list[Tensor | None],
) -> None:
    """Fill in the gradients of the hidden layers' matrices and biases from those of their rows."""
    widths = [weight.shape[0] for weight in weights]
    num_rows = row_grads.shape[0]
    tile = tiles.hidden_sums_tile(max(widths))
    precision = tiles.input_precision(hidden.dtype)
    in_widths = [part[0] for part in parts] + widths[:-1]
    out_widths = [widths[0]] * len(parts) + widths[1:]

    def blocks(size: int) -> int:
        return -(-size // tile.block_size)

    per_source = [blocks(a) * blocks(b) for a, b in zip(out_widths, in_widths, strict=True)]
    tasks = tuple(itertools.accumulate(per_source, initial=0))
    programs = tiles.num_programs(tiles.generation(hidden.device))
    row_groups = max(1, min(-(-num_rows // tile.block_rows), programs // tasks[-1], 32))
    *starts, num_sums = itertools.accumulate([weight.numel() for weight in weights] + widths, initial=0)
    partial = torch.empty((row_groups, num_sums), dtype=torch.float32, device=hidden.device)
    _chunked_mlp_hidden_sums_kernel[(tasks[-1] * row_groups,)](
        tuple(inputs),
        hidden,
        row_grads,
        partial,
        num_rows,
        num_chunks,
        row_groups,
        PARTS=parts,
        WIDTHS=tuple(widths),
        COLUMNS=columns,
        PITCH=hidden.shape[1],
        IN_WIDTH=weights[0].shape[1],
        MATRICES=tuple(starts[: len(weights)]),
        BIASES=tuple(starts[len(weights) :]),
        NUM_SUMS=num_sums,
        TASKS=tasks,
        BLOCK_ROWS=tile.block_rows,
        BLOCK=tile.block_size,
        PRECISION=precision,
        **_options(tile),
    )
    # Where the gradients of matrices and biases are in needs; those of the output layer lie between.
    places = [*range(len(inputs), len(inputs) + len(weights))]
    if len(needs) > len(inputs) + len(weights) + 1:
        places += range(len(inputs) + len(weights) + 1, len(needs) - 1)
    wanted = [(place, start) for place, start in zip(places, starts, strict=False) if needs[place]]
    for place, _ in wanted:
        i = place - len(inputs)
        like = weights[i] if i < len(weights) else None
        shape = like.shape if like is not None else (widths[i - len(weights) - 1],)
        grads[place] = torch.empty(shape, dtype=hidden.dtype, device=hidden.device)
    block_elements = 128
    sizes = [grads[place].numel() for place, _ in wanted]
    tasks = tuple(itertools.accumulate((-(-size // block_elements) for size in sizes), initial=0))
    _chunked_mlp_reduce_all_kernel[(tasks[-1],)](
        partial,
        tuple(grads[place] for place, _ in wanted),
        row_groups,
        SIZES=tuple(sizes),
        STARTS=tuple(start for _, start in wanted),
        TASKS=tasks,
        NUM_ELEMENTS=num_sums,
        BLOCK_ELEMENTS=block_elements,
        num_warps=4,
    )


def product(
    features: Tensor, weight: Tensor, offset: Tensor | None, out: Tensor, num_chunks: int, repeat: int
) -> None:
    """Fill out[r // N + b, (r % N)·S + j] = Σ_k features[r, k]·weight[j, k] + offset[b, j], b < repeat.

    features [rows, K] and weight [S, K] may be columns of wider tensors; offset [repeat, S] or None;
    out [conditions, n], where n cuts the last chunk.
    """
    chunk_size, width = weight.shape
    num_rows, num_outputs = features.shape[0], out.shape[1]
    if not is_fused(weight.dtype, width):
        library.product(features, weight, offset, out, num_chunks, repeat)
        return
    arch = tiles.generation(out.device)
    precision = tiles.input_precision(weight.dtype)
    alignment = _alignment(out.dtype, num_outputs, chunk_size)
    tile = tiles.forward_tile(arch, precision, num_rows, width, alignment)
    num_programs = -(-chunk_size // tile.block_size) * -(-num_rows // tile.block_rows)
    _chunked_mlp_fwd_kernel[(num_programs,)](
        features,
        weight,
        weight if offset is None else offset,
        out,
        num_rows,
        num_chunks,
        chunk_size,
        num_outputs,
        repeat,
        WIDTH=width,
        DOT_WIDTH=tiles.dot_width(width, tile.block_k, precision),
        FEATURE_PITCH=features.stride(0),
        WEIGHT_PITCH=weight.stride(0),
        HAS_OFFSET=offset is not None,
        REPEATED=repeat > 1,
        BLOCK_ROWS=tile.block_rows,
        BLOCK_SIZE=tile.block_size,
        BLOCK_K=tile.block_k,
        PRECISION=precision,
        NUM_STAGES=tile.num_stages,
        ALIGNMENT=alignment,
        **_options(tile),
    )


def product_backward(
    grad_out: Tensor,
    features: Tensor,
    weight: Tensor,
    grad_weight: Tensor | None,
    num_chunks: int,
    repeat: int,
    need_offset: bool,
    need_features: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Backward pass of ``product``.

    Writes grad_weight [S, K] (may be columns of a wider tensor) if given, and returns the gradients of offset
    [repeat, S] and features [rows, K] as they were accumulated, in float32 or float64, or None.
    """
    if not is_fused(weight.dtype, weight.shape[1]):
        return library.product_backward(
            grad_out, features, weight, grad_weight, num_chunks, repeat, need_offset, need_features
        )
    needs_sums = grad_weight is not None or need_offset
    args = (grad_out, features, weight, num_chunks, repeat)
    if needs_sums and need_features and not _is_one_pass(grad_out, features, weight, repeat):
        grad_offset, _ = _launch_backward(*args, grad_weight, need_offset, False)
        _, grad_features = _launch_backward(*args, None, False, True)
        return grad_offset, grad_features
    if needs_sums or need_features:
        return _launch_backward(*args, grad_weight, need_offset, need_features)
    return None, None


def _is_one_pass(grad_out: Tensor, features: Tensor, weight: Tensor, repeat: int) -> bool:
    """Whether all gradients come from one read of grad_out.

    float32 products are bound by arithmetic, where two passes with a good tile each are faster. With several
    blocks of rows, the sums of grad_features would travel to the workspace and back for every tile of weight,
    more bytes than a second read; unless many conditions share them.
    """
    if repeat > 1:
        return True
    precision = tiles.input_precision(weight.dtype)
    num_rows, width = features.shape
    tile = tiles.backward_tile(tiles.generation(grad_out.device), precision, num_rows, width, "both", False)
    return precision != "ieee" and num_rows <= tile.block_rows


def _launch_backward(
    grad_out: Tensor,
    features: Tensor,
    weight: Tensor,
    num_chunks: int,
    repeat: int,
    grad_weight: Tensor | None,
    need_offset: bool,
    need_features: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """One pass over grad_out, and the ordered sums of what its programs left."""
    chunk_size, width = weight.shape
    num_rows, num_outputs = features.shape[0], grad_out.shape[1]
    arch = tiles.generation(grad_out.device)
    precision = tiles.input_precision(weight.dtype)
    needs_sums = grad_weight is not None or need_offset
    need = "both" if needs_sums and need_features else "features" if need_features else "weight"
    tile = tiles.backward_tile(arch, precision, num_rows, width, need, repeat > 1)
    num_tiles = -(-chunk_size // tile.block_size)
    num_blocks = -(-num_rows // tile.block_rows)
    programs = tiles.num_programs(arch)
    if need == "features":
        row_groups = num_blocks
    else:
        # Each group of rows writes sums as large as the weight: only where the weight is small.
        row_groups = max(1, min(num_blocks, programs // num_tiles, 8))
    tile_groups = num_tiles
    if need_features:
        tile_groups = min(num_tiles, max(1, tiles.feature_programs(arch, precision) // row_groups))
    partial_pitch = (width + 3) // 4 * 4
    workspace = {"dtype": torch.float32, "device": grad_out.device}
    grad_offset = grad_features = None
    if need_offset:
        grad_offset = torch.empty((row_groups, repeat, chunk_size), **workspace)
    if need_features:
        grad_features = torch.empty((tile_groups, num_rows, partial_pitch), **workspace)
    partial_weight = grad_weight
    if grad_weight is not None and row_groups > 1:
        partial_weight = torch.empty((row_groups, chunk_size, width), **workspace)
    _chunked_mlp_bwd_kernel[(tile_groups * row_groups,)](
        grad_out,
        features,
        weight,
        weight if partial_weight is None else partial_weight,
        weight if grad_offset is None else grad_offset,
        weight if grad_features is None else grad_features,
        num_rows,
        num_chunks,
        chunk_size,
        num_outputs,
        repeat,
        row_groups,
        WIDTH=width,
        FEATURE_PITCH=features.stride(0),
        WEIGHT_PITCH=weight.stride(0),
        GRAD_WEIGHT_PITCH=width if partial_weight is None else partial_weight.stride(-2),
        PARTIAL_PITCH=partial_pitch,
        NEED_WEIGHT=grad_weight is not None,
        NEED_OFFSET=need_offset,
        NEED_FEATURES=need_features,
        REPEATED=repeat > 1,
        ONE_BLOCK=row_groups == num_blocks,
        BLOCK_ROWS=tile.block_rows,
        BLOCK_SIZE=tile.block_size,
        BLOCK_K=tile.block_k,
        PRECISION=precision,
        NUM_STAGES=tile.num_stages,
        ALIGNMENT=_alignment(grad_out.dtype, num_outputs, chunk_size),
        **_options(tile),
    )
    if grad_weight is not None and row_groups > 1:
        if grad_weight.is_contiguous():
            _sum_parts(partial_weight, grad_weight)
        else:
            grad_weight.copy_(_sum_parts(partial_weight))
    if need_offset:
        grad_offset = _sum_parts(grad_offset)
    if need_features:
        grad_features = _sum_parts(grad_features)[:, :width]
    return grad_offset, grad_features


def _sum_parts(parts: Tensor, total: Tensor | None = None) -> Tensor:
    """parts[0] + parts[1] + … in a fixed order; [P, rows, columns] float32 → [rows, columns], or total."""
    if total is None:
        if parts.shape[0] == 1:
            return parts[0]
        total = parts.new_empty(parts.shape[1:])
    block_elements = 128
    _chunked_mlp_reduce_kernel[(-(-total.numel() // block_elements),)](
        parts,
        total,
        total.numel(),
        parts.shape[0],
        BLOCK_PARTS=16,
        BLOCK_ELEMENTS=block_elements,
        num_warps=4,
    )
    return total
