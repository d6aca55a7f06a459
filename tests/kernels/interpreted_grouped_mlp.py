"""Tests of the grouped_mlp launchers on CPU tensors; test_grouped_mlp_interpret.py runs them."""

from itertools import pairwise

import pytest
import torch
from interpreted_chunked_mlp import poisoned_memory

from hnetfast.kernels import chunked_mlp_tiles
from hnetfast.ops.grouped_mlp import (
    Group,
    _backward_reference,
    _backward_triton,
    _forward_reference,
    _forward_triton,
    pack_placement,
)


def example(conditions, hidden, unused):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=generator)

    groups, bounds, places, start = [], [], [], 0
    for i, (chunks, row) in enumerate([(3, 20), (1, 7), (4, 33)]):
        inputs = [draw(conditions if i else 1, 1, 3), draw(1, chunks, 2)]
        widths = [5, *hidden[i], row]
        weights = [draw(o, k) / 2 for k, o in pairwise(widths)]
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


# Of the three networks: one after the other, together, or both; alike or not; one too wide for kernels.
HIDDEN = {
    "none": [(), (), ()],
    "some": [(6,), (), (6,)],
    "alike": [(8, 5), (8, 5), (8, 5)],
    "widths": [(6,), (40,), (3,)],
    "depths": [(6,), (8, 17), (20, 9)],
    "wide": [(8, 5), (130, 5), (7, 20)],
}


@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize(
    ("conditions", "unused", "dtype"),
    [(1, True, torch.float32), (3, False, torch.float32), (3, True, torch.bfloat16)],
)
def test_forward_and_gradients(conditions, unused, dtype, hidden, monkeypatch):
    monkeypatch.setattr(chunked_mlp_tiles, "num_programs", lambda arch: 12)
    groups, placement, count = example(conditions, HIDDEN[hidden], unused)
    lists = [[t.to(dtype) for group in groups for t in group[k]] for k in range(3)]
    counts = [len(group[k]) for group in groups for k in range(3)]
    rest = (counts, [group.activation for group in groups], placement)
    needs = [i % 4 != 3 for i in range(sum(map(len, lists)))]
    grad = torch.linspace(-1, 1, conditions * count).view(conditions, count).to(dtype)
    results = []
    for kind, ops in (
        (torch.float64, (_forward_reference, _backward_reference)),
        (dtype, (_forward_reference, _backward_reference)),
        (dtype, (_forward_triton, _backward_triton)),
    ):
        own = [[t.to(kind) for t in tensors] for tensors in lists]
        with poisoned_memory():
            out, saved = ops[0](*own, *rest, count, True)
            grads = iter(ops[1](grad.to(kind), saved, *own, *rest, needs))
            # All gradients of a kind together: a few numbers may be exact by chance.
            kinds = [torch.cat([next(grads).flatten() for _ in tensors]) for tensors in lists]
            results.append((out, saved, *kinds))
            if hidden != "wide":  # library products sum in an order of their own
                assert torch.equal(ops[0](*own, *rest, count, False)[0], out)
    for exact, plain, found in zip(*results, strict=True):
        assert exact.shape == found.shape
        assert found.dtype == dtype
        exact, plain, found = (t.double() for t in (exact, plain, found))
        budget = 2 * (plain - exact).norm() + 4 * torch.finfo(dtype).eps * exact.norm()
        assert (found - exact).norm() <= budget


@pytest.mark.parametrize("conditions", [0, 2])
def test_nothing_to_generate(conditions):
    """No conditions; or one of two networks has no outputs."""
    groups, placement, count = example(conditions, HIDDEN["alike"], False)
    if conditions:
        (inputs, weights, biases, activation), other = groups[0], groups[1]
        weights, biases = ([*tensors[:-1], tensors[-1][:0]] for tensors in (weights, biases))
        groups, count = [Group(inputs, weights, biases, activation), other], len(other.weights[-1])
        places = [torch.zeros(3, 0, dtype=torch.int64), torch.tensor([[0]])]
        placement = pack_placement([torch.tensor([0]), torch.tensor([0, count])], places)
    lists = [[t for group in groups for t in group[k]] for k in range(3)]
    rest = [len(group[k]) for group in groups for k in range(3)], ["tanh"] * len(groups), placement
    results = []
    for forward, backward in (
        (_forward_reference, _backward_reference),
        (_forward_triton, _backward_triton),
    ):
        out, saved = forward(*lists, *rest, count, True)
        needs = [True] * sum(map(len, lists))
        results.append([out, *backward(torch.ones_like(out), saved, *lists, *rest, needs)])
    torch.testing.assert_close(*results)
