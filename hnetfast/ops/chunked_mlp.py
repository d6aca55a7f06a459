"""Chunked weight generation: an MLP applied to every pair of a condition and a chunk.

Notation: ``B`` conditions, ``N`` chunks, ``S`` chunk size, ``K`` width of the last hidden layer, ``R = B·N``
rows, ``n ≤ N·S`` outputs a condition. With the input parts ``x_p`` of condition ``b`` and chunk ``i``::

    h_1[b, i] = act(Σ_p W_1[:, p] x_p[b, i] + b_1)        the first layer is separable over the parts
    h_l[b, i] = act(W_l h_{l-1}[b, i] + b_l)
    out[b]    = concat_i(W_L h_{L-1}[b, i] + b_L)[:n]

A part is as large as what it varies with: chunk embeddings are ``[1, N, C]``, condition embeddings
``[B, 1, E]``. The expanded input ``[B·N, C + E]`` is never built.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

import torch
from torch import Tensor
from torch._functorch.autograd_function import enable_single_level_autograd_function
from torch.nn import functional as F

from hnetfast import _env
from hnetfast.ops._library import LIBRARY, is_forward_mode, loop_over_batch

ACTIVATIONS = ("identity", "relu", "sigmoid", "tanh", "elu", "leaky_relu")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

LIBRARY.define(
    "chunked_mlp(Tensor[] inputs, Tensor[] weights, Tensor[] biases, str activation, SymInt num_outputs, "
    "bool save_hidden=False) -> (Tensor, Tensor)"
)
LIBRARY.define(
    "chunked_mlp_backward(Tensor grad_out, Tensor hidden, Tensor[] inputs, Tensor[] weights, "
    "Tensor[] biases, str activation, bool[] needs) -> Tensor[]"
)

_OP = torch.ops.hnetfast.chunked_mlp.default
_BACKWARD_OP = torch.ops.hnetfast.chunked_mlp_backward.default


def chunked_mlp(
    inputs: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    activation: str,
    num_outputs: int,
) -> Tensor:
    """Generate ``num_outputs`` weights for each condition, chunk by chunk, in one pass.

    Chunked hypernetworks: von Oswald et al., "Continual learning with hypernetworks", 2020, section 2.3.

    Args:
        inputs: Parts of the input, each ``[B or 1, N or 1, width]``, floating point; the network reads their
            concatenation, in list order, broadcast over conditions and chunks.
        weights: Layer matrices ``[out, in]``; the last is ``[S, K]``.
        biases: One vector a layer, or an empty list.
        activation: Of the hidden layers, one of ``ACTIVATIONS``. The output is linear.
        num_outputs: Outputs a condition, ``n ≤ N·S``; what the last chunk has beyond that is never computed.

    Returns:
        Contiguous tensor ``[B, n]``, differentiable with respect to every tensor, twice too.

    Raises:
        ValueError, RuntimeError: Sizes, dtypes or devices that do not fit; the argument is named.
    """
    return _OP(inputs, weights, biases, activation, num_outputs)[0]


# --- reference ------------------------------------------------------------------------------------


def _sizes(inputs: Sequence[Tensor]) -> tuple[int, int]:
    """Number of conditions and of chunks that the parts broadcast to."""
    num_conditions = num_chunks = 1
    for part in inputs:
        if part.shape[0] != 1:
            num_conditions = part.shape[0]
        if part.shape[1] != 1:
            num_chunks = part.shape[1]
    return num_conditions, num_chunks


def _check(inputs, weights, biases, activation: str, num_outputs: int) -> None:
    if not inputs or not weights:
        raise ValueError(
            f"chunked_mlp: inputs and weights must not be empty, got {len(inputs)}, {len(weights)}"
        )
    if activation not in ACTIVATIONS:
        raise ValueError(f"chunked_mlp: activation is {activation!r}, accepted are {', '.join(ACTIVATIONS)}")
    if biases and len(biases) != len(weights):
        raise ValueError(
            f"chunked_mlp: {len(biases)} biases for {len(weights)} weights; give one each or none"
        )
    for i, part in enumerate(inputs):
        if part.dim() != 3:
            raise ValueError(
                f"chunked_mlp: inputs[{i}] has shape {tuple(part.shape)}, expected "
                "[conditions or 1, chunks or 1, width]"
            )
    num_conditions, num_chunks = _sizes(inputs)
    for i, part in enumerate(inputs):
        if part.shape[0] not in (1, num_conditions) or part.shape[1] not in (1, num_chunks):
            raise ValueError(
                f"chunked_mlp: inputs[{i}] has shape {tuple(part.shape)}, expected "
                f"[{num_conditions} or 1, {num_chunks} or 1, width]"
            )
    width = sum(part.shape[2] for part in inputs)
    for i, weight in enumerate(weights):
        if weight.dim() != 2 or weight.shape[1] != width:
            raise ValueError(
                f"chunked_mlp: weights[{i}] has shape {tuple(weight.shape)}, expected [out, {width}]"
            )
        width = weight.shape[0]
        if biases and tuple(biases[i].shape) != (width,):
            raise ValueError(
                f"chunked_mlp: biases[{i}] has shape {tuple(biases[i].shape)}, expected [{width}]"
            )
    if not 0 <= num_outputs <= num_chunks * width:
        raise ValueError(
            f"chunked_mlp: num_outputs is {num_outputs}, accepted is 0 to {num_chunks} chunks × {width}"
        )
    first = weights[0]
    if first.dtype not in DTYPES:
        raise ValueError(
            f"chunked_mlp: weights[0] is {first.dtype}, accepted are {', '.join(map(str, DTYPES))}"
        )
    for name, tensors in (("inputs", inputs), ("weights", weights), ("biases", biases)):
        for i, tensor in enumerate(tensors):
            if tensor.dtype != first.dtype or tensor.device != first.device:
                raise ValueError(
                    f"chunked_mlp: {name}[{i}] is {tensor.dtype} on {tensor.device}, but weights[0] is "
                    f"{first.dtype} on {first.device}"
                )


def _activate(x: Tensor, activation: str) -> Tensor:
    if activation == "identity":
        return x
    if activation == "elu":
        return F.elu(x)
    if activation == "leaky_relu":
        return F.leaky_relu(x)
    return getattr(torch, activation)(x)


def _activation_grad(grad: Tensor, h: Tensor, activation: str) -> Tensor:
    """Gradient before the activation, from its result ``h``."""
    if activation == "identity":
        return grad
    if activation == "relu":
        return grad * (h > 0)
    if activation == "sigmoid":
        return grad * (h * (1 - h))
    if activation == "tanh":
        return grad * (1 - h * h)
    if activation == "elu":
        return torch.where(h > 0, grad, grad * (h + 1))
    return torch.where(h > 0, grad, 0.01 * grad)  # leaky_relu


def _layers(inputs, weights, biases, activation: str) -> list[Tensor]:
    """Results of all layers, the hidden ones after their activation: ``[B or 1, N or 1, width]`` each."""
    columns = weights[0].split([part.shape[2] for part in inputs], dim=1)
    x = sum(part @ w.t() for part, w in zip(inputs, columns, strict=True))
    if biases:
        x = x + biases[0]
    results = []
    for i, weight in enumerate(weights[1:], start=1):
        results.append(_activate(x, activation))
        x = F.linear(results[-1], weight, biases[i] if biases else None)
    return [*results, x]


def chunked_mlp_reference(inputs, weights, biases, activation: str, num_outputs: int) -> Tensor:
    """What :func:`chunked_mlp` computes, in plain differentiable PyTorch."""
    out = _layers(inputs, weights, biases, activation)[-1]  # [B or 1, N or 1, S]
    out = out.expand(*_sizes(inputs), -1)
    return out.flatten(1)[:, :num_outputs].contiguous()


def _forward_reference(inputs, weights, biases, activation, num_outputs, save_hidden=False):
    _check(inputs, weights, biases, activation, num_outputs)
    num_conditions, num_chunks = _sizes(inputs)
    *hidden, out = _layers(inputs, weights, biases, activation)
    out = (
        out.expand(num_conditions, num_chunks, -1)
        .flatten(1)[:, :num_outputs]
        .clone(memory_format=torch.contiguous_format)
    )
    if not save_hidden or not hidden:
        return out, out.new_empty(0)
    rows = num_conditions * num_chunks
    hidden = [h.expand(num_conditions, num_chunks, -1).reshape(rows, h.shape[2]) for h in hidden]
    return out, torch.cat(hidden, dim=1)


def _backward_reference(grad_out, hidden, inputs, weights, biases, activation, needs):
    num_conditions, num_chunks = _sizes(inputs)
    chunk_size = weights[-1].shape[0]
    tail = num_chunks * chunk_size - grad_out.shape[1]
    grad = F.pad(grad_out, (0, tail)).view(num_conditions, num_chunks, chunk_size)
    widths = [w.shape[0] for w in weights[:-1]]
    layers = hidden.view(num_conditions, num_chunks, sum(widths)).split(widths, dim=2) if widths else ()
    grad_inputs, grad_weights, grad_biases = [], [None] * len(weights), [None] * len(biases)
    for i in reversed(range(len(weights))):
        if biases:
            grad_biases[i] = grad.sum((0, 1))
        if i > 0:
            grad_weights[i] = torch.einsum("bio,bik->ok", grad, layers[i - 1])
            grad = _activation_grad(grad @ weights[i], layers[i - 1], activation)
    columns = []
    for part, weight in zip(inputs, weights[0].split([p.shape[2] for p in inputs], dim=1), strict=True):
        # A part that does not vary with the conditions (chunks) meets the sum of the gradient over them.
        axes = [axis for axis in (0, 1) if part.shape[axis] == 1]
        grad_part = grad.sum(axes, keepdim=True) if axes else grad
        columns.append(torch.einsum("bio,bik->ok", grad_part, part))
        grad_inputs.append(grad_part @ weight)
    grad_weights[0] = torch.cat(columns, dim=1)
    grads = [*grad_inputs, *grad_weights, *grad_biases]
    return [g if need else g.new_empty(0) for g, need in zip(grads, needs, strict=True)]


LIBRARY.impl("chunked_mlp", _forward_reference, "CompositeExplicitAutograd")
LIBRARY.impl("chunked_mlp_backward", _backward_reference, "CompositeExplicitAutograd")


# --- Triton, on a GPU -----------------------------------------------------------------------------


def _forward_triton(inputs, weights, biases, activation, num_outputs, save_hidden=False):
    from hnetfast.kernels.chunked_mlp import chunked_mlp_forward

    _check(inputs, weights, biases, activation, num_outputs)
    return chunked_mlp_forward(inputs, weights, biases, activation, num_outputs, save_hidden)


def _backward_triton(grad_out, hidden, inputs, weights, biases, activation, needs):
    from hnetfast.kernels.chunked_mlp import chunked_mlp_backward

    num_outputs = grad_out.shape[1]
    return chunked_mlp_backward(grad_out, hidden, inputs, weights, biases, activation, num_outputs, needs)


if _env.backend() == "auto" and find_spec("triton"):
    LIBRARY.impl("chunked_mlp", _forward_triton, "CUDA")
    LIBRARY.impl("chunked_mlp_backward", _backward_triton, "CUDA")


# --- tracing --------------------------------------------------------------------------------------


@torch.library.register_fake("hnetfast::chunked_mlp", lib=LIBRARY)
def _forward_fake(inputs, weights, biases, activation, num_outputs, save_hidden=False):
    num_conditions, num_chunks = _sizes(inputs)
    out = inputs[0].new_empty(num_conditions, num_outputs)
    width = sum(w.shape[0] for w in weights[:-1])
    if not save_hidden or width == 0:
        return out, out.new_empty(0)
    return out, out.new_empty(num_conditions * num_chunks, width)


@torch.library.register_fake("hnetfast::chunked_mlp_backward", lib=LIBRARY)
def _backward_fake(grad_out, hidden, inputs, weights, biases, activation, needs):
    tensors = [*inputs, *weights, *biases]
    return [t.new_empty(t.shape if need else 0) for t, need in zip(tensors, needs, strict=True)]


# --- gradients ------------------------------------------------------------------------------------


class _ChunkedMLP(torch.autograd.Function):
    """Tensors go in as one flat argument list: autograd does not look into lists."""

    @staticmethod
    def forward(ctx, counts, activation, num_outputs, *tensors):
        args = (*_unflatten(tensors, counts), activation, num_outputs, True)
        with torch._C._AutoDispatchBelowAutograd():
            if torch._C._are_functorch_transforms_active():
                # A Function turns gradients off, but an outer transform may have to record the call too.
                with torch.enable_grad():
                    out, hidden = _OP(*args)
            else:
                out, hidden = _OP(*args)
        ctx.counts, ctx.activation, ctx.num_outputs = counts, activation, num_outputs
        ctx.mark_non_differentiable(hidden)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(hidden, *tensors)
        return out, hidden

    @staticmethod
    def backward(ctx, grad_out, _):
        if grad_out is None:
            return (None,) * len(ctx.needs_input_grad)
        hidden, *tensors = ctx.saved_tensors
        needs = ctx.needs_input_grad[3:]
        if torch.is_grad_enabled() or is_forward_mode():
            grads = _differentiable_backward(ctx, grad_out, tensors, needs)
        else:
            grads = _BACKWARD_OP(grad_out, hidden, *_unflatten(tensors, ctx.counts), ctx.activation, needs)
        return None, None, None, *(g if need else None for g, need in zip(grads, needs, strict=True))


def _unflatten(tensors, counts):
    first, second = counts
    return list(tensors[:first]), list(tensors[first:second]), list(tensors[second:])


def _differentiable_backward(ctx, grad_out, tensors, needs):
    """Gradients that can be differentiated again: the reference's formulas, on hidden layers with a graph."""
    inputs, weights, biases = _unflatten(tensors, ctx.counts)
    with torch.enable_grad():
        *hidden, _ = _layers(inputs, weights, biases, ctx.activation)
        num_conditions, num_chunks = _sizes(inputs)
        hidden = [h.expand(num_conditions, num_chunks, -1) for h in hidden]
        hidden = torch.cat(hidden, dim=2) if hidden else None
        return _backward_reference(grad_out, hidden, inputs, weights, biases, ctx.activation, needs)


