"""hnetfast::split_stacked: views of a target tensor of all conditions, whose gradients meet in one buffer."""

from math import prod

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hnetfast.ops import split_stacked
from hnetfast.ops.split_targets import split_stacked_reference

SHAPES = [(3, 2), (4,), (), (0, 5), (1, 2, 3, 1)]
TOTAL = sum(map(prod, SHAPES))


@pytest.mark.parametrize("conditions", [0, 1, 3])
def test_views_in_the_memory_of_the_flat_weights(conditions, device):
    wide = torch.randn(conditions, TOTAL + 5, device=device)
    for flat in (
        wide[:, :TOTAL],
        wide[:, 2 : TOTAL + 2].contiguous(),
        wide[:, :TOTAL].clone().requires_grad_(),
    ):
        tensors = split_stacked(flat, SHAPES)
        for b in range(conditions):
            expected = split_stacked_reference(flat[b : b + 1], SHAPES)
            for tensor, one, shape in zip(tensors, expected, SHAPES, strict=True):
                assert tensor.shape == (conditions, *shape)
                assert torch.equal(tensor[b], one[0])
                assert tensor.numel() == 0 or tensor[b].data_ptr() == one.data_ptr()
                assert tensor.requires_grad == flat.requires_grad


@given(
    shapes=st.lists(st.lists(st.integers(0, 5), max_size=3).map(tuple), min_size=1, max_size=6),
    conditions=st.integers(1, 3),
    used=st.sets(st.integers(0, 5)),
)
def test_gradients_of_any_of_the_tensors(shapes, conditions, used):
    flat = torch.randn(conditions, sum(map(prod, shapes)), dtype=torch.float64, requires_grad=True)
    gradients = []
    for split in (split_stacked, split_stacked_reference):
        terms = [(t * (i + 1)).sin().sum() for i, t in enumerate(split(flat, shapes)) if i in used]
        gradients.append(torch.autograd.grad(sum(terms, start=flat.sum() * 0), flat)[0])
    assert torch.equal(*gradients)


def test_undefined_gradients_are_zeros_in_reused_memory():
    shapes = [(350_000,), (3,), (100_001,)]
    flat = torch.randn(2, 450_004, requires_grad=True)
    for i in range(6):
        (grad,) = torch.autograd.grad(split_stacked(flat, shapes)[i % 3].sum(), flat)
        for j, piece in enumerate(split_stacked_reference(grad, shapes)):
            assert (piece == float(i % 3 == j)).all()
        grad.fill_(torch.nan)
        del grad, piece


def test_gradients_in_any_memory_layout_and_dtype(device):
    flat = torch.randn(2, 24, device=device, requires_grad=True)
    a, b = split_stacked(flat, [(3, 4), (12,)])
    grads = [torch.randn(2, 4, 3, device=device).mT, torch.randn(1, 12, device=device).expand(2, 12)]
    (grad,) = torch.autograd.grad([a, b], flat, grads)
    assert torch.equal(grad, torch.cat([g.reshape(2, -1) for g in grads], 1))


def test_derivatives_of_first_and_second_order(device):
    flat = torch.randn(2, TOTAL, dtype=torch.float64, device=device, requires_grad=True)

    def op(x):
        return tuple(t.sin() for t in split_stacked(x, SHAPES) if t.numel())

    assert torch.autograd.gradcheck(op, flat)
    assert torch.autograd.gradgradcheck(op, flat)


def test_transforms():
    flat = torch.randn(2, 10, dtype=torch.float64)

    def loss(x):
        return sum(t.sin().sum() for t in split_stacked(x, [(3, 2), (4,)]))

    torch.testing.assert_close(torch.func.grad(loss)(flat), flat.cos())
    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(flat), loss(flat))


def test_sizes_that_do_not_add_up():
    for shapes in ([(3, 3)], [(3, 2), (5,)]):
        for requires_grad in (False, True):
            with pytest.raises((ValueError, RuntimeError), match=r"hold|sum|split"):
                split_stacked(torch.randn(2, 10, requires_grad=requires_grad), shapes)
