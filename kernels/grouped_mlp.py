"""Launchers of ``grouped_mlp``: the kernels of ``chunked_mlp`` for each network, and the placement of its
chunks.

A network takes two launches, for its hidden layers and for its chunks, and one more moves the pieces of these
to their places, all conditions and chunks at once. At most the chunks of one network are held besides the
result.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .chunked_mlp import chunked_mlp_backward, chunked_mlp_forward

# Where the elements of a network's chunks [N·S] go, and which of them do if not all.
Places = tuple[Tensor, Tensor | None]


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
    hidden = []
    for (inputs, weights, biases, activation), (conditions, chunks), (targets, kept) in zip(
        groups, sizes, places, strict=True
    ):
        inputs = _for_all_conditions(inputs, conditions)
        rows, layers = chunked_mlp_forward(
            inputs, weights, biases, activation, chunks * weights[-1].shape[0], save_hidden
        )
        out.index_copy_(1, targets, rows if kept is None else rows.index_select(1, kept))
        if save_hidden:
            hidden.append(layers.reshape(-1))
    return out, torch.cat(hidden) if hidden else out.new_empty(0)


def grouped_mlp_backward(
    grad_out: Tensor,
    hidden: Tensor,
    groups: Sequence[tuple],
    sizes: Sequence[tuple[int, int]],
    places: Sequence[Places],
    needs: Sequence[Sequence[bool]],
) -> list[list[Tensor]]:
    """Gradients of the inputs, weights and biases of each network.

    Args:
        grad_out: Gradient of the outputs [B, n].
        hidden: What ``grouped_mlp_forward`` saved.
        groups: As given to it, like the next two.
        sizes: See there.
        places: See there.
        needs: For each network whether its inputs, weights and biases need gradients.

    Returns:
        For each network the gradients in the order of ``needs``; an empty tensor where none is needed.
    """
    results, start = [], 0
    for (inputs, weights, biases, activation), (conditions, chunks), (targets, kept), wanted in zip(
        groups, sizes, places, needs, strict=True
    ):
        width, num_rows = sum(weight.shape[0] for weight in weights[:-1]), conditions * chunks
        layers = hidden[start : start + num_rows * width].view(num_rows, width)
        start += num_rows * width
        grad_rows = grad_out.index_select(1, targets)
        num_outputs = chunks * weights[-1].shape[0]
        if kept is not None:
            grad_rows = grad_out.new_zeros((conditions, num_outputs)).index_copy_(1, kept, grad_rows)
        expanded = _for_all_conditions(inputs, conditions)
        grads = chunked_mlp_backward(
            grad_rows, layers, expanded, weights, biases, activation, num_outputs, list(wanted)
        )
        if wanted[0] and expanded[0] is not inputs[0]:
            grads[0] = grads[0].sum(0, keepdim=True)
        results.append(grads)
    return results


def _for_all_conditions(inputs: Sequence[Tensor], conditions: int) -> list[Tensor]:
    """The inputs, one of them expanded where all of them are the same for every condition."""
    inputs = list(inputs)
    if conditions != 1 and all(part.shape[0] == 1 for part in inputs):
        inputs[0] = inputs[0].expand(conditions, -1, -1)
    return inputs
