"""What is no network by itself is on the default device too, see tests/conformance for networks."""

import pytest
import torch
from torch import nn

from hnetfast.hnets import HMLP
from hnetfast.mnets import from_module
from tests.small_networks import LAYERS


def devices(module):
    return {t.device.type for t in [*module.parameters(), *module.buffers()]}


@pytest.mark.parametrize(("make", "shape"), LAYERS.values(), ids=LAYERS)
def test_layers(make, shape):
    with torch.device("meta"):
        layer = make()
        out = layer(torch.randn(shape))
    assert out.device.type == "meta" and devices(layer) == {"meta"}
    on_cpu, x = make(), torch.randn(shape)
    with torch.device("meta"):
        found = on_cpu(x)
    assert found.device.type == "cpu" and found.shape == out.shape and devices(on_cpu) == {"cpu"}


def test_networks_of_modules():
    with torch.device("meta"):
        network = from_module(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)))
        hnet = HMLP(network.hyper_shapes_learned, verbose=False)
        out = network.forward(torch.randn(2, 4), weights=hnet(cond_id=0))
    assert out.device.type == "meta" and out.shape == (2, 3) and devices(network) == {"meta"}
