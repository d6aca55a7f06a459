"""Tests of the grouped_mlp launchers on CPU tensors; test_grouped_mlp_interpret.py runs them."""

from itertools import pairwise

import pytest
import torch

from hnetfast.ops.grouped_mlp import (
    Group,
    _backward_triton,
    _forward_triton,
    grouped_mlp_reference,
    pack_placement,
)


def example(conditions, hidden, unused, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=dtype)

    groups, bounds, places, start = [], [], [], 0
    for i, (chunks, row) in enumerate([(3, 20), (1, 7), (4, 33)]):
        inputs = [draw(conditions if i else 1, 1, 3), draw(1, chunks, 2)]
        widths = [5, *(hidden if i != 1 else ()), row]
        weights = [draw(o, k) for k, o in pairwise(widths)]
        groups.append(Group(inputs, weights, [draw(w.shape[0]) for w in weights], "tanh"))
        cuts = sorted({0, row // 3, row // 2, row})
        bounds.append(torch.tensor(cuts))
        lengths = bounds[-1].diff().expand(chunks, -1)
        order = torch.randperm(lengths.numel(), generator=generator)
        of_group = torch.full((lengths.numel(),), -1)
        for j in order.tolist()[1 if unused and i == 2 else 0 :]:
            of_group[j] = start
            start += int(lengths.flatten()[j])
        places.append(of_group.view(chunks, -1))
    return groups, pack_placement(bounds, places), start


@pytest.mark.parametrize("unused", [False, True])
@pytest.mark.parametrize("hidden", [(), (6,), (8, 5)])
@pytest.mark.parametrize("conditions", [1, 3])
def test_forward_and_gradients(conditions, hidden, unused):
    groups, placement, count = example(conditions, hidden, unused)
    lists = [[t for group in groups for t in group[k]] for k in range(3)]
    counts = [len(group[k]) for group in groups for k in range(3)]
    rest = (counts, [group.activation for group in groups], placement)
    out, saved = _forward_triton(*lists, *rest, count, True)
    doubles = [
        Group(*([t.double().requires_grad_() for t in group[k]] for k in range(3)), group.activation)
        for group in groups
    ]
    exact = grouped_mlp_reference(doubles, placement, count)
    torch.testing.assert_close(out.double(), exact, rtol=1e-5, atol=1e-5)
    grad = torch.linspace(-1, 1, out.numel()).view_as(out)
    tensors = [t for k in range(3) for group in doubles for t in group[k]]
    expected = torch.autograd.grad(exact, tensors, grad.double())
    needs = [i % 4 != 3 for i in range(len(tensors))]
    found = _backward_triton(grad, saved, *lists, *rest, needs)
    for a, b, need in zip(found, expected, needs, strict=True):
        if need:
            torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-4)
        else:
            assert a.numel() == 0
    assert torch.equal(_forward_triton(*lists, *rest, count, False)[0], out)
