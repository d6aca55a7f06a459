"""Helpers for tests and benches: random networks for the ops, when a result is accurate enough, and the scale
of what a hypernetwork starts with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from hnetfast._initial_scale import InitialScale as InitialScale
from hnetfast._initial_scale import initial_scale as initial_scale

_PART_SHAPES = {
    "chunk": lambda conditions, chunks, width: (1, chunks, width),
    "condition": lambda conditions, chunks, width: (conditions, 1, width),
    "shared": lambda conditions, chunks, width: (1, 1, width),
    "both": lambda conditions, chunks, width: (conditions, chunks, width),
}


@dataclass(frozen=True)
class ChunkedNetwork:
    """The arguments of :func:`hnetfast.ops.chunked_mlp`, with the same names and meanings."""

    inputs: list[Tensor]
    weights: list[Tensor]
    biases: list[Tensor]
    activation: str
    num_outputs: int

    @property
    def tensors(self) -> list[Tensor]:
        """Inputs, weights and biases in one list."""
        return [*self.inputs, *self.weights, *self.biases]

    @property
    def arguments(self) -> tuple:
        """What to call the op with."""
        return self.inputs, self.weights, self.biases, self.activation, self.num_outputs

    def map(self, change: Callable[[Tensor], Tensor]) -> ChunkedNetwork:
        """Replace every tensor.

        Args:
            change: Makes a new tensor of an old one.

        Returns:
            A network of the new ones.
        """
        tensors = iter([change(t) for t in self.tensors])
        lists = [[next(tensors) for _ in part] for part in (self.inputs, self.weights, self.biases)]
        return replace(self, inputs=lists[0], weights=lists[1], biases=lists[2])

    def leaves(self, dtype: torch.dtype | None = None) -> ChunkedNetwork:
        """Copy the network, so that its tensors are leaves that require gradients.

        Args:
            dtype: Of the copy; by default as it is.

        Returns:
            The copy.
        """
        return self.map(lambda t: t.detach().to(dtype or t.dtype, copy=True).requires_grad_())


def random_network(
    parts: Sequence[tuple[str, int]],
    hidden: Sequence[int] = (),
    *,
    conditions: int = 1,
    chunks: int = 1,
    chunk_size: int = 7,
    num_outputs: int | None = None,
    activation: str = "relu",
    bias: bool = True,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> ChunkedNetwork:
    """A network with standard normal inputs and biases, and weights that keep the scale.

    Args:
        parts: What each part of the input varies with ("chunk", "condition", "shared": neither, "both"), and
            its width.
        hidden: Widths of the hidden layers.
        conditions: Number of conditions ``B``.
        chunks: Number of chunks ``N``.
        chunk_size: Outputs of the last layer ``S``.
        num_outputs: Outputs a condition; ``None`` for all ``N·S``.
        activation: As of the op.
        bias: Whether the layers have biases.
        dtype: Of all tensors.
        device: Of all tensors.

    Returns:
        The network; its values depend on PyTorch's random state.
    """
    options = {"dtype": dtype, "device": device}
    inputs = [torch.randn(_PART_SHAPES[kind](conditions, chunks, w), **options) for kind, w in parts]
    widths = [sum(width for _, width in parts), *hidden, chunk_size]
    weights = [
        torch.randn(wide, narrow, **options) / max(narrow, 1) ** 0.5 for narrow, wide in pairwise(widths)
    ]
    biases = [torch.randn(width, **options) for width in widths[1:]] if bias else []
    outputs = chunks * chunk_size if num_outputs is None else num_outputs
    return ChunkedNetwork(inputs, weights, biases, activation, outputs)


def error_norm(result: Tensor, exact: Tensor) -> float:
    """Compute the Euclidean norm of an error.

    Args:
        result: What is measured.
        exact: What it ought to be, of the same shape.

    Returns:
        The norm of the difference, computed in float64; NaN where ``result`` has one.
    """
    return torch.linalg.vector_norm(result.detach().double() - exact.detach().double()).item()


def assert_within_budget(
    result: Tensor,
    plain: Tensor,
    exact: Tensor,
    name: str = "result",
    *,
    sensitivity: float = 0.0,
    floor: float = 8,
) -> None:
    """Check that ``result`` is about as accurate as plain PyTorch of the same precision.

    The error ``‖result - exact‖`` may be twice the larger of two, that of ``plain`` and that of the plain
    reference with arguments rounded once more, and ``floor`` roundings of the result more:
    ``2·max(‖plain - exact‖, sensitivity) + floor·eps·‖exact‖``.

    Args:
        result: What is tested, in the precision whose ``eps`` counts.
        plain: The same from the plain reference in the same precision.
        exact: The same from the plain reference in float64, from the same values.
        name: What the message calls it.
        sensitivity: Of :func:`sensitivities`. It matters for small sums whose terms cancel, where ``plain``
            may be exact by chance.
        floor: In units of the precision's ``eps``.

    Raises:
        AssertionError: The shape or dtype is another, or the error is larger.
    """
    if result.shape != exact.shape or result.dtype != plain.dtype:
        raise AssertionError(
            f"{name} is {result.dtype} {tuple(result.shape)}, expected {plain.dtype} {tuple(exact.shape)}"
        )
    if exact.numel() == 0:
        return
    scale = torch.linalg.vector_norm(exact.detach().double()).item()
    error, plain_error = error_norm(result, exact), error_norm(plain, exact)
    budget = 2 * max(plain_error, sensitivity) + floor * torch.finfo(result.dtype).eps * scale
    if error <= budget:  # False for NaN
        return
    difference = (result.detach().double() - exact.detach().double()).abs().nan_to_num(nan=float("inf"))
    worst = tuple(int(i) for i in torch.unravel_index(difference.argmax(), exact.shape))
    raise AssertionError(
        f"{name} {tuple(result.shape)}: error {error:.3g} (norm of the exact {scale:.3g}) where plain "
        f"{result.dtype} has {plain_error:.3g}, with arguments rounded once more "
        f"{sensitivity:.3g}, and {budget:.3g} is allowed; worst at {worst}: "
        f"{result[worst].item():.9g}, exact {exact[worst].item():.9g}"
    )


def sensitivities(
    compute: Callable[[Callable[[Tensor], Tensor]], Sequence[Tensor]],
    exact: Sequence[Tensor],
    dtype: torch.dtype,
) -> list[float]:
    """The errors that the plain reference may have in ``dtype``, for :func:`assert_within_budget`.

    Args:
        compute: Called some times with a function that changes a float64 tensor as much as one rounding to
            ``dtype`` may, at random, and returns a leaf of ``dtype``; computes the results from its arguments
            changed by that.
        exact: The results without rounding.
        dtype: The precision.

    Returns:
        For each result the largest norm of its errors.
    """

    def rounded(t: Tensor) -> Tensor:
        changed = t * (1 + torch.finfo(dtype).eps * (2 * torch.rand_like(t) - 1))
        return changed.detach().to(dtype).requires_grad_()

    found = [0.0] * len(exact)
    # The norm of few errors, unlike that of many, is small by chance now and then.
    times = 12 if any(0 < e.numel() < 4 for e in exact) else 3
    for _ in range(times):
        found = [max(s, error_norm(m, e)) for s, m, e in zip(found, compute(rounded), exact, strict=True)]
    return found


def run(op: Callable[..., Tensor], network: ChunkedNetwork, grad_out: Tensor) -> list[Tensor]:
    """Call an op and differentiate it.

    Args:
        op: The op, called with ``network.arguments``.
        network: The network.
        grad_out: Gradient of the result.

    Returns:
        The result and the gradients for all tensors of the network, zeros where it has none.
    """
    out = op(*network.arguments)
    grads = torch.autograd.grad(out, network.tensors, grad_out, materialize_grads=True)
    return [out.detach(), *grads]


def names(network: ChunkedNetwork) -> list[str]:
    """Say in words what :func:`run` returns.

    Args:
        network: The network.

    Returns:
        A name for the result and for each gradient.
    """
    lists = (("inputs", network.inputs), ("weights", network.weights), ("biases", network.biases))
    return ["the result", *(f"the gradient of {n}[{i}]" for n, ts in lists for i in range(len(ts)))]


def assert_accurate(
    op: Callable[..., Tensor],
    reference: Callable[..., Tensor],
    network: ChunkedNetwork,
    *,
    layout: Callable[[Tensor], Tensor] = lambda t: t,
    floor: float = 8,
) -> None:
    """Check the result of ``op`` and every gradient with :func:`assert_within_budget`.

    Args:
        op: What is tested, called like :func:`hnetfast.ops.chunked_mlp`.
        reference: The same in plain PyTorch.
        network: The arguments, in the precision to test.
        layout: Applied to each tensor that ``op`` gets, and to the gradient of its result; the values must
            stay the same.
        floor: As of :func:`assert_within_budget`.
    """
    exact_network = network.leaves(torch.float64)
    dtype = network.weights[0].dtype
    shape = reference(*exact_network.arguments).shape
    grad_out = torch.randn(shape, dtype=dtype, device=network.weights[0].device)
    exact = run(reference, exact_network, grad_out.double())

    sensitivity = sensitivities(
        lambda rounded: run(reference, exact_network.map(rounded), rounded(grad_out.double())), exact, dtype
    )
    plain = run(reference, network.leaves(), grad_out)
    leaves = network.leaves()
    out = op(*leaves.map(layout).arguments)
    grads = torch.autograd.grad(out, leaves.tensors, layout(grad_out), materialize_grads=True)
    for name, result, p, e, s in zip(
        names(network), [out.detach(), *grads], plain, exact, sensitivity, strict=True
    ):
        assert_within_budget(result, p, e, name, sensitivity=s, floor=floor)