def _autograd(keyset, inputs, weights, biases, activation, num_outputs, save_hidden=False):
    if is_forward_mode():
        return _forward_reference(inputs, weights, biases, activation, num_outputs, save_hidden)
    tensors = (*inputs, *weights, *biases)
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        counts = (len(inputs), len(inputs) + len(weights))
        # The dispatcher has chosen the level of a torch.func transform already: apply the function at this
        # level alone. (Function.apply would hand it to the transforms once more, and costs 20 µs a call.)
        apply = super(torch.autograd.Function, _ChunkedMLP).apply
        if not torch._C._are_functorch_transforms_active():
            return apply(counts, activation, num_outputs, *tensors)
        with enable_single_level_autograd_function():
            return apply(counts, activation, num_outputs, *tensors)
    with torch._C._AutoDispatchBelowAutograd():
        return _OP(inputs, weights, biases, activation, num_outputs, save_hidden)


LIBRARY.impl("chunked_mlp", _autograd, "Autograd", with_keyset=True)


# --- autocast, vmap -------------------------------------------------------------------------------


def _autocast(device: str):
    def cast_and_call(inputs, weights, biases, activation, num_outputs, save_hidden=False):
        dtype = torch.get_autocast_dtype(device)

        def cast(tensors):
            # Others than these are refused below, as without autocast.
            return [t.to(dtype) if t.dtype in DTYPES and t.dtype != torch.float64 else t for t in tensors]

        with torch.autocast(device, enabled=False):
            return _OP(cast(inputs), cast(weights), cast(biases), activation, num_outputs, save_hidden)

    return cast_and_call


