"""Launchers of the kernels of hidden layers, for one network or several of the same depth at once.

Each picks its tile, its grid and the order of its sums from the shapes alone. Layers are narrow and not
float64: ``chunked_mlp_library.py`` does the others.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from . import chunked_mlp_tiles as tiles
from .chunked_mlp_hidden_kernels import (
    _chunked_mlp_hidden_bwd_kernel,
    _chunked_mlp_hidden_kernel,
    _chunked_mlp_hidden_sums_kernel,
    _chunked_mlp_inputs_bwd_kernel,
    _chunked_mlp_reduce_kernel,
)

_MOST_SUMS = 160  # of a launch, whose arguments should not exceed 4 KiB
Rows = tuple[tuple[Tensor, ...], ...]  # by layer or part, then by network


class HiddenLayers(NamedTuple):
    """What comes before the output layer: parts of the input, matrices, biases or none, and N."""

    inputs: Sequence[Tensor]
    weights: Sequence[Tensor]
    biases: Sequence[Tensor]
    num_chunks: int

    @property
    def widths(self) -> list[int]:
        return [weight.shape[0] for weight in self.weights]


def alike(values: Iterable) -> tuple:
    """What kernels take of several networks: a value of each, or the one that all share."""
    values = tuple(values)
    return values[:1] if len(set(values)) == 1 else values


def by_row(rows: Iterable[Iterable]) -> tuple[tuple, ...]:
    """The same for each layer or part, from the values of each network."""
    return tuple(alike(values) for values in itertools.zip_longest(*rows, fillvalue=0))


def tasks_of(counts: Iterable[int]) -> tuple[tuple[int, ...], int]:
    """The first program of each task, and the number of programs, from how many each takes.

    Triton compiles anew where numbers in a tuple become 1 or divisible by 16, or cease to be.
    """
    *firsts, count = itertools.accumulate(counts, initial=0)
    return tuple(firsts), count


def blocks(size: int, block: int) -> int:
    return -(-size // block)


def widest(widths: Iterable[Iterable[int]]) -> int:
    """The width of the widest of the layers of several networks."""
    return max(map(max, widths))


def options(tile: tiles.Tile) -> dict[str, int | None]:
    return {"num_warps": tile.num_warps, "num_stages": tile.num_stages, "maxnreg": tile.max_registers}


def left_overs(widths: Sequence[tuple[int, ...]], tile: tiles.Tile, precision: str) -> tuple[int, ...]:
    """For each row what a kernel adds one by one, which it can where all networks are alike."""
    return tuple(
        tiles.left_over(values[0], tile.block_k, precision) if len(values) == 1 else 0 for values in widths
    )


def strides_of(part: Tensor, num_chunks: int) -> tuple[int, int]:
    """How many rows of a part [B or 1, N or 1, width] one condition is from the next, and one chunk."""
    varies_with_chunk = part.shape[1] > 1
    return (num_chunks if varies_with_chunk else 1) * (part.shape[0] > 1), int(varies_with_chunk)


def rows_of_parts(inputs: Sequence[Sequence[Tensor]], num_chunks: Sequence[int], prefix: str = "") -> dict:
    """Where the kernels find the rows of the parts of the inputs of each network."""
    strides = [
        [strides_of(part, chunks) for part in parts] for parts, chunks in zip(inputs, num_chunks, strict=True)
    ]
    return {
        prefix + "CONDITION_STRIDES": by_row([each[0] for each in of_network] for of_network in strides),
        prefix + "CHUNK_STRIDES": by_row([each[1] for each in of_network] for of_network in strides),
    }


def tensors_by_row(rows: Sequence[Sequence[Tensor]], spare: Sequence[Tensor]) -> Rows:
    """Tensors of each layer or part from those of each network; a spare one where a network has fewer."""
    length = max(map(len, rows))
    return tuple(
        tuple(row[i] if i < len(row) else other for row, other in zip(rows, spare, strict=True))
        for i in range(length)
    )


def columns_of(network: HiddenLayers) -> list[Tensor]:
    """The columns of the first matrix that meet each part of the input."""
    return list(network.weights[0].split([part.shape[2] for part in network.inputs], dim=1))


def hidden_layers(networks: Sequence[HiddenLayers], activation: str, num_conditions: int) -> Tensor:
    """All hidden layers [R, Σ widths] of each network, one after the other in one tensor; one launch."""
    widths = [network.widths for network in networks]
    rows = [num_conditions * network.num_chunks for network in networks]
    sizes = [count * sum(of_network) for count, of_network in zip(rows, widths, strict=True)]
    hidden = networks[0].weights[0].new_empty(sum(sizes))
    precision = tiles.input_precision(hidden.dtype)
    tile = tiles.hidden_forward_tile(precision, widest(widths))
    first = [network.weights[0] for network in networks]
    part_widths = by_row([part.shape[2] for part in network.inputs] for network in networks)
    layers = layers_of(widths)
    tasks, programs = tasks_of(blocks(count, tile.block_rows) for count in rows)
    _chunked_mlp_hidden_kernel[(programs,)](
        tensors_by_row([network.inputs for network in networks], first),
        tensors_by_row([columns_of(network) for network in networks], first),
        tensors_by_row([network.weights[1:] for network in networks], first),
        tensors_by_row([network.biases for network in networks], first),
        hidden.split(sizes),
        tasks,
        num_conditions,
        CHUNKS=alike(network.num_chunks for network in networks),
        PART_WIDTHS=part_widths,
        **rows_of_parts([network.inputs for network in networks], [n.num_chunks for n in networks]),
        IN_WIDTHS=alike(weight.shape[1] for weight in first),
        **layers,
        LEFT_OVERS=left_overs((*part_widths, *layers["WIDTHS"][:-1]), tile, precision),
        ACTIVATION=activation,
        BLOCK_ROWS=tile.block_rows,
        BLOCK_K=tile.block_k,
        PRECISION=precision,
        NUM_STAGES=tile.num_stages,
        **options(tile),
    )
    return hidden


def layers_of(widths: Sequence[Sequence[int]], order: int = 1) -> dict[str, tuple]:
    """What the kernels know of the hidden layers, from the widths of each network; in an order, 1 or -1."""
    of_layers = by_row(widths)
    columns = by_row(itertools.accumulate(of_network[:-1], initial=0) for of_network in widths)
    return {
        "WIDTHS": of_layers[::order],
        "COLUMNS": columns[::order],
        "BLOCK_WIDTHS": tuple(tiles.padded_width(max(values)) for values in of_layers[::order]),
        "PITCHES": alike(map(sum, widths)),
    }


def hidden_layers_backward(
    grad_features: Sequence[Tensor],
    hidden: Sequence[Tensor],
    networks: Sequence[HiddenLayers],
    activation: str,
    num_conditions: int,
    needs: Sequence[Sequence[bool]],
) -> list[list[Tensor | None]]:
    """Gradients of everything below the last layer.

    Four launches, however many layers and networks there are.

    Args:
        grad_features: Gradient of the last hidden layer [R, K] of each network.
        hidden: All hidden layers [R, Σ widths] of each.
        networks: The networks.
        activation: Activation of the hidden layers.
        num_conditions: B.
        needs: For inputs, all weights (the output layer's too) and all biases of each.

    Returns:
        For each network a gradient or None for each entry of ``needs``; None for those of the output layer.
    """
    grads: list[list[Tensor | None]] = [[None] * len(of_network) for of_network in needs]
    widths = [network.widths for network in networks]
    dtype, device = hidden[0].dtype, hidden[0].device
    tile, precision = tiles.hidden_tile(), tiles.input_precision(dtype)
    grad_features = [grad if grad.stride(1) == 1 else grad.contiguous() for grad in grad_features]
    sizes = [h.numel() for h in hidden]
    row_grads = torch.empty(sum(sizes), dtype=torch.float32, device=device).split(sizes)
    row_grads = [part.view(h.shape) for part, h in zip(row_grads, hidden, strict=True)]
    layers = layers_of(widths, -1)
    tasks, programs = tasks_of(blocks(len(h), tile.block_rows) for h in hidden)
    _chunked_mlp_hidden_bwd_kernel[(programs,)](
        tuple(grad_features),
        tuple(hidden),
        tuple(zip(*(network.weights[:0:-1] for network in networks), strict=True)),
        tuple(row_grads),
        tasks,
        num_conditions,
        CHUNKS=alike(network.num_chunks for network in networks),
        FEATURE_PITCHES=alike(grad.stride(0) for grad in grad_features),
        **layers,
        LEFT_OVERS=left_overs(layers["WIDTHS"], tile, precision),
        ACTIVATION=activation,
        BLOCK_ROWS=tile.block_rows,
        BLOCK_K=tile.block_k,
        PRECISION=precision,
        NUM_STAGES=tile.num_stages,
        **options(tile),
    )
    places = [_places(network, len(of_network)) for network, of_network in zip(networks, needs, strict=True)]
    if any(of_network[place] for of_network, own in zip(needs, places, strict=True) for place in own):
        _layer_gradients(row_grads, hidden, networks, needs, places, grads)
    if any(any(of[: len(network.inputs)]) for of, network in zip(needs, networks, strict=True)):
        _inputs_backward(row_grads, networks, num_conditions, needs, grads)
    return grads


def _places(network: HiddenLayers, length: int) -> list[int]:
    """Where the hidden layers' matrices and biases are in needs; those of the output layer lie between."""
    first_weight = len(network.inputs)
    first_bias = first_weight + len(network.weights) + 1
    return [*range(first_weight, first_bias - 1), *range(first_bias, length - 1)]


def _layer_gradients(
    row_grads: Sequence[Tensor],
    hidden: Sequence[Tensor],
    networks: Sequence[HiddenLayers],
    needs: Sequence[Sequence[bool]],
    places: Sequence[Sequence[int]],
    grads: list[list[Tensor | None]],
) -> None:
    """Fill in the gradients of the hidden layers' matrices and biases from those of their rows."""
    dtype, device = hidden[0].dtype, hidden[0].device
    tile = tiles.hidden_sums_tile(widest(network.widths for network in networks))
    matrices: list[OuterProducts] = []
    wanted: list[tuple[Tensor, int]] = []
    num_sums = 0
    for g, network in enumerate(networks):
        widths, chunks = network.widths, network.num_chunks
        shapes = [tuple(weight.shape) for weight in network.weights] + [(width,) for width in widths]
        *starts, num_sums = itertools.accumulate(map(math.prod, shapes), initial=num_sums)
        column, pitch = 0, network.weights[0].shape[1]
        for i, part in enumerate(network.inputs):
            place = (starts[0] + column, pitch, starts[len(widths)] if i == 0 else -1)
            args = (part.flatten(0, 1), row_grads[g], chunks, strides_of(part, chunks))
            matrices.append(OuterProducts(*args, widths[0], part.shape[2], *place))
            column += part.shape[2]
        column = 0
        for i, (below, width) in enumerate(itertools.pairwise(widths), 1):
            x, grad = hidden[g][:, column:], row_grads[g][:, column + below :]
            place = (starts[i], below, starts[len(widths) + i])
            matrices.append(OuterProducts(x, grad, chunks, (chunks, 1), width, below, *place))
            column += below
        for place, shape, start in zip(places[g], shapes, starts, strict=False):
            if needs[g][place]:
                grads[g][place] = torch.empty(shape, dtype=dtype, device=device)
                wanted.append((grads[g][place], start))
    sum_parts(sums_over_rows(matrices, num_sums, tile, tiles.input_precision(dtype)), wanted)


class OuterProducts(NamedTuple):
    """A sum of outer products over rows, see ``_chunked_mlp_hidden_sums_kernel``."""

    x: Tensor
    grads: Tensor
    num_chunks: int
    strides: tuple[int, int]
    out_width: int
    in_width: int
    start: int
    pitch: int
    bias: int


def sums_over_rows(
    matrices: Sequence[OuterProducts], num_sums: int, tile: tiles.Tile, precision: str, crowd: int = 1
) -> Tensor:
    """Parts of all sums, float32 [P, num_sums], to be added; crowd: how many times to fill the GPU."""
    tasks, count = tasks_of(
        blocks(matrix.out_width, tile.block_size) * blocks(matrix.in_width, tile.block_size)
        for matrix in matrices
    )
    device = matrices[0].x.device
    most_rows = blocks(max(len(matrix.grads) for matrix in matrices), tile.block_rows)
    programs = crowd * tiles.num_programs(tiles.generation(device))
    row_groups = max(1, min(most_rows, programs // count, 32))
    partial = torch.empty((row_groups, num_sums), dtype=torch.float32, device=device)
    _chunked_mlp_hidden_sums_kernel[(count * row_groups,)](
        tuple(matrix.x for matrix in matrices),
        tuple(matrix.grads for matrix in matrices),
        partial,
        tasks,
        tuple(len(matrix.grads) for matrix in matrices),
        row_groups,
        CHUNKS=alike(matrix.num_chunks for matrix in matrices),
        CONDITION_STRIDES=alike(matrix.strides[0] for matrix in matrices),
        CHUNK_STRIDES=alike(matrix.strides[1] for matrix in matrices),
        OUT_WIDTHS=alike(matrix.out_width for matrix in matrices),
        IN_WIDTHS=alike(matrix.in_width for matrix in matrices),
        GRAD_PITCHES=alike(matrix.grads.stride(0) for matrix in matrices),
        X_PITCHES=alike(matrix.x.stride(0) for matrix in matrices),
        MATRICES=alike(matrix.start for matrix in matrices),
        MATRIX_PITCHES=alike(matrix.pitch for matrix in matrices),
        BIASES=alike(matrix.bias for matrix in matrices),
        NUM_SUMS=num_sums,
        BLOCK_ROWS=tile.block_rows,
        BLOCK=tile.block_size,
        PRECISION=precision,
        **options(tile),
    )
    return partial


def sum_parts(parts: Tensor, sums: Sequence[tuple[Tensor, int]]) -> None:
    """Fill contiguous tensors with the sums over parts [P, E] float32, from an element on each; in order."""
    block_elements = 128
    for first in range(0, len(sums), _MOST_SUMS):
        totals, starts = zip(*sums[first : first + _MOST_SUMS], strict=True)
        sizes = tuple(total.numel() for total in totals)
        tasks, programs = tasks_of(blocks(size, block_elements) for size in sizes)
        if programs == 0:
            continue
        _chunked_mlp_reduce_kernel[(programs,)](
            parts,
            totals,
            tasks,
            sizes,
            starts,
            parts.stride(0),
            parts.shape[0],
            BLOCK_PARTS=min(16, 1 << (parts.shape[0] - 1).bit_length()),
            BLOCK_ELEMENTS=block_elements,
            num_warps=4,
        )


class _InputGradient(NamedTuple):
    """The gradient of a part of an input, see ``_chunked_mlp_inputs_bwd_kernel``."""

    grad: Tensor
    row_grads: Tensor
    columns: Tensor
    first: int
    step: int
    count: int
    of_all_conditions: bool


def _inputs_backward(
    row_grads: Sequence[Tensor],
    networks: Sequence[HiddenLayers],
    num_conditions: int,
    needs: Sequence[Sequence[bool]],
    grads: list[list[Tensor | None]],
) -> None:
    """Fill in the gradients of the parts of the inputs from those of the first layer's rows."""
    parts: list[_InputGradient] = []
    for g, network in enumerate(networks):
        chunks = network.num_chunks
        for i, (part, columns) in enumerate(zip(network.inputs, columns_of(network), strict=True)):
            if not needs[g][i]:
                continue
            grads[g][i] = torch.empty_like(part)
            if part.shape[0] > 1:
                rows = (1, 1, 1, False) if part.shape[1] > 1 else (chunks, 1, chunks, False)
            else:
                rows = (1, chunks, 1, True) if part.shape[1] > 1 else (0, 1, chunks, True)
            parts.append(_InputGradient(grads[g][i], row_grads[g], columns, *rows))
    tasks, programs = tasks_of(part.grad.shape[0] * part.grad.shape[1] for part in parts)
    _chunked_mlp_inputs_bwd_kernel[(programs,)](
        tuple(part.row_grads for part in parts),
        tuple(part.columns for part in parts),
        tuple(part.grad for part in parts),
        tasks,
        num_conditions,
        FIRST=alike(part.first for part in parts),
        STEPS=alike(part.step for part in parts),
        COUNTS=alike(part.count for part in parts),
        OF_ALL_CONDITIONS=alike(int(part.of_all_conditions) for part in parts),
        OUT_WIDTHS=alike(part.columns.shape[0] for part in parts),
        IN_WIDTHS=alike(part.columns.shape[1] for part in parts),
        PITCHES=alike(part.row_grads.stride(0) for part in parts),
        WEIGHT_PITCHES=alike(part.columns.stride(0) for part in parts),
        BLOCK_WIDTH=tiles.padded_width(max(part.columns.shape[0] for part in parts)),
        BLOCK_ROWS=32,
        BLOCK_IN=32,
        num_warps=4,
    )
