"""Self-attention layers against those of hypnettorch."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hnetfast.utils import self_attention_layer as ours

theirs = pytest.importorskip("hypnettorch.utils.self_attention_layer")


def build_both(cls, *args, **kwargs):
    built = []
    for module in (theirs, ours):
        torch.manual_seed(0)
        built.append(getattr(module, cls)(*args, **kwargs))
    return built


def assert_same_state(our, their):
    assert list(our.state_dict()) == list(their.state_dict())
    assert list(our._modules) == list(their._modules)
    assert [name for name, _ in our.named_parameters()] == [name for name, _ in their.named_parameters()]
    for a, b in zip(our.state_dict().values(), their.state_dict().values(), strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)


def perturb(layer):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))


def run(layer, x, leaves=(), **kwargs):
    """Output, attention and gradients."""
    x = x.clone().requires_grad_()
    out, attention = layer.forward(x, ret_attention=True, **kwargs)
    torch.testing.assert_close(layer.eval().forward(x, **kwargs), out)
    layer.train()
    inputs = [x, *leaves, *layer.parameters()]
    gradients = torch.autograd.grad((out**2).sum() + (attention**3).sum(), inputs, allow_unused=True)
    return [out, attention, *gradients]


def assert_same_results(our, their):
    for a, b in zip(our, their, strict=True):
        if b is None:
            assert a is None
        else:
            torch.testing.assert_close(a, b)


@given(st.integers(8, 20), st.booleans(), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))
def test_v1_like_hypnettorch(in_dim, use_spectral_norm, batch, width, height):
    their, our = build_both("SelfAttnLayer", in_dim, use_spectral_norm)
    assert_same_state(our, their)
    x = torch.randn(batch, in_dim, width, height, dtype=torch.float64)
    results = []
    for layer in (their, our):
        perturb(layer)
        layer.double()
        layer.forward(x)  # spectral norms are refined in training
        results.append(run(layer, x))
    assert_same_results(results[1], results[0])
    assert_same_state(our, their) if not use_spectral_norm else None
    our.load_state_dict(their.state_dict(), strict=True)
    their.load_state_dict(our.state_dict(), strict=True)


@given(st.integers(8, 20), st.booleans(), st.booleans(), st.booleans(), st.integers(1, 3), st.integers(1, 4))
def test_v2_like_hypnettorch(in_dim, no_weights, pass_weights, pass_changes, batch, width):
    their, our = build_both("SelfAttnLayerV2", in_dim, False, no_weights=no_weights)
    assert_same_state(our, their)
    assert our.weight_shapes == their.weight_shapes
    assert type(our.weights) is type(their.weights)
    x = torch.randn(batch, in_dim, width, 3, dtype=torch.float64)
    leaves = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in our.weight_shapes]
    kwargs = {}
    if pass_weights or no_weights:
        kwargs["weights"] = leaves
    if pass_changes:
        kwargs["dWeights"] = [0.5 * leaf.detach() for leaf in leaves]
    results = []
    for layer in (their, our):
        perturb(layer)
        results.append(run(layer.double(), x, leaves, **kwargs))
    assert_same_results(results[1], results[0])


def test_init_weights_like_hypnettorch():
    values = [torch.randn(shape) for shape in theirs.SelfAttnLayerV2(8, False).weight_shapes]
    assert_same_state(*build_both("SelfAttnLayerV2", 8, False, init_weights=values)[::-1])


@pytest.mark.parametrize(
    ("cls", "shape", "kwargs"),
    [
        ("SelfAttnLayer", (2, 9, 3, 3), {}),
        ("SelfAttnLayer", (8, 3, 3), {}),
        ("SelfAttnLayerV2", (2, 9, 3, 3), {}),
        ("SelfAttnLayerV2", (8, 3, 3), {}),
        ("SelfAttnLayerV2", (2, 8, 3, 3), {"weights": [torch.ones(3)]}),
        ("SelfAttnLayerV2", (2, 8, 3, 3), {"dWeights": [torch.ones(3)]}),
        ("SelfAttnLayerV2", (2, 8, 3, 3), {"dWeights": [None] * 7}),
        ("SelfAttnLayerV2", (2, 8, 3, 3), {"weights": [torch.ones(3)] * 7}),
    ],
)
def test_errors_are_of_hypnettorchs_type(cls, shape, kwargs):
    their, our = build_both(cls, 8, False)
    with pytest.raises(Exception) as info:
        their.forward(torch.rand(shape), **kwargs)
    expected = ValueError if info.type is AssertionError else info.type
    with pytest.raises(expected):
        our.forward(torch.rand(shape), **kwargs)
