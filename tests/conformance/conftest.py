"""The networks that the suites run with: all of tests/small_networks.py, unless a test names some."""

import pytest
import torch

from tests.small_networks import HNETS, MNETS


@pytest.fixture(params=HNETS)
def hnet_name(request):
    return request.param


@pytest.fixture
def make_hnet(hnet_name):
    """A function of options that makes the hypernetwork, with weights of its seed, in evaluation mode."""

    def make(seed=0, **options):
        torch.manual_seed(seed)
        return HNETS[hnet_name](**options).eval()

    return make


@pytest.fixture(params=MNETS)
def mnet_name(request):
    return request.param


@pytest.fixture
def make_mnet(mnet_name):
    """The same for a main network."""

    def make(seed=0, **options):
        torch.manual_seed(seed)
        return MNETS[mnet_name][0](**options).eval()

    return make


@pytest.fixture
def x(mnet_name):
    """An input of it."""
    return torch.randn(MNETS[mnet_name][1])
