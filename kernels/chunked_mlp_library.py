"""The parts of ``chunked_mlp`` on library products: wide or float64 layers, small layers' backward pass.

Plain PyTorch, without gradients; notation as in ``chunked_mlp.py``.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

_ACTIVATIONS = {
    "relu": torch.relu_,
    "sigmoid": torch.sigmoid_,
    "tanh": torch.tanh_,
    "elu": torch.nn.functional.elu_,
    "leaky_relu": torch.nn.functional.leaky_relu_,
    "identity": lambda x: x,
}


def hidden_layers(
    inputs: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    activation: str,
    num_conditions: int,
    num_chunks: int,
    keep_all: bool,
) -> Tensor:
    """Compute the hidden layers: all [R, Σ widths], or only the last [R, K] where they need not be kept."""
    num_rows = num_conditions * num_chunks
    widths = [weight.shape[0] for weight in weights]
    kept = inputs[0].new_empty((num_rows, sum(widths))) if keep_all else None
    last, column = None, 0
    for layer, weight in enumerate(weights):
        layer_out = (
            kept[:, column : column + widths[layer]]
            if keep_all
            else weight.new_empty((num_rows, widths[layer]))
        )
        column += widths[layer]
        bias = biases[layer] if biases else None
        if layer == 0:
            _first_layer(inputs, weight, bias, layer_out.view(num_conditions, num_chunks, -1))
        elif bias is None:
            torch.mm(last, weight.t(), out=layer_out)
        else:
            torch.addmm(bias, last, weight.t(), out=layer_out)
        _ACTIVATIONS[activation](layer_out)
        last = layer_out
    return kept if keep_all else last


def _first_layer(inputs: Sequence[Tensor], weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """Fill out [B, N, width] with Σ_parts x·Wᵀ + b: each product on the rows the part has, then broadcast."""
    weight_parts = weight.split([part.shape[2] for part in inputs], dim=1)
    total = bias
    for part, weight_part in zip(inputs, weight_parts, strict=True):
        product = torch.matmul(part, weight_part.t())  # [B or 1, N or 1, width]
        total = product.to(_sum_dtype(out)) if total is None else total + product.to(_sum_dtype(out))
    out.copy_(total)


def _sum_dtype(tensor: Tensor) -> torch.dtype:
    """What sums over tensors of half precision are kept in: they would be rounded with each that is added."""
    return torch.promote_types(tensor.dtype, torch.float32)


def split_input_gradient(
    grad_rows: Tensor,
    inputs: Sequence[Tensor],
    needs: Sequence[bool],
    num_conditions: int,
    num_chunks: int,
    grads: list[Tensor | None],
) -> None:
    """Fill in the gradients of the parts, [B or 1, N or 1, width], from that of whole rows [R, Σ widths]."""
    parts = grad_rows.reshape(num_conditions, num_chunks, -1).split([part.shape[2] for part in inputs], dim=2)
    for i, part in enumerate(inputs):
        if needs[i]:
            grads[i] = parts[i].sum_to_size(part.shape)


def _whole_chunks(flat: Tensor, chunk_size: int) -> Tensor:
    """View the complete chunks of [B, n] as [B, n // S, S]."""
    num_whole = flat.shape[1] // chunk_size
    return flat[:, : num_whole * chunk_size].unflatten(1, (num_whole, chunk_size))


def product(
    features: Tensor, weight: Tensor, offset: Tensor | None, out: Tensor, num_chunks: int, repeat: int
) -> None:
    """Do what ``chunked_mlp_products.product`` does by library products, in the place of the result."""
    chunk_size = weight.shape[0]
    if repeat > 1:
        shared = features @ weight.t()  # [N, S]
        offset = offset.to(out.dtype)
        whole = _whole_chunks(out, chunk_size)
        torch.add(shared[: whole.shape[1]], offset[:, None], out=whole)
        rest = out[:, whole.shape[1] * chunk_size :]
        if rest.shape[1]:
            torch.add(shared[whole.shape[1], : rest.shape[1]], offset[:, : rest.shape[1]], out=rest)
        return
    bias = None if offset is None else offset[0].to(out.dtype)
    num_conditions = features.shape[0] // num_chunks
    if out.shape[1] == num_chunks * chunk_size:
        _affine(features, weight, bias, out.view(-1, chunk_size))
        return
    rows = features.unflatten(0, (num_conditions, num_chunks))
    whole = _whole_chunks(out, chunk_size)
    for condition in range(num_conditions):
        if whole.shape[1]:
            _affine(rows[condition, : whole.shape[1]], weight, bias, whole[condition])
    done = whole.shape[1] * chunk_size
    rest = out.shape[1] - done
    if rest:
        _affine(rows[:, whole.shape[1]], weight[:rest], None if bias is None else bias[:rest], out[:, done:])


def _affine(features: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    if bias is None:
        torch.mm(features, weight.t(), out=out)
    else:
        torch.addmm(bias, features, weight.t(), out=out)


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
    """Do what ``chunked_mlp_products.product_backward`` does by library products."""
    chunk_size = weight.shape[0]
    if repeat > 1:
        grad_offset = _sum_over_chunks(grad_out, chunk_size) if need_offset else None
        grad_out = grad_out.sum(0, keepdim=True)
    elif need_offset:
        grad_offset = _sum_over_chunks(grad_out, chunk_size).sum(0, keepdim=True)
    else:
        grad_offset = None
    # Cut chunks become whole ones with zeros: one product adds all conditions up, without rounding between.
    tail = num_chunks * chunk_size - grad_out.shape[1]
    grad_rows = grad_out.to(weight.dtype)
    if tail:
        grad_rows = torch.nn.functional.pad(grad_rows, (0, tail))
    grad_rows = grad_rows.view(-1, chunk_size)
    if grad_weight is not None:
        torch.mm(grad_rows.t(), features, out=grad_weight)
    return grad_offset, grad_rows @ weight if need_features else None


def _sum_over_chunks(grad_out: Tensor, chunk_size: int) -> Tensor:
    """Sum [B, n] over the chunks to [B, S], at least in float32; the last chunk may be cut."""
    dtype = _sum_dtype(grad_out)
    whole = _whole_chunks(grad_out, chunk_size)
    total = whole.sum(1, dtype=dtype)
    rest = grad_out[:, whole.shape[1] * chunk_size :]
    total[:, : rest.shape[1]] += rest
    return total
