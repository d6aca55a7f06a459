"""Penalties for changed posteriors, against distances between two snapshots."""

import copy

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from hnetfast.hnets import HMLP, ChunkedHMLP
from hnetfast.probabilistic import GaussianTarget, PosteriorRegularizer
from hnetfast.regularizers import OutputRegularizer
from tests.small_networks import main_network

TARGET = GaussianTarget(main_network(), encoding="softplus")
SHAPES = TARGET.target_shapes
HNETS = {
    "HMLP": lambda **options: HMLP(SHAPES, layers=(5,), **options),
    "ChunkedHMLP": lambda **options: ChunkedHMLP(SHAPES, 9, layers=(5,), **options),
    "dropout and batch norm": lambda **options: HMLP(
        SHAPES, layers=(5,), dropout_rate=0.3, use_batch_norm=True, **options
    ).eval(),
}


def normals(hnet, task):
    q = TARGET(hnet(cond_id=task))
    return Normal(q.mean, q.std)


def wasserstein(p, q):
    return (p.mean - q.mean) ** 2 + (p.stddev - q.stddev) ** 2


DISTANCES = {
    "fkl": lambda now, before: kl_divergence(before, now),
    "rkl": lambda now, before: kl_divergence(now, before),
    "w2": wasserstein,
}
KINDS = pytest.mark.parametrize("kind", DISTANCES)


def expected_loss(kind, hnet, before, num_tasks):
    """``before`` is the hypernetwork as it was."""
    with torch.no_grad():
        earlier = [normals(before, task) for task in range(num_tasks)]
    distances = [DISTANCES[kind](normals(hnet, task), old).sum() for task, old in enumerate(earlier)]
    return torch.stack(distances).mean()


def build(make=HNETS["HMLP"], num_conditions=3):
    return make(num_cond_embs=num_conditions, verbose=False).double()


def move(hnet, scale=0.1):
    with torch.no_grad():
        for parameter in hnet.parameters():
            parameter.add_(scale * torch.randn_like(parameter))


@KINDS
@pytest.mark.parametrize("make", HNETS.values(), ids=HNETS)
def test_distances_from_the_snapshot(make, kind):
    """Also after further changes in place, for other tasks, and after another snapshot."""
    hnet = build(make)
    regularizer = PosteriorRegularizer(hnet, TARGET, kind)
    for _ in range(2):
        regularizer.snapshot()
        before = copy.deepcopy(hnet)
        assert regularizer.loss(2) == 0
        for num_tasks in (2, 1, 3, 3):
            move(hnet)
            loss, expected = regularizer.loss(num_tasks), expected_loss(kind, hnet, before, num_tasks)
            torch.testing.assert_close(loss, expected)
            parameters = list(hnet.parameters())
            gradients = [
                torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
                for value in (loss, expected)
            ]
            torch.testing.assert_close(*gradients)


def test_squared_differences_are_those_of_the_output_regularizer():
    hnet = build()
    ours, other = PosteriorRegularizer(hnet, TARGET), OutputRegularizer(hnet)
    for regularizer in (ours, other):
        regularizer.snapshot()
    before = copy.deepcopy(hnet)
    move(hnet)
    torch.testing.assert_close(ours.loss(3), other.loss(3))
    change = hnet(cond_id=[0, 1, 2], ret_format="flattened") - before(
        cond_id=[0, 1, 2], ret_format="flattened"
    )
    torch.testing.assert_close(ours.loss(3), change.square().sum(1).mean())


@pytest.mark.parametrize("kind", ["mse", *DISTANCES])
def test_the_first_task_and_a_missing_snapshot(kind):
    hnet = build()
    regularizer = PosteriorRegularizer(hnet, TARGET, kind)
    assert not regularizer.has_snapshot
    loss = regularizer.loss(0)
    loss.backward()
    assert loss == 0 and all(parameter.grad is None for parameter in hnet.parameters())
    with pytest.raises(ValueError, match="current_task: 1, but snapshot"):
        regularizer.loss(1)
    regularizer.snapshot()
    assert regularizer.has_snapshot
    with pytest.raises(IndexError, match=r"current_task: expected at most 3, .* got 4"):
        regularizer.loss(4)
    for task, error in ((-1, ValueError), (1.5, TypeError)):
        with pytest.raises(error, match="current_task: expected an integer"):
            regularizer.loss(task)


class Wrapper(nn.Module):
    """What DistributedDataParallel and torch.compile do to a network's name."""

    def __init__(self, name, network):
        super().__init__()
        setattr(self, name, network)

    def forward(self, *args, **kwargs):
        raise AssertionError("the network itself is to be called, whose gradients are reduced all the same")


