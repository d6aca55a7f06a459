"""Convolutional networks under glibc's malloc checker: no layer writes past the end of a tensor.

oneDNN's backward pass of a 1 x 1 convolution with a stride of 2 does (PyTorch 2.11 to 2.15, AVX-512), where
channels are few and last in memory. So no such convolution may be computed.
"""

import ctypes
import os
import subprocess
import sys
from math import prod
from pathlib import Path

import pytest
import torch

from hnetfast import hnets
from hnetfast.mnets import WRN, BioConvNet, LeNet, ResNet, ResNetIN, ZenkeNet

CHECKER = "libc_malloc_debug.so.0"
SETS = 3
IMAGENET = {"in_shape": (16, 16, 2), "num_classes": 3, "projection_shortcut": True}
# With the stride left to oneDNN, sizes like these end in "free(): invalid pointer" in most runs.
FEW_MAPS = {"num_feature_maps": (2, 2, 4, 6, 34), "blocks_per_group": (1, 1, 1, 1)}
NETWORKS = {
    "LeNet": (LeNet, {"arch": "mnist_small", "dropout_rate": 0.2, "use_context_mod": True}),
    "ZenkeNet": (ZenkeNet, {}),
    "BioConvNet": (BioConvNet, {"in_shape": (16, 15, 3), "use_context_mod": True}),
    "ResNet": (ResNet, {"in_shape": (16, 16, 1), "n": 1, "num_feature_maps": (1, 1, 2, 4)}),
    "WRN": (WRN, {"in_shape": (16, 16, 1), "n": 1, "num_feature_maps": (2, 2, 3, 17), "k": 2}),
    "ResNetIN": (ResNetIN, IMAGENET | FEW_MAPS),
    "ResNetIN_cutout": (ResNetIN, IMAGENET | FEW_MAPS | {"cutout_mod": True}),
    "ResNetIN_bottleneck": (ResNetIN, IMAGENET | FEW_MAPS | {"cutout_mod": True, "bottleneck_blocks": True}),
}
HYPERNETWORKS = ("HDeconv", "ChunkedHDeconv")


def build(name, **kwargs):
    cls, arguments = NETWORKS[name]
    return cls(**arguments | {"verbose": False} | kwargs)


def run(name, batch):
    """Forward and backward pass, with one set of weights and with many."""
    network = build(name)
    x = torch.rand(batch, *network._in_shape)
    network.forward(x.flatten(1).requires_grad_()).sum().backward()
    weights = [torch.randn(SETS, *shape, requires_grad=True) for shape in network.param_shapes]
    images = torch.rand(SETS, batch, *network._in_shape, requires_grad=True)
    network.forward_batched(images, weights, chunk_size=SETS).sum().backward()
    if NETWORKS[name][0] in (WRN, ResNetIN):
        network = build(name, chw_input_format=True)
        network.forward(x.permute(0, 3, 1, 2).requires_grad_()).sum().backward()


def run_in_child(*arguments):
    return subprocess.run(
        [sys.executable, __file__, *arguments],
        env=os.environ | {"LD_PRELOAD": CHECKER, "MALLOC_CHECK_": "3"},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=300,
    )


def has_checker():
    try:
        ctypes.CDLL(CHECKER)
    except OSError:
        return False
    return True


needs_checker = pytest.mark.skipif(not has_checker(), reason=f"needs {CHECKER}")


def run_hypernetwork(name):
    """Transposed convolutions of few channels, kernels of one pixel among them."""
    cls = getattr(hnets, name)
    for kernel_size in (1, 3, (1, 4)):
        for num_filters in ([1, 2], [8, 3], [33, 1]):
            options = {
                "num_layers": 3,
                "num_filters": num_filters,
                "kernel_size": kernel_size,
                "sa_units": (),
            }
            hnet = cls([[50]], (9, 8), num_cond_embs=2, verbose=False, **options)
            hnet(cond_id=[0, 1], ret_format="flattened").sum().backward()


@needs_checker
def test_networks_do_not_corrupt_the_heap():
    names = [*NETWORKS, *HYPERNETWORKS]
    child = run_in_child(*names)
    assert child.returncode == 0, f"{child.stdout}\n{child.stderr}"
    assert child.stdout.split() == [*names, "done"]


@needs_checker
def test_the_checker_finds_what_is_written_past_the_end():
    child = run_in_child("overflow")
    assert child.returncode != 0 and "done" not in child.stdout
    assert "invalid pointer" in child.stderr


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_no_convolution_of_one_pixel_has_a_stride(name, monkeypatch):
    seen = []

    def conv2d(h, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
        seen.append((h, weight, stride, groups))
        return convolve(h, weight, bias, stride, padding, dilation, groups)

    convolve = torch.nn.functional.conv2d
    monkeypatch.setattr(torch.nn.functional, "conv2d", conv2d)
    run(name, batch=2)
    assert seen or name == "BioConvNet"
    for h, weight, stride, groups in seen:
        assert stride == 1 or prod(weight.shape[-2:]) > 1, f"{list(h.shape)} by {list(weight.shape)}"
        assert groups in (1, SETS) and h.shape[1] == groups * weight.shape[1]


def main(names):
    torch.set_num_threads(2)
    if names == ["overflow"]:
        tensor = torch.zeros(100, dtype=torch.uint8)
        ctypes.memset(tensor.data_ptr() + 100, 1, 1)
        del tensor
        names = []
    for name in names:
        print(name, flush=True)
        if name in NETWORKS:
            run(name, batch=5)
        else:
            run_hypernetwork(name)
    print("done")


if __name__ == "__main__":
    main(sys.argv[1:])
