"""Ops with little to do run on the calling thread alone: waiting for others would take longer."""

import subprocess
import sys

import pytest

from hnetfast.ops._library import EXTENSION_LOADED

# OpenMP starts its threads when they are first asked to do something.
PROGRAM = """
import os
import torch
from torch import nn
from hnetfast.hnets import HMLP, ChunkedHMLP
from hnetfast.ops import local_conv2d
from hnetfast.utils.hnet_regularizer import calc_fix_target_reg

torch.set_num_threads(2)
shapes = [[10, 4], [10]] * 4
for activation in (nn.ReLU(), nn.Tanh(), nn.Sigmoid(), nn.ELU()):
    for layers in ([8], [10, 10]):
        options = dict(layers=layers, activation_fn=activation, num_cond_embs=40, verbose=False)
        for hnet in (HMLP(shapes, **options), ChunkedHMLP(shapes, 7, **options)):
            for ids in ([0], range(8)):
                hnet(cond_id=list(ids), ret_format="flattened").sum().backward()
            with torch.no_grad():
                targets = hnet(cond_id=[0, 1, 2], ret_format="sequential")
            calc_fix_target_reg(hnet, 3, targets=targets).backward()
            theta = [parameter.detach().clone() for parameter in hnet.unconditional_params]
            embeddings = [parameter.detach().clone() for parameter in hnet.conditional_params]
            calc_fix_target_reg(hnet, 3, prev_theta=theta, prev_task_embs=embeddings).backward()
image, filters = torch.randn(2, 3, 6, 6, requires_grad=True), torch.randn(4, 12, 25, requires_grad=True)
local_conv2d(image, filters).sum().backward()
torch.ops.hnetfast.elman_states(torch.randn(6, 8, 20), torch.randn(20, 20), torch.randn(8, 20), "tanh")
before = len(os.listdir("/proc/self/task"))
torch.ones(1 << 20).add_(1)
print(len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.skipif(not EXTENSION_LOADED, reason="holds for compiled kernels")
@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_no_second_thread_for_little_work():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == ["1"], done.stdout + done.stderr
