"""Self-attention layers: what hypnettorch's cannot do, and bad input."""

import copy

import pytest
import torch

from hnetfast.utils.self_attention_layer import SelfAttnLayer, SelfAttnLayerV2


def test_both_versions_agree():
    torch.manual_seed(0)
    first = SelfAttnLayer(16, False)
    with torch.no_grad():
        first.gamma.fill_(0.7)
    maps = [first.query_conv, first.key_conv, first.value_conv]
    weights = [tensor for conv in maps for tensor in (conv.weight, conv.bias)]
    second = SelfAttnLayerV2(16, False, no_weights=True)
    x = torch.randn(2, 16, 3, 5)
    torch.testing.assert_close(second.forward(x, weights=[*weights, first.gamma]), first.forward(x))


def normalised(layer, given):
    """The matrices that the layer computes with, divided by their largest singular values."""
    matrices = list(given)
    for i in range(0, 6, 2):
        matrices[i] = matrices[i] / torch.linalg.matrix_norm(matrices[i].flatten(1), 2)
    return matrices


@pytest.mark.parametrize("source", ["own", "given", "changed"])
def test_spectral_norm(source):
    torch.manual_seed(0)
    layer = SelfAttnLayerV2(16, True, no_weights=source == "given")
    plain = SelfAttnLayerV2(16, False, no_weights=True)
    weights = [torch.randn(shape) for shape in layer.weight_shapes]
    x = torch.randn(2, 16, 3, 5)
    kwargs = {"own": {}, "given": {"weights": weights}, "changed": {"dWeights": weights}}[source]
    for _ in range(100):
        layer.forward(x, **kwargs)  # refines the estimates for own weights
    used = weights if source == "given" else [w.detach() for w in layer.weights]
    if source == "changed":
        used = [a + b for a, b in zip(used, weights, strict=True)]
    expected = plain.forward(x, weights=normalised(layer, used))
    torch.testing.assert_close(layer.forward(x, **kwargs), expected, rtol=1e-2, atol=1e-2)


def test_given_weights_leave_the_estimates_alone():
    layer = SelfAttnLayerV2(8, True)
    before = [buffer.clone() for buffer in layer.buffers()]
    layer.forward(torch.randn(1, 8, 2, 2), weights=[torch.randn(shape) for shape in layer.weight_shapes])
    assert all(torch.equal(a, b) for a, b in zip(before, layer.buffers(), strict=True))


@pytest.mark.parametrize("cls", [SelfAttnLayer, SelfAttnLayerV2])
@pytest.mark.parametrize("use_spectral_norm", [False, True])
def test_copies_and_checkpoints(cls, use_spectral_norm):
    layer = cls(8, use_spectral_norm)
    x = torch.randn(2, 8, 2, 3)
    twin = copy.deepcopy(layer)
    other = cls(8, use_spectral_norm)
    other.load_state_dict(layer.state_dict())
    out = layer.eval().forward(x)
    assert torch.equal(twin.eval().forward(x), out)
    assert torch.equal(other.eval().forward(x), out)


def test_empty_batch():
    assert SelfAttnLayer(8, False).forward(torch.rand(0, 8, 2, 2)).shape == (0, 8, 2, 2)


def test_bad_input():
    for cls in (SelfAttnLayer, SelfAttnLayerV2):
        with pytest.raises(ValueError, match="in_dim"):
            cls(7, False)
        with pytest.raises(TypeError, match="in_dim"):
            cls(8.0, False)
        layer = cls(8, False)
        with pytest.raises(TypeError, match="x"):
            layer.forward("maps")
        with pytest.raises(TypeError, match="float64"):
            layer.forward(torch.rand(1, 8, 2, 2, dtype=torch.float64))
        with pytest.raises(ValueError, match=r"\[B, 8, W, H\], got \[1, 9, 2, 2\]"):
            layer.forward(torch.rand(1, 9, 2, 2))
    layer = SelfAttnLayerV2(8, False)
    x = torch.rand(1, 8, 2, 2)
    good = [torch.zeros(shape) for shape in layer.weight_shapes]
    for weights, error, message in [
        (good[:-1], ValueError, "expected 7 tensors"),
        ([*good[:2], torch.zeros(3), *good[3:]], ValueError, r"\[2\] \(key weight\)"),
        ([*good[:6], None], TypeError, r"\[6\] \(gamma\)"),
        ([*good[:5], good[5].double(), good[6]], TypeError, r"\[5\] \(value bias\)"),
        ([*good[:5], good[5].to("meta"), good[6]], ValueError, r"\[5\] \(value bias\)"),
    ]:
        with pytest.raises(error, match=message):
            layer.forward(x, weights=weights)
    with pytest.raises(ValueError, match=r"dWeights.*expected 7"):
        layer.forward(x, dWeights=good[:3])
    with pytest.raises(ValueError, match="no_weights"):
        SelfAttnLayerV2(8, False, no_weights=True).forward(x)
    with pytest.raises(ValueError, match="init_weights"):
        SelfAttnLayerV2(8, False, init_weights=good[:2])
    with pytest.raises(ValueError, match="init_weights"):
        SelfAttnLayerV2(8, False, no_weights=True, init_weights=good)
