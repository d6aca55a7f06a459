"""Launchers of the ``chunked_mlp`` kernels of the output layer: the product and its backward pass.

Each picks its tile, its grid and the order of its sums from the shapes alone, or hands wide and float64
layers to library products.
"""

import math

import torch
from torch import Tensor

from . import chunked_mlp_library as library
from . import chunked_mlp_tiles as tiles
from .chunked_mlp_hidden import options, sum_parts
from .chunked_mlp_output_kernels import _chunked_mlp_bwd_kernel, _chunked_mlp_fwd_kernel


def is_fused(dtype: torch.dtype, *widths: int) -> bool:
    return dtype != torch.float64 and max(widths) <= tiles.MAX_FUSED_WIDTH


def _alignment(dtype: torch.dtype, *sizes: int) -> int:
    """How many elements, at most 16 bytes, divide all sizes: what kernels may assume of rows."""
    return math.gcd(16 // dtype.itemsize, *sizes)


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
        LEFT_OVER=tiles.left_over(width, tile.block_k, precision),
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
        **options(tile),
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
        **options(tile),
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
    sum_parts(parts.flatten(1), [(total, 0)])
    return total