LIBRARY.impl("chunked_mlp", _autocast("cpu"), "AutocastCPU")
LIBRARY.impl("chunked_mlp", _autocast("cuda"), "AutocastCUDA")


@torch.library.register_vmap("hnetfast::chunked_mlp", lib=LIBRARY)
def _vmap(info, in_dims, inputs, weights, biases, activation, num_outputs, save_hidden=False):
    in_dims = (*in_dims, None)[:6]
    if any(d is not None for d in (*in_dims[1], *in_dims[2])):  # batched weights
        args = (inputs, weights, biases, activation, num_outputs, save_hidden)
        return loop_over_batch(_OP, info, in_dims, *args)
    size = info.batch_size
    inner = [p if d is None else p.movedim(d, 0)[0] for p, d in zip(inputs, in_dims[0], strict=True)]
    num_conditions, _ = _sizes(inner)
    # The batch becomes a part of the conditions: [V, B or 1, N or 1, w] → [V·B, N or 1, w].
    parts = []
    for part, dim in zip(inputs, in_dims[0], strict=True):
        if dim is None and part.shape[0] == 1:
            parts.append(part)
            continue
        part = part.expand(size, *part.shape) if dim is None else part.movedim(dim, 0)
        parts.append(part.expand(-1, num_conditions, -1, -1).flatten(0, 1))
    out, hidden = _OP(parts, weights, biases, activation, num_outputs, save_hidden)
    if hidden.numel() == 0:
        return (out.unflatten(0, (size, num_conditions)), hidden), (0, None)
    return (out.unflatten(0, (size, num_conditions)), hidden.unflatten(0, (size, -1))), (0, 0)


@torch.library.register_vmap("hnetfast::chunked_mlp_backward", lib=LIBRARY)
def _vmap_backward(info, in_dims, *args):
    return loop_over_batch(_BACKWARD_OP, info, in_dims, *args)
