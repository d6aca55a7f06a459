"""Convolution without weight sharing: its definition, many sets of weights, bad input."""

import copy

import pytest
import torch
import torch.nn.functional as F

from hnetfast.utils.local_conv2d_layer import LocalConv2dLayer


@pytest.mark.parametrize("batch", [0, 1, 4, 5])
def test_equal_filters_at_every_pixel_make_an_ordinary_convolution(batch):
    options = {"stride": (2, 1), "padding": (1, 0)}
    layer = LocalConv2dLayer(2, 3, 6, 7, (3, 2), **options)
    kernel, bias = torch.randn(3, 2, 3, 2), torch.randn(3)
    num_pixels = layer.out_height * layer.out_width
    weights = [kernel.flatten(1)[..., None].expand(-1, -1, num_pixels), bias[:, None].expand(-1, num_pixels)]
    x = torch.randn(batch, 2, 6, 7)
    torch.testing.assert_close(layer.forward(x, weights=weights), F.conv2d(x, kernel, bias, **options))


@pytest.mark.parametrize("batch", [1, 5])
def test_output_of_one_pixel(batch):
    layer = LocalConv2dLayer(2, 3, 4, 2, (4, 2))
    x = torch.randn(batch, 2, 4, 2)
    expected = F.linear(x.flatten(1), layer.filters[..., 0], layer.bias[:, 0])
    torch.testing.assert_close(layer.forward(x), expected[..., None, None])


@pytest.mark.parametrize("batch", [1, 3, 6])
def test_gradients(batch):
    layer = LocalConv2dLayer(2, 2, 3, 3, 2, padding=1).double()
    x = torch.randn(batch, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *w: layer.forward(x, w), (x, *layer.weights))


@pytest.mark.parametrize("batch", [0, 1, 6])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_many_sets_of_weights(batch, shared, bias):
    layer = LocalConv2dLayer(2, 3, 5, 4, 3, bias=bias, no_weights=True)
    weights = [torch.randn(4, *shape) for shape in layer.param_shapes]
    x = torch.randn(1 if shared else 4, batch, 2, 5, 4).expand(4, -1, -1, -1, -1)
    expected = [layer.forward(x[b], [w[b] for w in weights]) for b in range(4)]
    out = layer.convolve(x, weights[0], weights[1] if bias else None)
    torch.testing.assert_close(out, torch.stack(expected))


def test_copies_share_nothing_and_keep_their_weights():
    layer = LocalConv2dLayer(1, 1, 3, 3, 2)
    twin = copy.deepcopy(layer)
    assert twin.weights[0] is twin.filters and twin.weights[1] is twin.bias
    assert twin.filters is not layer.filters


@pytest.mark.parametrize(
    ("arguments", "error", "name"),
    [
        ({"in_channels": 0}, ValueError, "in_channels"),
        ({"out_channels": 0}, ValueError, "out_channels"),
        ({"in_channels": 2.0}, TypeError, "in_channels"),
        ({"in_height": 0}, ValueError, "in_height"),
        ({"kernel_size": 6}, ValueError, "kernel_size"),
        ({"kernel_size": 6, "no_weights": True}, ValueError, "kernel_size"),
        ({"kernel_size": 0}, ValueError, "kernel_size"),
        ({"kernel_size": (3,)}, ValueError, "kernel_size"),
        ({"kernel_size": (3, 2, 1)}, ValueError, "kernel_size"),
        ({"kernel_size": 2.5}, TypeError, "kernel_size"),
        ({"stride": 0}, ValueError, "stride"),
        ({"stride": (1, -1)}, ValueError, "stride"),
        ({"padding": -1}, ValueError, "padding"),
    ],
)
def test_bad_arguments(arguments, error, name):
    good = {"in_channels": 2, "out_channels": 3, "in_height": 5, "in_width": 5, "kernel_size": 3}
    with pytest.raises(error, match=name):
        LocalConv2dLayer(**good | arguments)


def test_bad_input():
    layer = LocalConv2dLayer(2, 3, 5, 6, 3)
    x = torch.rand(4, 2, 5, 6)
    filters, bias = (w.detach() for w in layer.weights)
    for bad_x, error in [
        (torch.rand(4, 2, 6, 6), ValueError),
        (torch.rand(2, 5, 6), ValueError),
        (x.double(), TypeError),
        (x.to("meta"), ValueError),
        ("x", TypeError),
    ]:
        with pytest.raises(error, match="x"):
            layer.forward(bad_x)
    for weights, error, message in [
        ([filters], ValueError, "expected 2 tensors"),
        ([bias, filters], ValueError, r"weights\[0\] \(filters\).*got \[3, 12\]"),
        ([filters, None], TypeError, r"weights\[1\] \(bias\)"),
        ([filters, bias.double()], TypeError, r"weights\[1\] \(bias\)"),
        (filters, ValueError, "expected 2 tensors"),
        (1, ValueError, "expected 2 tensors"),
    ]:
        with pytest.raises(error, match=message):
            layer.forward(x, weights=weights)
    with pytest.raises(ValueError, match="no_weights"):
        LocalConv2dLayer(2, 3, 5, 6, 3, no_weights=True).forward(x)
