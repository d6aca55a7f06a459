"""Autograd and autocast of ops whose tensors come in lists of inputs, weights and biases."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch._functorch.autograd_function import enable_single_level_autograd_function

from hnetfast.ops._library import LIBRARY, is_forward_mode
from hnetfast.ops._mlp_layers import DTYPES


def register_autograd(name: str, reference: Callable, differentiable_backward: Callable) -> None:
    """Register gradients and automatic mixed precision.

    Args:
        name: The op, called with ``(inputs, weights, biases, *static, num_outputs, save_hidden)``; returns
            the result and what its backward pass wants to know of the hidden layers. ``{name}_backward`` is
            called with ``(grad_out, hidden, inputs, weights, biases, *static, needs)``.
        reference: The op in plain PyTorch, used under forward-mode differentiation.
        differentiable_backward: Called with ``(grad_out, inputs, weights, biases, *static, needs)``; returns
            gradients that can be differentiated again.
    """
    op = getattr(torch.ops.hnetfast, name).default
    backward_op = getattr(torch.ops.hnetfast, f"{name}_backward").default

    class Function(torch.autograd.Function):
        """Tensors go in as one flat argument list: autograd does not look into lists."""

        @staticmethod
        def forward(ctx, counts, static, num_outputs, *tensors):
            args = (*_unflatten(tensors, counts), *static, num_outputs, True)
            with torch._C._AutoDispatchBelowAutograd():
                if torch._C._are_functorch_transforms_active():
                    # A Function turns gradients off, but an outer transform may have to record the call too.
                    with torch.enable_grad():
                        out, hidden = op(*args)
                else:
                    out, hidden = op(*args)
            ctx.counts, ctx.static = counts, static
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
            lists = _unflatten(tensors, ctx.counts)
            if torch.is_grad_enabled() or is_forward_mode():
                with torch.enable_grad():
                    grads = differentiable_backward(grad_out, *lists, *ctx.static, needs)
            else:
                grads = backward_op(grad_out, hidden, *lists, *ctx.static, needs)
            return None, None, None, *(g if need else None for g, need in zip(grads, needs, strict=True))

    def autograd(keyset, inputs, weights, biases, *args):
        *static, num_outputs, save_hidden = args if isinstance(args[-1], bool) else (*args, False)
        if is_forward_mode():
            return reference(inputs, weights, biases, *static, num_outputs, save_hidden)
        tensors = (*inputs, *weights, *biases)
        if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
            counts = (len(inputs), len(inputs) + len(weights))
            # The dispatcher has chosen the level of a torch.func transform already: apply the function at
            # this level alone. (Function.apply would hand it to the transforms once more, for 20 µs a call.)
            apply = super(torch.autograd.Function, Function).apply
            if not torch._C._are_functorch_transforms_active():
                return apply(counts, static, num_outputs, *tensors)
            with enable_single_level_autograd_function():
                return apply(counts, static, num_outputs, *tensors)
        with torch._C._AutoDispatchBelowAutograd():
            return op(inputs, weights, biases, *static, num_outputs, save_hidden)

    LIBRARY.impl(name, autograd, "Autograd", with_keyset=True)
    LIBRARY.impl(name, _autocast(op, "cpu"), "AutocastCPU")
    LIBRARY.impl(name, _autocast(op, "cuda"), "AutocastCUDA")


def _unflatten(tensors, counts):
    first, second = counts
    return list(tensors[:first]), list(tensors[first:second]), list(tensors[second:])


def _autocast(op: Callable, device: str) -> Callable:
    def cast_and_call(inputs, weights, biases, *args):
        dtype = torch.get_autocast_dtype(device)

        def cast(tensors):
            # Others than these are refused below, as without autocast.
            return [t.to(dtype) if t.dtype in DTYPES and t.dtype != torch.float64 else t for t in tensors]

        with torch.autocast(device, enabled=False):
            return op(cast(inputs), cast(weights), cast(biases), *args)

    return cast_and_call
