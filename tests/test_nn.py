"""hnetfast.nn.LocalConv2d."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hnetfast.nn import LocalConv2d
from hnetfast.utils.local_conv2d_layer import LocalConv2dLayer


@pytest.mark.parametrize("bias_per_position", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"stride": 2, "padding": (1, 0)}, {"padding": "same"}, {"groups": 2, "dilation": (1, 2)}]
)
def test_a_shared_filter_makes_an_ordinary_convolution(options, bias_per_position):
    layer = LocalConv2d(4, 6, 3, **options, input_size=(7, 8), bias_per_position=bias_per_position)
    kernel = torch.nn.Conv2d(4, 6, 3, **options)
    with torch.no_grad():
        layer.weight.copy_(kernel.weight.flatten(1).unsqueeze(2).expand_as(layer.weight))
        layer.bias.copy_(kernel.bias.view(6, 1).expand_as(layer.bias) if bias_per_position else kernel.bias)
    x = torch.randn(2, 4, 7, 8)
    torch.testing.assert_close(layer(x), kernel(x))
    torch.testing.assert_close(layer(x[0]), kernel(x[0]))
    assert layer(x).shape[-2:] == layer.output_size


def test_it_computes_what_the_layer_of_main_networks_does():
    other = LocalConv2dLayer(3, 5, 6, 7, (2, 3), stride=(1, 2), padding=1)
    layer = LocalConv2d(3, 5, (2, 3), (1, 2), 1, input_size=(6, 7))
    layer.load_state_dict({"weight": other.filters, "bias": other.bias})
    x = torch.randn(4, 3, 6, 7)
    torch.testing.assert_close(layer(x), other(x))


def test_parameters_and_training():
    torch.manual_seed(0)
    layer = LocalConv2d(2, 8, 3, padding=1, input_size=6, dtype=torch.float64)
    assert layer.weight.shape == (8, 18, 36)
    assert layer.bias.shape == (8, 36)
    assert 0.9 * 18**-0.5 < layer.weight.abs().max().item() <= 18**-0.5
    assert LocalConv2d(2, 3, 1, input_size=2, bias=False).bias is None
    x = torch.randn(5, 2, 6, 6, dtype=torch.float64)
    target = F.conv2d(x, torch.randn(8, 2, 3, 3, dtype=torch.float64), padding=1)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = F.mse_loss(layer(x), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    assert "kernel_size=(3, 3)" in repr(layer)


def test_layers_in_a_row_under_autocast():
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), LocalConv2d(4, 4, 3, input_size=6), LocalConv2d(4, 2, 1, input_size=4)
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = net(torch.randn(2, 3, 8, 8))
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in net.parameters())


def test_integers_of_numpy():
    three = np.int64(3)
    layer = LocalConv2d(three, three, three, groups=three, input_size=(np.int64(5), 6))
    assert layer(torch.randn(2, 3, 5, 6)).shape == (2, 3, 3, 4)
    assert all(type(n) is int for n in (layer.in_channels, layer.groups, *layer.input_size))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"in_channels": 0}, "in_channels: a positive integer"),
        ({"groups": 3}, "groups: must divide"),
        ({"kernel_size": 9}, "output would be empty"),
        ({"input_size": (3, 0)}, "input_size: integers of at least 1"),
        ({"padding": "full"}, "'same', 'valid' or integers"),
        ({"stride": "x"}, "stride: an integer or two"),
    ],
)
def test_bad_arguments(change, message):
    arguments = {"in_channels": 2, "out_channels": 4, "kernel_size": 3, "input_size": 5} | change
    with pytest.raises((ValueError, TypeError), match=message):
        LocalConv2d(**arguments)


def test_images_of_another_size():
    with pytest.raises(ValueError, match=r"input: expected the shape \[2, 5, 5\]"):
        LocalConv2d(2, 4, 3, input_size=5)(torch.randn(1, 2, 6, 6))
