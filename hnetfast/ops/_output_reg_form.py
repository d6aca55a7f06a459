"""What a form of ``output_reg`` is: one way to compute the loss, and how it gets its gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hnetfast.ops._library import without_autocast


class Form(NamedTuple):
    """The loss as a function of tensors: all inputs, all weights and all biases of its networks.

    Attributes:
        constants: What else the loss depends on, which autograd is to watch for changes in place.
        forward: Computes it, and a list of what ``backward`` reads, from the tensors and whether they need
            gradients.
        backward: Computes the gradients from that of the loss, the tensors, that list, and which of them are
            needed; anything may stand in the place of the others.
        differentiable: Computes the loss from the tensors in operations that autograd knows.
    """

    constants: Sequence[Tensor]
    forward: Callable[[Sequence[Tensor], bool], tuple[Tensor, list[Tensor]]]
    backward: Callable[..., Sequence[Tensor | None]]
    differentiable: Callable[[Sequence[Tensor]], Tensor]

    def __call__(self, tensors: Sequence[Tensor]) -> Tensor:
        """Compute the loss, differentiable twice."""
        with without_autocast(tensors[0].device.type):
            return _Loss.apply(self, *tensors)


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, form: Form, *tensors):
        loss, kept = form.forward(tensors, any(ctx.needs_input_grad))
        constants = [t for t in form.constants if not t.is_inference()]  # which nobody can save or change
        ctx.form, ctx.num_constants = form, len(constants)
        ctx.save_for_backward(*constants, *tensors, *kept)
        return loss

    @staticmethod
    def backward(ctx, grad):
        form, needs = ctx.form, ctx.needs_input_grad[1:]
        saved = ctx.saved_tensors[ctx.num_constants :]
        tensors, kept = saved[: len(needs)], saved[len(needs) :]
        with without_autocast(grad.device.type):
            if not torch.is_grad_enabled():
                found = form.backward(grad, tensors, kept, needs)
                return None, *(g if need else None for g, need in zip(found, needs, strict=True))
            # Views, as the same tensor may be given twice, or one be computed from another.
            tensors = [t.view_as(t) for t in tensors]
            wanted = [t for t, need in zip(tensors, needs, strict=True) if need]
            loss = form.differentiable(tensors)
            found = iter(torch.autograd.grad(loss, wanted, grad, create_graph=True, allow_unused=True))
            return None, *(next(found) if need else None for need in needs)


def lists_of(
    counts: Sequence[int], tensors: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Inputs, weights and biases of all networks, from the numbers of each network's."""
    first_weight = sum(counts[::3])
    first_bias = first_weight + sum(counts[1::3])
    weights = tensors[first_weight:first_bias]
    return list(tensors[:first_weight]), list(weights), list(tensors[first_bias:])