@KINDS
def test_wrapped_hypernetworks(kind):
    hnet = build()
    regularizer = PosteriorRegularizer(Wrapper("module", Wrapper("_orig_mod", hnet)), TARGET, kind)
    regularizer.snapshot()
    before = copy.deepcopy(hnet)
    move(hnet)
    torch.testing.assert_close(regularizer.loss(2), expected_loss(kind, hnet, before, 2))


@KINDS
def test_state(kind):
    hnet, other = build(), build()
    first, second = PosteriorRegularizer(hnet, TARGET, kind), PosteriorRegularizer(other, TARGET, kind)
    assert first.state_dict() == {}
    first.snapshot()
    second.snapshot()
    before = copy.deepcopy(hnet)
    move(hnet)
    other.load_state_dict(hnet.state_dict())
    second.loss(2)  # what it keeps is of its own snapshot
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(second.loss(2), expected_loss(kind, hnet, before, 2))
    second.load_state_dict({})
    assert not second.has_snapshot


@KINDS
def test_added_conditions(kind):
    hnet = build(num_conditions=1)
    regularizer = PosteriorRegularizer(hnet, TARGET, kind)
    regularizer.snapshot()
    before = copy.deepcopy(hnet)
    hnet.add_conditions(2)
    move(hnet)
    torch.testing.assert_close(regularizer.loss(1), expected_loss(kind, hnet, before, 1))
    # Embeddings that have been added since are compared as they are now, not as at an earlier call.
    for _ in range(2):
        move(hnet)
        with torch.no_grad():
            before = copy.deepcopy(hnet)
            state = regularizer.state_dict()
            for parameter, value in zip(before.unconditional_params, state["theta"], strict=True):
                parameter.copy_(value)
            before.conditional_params[0].copy_(state["embeddings"][0])
        torch.testing.assert_close(regularizer.loss(3), expected_loss(kind, hnet, before, 3))


@KINDS
def test_another_dtype_since_the_snapshot(kind):
    hnet = build().float()
    regularizer = PosteriorRegularizer(hnet, TARGET, kind)
    regularizer.snapshot()
    regularizer.loss(2)  # keeps what it was, in float32
    before = copy.deepcopy(hnet).double()
    hnet.double()
    assert regularizer.loss(2) == 0  # no rounding of float32 is left
    move(hnet)
    loss = regularizer.loss(2)
    assert loss.dtype == torch.float64
    torch.testing.assert_close(loss, expected_loss(kind, hnet, before, 2))


@KINDS
def test_modes_and_inference(kind):
    """Modules keep their modes; what is first computed in inference mode can be learned from later."""
    hnet = build(HNETS["dropout and batch norm"])
    hnet.train()
    list(hnet.modules())[-1].eval()
    modes = [module.training for module in hnet.modules()]
    regularizer = PosteriorRegularizer(hnet, TARGET, kind)
    with torch.inference_mode():
        regularizer.snapshot()
        hnet.eval()
        regularizer.loss(2)
    for module, training in zip(hnet.modules(), modes, strict=True):
        module.training = training
    hnet.eval()
    before = copy.deepcopy(hnet)
    move(hnet)
    loss = regularizer.loss(2)
    loss.backward()
    torch.testing.assert_close(loss, expected_loss(kind, hnet, before, 2))
    for module, training in zip(hnet.modules(), modes, strict=True):
        module.training = training
    regularizer.snapshot()
    assert [module.training for module in hnet.modules()] == modes


OTHER = HMLP(main_network().param_shapes, num_cond_embs=1, verbose=False)
BAD_CALLS = {
    "no target": (
        lambda: PosteriorRegularizer(OTHER, OTHER),
        TypeError,
        "target: .*GaussianTarget, got HMLP",
    ),
    "kind": (lambda: PosteriorRegularizer(build(), TARGET, "kl"), ValueError, "kind: .*'mse', .* got 'kl'"),
    "network": (
        lambda: PosteriorRegularizer(main_network(), TARGET),
        TypeError,
        "hnet: expected a hypernetw",
    ),
    "shapes": (lambda: PosteriorRegularizer(OTHER, TARGET), ValueError, "hnet: .* got one for other shapes"),
    "state": (
        lambda: PosteriorRegularizer(build(), TARGET).load_state_dict([]),
        TypeError,
        "state: expected",
    ),
}


@pytest.mark.parametrize(("call", "kind", "message"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_bad_arguments(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
