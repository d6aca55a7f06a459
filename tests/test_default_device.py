"""Whatever the library makes is on the default device, and what it finds out by numbers is not."""

import pytest
import torch
from torch import nn

from hnetfast.hnets import HMLP, HPerturbWrapper
from hnetfast.mnets import from_module
from tests.small_networks import HNETS, NETWORKS, SHAPES


def devices(module):
    return {t.device.type for t in [*module.parameters(), *module.buffers()]}


@pytest.mark.parametrize("make", HNETS.values(), ids=HNETS)
def test_hypernetworks(make):
    with torch.device("meta"):
        hnet = make()
        noise = torch.randn(1, hnet.num_outputs) if isinstance(hnet, HPerturbWrapper) else None
        weights = hnet(cond_id=1, uncond_input=noise)
        several = hnet(cond_id=[0, 2], uncond_input=noise, ret_format="flattened")
        shapes = [tuple(p.shape) for p in hnet.parameters()]
        hnet.add_conditions(1)
    assert [list(t.shape) for t in weights] == SHAPES and several.shape == (2, hnet.num_outputs)
    assert {t.device.type for t in [*weights, several]} == devices(hnet) == {"meta"}

    on_cpu = make()
    noise = noise if noise is None else torch.zeros(1, hnet.num_outputs)
    # The function of "computes" makes a tensor on the default device itself.
    with torch.device("cpu" if make is HNETS["StructuredHMLP that computes"] else "meta"):
        weights = on_cpu(cond_id=1, uncond_input=noise)
    assert {t.device.type for t in weights} == devices(on_cpu) == {"cpu"}
    assert [tuple(p.shape) for p in on_cpu.parameters()] == shapes


@pytest.mark.parametrize(("make", "shape"), NETWORKS.values(), ids=NETWORKS)
def test_networks(make, shape):
    with torch.device("meta"):
        network = make()
        out = network(torch.randn(shape))
        if hasattr(network, "forward_batched"):
            flat = torch.randn(3, network.num_params)
            assert network.forward_batched(torch.randn(shape), flat).device.type == "meta"
    assert out.device.type == "meta" and devices(network) == {"meta"}

    on_cpu, x = make(), torch.randn(shape)
    with torch.device("meta"):
        on_the_cpu = on_cpu(x)
    assert on_the_cpu.device.type == "cpu" and on_the_cpu.shape == out.shape and devices(on_cpu) == {"cpu"}


def test_networks_of_modules():
    with torch.device("meta"):
        network = from_module(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)))
        hnet = HMLP(network.hyper_shapes_learned, verbose=False)
        out = network.forward(torch.randn(2, 4), weights=hnet(cond_id=0))
    assert out.device.type == "meta" and out.shape == (2, 3) and devices(network) == {"meta"}
