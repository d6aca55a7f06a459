"""Tests of the output_reg kernel on CPU tensors; test_output_reg_interpret.py runs them."""

import itertools

import pytest
import torch
from interpreted_chunked_mlp import poisoned_memory

from hnetfast.kernels import chunked_mlp_tiles
from hnetfast.ops import _output_reg_grouped as grouped
from hnetfast.ops._output_reg_closed import _change_backward_triton, _change_reference, _change_triton

SIZES = {"b": (3, 1), "n": (1, 7), "u": (1, 1), "f": (3, 7)}
SHAPES = [("bn", "bn"), ("bu", "bu"), ("fn", "ub"), ("nb", "nf")]


def network(layouts, hidden, bias, scale=None):
    """Tensors of a network in float64; a change of each if there is a scale."""
    generator = torch.Generator().manual_seed(0 if scale is None else 1)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64) * (scale or 1.0)

    inputs = [draw(*SIZES[letter], 5 + i) for i, letter in enumerate(layouts)]
    widths = [sum(part.shape[2] for part in inputs), *hidden, 9]
    weights = [draw(out, fan_in) / fan_in**0.5 for fan_in, out in itertools.pairwise(widths)]
    return inputs, weights, [draw(width) for width in widths[1:]] if bias else []


def example(layouts, hidden, bias, scale):
    now = network(layouts[0], hidden, bias)
    changes = network(layouts[1], hidden, bias, scale)
    then = [[t + d for t, d in zip(ts, ds, strict=True)] for ts, ds in zip(now, changes, strict=True)]
    if layouts[0] != layouts[1]:
        then[0] = network(layouts[1], hidden, bias)[0]
    sizes = [max(p.shape[axis] for p in [*now[0], *then[0]]) for axis in (0, 1)]
    return now, then, sizes


@pytest.mark.parametrize("scale", [1.0, 1e-5])
@pytest.mark.parametrize("hidden", [(20,), (17, 33), (50, 16, 50)])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "elu", "tanh", "sigmoid", "identity"])
def test_rows_and_their_change(activation, hidden, scale):
    for layouts, bias in zip(SHAPES, (True, False, True, False), strict=True):
        now, then, sizes = example(layouts, hidden, bias, scale)
        lists = [[t.float() for t in tensors] for tensors in (*now, *then)]
        exact = _change_reference(*[[t.double() for t in ts] for ts in lists], activation, *sizes)
        plain = _change_reference(*lists, activation, *sizes)
        with poisoned_memory():
            found = _change_triton(*lists, activation, *sizes)
        width = hidden[-1]
        for a, b, c in zip(exact, found, plain, strict=True):
            for columns in (slice(0, -width), slice(-width, None)):
                want, got, rounded = (t[:, columns].double() for t in (a, b, c))
                budget = 2 * (rounded - want).norm() + 4 * torch.finfo(torch.float32).eps * want.norm()
                assert (got - want).norm() <= budget


@pytest.mark.parametrize("hidden", [(20,), (17, 33, 8)])
@pytest.mark.parametrize("activation", ["relu", "elu", "tanh"])
def test_gradients(activation, hidden):
    for layouts, bias in zip(SHAPES, (True, False, True, False), strict=True):
        now, then, sizes = example(layouts, hidden, bias, 0.1)
        tensors = [t for ts in now for t in ts]
        for tensor in tensors:
            tensor.requires_grad_()
        rows, layers = _change_reference(*now, *then, activation, *sizes)
        grad = torch.randn(rows.shape[0], hidden[-1], dtype=torch.float64)
        expected = torch.autograd.grad(rows[:, -hidden[-1] :], tensors, grad, allow_unused=True)
        saved = layers.detach().float()
        lists = [[t.detach().float() for t in ts] for ts in now]
        needs = [want is not None and i % 3 != 1 for i, want in enumerate(expected)]
        found = _change_backward_triton(grad.float(), saved, *lists, activation, *sizes, needs)
        for want, got, need in zip(expected, found, needs, strict=True):
            if need:
                torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-4)
            else:
                assert got.numel() == 0


def several(scale, bias):
    """Networks of the same depth, with different widths, parts of inputs and chunks; arguments of the op."""
    lists, counts, chunks, never = [[] for _ in range(6)], [], [], []
    for i, (layouts, hidden) in enumerate([("bn", (20, 5)), ("bu", (17, 33)), ("f", (6, 3))]):
        now, then, (_, number) = example((layouts, layouts), hidden, bias, scale)
        for tensors, own in zip(lists, (*now, *then), strict=True):
            tensors += own
        counts += [len(own) for own in now]
        chunks.append(number)
        never.append(torch.tensor([1, 8] if i == 1 else [], dtype=torch.int64))
    return lists, (counts, "tanh", 3, chunks), never


@pytest.mark.parametrize(("scale", "bias", "scaled"), [(1e-5, True, True), (0.3, False, False)])
def test_several_networks(scale, bias, scaled, monkeypatch):
    monkeypatch.setattr(chunked_mlp_tiles, "num_programs", lambda arch: 20)
    lists, rest, never = several(scale, bias)
    lists = [[t.float() for t in tensors] for tensors in lists]
    scaling = torch.tensor([0.5, 2.0, 1.0]) if scaled else None
    tensors = [t for kind in lists[:3] for t in kind]
    needs = [i % 5 != 3 for i in range(len(tensors))]
    results = []
    for dtype, ops in (
        (torch.float64, (grouped._change_op, grouped._change_backward_op)),
        (torch.float32, (grouped._change_op, grouped._change_backward_op)),
        (torch.float32, (grouped._change_triton, grouped._change_backward_triton)),
    ):
        own = [[t.to(dtype) for t in kind] for kind in lists]
        with poisoned_memory():
            saved = ops[0](*own, *rest, None if scaling is None else scaling.to(dtype), never)
            grad = torch.tensor(0.7, dtype=dtype)
            results.append((*saved, *ops[1](grad, None, *saved[1:], *own[:3], *rest, needs)))
    for i, (exact, plain, found) in enumerate(zip(*results, strict=True)):
        exact, plain, found = (t.double() for t in (exact, plain, found))
        assert exact.shape == found.shape
        budget = 2 * (plain - exact).norm() + 4 * torch.finfo(torch.float32).eps * exact.norm()
        assert (found - exact).norm() <= budget, i
