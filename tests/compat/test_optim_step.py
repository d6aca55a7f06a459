"""Changes that optimisers would make, against hypnettorch's and against their steps."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import optim

from hnetfast.utils import optim_step

pytest.importorskip("hypnettorch")
from hypnettorch.utils import optim_step as oracle

pytestmark = pytest.mark.filterwarnings("ignore:Using backward", "ignore:This overload")
seeds = st.integers(0, 10_000)
SAME_IN_BOTH = [
    (optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    (optim.SGD, {"momentum": 0.5, "dampening": 0.2}),
    (optim.SGD, {}),
    # differs: `optim_step` computes
    (optim.Adam, {"betas": (0.5, 0.9), "eps": 1e-13}),
    (optim.Adam, {"amsgrad": True, "eps": 1e-13}),
    (optim.RMSprop, {"weight_decay": 0.1}),
    (optim.RMSprop, {"centered": True, "momentum": 0.5}),
]
FORMS = [{}, {"foreach": True}, {"foreach": False}]
STEPS = [
    *((kind, options | form) for kind, options in SAME_IN_BOTH for form in FORMS),
    (optim.SGD, {"momentum": 0.9, "fused": True}),
    (optim.Adam, {"fused": True, "weight_decay": 0.1}),
    (optim.Adam, {"weight_decay": 0.1, "maximize": True}),
    (optim.Adam, {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    (optim.AdamW, {"maximize": True}),
    (optim.SGD, {"maximize": True, "weight_decay": 0.1}),
    (optim.RMSprop, {"maximize": True, "weight_decay": 0.1}),
    (optim.Adagrad, {}),
    (optim.NAdam, {"weight_decay": 0.1}),
]


class Halving(optim.Optimizer):
    def __init__(self, params, factor):
        super().__init__(params, {})
        self.factor = factor

    def step(self):
        for param in self.param_groups[0]["params"]:
            param.data.mul_(self.factor)


def prepared(kind, options, steps, seed):
    """An optimiser with a history, two groups and a parameter without gradient, before its next step."""
    torch.manual_seed(seed)
    params = [torch.nn.Parameter(torch.randn(3)), torch.nn.Parameter(torch.ones(1))]
    params.append(torch.nn.Parameter(torch.randn(2, 2)))
    optimizer = kind([{"params": params[:2]}, {"params": params[2:], "lr": 0.02}], lr=0.1, **options)
    for i in range(steps + 1):
        optimizer.zero_grad()
        loss = (params[0] + params[2].sum()).sin().sum() + (params[0].sum() * params[2]).cos().sum()
        loss.backward(create_graph=i == steps)
        if i < steps:
            optimizer.step()
    return optimizer, [params[0], params[2]]


@given(st.sampled_from(SAME_IN_BOTH), st.integers(0, 3), seeds)
def test_changes_and_their_gradients_are_the_same(case, steps, seed):
    optimizer, params = prepared(*case, steps, seed)
    # differs: `optim_step` computes
    for detach in (True,) if case[1].get("amsgrad") else (True, False):
        ours = optim_step.calc_delta_theta(optimizer, False, detach_dt=detach)
        theirs = oracle.calc_delta_theta(optimizer, False, detach_dt=detach)
        assert [x.requires_grad for x in ours] == [x.requires_grad for x in theirs]
        torch.testing.assert_close(ours, theirs, rtol=3e-5, atol=1e-8)
    # The first momentum is a constant in both, and so are first steps of Adam and RMSprop but for rounding.
    if not detach and steps > 0:
        grads = [
            torch.autograd.grad(sum(x.square().sum() for x in changes), params, retain_graph=True)
            for changes in (ours, theirs)
        ]
        scale = max(x.abs().max().item() for x in grads[1])
        torch.testing.assert_close(*grads, rtol=1e-3, atol=1e-4 * scale)


def test_changes_of_gradient_descent_are_the_same():
    params = [torch.nn.Parameter(torch.randn(3)), torch.nn.Parameter(torch.randn(2))]
    optimizer = optim.Adam(params)
    (params[0].sum() * params[1].sum() ** 2).backward(create_graph=True)
    for detach in (True, False):
        ours, theirs = (
            module.calc_delta_theta(optimizer, True, lr=0.3, detach_dt=detach)
            for module in (optim_step, oracle)
        )
        assert all(torch.equal(x, y) for x, y in zip(ours, theirs, strict=True))
        assert [x.requires_grad for x in ours] == [x.requires_grad for x in theirs]


@pytest.mark.parametrize(("kind", "options"), STEPS)
def test_changes_are_those_of_the_step(kind, options):
    optimizer, params = prepared(kind, options, 3, 0)
    before, state = [p.detach().clone() for p in params], copy.deepcopy(optimizer.state_dict())
    optimizer.register_step_pre_hook(lambda *_: pytest.fail("no step is to be made"))
    changes = optim_step.calc_delta_theta(optimizer, False)
    assert str(optimizer.state_dict()) == str(state)
    assert all(torch.equal(p, q) for p, q in zip(params, before, strict=True))
    assert all(p.grad is not None for p in params)
    differentiable = optim_step.calc_delta_theta(optimizer, False, detach_dt=False)
    optimizer._optimizer_step_pre_hooks.clear()
    optimizer.step()
    for param, old, *both in zip(params, before, changes, differentiable, strict=True):
        for change in both:
            torch.testing.assert_close(old + change, param, rtol=1e-6, atol=1e-6)


def test_small_changes_keep_their_digits():
    param = torch.nn.Parameter(torch.full((3,), 1000.0))
    param.grad = torch.tensor([1e-3, 2e-3, 3e-3])
    (change,) = optim_step.sgd_step(optim.SGD([param], lr=1e-3, momentum=0.9))
    torch.testing.assert_close(change, -1e-3 * param.grad)


def test_steps_from_a_scheduler_and_own_optimisers_are_understood():
    param = torch.nn.Parameter(torch.ones(2))
    param.grad = torch.ones(2)
    assert optim_step.calc_delta_theta(Halving([param], 0.5), False)[0].tolist() == [-0.5, -0.5]
    optimizer = optim.Adam([param], lr=0.1)
    optim.lr_scheduler.StepLR(optimizer, 1)
    torch.testing.assert_close(optim_step.adam_step(optimizer)[0], torch.full((2,), -0.1))
    assert param.tolist() == [1, 1]
    assert not optimizer.state
    optimizer.zero_grad()
    assert optim_step.calc_delta_theta(optimizer, False) == []
    assert optim_step.calc_delta_theta(optimizer, True, lr=1.0) == []


def test_what_is_not_accepted():
    param = torch.nn.Parameter(torch.ones(2))
    param.grad = torch.ones(2)
    with pytest.raises(TypeError, match="optimizer: expected an instance of SGD, got Adam"):
        optim_step.sgd_step(optim.Adam([param]))
    with pytest.raises(TypeError, match="optimizer"):
        optim_step.calc_delta_theta([param], True, lr=0.1)
    with pytest.raises(TypeError, match="lr"):
        optim_step.calc_delta_theta(optim.Adam([param]), True)
    with pytest.raises(ValueError, match="LBFGS"):
        optim_step.calc_delta_theta(optim.LBFGS([param]), False)
    with pytest.raises(ValueError, match="Halving needs detach=True"):
        optim_step.calc_delta_theta(Halving([param], 0.5), False, detach_dt=False)
