"""Convolution without weight sharing against that of hypnettorch."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hnetfast.utils.local_conv2d_layer import LocalConv2dLayer

oracle = pytest.importorskip("hypnettorch.utils.local_conv2d_layer")


@st.composite
def pairs(draw, low, high):
    single = draw(st.integers(low, high))
    return draw(st.sampled_from([single, (single, draw(st.integers(low, high))), [single, single]]))


@st.composite
def layer_arguments(draw):
    return {
        "in_channels": draw(st.integers(1, 3)),
        "out_channels": draw(st.integers(1, 3)),
        "in_height": draw(st.integers(3, 7)),
        "in_width": draw(st.integers(3, 7)),
        "kernel_size": draw(pairs(1, 3)),
        "stride": draw(pairs(1, 3)),
        "padding": draw(pairs(0, 2)),
        "bias": draw(st.booleans()),
        "no_weights": draw(st.booleans()),
    }


def build_both(arguments):
    built = []
    for cls in (oracle.LocalConv2dLayer, LocalConv2dLayer):
        torch.manual_seed(0)
        built.append(cls(**arguments))
    return built


@given(layer_arguments())
def test_built_bit_for_bit_like_hypnettorch(arguments):
    their, our = build_both(arguments)
    for name in ("param_shapes", "out_height", "out_width"):
        assert getattr(our, name) == getattr(their, name)
    assert type(our.weights) is type(their.weights)
    assert list(our._modules) == list(their._modules)
    assert [name for name, _ in our.named_parameters()] == [name for name, _ in their.named_parameters()]
    assert list(our.state_dict()) == list(their.state_dict())
    for a, b in zip(our.state_dict().values(), their.state_dict().values(), strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)
    our.load_state_dict(their.state_dict(), strict=True)
    their.load_state_dict(our.state_dict(), strict=True)


@given(layer_arguments(), st.integers(0, 7), st.booleans())
def test_computes_like_hypnettorch(arguments, batch, pass_weights):
    their, our = build_both(arguments)
    if our.out_height == our.out_width == 1 and arguments["out_channels"] > 1:
        return  # differs: `LocalConv2dLayer` computes maps of a single pixel
    shape = (batch, arguments["in_channels"], arguments["in_height"], arguments["in_width"])
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    leaves = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in our.param_shapes]
    weights = leaves if pass_weights or arguments["no_weights"] else None
    results = []
    for layer in (their.double(), our.double()):
        out = layer.forward(x, weights=weights)
        inputs = [x, *leaves, *layer.parameters()]
        results.append([out, *torch.autograd.grad((out**2).sum(), inputs, allow_unused=True)])
    for a, b in zip(*results, strict=True):
        assert (a is None) == (b is None)
        if b is not None:
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("shape", "kwargs"),
    [
        ((4, 2, 5, 7), {}),
        ((2, 5, 6), {}),
        ((4, 60), {}),
        ((4, 2, 5, 6), {"weights": []}),
        ((4, 2, 5, 6), {"weights": [torch.ones(2), torch.ones(2)]}),
    ],
)
def test_errors_are_of_hypnettorchs_type(shape, kwargs):
    their, our = build_both(
        {"in_channels": 2, "out_channels": 3, "in_height": 5, "in_width": 6, "kernel_size": 3}
    )
    with pytest.raises(Exception) as info:
        their.forward(torch.rand(shape), **kwargs)
    expected = ValueError if info.type is AssertionError else info.type
    with pytest.raises(expected):
        our.forward(torch.rand(shape), **kwargs)
