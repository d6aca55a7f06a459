"""hnetfast.nn: layers, sines and the variances that they need."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hnetfast.mnets import MLP, from_module
from hnetfast.nn import LocalConv2d, Sine, elementwise, siren_variances
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


def test_sine():
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.equal(Sine(7.0)(x), torch.sin(7.0 * x))
    assert Sine().omega == 30.0
    assert "omega=7.0" in repr(Sine(7))
    assert torch.autograd.gradcheck(Sine(2.0), x)
    assert torch.autograd.gradgradcheck(Sine(2.0), x)


def test_sets_of_weights_of_a_network_with_sines_are_evaluated_together():
    mnet = MLP(2, 3, [5, 5], activation_fn=Sine(4.0), no_weights=True, verbose=False)
    shapes = []
    mnet._a_fun.forward, forward = lambda x: shapes.append(x.shape) or forward(x), mnet._a_fun.forward
    weights = torch.randn(6, mnet.num_params)
    x = torch.randn(6, 7, 2)
    watched = mnet.forward_batched(x, weights, x_per_set=True)
    assert set(shapes) == {(7, 5)}
    del mnet._a_fun.forward
    found = mnet.forward_batched(x, weights, x_per_set=True)
    torch.testing.assert_close(found, watched)


def test_elementwise_functions_are_called_once_for_all_sets():
    class Wave(torch.nn.Module):
        def forward(self, x):
            calls.append(x.shape)
            return torch.sin(3 * x)

    calls = []
    for wave in (Wave(), lambda x: Wave.forward(None, x)):
        found = []
        for declare in (False, True):
            if declare:
                kind = Wave if isinstance(wave, Wave) else wave
                assert elementwise(kind) is kind
            mnet = MLP(2, 3, [5, 5], activation_fn=wave, no_weights=True, verbose=False)
            torch.manual_seed(0)
            calls.clear()
            found.append(mnet.forward_batched(torch.randn(7, 2), torch.randn(6, mnet.num_params)))
            assert len(calls) == (2 if declare else 12)
        torch.testing.assert_close(*found)


@pytest.mark.parametrize("function", [torch.nn.ReLU(), int, None, type("C", (dict,), {"__call__": print})()])
def test_what_cannot_be_declared_elementwise(function):
    with pytest.raises(TypeError, match="function: expected"):
        elementwise(function)


@pytest.mark.parametrize(
    ("omega", "error"), [(0, ValueError), (-1.0, ValueError), (float("nan"), ValueError)]
)
def test_bad_factors_of_sines(omega, error):
    with pytest.raises(error, match="omega: expected a positive number, got"):
        Sine(omega)


@pytest.mark.parametrize("omega", ["30", True, None, torch.ones(2)])
def test_factors_of_sines_that_are_no_numbers(omega):
    with pytest.raises(TypeError, match="omega: expected a positive number, got"):
        Sine(omega)


def test_variances_of_sitzmann_et_al():
    mnet = MLP(2, 3, [8, 16], activation_fn=Sine(5.0), verbose=False)
    bounds = [(3 * variance) ** 0.5 for variance in siren_variances(mnet)]
    first, second, third = 1 / 2, (6 / 8) ** 0.5 / 5, (6 / 16) ** 0.5 / 5
    assert bounds == pytest.approx([first, 2**-0.5, second, 8**-0.5, third, 16**-0.5])
    plain = MLP(2, 3, [8, 16], activation_fn=torch.sin, verbose=False)
    assert siren_variances(plain) == siren_variances(mnet, omega=1)
    bounds = [(3 * variance) ** 0.5 for variance in siren_variances(mnet, omega=10)]
    assert bounds[::2] == pytest.approx([first, second / 2, third / 2])


def test_variances_of_modules():
    net = torch.nn.Sequential(
        torch.nn.Linear(2, 8), Sine(30.0), torch.nn.LayerNorm(8), torch.nn.Linear(8, 8), Sine(2.0)
    )
    found = siren_variances(from_module(net))
    assert found == pytest.approx([1 / 12, 1 / 6, None, None, 2 / (8 * 4), 1 / 24])
    with pytest.raises(ValueError, match=r"omega: expected a number.*those with 30.0, 2.0, 3.0"):
        siren_variances(from_module(net.append(Sine(3.0))))
    assert len(siren_variances(from_module(net), omega=1.0)) == 6


def test_networks_without_these_variances():
    with pytest.raises(TypeError, match="mnet: expected a main network with param_shapes_meta, got Linear"):
        siren_variances(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"omega: expected a number where the sines .* which has none"):
        siren_variances(MLP(2, 1, verbose=False))
