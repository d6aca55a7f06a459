"""Cases and the float64 yardstick that the kernel tests of chunked_mlp share, on a CPU and on a GPU."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools

import torch
from torch import Tensor

from hnetfast.ops._mlp_layers import hidden_backward

ACTIVATIONS = {
    "identity": lambda x: x,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "elu": torch.nn.functional.elu,
    "leaky_relu": torch.nn.functional.leaky_relu,
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One network.

    A letter of ``layouts`` is a part: 'n' [1, N, w], 'b' [B, 1, w], 'u' [1, 1, w], 'f' [B, N, w].
    """

    name: str
    layouts: str = "bn"
    hidden: tuple[int, ...] = ()
    conditions: int = 3
    chunks: int = 7
    chunk_size: int = 37
    cut: int = 5
    part_width: int = 6
    activation: str = "relu"
    bias: bool = True
    dtype: torch.dtype = torch.float32
    contiguous: bool = True

    @property
    def num_outputs(self) -> int:
        return self.chunks * self.chunk_size - self.cut

    def tensors(self, device: str = "cpu", seed: int = 0) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Draw inputs, weights and biases."""
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int, scale: float = 1.0) -> Tensor:
            values = torch.randn(shape, generator=generator, dtype=torch.float64) * scale
            values = values.to(device, self.dtype)
            if self.contiguous:
                return values
            return torch.stack([values, values * 2], dim=-1)[..., 0]

        sizes = {
            "n": (1, self.chunks),
            "b": (self.conditions, 1),
            "u": (1, 1),
            "f": (self.conditions, self.chunks),
        }
        inputs = [draw(*sizes[letter], self.part_width + i) for i, letter in enumerate(self.layouts)]
        widths = [sum(part.shape[2] for part in inputs), *self.hidden, self.chunk_size]
        weights = [draw(width, fan_in, scale=fan_in**-0.5) for fan_in, width in itertools.pairwise(widths)]
        biases = [draw(width) for width in widths[1:]] if self.bias else []
        return inputs, weights, biases


def reference(
    inputs: list[Tensor], weights: list[Tensor], biases: list[Tensor], activation: str, num_outputs: int
) -> Tensor:
    """The definition, on the expanded input, in the dtype of the tensors."""
    conditions = max(part.shape[0] for part in inputs)
    chunks = max(part.shape[1] for part in inputs)
    x = torch.cat([part.expand(conditions, chunks, -1) for part in inputs], dim=2)
    for i, weight in enumerate(weights):
        x = torch.nn.functional.linear(x, weight, biases[i] if biases else None)
        if i < len(weights) - 1:
            x = ACTIVATIONS[activation](x)
    return x.flatten(1)[:, :num_outputs]


def reference_with_gradients(case: Case, tensors, grad_out: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """Output and all gradients, computed in ``dtype``."""
    groups = [[t.detach().to(dtype).requires_grad_() for t in group] for group in tensors]
    out = reference(*groups, case.activation, case.num_outputs)
    grads = torch.autograd.grad(out, [t for group in groups for t in group], grad_out.to(dtype))
    return [out.detach(), *grads]


def with_kernels(case: Case, tensors, grad_out: Tensor, needs: list[bool] | None = None) -> list[Tensor]:
    """Output and all gradients from the launchers."""
    from hnetfast.kernels import chunked_mlp

    out, hidden = chunked_mlp.chunked_mlp_forward(*tensors, case.activation, case.num_outputs, True)
    needs = needs or [True] * sum(len(group) for group in tensors)
    grads = chunked_mlp.chunked_mlp_backward(
        grad_out, hidden, *tensors, case.activation, needs, hidden_backward
    )
    return [out, *grads]


def names_of(case: Case, tensors) -> list[str]:
    groups = zip(("input", "weight", "bias"), tensors, strict=True)
    return ["out"] + [f"grad of {name} {i}" for name, group in groups for i in range(len(group))]


def check(case: Case, device: str = "cpu", around_kernels=contextlib.nullcontext) -> None:
    """Errors against float64 are at most twice those of the plain reference in the case's dtype.

    The floor is a few roundings of the result to that dtype: on tiny sums the reference happens to be exact.
    """
    tensors = case.tensors(device)
    generator = torch.Generator().manual_seed(1)
    grad_out = torch.randn(case.conditions, case.num_outputs, generator=generator, dtype=torch.float64)
    grad_out = grad_out.to(device, case.dtype)
    exact = reference_with_gradients(case, tensors, grad_out, torch.float64)
    plain = reference_with_gradients(case, tensors, grad_out, case.dtype)
    with around_kernels():
        ours = with_kernels(case, tensors, grad_out)
    for name, want, rounded, got in zip(names_of(case, tensors), exact, plain, ours, strict=True):
        assert got.dtype == case.dtype, name
        assert got.shape == want.shape, name
        scale = want.norm()
        floor = 4 * torch.finfo(case.dtype).eps * scale
        error, budget = (got.double() - want).norm(), 2 * (rounded.double() - want).norm() + floor
        assert error <= budget, f"{name}: error {error / scale:.2e}, budget {budget / scale:.2e}"


CASES = [
    # Single layers: separable, with one or more parts a side, and not separable.
    Case("single"),
    Case("single-chunk-first", "nb", conditions=1, cut=0),
    Case("single-uncond", "un", conditions=1, chunk_size=65),
    Case("single-two-sides", "bnu", bias=False),
    Case("single-two-sides-bias", "unb", chunks=2),
    Case("single-apart", "nbn", chunks=2, cut=36),
    Case("single-full", "uf", bias=False),
    Case("single-one-chunk", "bu", chunks=1, part_width=33),
    Case("single-many-conditions", "bn", conditions=19, chunks=2, part_width=50, chunk_size=33),
    Case("single-chunks-only", "n", conditions=1, part_width=3, chunks=40),
    # Hidden layers.
    Case("one-layer", "bn", (10,), activation="tanh"),
    Case("one-layer-full", "ufn", (33,), activation="sigmoid", conditions=1, chunk_size=129),
    Case("one-chunk", "bu", (50,), chunks=1, activation="elu", conditions=1),
    Case("two-layers", "nb", (100, 100), activation="leaky_relu", chunks=2, chunk_size=70, cut=69),
    Case("four-layers", "bnu", (50, 50, 50, 50), activation="elu"),
    Case("four-narrow-layers", "bn", (10, 10, 10, 10), activation="sigmoid", chunk_size=150, cut=0),
    Case("no-bias", "bn", (17, 20), bias=False, activation="identity"),
    Case("many-rows", "bn", (20,), conditions=20, chunks=9, chunk_size=130, part_width=3),
    Case("full-blocks", "bn", (64, 128), conditions=2, chunks=8, chunk_size=64, cut=0, part_width=16),
    # Library products: a wide last layer, a wide hidden one, both.
    Case("wide-last", "bn", (10, 130), activation="tanh"),
    Case("wide-last-exact", "un", (130,), conditions=1, cut=0, bias=False),
    Case("wide-hidden", "bn", (150, 20), activation="elu"),
    Case("wide-inputs", "bun", part_width=140),
    Case("wide-inputs-one-chunk", "b", chunks=1, part_width=140),
    # More than one chunk is cut off.
    Case("cut-single", "bn", cut=80),
    Case("cut-hidden", "bn", (10,), cut=80),
    Case("cut-wide", "bn", (130,), cut=80),
    Case("cut-wide-inputs", "bn", part_width=140, cut=80),
    # Layouts and dtypes.
    Case("bfloat16-wide-inputs", "bun", part_width=140, dtype=torch.bfloat16),
    Case("strided", "bn", (20,), contiguous=False, activation="tanh"),
    Case("strided-single", "bn", contiguous=False),
    *(
        Case(f"{name}-{layers}", "bn", hidden, dtype=dtype, activation="tanh")
        for name, dtype in (("double", torch.float64), ("bfloat16", torch.bfloat16), ("half", torch.float16))
        for layers, hidden in ((0, ()), (1, (50,)), (2, (20, 130)))
    ),
]
