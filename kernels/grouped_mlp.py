"""Launchers of ``grouped_mlp``: networks with narrow hidden layers together, the others one after the other.

The narrow ones of a depth take two launches, for all hidden layers and for all outputs, which are written to
their places. Each other network runs through the kernels of ``chunked_mlp``, and the pieces of its chunks are
then moved to their places; at most the chunks of one network are held besides the result.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from . import chunked_mlp_tiles as tiles
from .chunked_mlp import Below, _device_of, chunked_mlp_backward, chunked_mlp_forward
from .chunked_mlp_hidden import (
    HiddenLayers,
    alike,
    blocks,
    hidden_layers,
    hidden_layers_backward,
    options,
    sum_parts,
    tasks_of,
)
from .chunked_mlp_products import is_fused
from .grouped_mlp_kernels import (
    _grouped_mlp_features_bwd_kernel,
    _grouped_mlp_fwd_kernel,
    _grouped_mlp_weights_bwd_kernel,
)

_MOST_NETWORKS = 16  # of a launch, whose programs look for their network among them
_MOST_PARTS = 160  # of inputs, and hidden layers: arguments of a kernel should not exceed 4 KiB

# Where the elements of a network's chunks [N·S] go. Those of a narrow one each have a place, negative if they
# are not used; of another one only those that are used, which the second tensor names if not all are.
Places = tuple[Tensor, Tensor | None]


class _Network(NamedTuple):
    """A network of a launch.

    Attributes:
        number: Of all networks.
        layers: Those before the last one.
        weight: Of the last one, [S, K].
        bias: Of the last one, or None.
        targets: Places of its outputs, [N·S].
    """

    number: int
    layers: HiddenLayers
    weight: Tensor
    bias: Tensor | None
    targets: Tensor


def is_narrow(weights: Sequence[Tensor]) -> bool:
    """Whether a network with such matrices goes together with others."""
    return len(weights) > 1 and is_fused(weights[0].dtype, *(weight.shape[0] for weight in weights[:-1]))


def grouped_mlp_forward(
    groups: Sequence[tuple],
    sizes: Sequence[tuple[int, int]],
    places: Sequence[Places],
    num_outputs: int,
    save_hidden: bool,
) -> tuple[Tensor, Tensor]:
    """Generate the outputs of all conditions.

    Args:
        groups: Inputs, weights, biases and activation of each network, as ``chunked_mlp_forward`` takes them.
        sizes: B and N of each; B is that of all.
        places: Where the elements of its chunks go.
        num_outputs: n.
        save_hidden: Whether to return the hidden layers for the backward pass.

    Returns:
        The outputs [B, n], and the values of all hidden layers, one network after the other.
    """
    out = groups[0][1][0].new_empty((sizes[0][0], num_outputs))
    hidden: list[Tensor] = [out.new_empty(0)] * len(groups)
    for batch in _batches(groups, sizes, places):
        with _device_of(out):
            of_batch = hidden_layers(
                [network.layers for network in batch], groups[batch[0].number][3], len(out)
            )
            rows = _split_rows(of_batch, batch, len(out))
            _launch_forward(batch, rows, out)
        if len(batch) == len(groups):
            return out, of_batch if save_hidden else out.new_empty(0)
        for network, of_network in zip(batch, rows, strict=True):
            hidden[network.number] = of_network.flatten()
    for i, ((inputs, weights, biases, activation), (conditions, chunks), (targets, kept)) in enumerate(
        zip(groups, sizes, places, strict=True)
    ):
        if is_narrow(weights):
            if len(hidden[i]) == 0:  # without outputs
                hidden[i] = out.new_empty(conditions * chunks * sum(len(weight) for weight in weights[:-1]))
            continue
        inputs = _for_all_conditions(inputs, conditions)
        count = chunks * weights[-1].shape[0]
        rows, layers = chunked_mlp_forward(inputs, weights, biases, activation, count, save_hidden)
        out.index_copy_(1, targets, rows if kept is None else rows.index_select(1, kept))
        hidden[i] = layers.reshape(-1)
    return out, torch.cat(hidden) if save_hidden else out.new_empty(0)


def grouped_mlp_backward(
    grad_out: Tensor,
    hidden: Tensor,
    groups: Sequence[tuple],
    sizes: Sequence[tuple[int, int]],
    places: Sequence[Places],
    needs: Sequence[Sequence[bool]],
    below: Below,
) -> list[list[Tensor]]:
    """Gradients of the inputs, weights and biases of each network.

    Args:
        grad_out: Gradient of the outputs [B, n].
        hidden: What ``grouped_mlp_forward`` saved.
        groups: As given to it, like the next two.
        sizes: See there.
        places: See there.
        needs: For each network whether its inputs, weights and biases need gradients.
        below: As for ``chunked_mlp_backward``.

    Returns:
        For each network the gradients in the order of ``needs``; an empty tensor where none is needed.
    """
    results: list[list[Tensor]] = [[] for _ in groups]
    shapes = [
        (conditions * chunks, sum(weight.shape[0] for weight in group[1][:-1]))
        for group, (conditions, chunks) in zip(groups, sizes, strict=True)
    ]
    parts = hidden.split([rows * width for rows, width in shapes])
    layers = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
    grad_out = grad_out.contiguous()
    for batch in _batches(groups, sizes, places):
        rows = [layers[network.number] for network in batch]
        wanted = [needs[network.number] for network in batch]
        with _device_of(grad_out):
            found = _backward_of(grad_out, rows, batch, groups[batch[0].number][3], wanted)
        for network, grads in zip(batch, found, strict=True):
            results[network.number] = grads
    for i, ((inputs, weights, biases, activation), (conditions, chunks), (targets, kept)) in enumerate(
        zip(groups, sizes, places, strict=True)
    ):
        if results[i]:
            continue
        if is_narrow(weights):  # without outputs
            tensors = zip((*inputs, *weights, *biases), needs[i], strict=True)
            results[i] = [torch.zeros_like(t) if need else t.new_empty(0) for t, need in tensors]
            continue
        grad_rows = grad_out.index_select(1, targets)
        num_outputs = chunks * weights[-1].shape[0]
        if kept is not None:
            grad_rows = grad_out.new_zeros((conditions, num_outputs)).index_copy_(1, kept, grad_rows)
        expanded = _for_all_conditions(inputs, conditions)
        grads = chunked_mlp_backward(
            grad_rows, layers[i], expanded, weights, biases, activation, list(needs[i]), below
        )
        if needs[i][0] and expanded[0] is not inputs[0]:
            grads[0] = grads[0].sum(0, keepdim=True)
        results[i] = grads
    return results


def _for_all_conditions(inputs: Sequence[Tensor], conditions: int) -> list[Tensor]:
    """The inputs, one of them expanded where all of them are the same for every condition."""
    inputs = list(inputs)
    if conditions != 1 and all(part.shape[0] == 1 for part in inputs):
        inputs[0] = inputs[0].expand(conditions, -1, -1)
    return inputs


# --- narrow networks, several in a launch ---------------------------------------------------------


def _batches(
    groups: Sequence[tuple], sizes: Sequence[tuple[int, int]], places: Sequence[Places]
) -> Iterator[list[_Network]]:
    """The narrow networks that have outputs; those of a batch are alike but for widths and numbers."""
    batches: dict[tuple, list[_Network]] = {}
    for i, ((inputs, weights, biases, activation), (conditions, chunks), (targets, _)) in enumerate(
        zip(groups, sizes, places, strict=True)
    ):
        if not is_narrow(weights) or conditions * chunks * weights[-1].shape[0] == 0:
            continue
        inputs, weights, biases = ([t.contiguous() for t in ts] for ts in (inputs, weights, biases))
        layers = HiddenLayers(inputs, weights[:-1], biases[:-1], chunks)
        network = _Network(i, layers, weights[-1], biases[-1] if biases else None, targets)
        batches.setdefault((len(weights), len(biases), activation), []).append(network)
    for batch in batches.values():
        parts = max(len(network.layers.inputs) + len(network.layers.weights) for network in batch)
        most = max(1, min(_MOST_NETWORKS, _MOST_PARTS // parts))
        yield from (batch[start : start + most] for start in range(0, len(batch), most))


def _split_rows(hidden: Tensor, batch: Sequence[_Network], conditions: int) -> list[Tensor]:
    """The hidden layers [R, Σ widths] of each network."""
    shapes = [(conditions * network.layers.num_chunks, sum(network.layers.widths)) for network in batch]
    parts = hidden.split([rows * width for rows, width in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def _shapes(batch: Sequence[_Network]) -> dict[str, tuple[int, ...]]:
    """What the kernels know of the output layers."""
    return {
        "CHUNKS": alike(network.layers.num_chunks for network in batch),
        "CHUNK_SIZES": alike(network.weight.shape[0] for network in batch),
        "WIDTHS": alike(network.weight.shape[1] for network in batch),
    }


def _features(batch: Sequence[_Network], rows: Sequence[Tensor]) -> list[Tensor]:
    """What the output layers read, [R, K]."""
    return [of[:, of.shape[1] - network.weight.shape[1] :] for network, of in zip(batch, rows, strict=True)]


def _launch_forward(batch: Sequence[_Network], rows: Sequence[Tensor], out: Tensor) -> None:
    features = _features(batch, rows)
    precision = tiles.input_precision(out.dtype)
    shapes = _shapes(batch)
    tile = tiles.grouped_tile(precision, max(map(len, rows)), max(shapes["WIDTHS"]))
    tasks, programs = tasks_of(
        blocks(network.weight.shape[0], tile.block_size) * blocks(len(of_network), tile.block_rows)
        for network, of_network in zip(batch, rows, strict=True)
    )
    same_width = len(shapes["WIDTHS"]) == 1
    _grouped_mlp_fwd_kernel[(programs,)](
        tuple(features),
        tuple(network.weight for network in batch),
        tuple(network.bias for network in batch if network.bias is not None),
        tuple(network.targets for network in batch),
        out,
        tasks,
        out.shape[0],
        out.shape[1],
        **shapes,
        LEFT_OVER=tiles.left_over(shapes["WIDTHS"][0], tile.block_k, precision) if same_width else 0,
        FEATURE_PITCHES=alike(part.stride(0) for part in features),
        BLOCK_ROWS=tile.block_rows,
        BLOCK_SIZE=tile.block_size,
        BLOCK_K=tile.block_k,
        PRECISION=precision,
        **options(tile),
    )


def _backward_of(
    grad_out: Tensor,
    rows: Sequence[Tensor],
    batch: Sequence[_Network],
    activation: str,
    needs: Sequence[Sequence[bool]],
) -> list[list[Tensor]]:
    """Gradients of the networks of a batch, in the order of ``needs``."""
    grads: list[list[Tensor | None]] = [[None] * len(wanted) for wanted in needs]
    has_bias = batch[0].bias is not None
    last, below = [], []
    for network, wanted in zip(batch, needs, strict=True):
        weight = len(network.layers.inputs) + len(network.layers.weights)
        last.append((weight, len(wanted) - 1) if has_bias else (weight,))
        below.append(any(need for i, need in enumerate(wanted) if i not in last[-1]))
    chosen = [i for i, need in enumerate(below) if need]
    if chosen:
        of_chosen = [[of_all[i] for i in chosen] for of_all in (batch, rows, needs)]
        features = _features_backward(grad_out, *of_chosen[:2])
        networks = [network.layers for network in of_chosen[0]]
        found = hidden_layers_backward(
            features, of_chosen[1], networks, activation, len(grad_out), of_chosen[2]
        )
        for i, of_network in zip(chosen, found, strict=True):
            grads[i] = of_network
    chosen = [i for i, own in enumerate(last) if any(needs[i][place] for place in own)]
    if chosen:
        found = _weights_backward(grad_out, *([of_all[i] for i in chosen] for of_all in (batch, rows)))
        for i, of_network in zip(chosen, found, strict=True):
            for place, grad in zip(last[i], of_network, strict=True):
                grads[i][place] = grad
    empty = grad_out.new_empty(0)
    return [
        [grad if need else empty for grad, need in zip(found, wanted, strict=True)]
        for found, wanted in zip(grads, needs, strict=True)
    ]


def _weights_backward(
    grad_out: Tensor, batch: Sequence[_Network], rows: Sequence[Tensor]
) -> list[tuple[Tensor, ...]]:
    """Gradients of the weight [S, K] and the bias [S], if any, of the output layers."""
    features, shapes = _features(batch, rows), _shapes(batch)
    arch, precision = tiles.generation(grad_out.device), tiles.input_precision(grad_out.dtype)
    most_rows = max(map(len, rows))
    tile = tiles.backward_tile(arch, precision, most_rows, max(shapes["WIDTHS"]), "weight", False)
    tasks, count = tasks_of(blocks(network.weight.shape[0], tile.block_size) for network in batch)
    # Each group of rows writes sums as large as the weights: only where these are small.
    row_groups = max(1, min(blocks(most_rows, tile.block_rows), tiles.num_programs(arch) // count, 8))
    grads = [torch.empty_like(network.weight) for network in batch]
    grads += [torch.empty_like(network.bias) for network in batch if network.bias is not None]
    sizes = [grad.numel() for grad in grads]
    if row_groups == 1:
        partial = grads
    else:
        sums = torch.empty((row_groups, sum(sizes)), dtype=torch.float32, device=grad_out.device)
        partial = sums[0].split(sizes)
    _grouped_mlp_weights_bwd_kernel[(count * row_groups,)](
        grad_out,
        tuple(network.targets for network in batch),
        tuple(features),
        tuple(partial[: len(batch)]),
        tuple(partial[len(batch) :]),
        tasks,
        grad_out.shape[0],
        grad_out.shape[1],
        row_groups,
        sum(sizes),
        **shapes,
        FEATURE_PITCHES=alike(part.stride(0) for part in features),
        BLOCK_ROWS=tile.block_rows,
        BLOCK_SIZE=tile.block_size,
        BLOCK_K=tile.block_k,
        PRECISION=precision,
        **options(tile),
    )
    if row_groups > 1:
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        sum_parts(sums, list(zip(grads, starts, strict=True)))
    return list(zip(*(grads[i : i + len(batch)] for i in range(0, len(grads), len(batch))), strict=True))


def _features_backward(grad_out: Tensor, batch: Sequence[_Network], rows: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of what the output layers read, [R, K] float32."""
    shapes = _shapes(batch)
    arch, precision = tiles.generation(grad_out.device), tiles.input_precision(grad_out.dtype)
    most_rows = max(map(len, rows))
    tile = tiles.grouped_features_tile(arch, precision, most_rows, max(shapes["WIDTHS"]))
    tasks, count = tasks_of(blocks(len(of_network), tile.block_rows) for of_network in rows)
    most_tiles = blocks(max(network.weight.shape[0] for network in batch), tile.block_size)
    tile_groups = min(most_tiles, max(1, tiles.feature_programs(arch, precision) // count))
    widths = [network.weight.shape[1] for network in batch]
    sizes = [len(of_network) * width for of_network, width in zip(rows, widths, strict=True)]
    sums = torch.empty((tile_groups, sum(sizes)), dtype=torch.float32, device=grad_out.device)
    _grouped_mlp_features_bwd_kernel[(count * tile_groups,)](
        grad_out,
        tuple(network.targets for network in batch),
        tuple(network.weight for network in batch),
        tuple(sums[0].split(sizes)),
        tasks,
        grad_out.shape[0],
        grad_out.shape[1],
        tile_groups,
        sum(sizes),
        **shapes,
        BLOCK_ROWS=tile.block_rows,
        BLOCK_SIZE=tile.block_size,
        BLOCK_K=tile.block_k,
        PRECISION=precision,
        **options(tile),
    )
    total = sums[0]
    if tile_groups > 1:
        total = torch.empty(sum(sizes), dtype=torch.float32, device=grad_out.device)
        sum_parts(sums, [(total, 0)])
    return [part.view(-1, width) for part, width in zip(total.split(sizes), widths, strict=True)]
