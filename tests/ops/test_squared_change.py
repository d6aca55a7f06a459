"""hnetfast::squared_change where it is hard: outputs that don't count, nothing to sum up."""

import pytest
import torch

from hnetfast.ops import squared_change
from hnetfast.ops.grouped_mlp import Group


def networks(conditions, dtype=torch.float64):
    torch.manual_seed(conditions)
    shapes = ((conditions, 1, 3), (24, 3), (11, 24), (24,), (11,))
    now = [torch.randn(shape, dtype=dtype) for shape in shapes]
    return now, [t + 0.1 * torch.randn_like(t) for t in now]


def group(tensors):
    return Group(tensors[:1], tensors[1:3], tensors[3:], "relu")


@pytest.mark.parametrize("conditions", [1, 5])
@pytest.mark.parametrize("output", [3, 10])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_what_does_not_count_need_not_be_finite(conditions, output, value):
    """Neither the loss nor a gradient tells what the parameters of an output are that has the factor 0."""
    now, then = networks(conditions)
    factors = torch.ones(1, 11, dtype=torch.float64)
    factors[0, output] = 0
    results = []
    for parameter in (0.5, value):
        now[4][output] = now[2][output, 1] = parameter
        leaves = [t.clone().requires_grad_() for t in (*now, factors)]
        loss = squared_change(group(leaves[:5]), group(then), 11, leaves[5])
        *grads, of_factors = torch.autograd.grad(loss, leaves)
        of_factors[0, output] = 0
        results.append([loss, *grads, of_factors])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_no_conditions():
    now, then = networks(0)
    args = [now[:1], now[1:3], now[3:], torch.ones(1, 1, dtype=torch.float64), "relu", 11]
    args += [then[:1], then[1:3], then[3:], True]
    torch.library.opcheck(torch.ops.hnetfast.squared_change.default, args)
