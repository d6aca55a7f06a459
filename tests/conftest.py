"""Settings and fixtures of the whole test suite."""

import os

import pytest
import torch
from hypothesis import settings

settings.register_profile("local", deadline=None, max_examples=40)
settings.register_profile("ci", deadline=None, max_examples=40, derandomize=True, print_blob=True)
settings.register_profile("brief", deadline=None, max_examples=10, derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "local"))

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def pytest_addoption(parser):
    parser.addoption(
        "--every-launch", action="store_true", help="compile every launch of the Triton kernels, for minutes"
    )


def pytest_configure(config):
    if hasattr(config, "workerinput"):  # what a test starts is not one of the processes of pytest-xdist
        os.environ.pop("PYTEST_XDIST_WORKER")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """One process a core; a GPU is for one process, for its memory."""
    return 1 if torch.cuda.is_available() else min(os.cpu_count() or 1, 8)


def pytest_collection_modifyitems(config, items):
    if hasattr(config, "workerinput"):
        # What takes long comes first, so that no process is still busy when the others have ended.
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: item.path not in slow)
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))


@pytest.fixture(params=DEVICES)
def device(request):
    """Each device that ops run on; the GPU only where there is one."""
    return torch.device(request.param)


@pytest.fixture(autouse=True)
def _same_seed():
    torch.manual_seed(0)
