"""A parameter with several names stays one, whatever puts others in its place."""

import copy

import pytest
import torch

from hnetfast.hnets import HPerturbWrapper
from tests.small_networks import HNETS, NETWORKS


def names(network):
    """The names of each parameter."""
    found = {}
    for name, param in network.named_parameters(remove_duplicate=False):
        found.setdefault(id(param), []).append(name)
    return sorted(found.values())


def values(network):
    return [p.detach().clone() for p in network.parameters()]


def assigned(network, make):
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    other = make()
    other.load_state_dict(state, assign=True)
    return other


def overwritten(network, make):
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        return copy.deepcopy(network).to(torch.float64).to(torch.float32)
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)


def swapped(network, make):
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        return copy.deepcopy(network).to(torch.float64).to(torch.float32)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


def from_meta(network, make):
    with torch.device("meta"):
        other = make()
    other.to_empty(device="cpu")
    other.load_state_dict(network.state_dict())
    return other


def shared(network, make):
    return copy.deepcopy(network).share_memory()


REPLACE = [assigned, overwritten, swapped, from_meta, shared]
LAYERS = ("SelfAttnLayer", "SelfAttnLayerV2", "LocalConv2d")  # have one name for each parameter
LARGE = ("ResNetIN", "ZenkeNet", "LeNet")  # like ResNet and BioConvNet, for this
MAKE = HNETS | {name: make for name, (make, _) in NETWORKS.items() if name not in LAYERS + LARGE}


@pytest.mark.parametrize("replace", REPLACE, ids=lambda function: function.__name__)
@pytest.mark.parametrize("name", MAKE)
def test_names_stay_together(name, replace):
    torch.manual_seed(0)
    network = MAKE[name]()
    network.eval()
    found = replace(network, MAKE[name]).eval()
    assert names(found) == names(network)
    for a, b in zip(values(found), values(network), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


@pytest.mark.parametrize("replace", REPLACE, ids=lambda function: function.__name__)
@pytest.mark.parametrize("name", HNETS)
def test_everything_reads_the_parameters_that_are_there(name, replace):
    torch.manual_seed(0)
    hnet = replace(MAKE[name](), MAKE[name]).eval()
    noise = torch.ones(1, hnet.num_outputs) if isinstance(hnet, HPerturbWrapper) else None
    if hasattr(hnet, "get_cond_in_emb"):
        own = {id(p) for p in hnet.internal_params}
        assert id(hnet.get_cond_in_emb(1)) in own
    assert {id(p) for p in hnet.conditional_params} <= {id(p) for p in hnet.internal_params}
    before = hnet(cond_id=1, uncond_input=noise, ret_format="flattened")
    before.sum().backward()
    with torch.no_grad():
        for param in hnet.internal_params:
            param.add_(0.1)
            assert param.grad is not None or any(param is p for p in hnet.conditional_params)
    assert not torch.equal(hnet(cond_id=1, uncond_input=noise, ret_format="flattened"), before)
