"""hnetfast::split_targets: views of every target tensor, whose gradients meet in one buffer."""

import copy
from math import prod

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hnetfast.mnets import MLP
from hnetfast.ops import chunked_mlp, split_stacked, split_targets
from hnetfast.ops._library import EXTENSION_LOADED
from hnetfast.ops.split_targets import split_targets_reference
from hnetfast.testing import random_network

SHAPES = [(3, 2), (4,), (), (0, 5), (1, 2, 3, 1)]
TOTAL = sum(map(prod, SHAPES))


def by_narrow(flat, shapes):
    """One condition after the other, one ``narrow`` for each tensor."""
    result = []
    for row in flat:
        start = 0
        result.append([])
        for shape in shapes:
            result[-1].append(row.narrow(0, start, prod(shape)).view(shape))
            start += prod(shape)
    return result


@pytest.mark.parametrize("conditions", [0, 1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_views_in_the_memory_of_the_flat_weights(conditions, dtype, device):
    flat = torch.randn(conditions, TOTAL, dtype=dtype, device=device)
    for tensors in (flat, flat.clone().requires_grad_()):
        result = split_targets(tensors, SHAPES)
        assert len(result) == conditions
        for row, expected in zip(result, by_narrow(tensors, SHAPES), strict=True):
            assert isinstance(row, list)
            for a, b in zip(row, expected, strict=True):
                assert a.shape == b.shape
                assert a.is_contiguous()
                assert torch.equal(a, b)
                assert a.numel() == 0 or a.data_ptr() == b.data_ptr()
                assert a.requires_grad == tensors.requires_grad


def test_flat_may_start_inside_its_storage(device):
    flat = torch.randn(4, TOTAL, device=device)[1:3]
    for a, b in zip(split_targets(flat, SHAPES)[1], by_narrow(flat, SHAPES)[1], strict=True):
        assert torch.equal(a, b)


def test_lists_are_fresh():
    flat = torch.randn(2, TOTAL)
    first = split_targets(flat, SHAPES)
    first[0].clear()
    assert [len(row) for row in split_targets(flat, SHAPES)] == [len(SHAPES)] * 2


@given(
    shapes=st.lists(st.lists(st.integers(0, 5), max_size=3).map(tuple), min_size=1, max_size=6),
    conditions=st.integers(0, 3),
    used=st.sets(st.integers(0, 17)),
)
def test_gradients_of_any_of_the_tensors(shapes, conditions, used):
    flat = torch.randn(conditions, sum(map(prod, shapes)), dtype=torch.float64, requires_grad=True)
    gradients = []
    for split in (split_targets, by_narrow):
        tensors = [t for row in split(flat, shapes) for t in row]
        terms = [(t * (i + 1)).sin().sum() for i, t in enumerate(tensors) if i in used]
        loss = sum(terms, start=flat.sum() * 0)
        gradients.append(torch.autograd.grad(loss, flat)[0])
    assert torch.equal(*gradients)


def test_undefined_gradients_are_zeros_in_reused_memory():
    shapes = [(700_000,), (3,), (100_001,)]
    flat = torch.randn(2, 800_004, requires_grad=True)
    for i in range(6):
        torch.full_like(split_targets(flat, shapes)[0][0], torch.nan)
        tensors = [t for row in split_targets(flat, shapes) for t in row]
        (grad,) = torch.autograd.grad(tensors[i].sum(), flat)
        pieces = [t for row in by_narrow(grad, shapes) for t in row]
        for j, piece in enumerate(pieces):
            assert (piece == float(i == j)).all()
        grad.fill_(torch.nan)
        del grad, piece, pieces


def test_gradients_in_any_memory_layout(device):
    shapes = [(3, 4), (4, 3), (12,)]
    flat = torch.randn(2, 36, device=device, requires_grad=True)
    a, b, c = split_targets(flat, shapes)[1]
    grads = [
        torch.randn(4, 3, device=device).t(),
        torch.randn(1, 3, device=device).expand(4, 3),
        torch.randn(24, device=device)[1::2],
    ]
    (grad,) = torch.autograd.grad([a, b, c], flat, grads)
    assert (grad[0] == 0).all()
    assert torch.equal(grad[1], torch.cat([g.reshape(-1) for g in grads]))


def test_derivatives_of_first_and_second_order(device):
    flat = torch.randn(2, TOTAL, dtype=torch.float64, device=device, requires_grad=True)

    def op(x):
        return tuple(t.sin() for row in split_targets(x, SHAPES) for t in row if t.numel())

    assert torch.autograd.gradcheck(op, flat)
    assert torch.autograd.gradgradcheck(op, flat)


def test_second_order_through_generation_repeats(device):
    def second_order():
        torch.manual_seed(3)
        network = random_network(
            [("chunk", 4), ("condition", 4)],
            [20],
            conditions=2,
            chunks=10,
            chunk_size=200,
            activation="tanh",
            device=device,
        ).leaves()
        tensors = split_targets(chunked_mlp(*network.arguments), [(30, 40), (800,)])
        loss = sum(t.square().sum() for row in tensors for t in row)
        grads = torch.autograd.grad(loss, network.tensors, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in grads), network.tensors)

    for a, b in zip(second_order(), second_order(), strict=True):
        assert torch.equal(a, b)


def test_tensors_may_be_changed_in_place(device):
    flat = torch.randn(1, 12, device=device)
    gradients = []
    for split in (split_targets, lambda f, s: [[t.clone() for t in row] for row in by_narrow(f, s)]):
        leaf = flat.clone().requires_grad_()
        a, b, c = split(leaf * 1, [(4,), (2, 2), (4,)])[0]
        a.mul_(3)
        c.zero_()
        gradients.append(torch.autograd.grad((a.sum() + b.square().sum() + c.sum()), leaf)[0])
    assert torch.equal(*gradients)


@pytest.mark.skipif(not EXTENSION_LOADED, reason="views of autograd: one version for all tensors")
@pytest.mark.parametrize("requires_grad", [True, False])
@pytest.mark.parametrize("stacked", [True, False])
@pytest.mark.parametrize("changed", ["tensor", "flat"])
def test_changing_what_the_graph_holds_is_detected(changed, stacked, requires_grad):
    """Also of weights that have no gradient themselves, such as those of an optimised input."""
    flat = torch.randn(1, 12).requires_grad_(requires_grad) * 1
    x = torch.randn(4, requires_grad=True)
    a, _ = split_stacked(flat, [(4,), (8,)]) if stacked else split_targets(flat, [(4,), (8,)])[0]
    kept = a * x
    (a if changed == "tensor" else flat).mul_(3)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        kept.sum().backward()


def test_changes_of_weights_are_noticed_by_networks():
    network = MLP(3, 2, [8], no_weights=True, verbose=False)
    for chunk_size in (None, 1, 4):
        weights = torch.randn(9, network.num_params, requires_grad=True)
        out = network.forward_batched(torch.randn(20, 3), weights, chunk_size=chunk_size)
        with torch.no_grad():
            weights.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            out.square().sum().backward()


def test_tensors_outlive_the_flat_weights():
    tensors = split_targets(torch.arange(24.0).view(2, 12), [(3, 4)])
    torch.randn(2, 12)
    assert torch.equal(tensors[1][0], torch.arange(12.0, 24.0).view(3, 4))
    assert torch.equal(copy.deepcopy(tensors[1][0]), tensors[1][0])


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile(dynamic):
    def op(flat):
        return [t * 2 for row in split_targets(flat, [(3, 2), (4,)]) for t in row]

    torch.compiler.reset()
    compiled = torch.compile(op, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for conditions in (2, 3):
        flat = torch.randn(conditions, 10, requires_grad=True)
        for a, b in zip(compiled(flat), op(flat), strict=True):
            assert torch.equal(a, b)
        (grad,) = torch.autograd.grad(sum(t.sum() for t in compiled(flat)), flat)
        assert (grad == 2).all()


def test_function_transforms():
    flat = torch.randn(2, 10, dtype=torch.float64)

    def loss(x):
        return sum(t.sin().sum() for row in split_targets(x, [(3, 2), (4,)]) for t in row)

    torch.testing.assert_close(torch.func.grad(loss)(flat), flat.cos())
    torch.testing.assert_close(torch.func.jacrev(loss)(flat), flat.cos())
    batch = torch.stack([flat, 2 * flat])
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(loss))(batch), batch.cos())


@pytest.mark.parametrize("split", [split_targets, split_targets_reference])
def test_sizes_that_do_not_add_up(split):
    for shapes in ([(3, 3)], [(3, 2), (5,)], [(3, 2)]):
        for requires_grad in (False, True):
            with pytest.raises((ValueError, RuntimeError), match=r"hold|sum|split"):
                split(torch.randn(2, 10, requires_grad=requires_grad), shapes)


def test_gradients_of_complex_pieces():
    flat = torch.randn(2, 4, dtype=torch.complex64, requires_grad=True)
    factor = torch.tensor([1j, 2 - 1j])
    for op, views in ((torch.ops.hnetfast.split_targets, 4), (torch.ops.hnetfast.split_stacked, 2)):
        pieces = op(flat, [2, 2], [1, 1])
        assert len(pieces) == views
        loss = (pieces[0].conj() * factor).sum()
        expected = (flat[: 4 // views, :2].conj() * factor).sum()
        found, right = (torch.autograd.grad(x, flat, torch.tensor(1j))[0] for x in (loss, expected))
        torch.testing.assert_close(found, right)
