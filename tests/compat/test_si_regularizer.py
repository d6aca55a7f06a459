"""Synaptic intelligence against that of hypnettorch."""

import pytest
import torch

from hnetfast.utils import si_regularizer as ours

theirs = pytest.importorskip("hypnettorch.utils.si_regularizer")


def build():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    net[2].bias.requires_grad_(False)
    return net


@pytest.mark.parametrize("name", [None, "theta"])
@pytest.mark.parametrize("given_changes", [False, True])
def test_same_as_hypnettorch(name, given_changes):
    found = []
    for module in (theirs, ours):
        net = build()
        params = list(net.parameters())
        optimizer = torch.optim.SGD([p for p in params if p.requires_grad], lr=0.1)
        inputs = torch.randn(3, 8, 3, generator=torch.Generator().manual_seed(1))
        states = []
        for number, task in enumerate(inputs):
            for step in range(4):
                optimizer.zero_grad()
                loss = net(task).square().sum()
                if number > 0:
                    loss = loss + module.si_regularizer(net, params, params_name=name)
                loss.backward()
                changes = [-0.1 * p.grad if p.requires_grad else torch.zeros_like(p) for p in params]
                if not given_changes or step == 0:
                    module.si_pre_optim_step(net, params, params_name=name, no_pre_step_ckpt=given_changes)
                optimizer.step()
                module.si_post_optim_step(
                    net, params, params_name=name, delta_params=changes if given_changes else None
                )
                states.append(dict(net.state_dict()))
            module.si_compute_importance(net, params, params_name=name, epsilon=0.01)
            states.append({key: value.clone() for key, value in net.state_dict().items()})
        found.append((states, module.si_regularizer(net, params, params_name=name)))
    (their_states, their_loss), (our_states, our_loss) = found
    torch.testing.assert_close(our_loss, their_loss)
    for a, b in zip(our_states, their_states, strict=True):
        assert list(a) == list(b)
        for key in a:
            torch.testing.assert_close(a[key], b[key], msg=key)


def test_importance_is_never_negative():
    net = build()
    params = list(net.parameters())
    ours.si_pre_optim_step(net, params)
    for param in params:
        param.grad = torch.ones_like(param)
        param.data.add_(0.1)  # against the gradient
    ours.si_post_optim_step(net, params)
    ours.si_compute_importance(net, params)
    assert all(value.count_nonzero() == 0 for name, value in net.named_buffers() if "omega" in name)


def test_calls_in_a_wrong_order():
    net = build()
    params = list(net.parameters())
    with pytest.raises(ValueError, match=r"call si_compute_importance\(\) after a task"):
        ours.si_regularizer(net, params)
    with pytest.raises(ValueError, match="has no gradient"):
        ours.si_post_optim_step(net, params)
    with pytest.raises(ValueError, match=r"call si_pre_optim_step\(\) in every step"):
        ours.si_compute_importance(net, params)
    for param in params:
        param.grad = torch.ones_like(param)
    with pytest.raises(ValueError, match="nothing is known of it before the step"):
        ours.si_post_optim_step(net, params)
    ours.si_pre_optim_step(net, params)
    with pytest.raises(ValueError, match=r"delta_params\[0\]: expected a tensor of shape \[4, 3\]"):
        ours.si_post_optim_step(net, params, delta_params=[torch.ones(1)] * 4)
    with pytest.raises(ValueError, match="delta_params: expected 4 tensors, got 1"):
        ours.si_post_optim_step(net, params, delta_params=[torch.ones(4, 3)])
    with pytest.raises(ValueError, match="epsilon: expected a number of at least 0"):
        ours.si_compute_importance(net, params, epsilon=-1.0)
    with pytest.raises(ValueError, match=r"call si_post_optim_step\(\)"):
        ours.si_compute_importance(net, params)


def learn_task(module, net, params, **options):
    module.si_pre_optim_step(net, params)
    for param in params:
        if param.requires_grad:
            param.grad = torch.ones_like(param)
            param.data.sub_(0.1)
    module.si_post_optim_step(net, params, **options)


def test_parameters_of_other_shapes_change_nothing():
    net = build()
    params = list(net.parameters())
    learn_task(ours, net, params)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    message = r"params\[0\]: expected the shape \[4, 3\], that of buffer"
    calls = [ours.si_pre_optim_step, ours.si_post_optim_step, ours.si_compute_importance, ours.si_regularizer]
    for function in calls:
        with pytest.raises(ValueError, match=message):
            function(net, [params[1], params[0]])
    with pytest.raises(TypeError, match=r"params\[1\]: expected a tensor"):
        ours.si_pre_optim_step(net, [params[0], None])
    after = net.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("number", [0, 4])
def test_nothing_to_regularise(number):
    params = list(build().requires_grad_(False).parameters())[:number]
    loss = ours.si_regularizer(build(), params)
    assert loss.shape == () and loss == theirs.si_regularizer(build(), params)


def test_given_changes_leave_what_was_remembered():
    nets = []
    for module in (theirs, ours):
        net = build()
        params = list(net.parameters())
        changes = [torch.ones_like(p) if p.requires_grad else None for p in params]
        learn_task(module, net, params, delta_params=changes)
        nets.append(net.state_dict())
    torch.testing.assert_close(nets[1], nets[0])


def test_parameters_from_an_iterator():
    nets = []
    for module in (theirs, ours):
        net = build()
        module.si_pre_optim_step(net, net.parameters())
        nets.append(net.state_dict())
    assert list(nets[0]) == list(nets[1])
