"""What a training step does on a GPU: it never waits for the device, and launches few kernels.

Meta tensors stand for those on a GPU, see tests/gpu_path.py.
"""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hnetfast.hnets import HMLP, ChunkedHMLP, HPerturbWrapper
from hnetfast.mnets import MLP
from hnetfast.regularizers import OutputRegularizer
from hnetfast.utils.ewc_regularizer import ewc_regularizer
from hnetfast.utils.hnet_regularizer import calc_fix_target_reg
from hnetfast.utils.si_regularizer import (
    si_compute_importance,
    si_post_optim_step,
    si_pre_optim_step,
    si_regularizer,
)
from tests.small_networks import HNETS, SHAPES

pytest.importorskip("triton")
from tests.gpu_path import GpuPath  # noqa: E402

HEADS = [[0], [1]]
PER_TASK = {"reg_scaling": [0.5, 2.0, 1.0]}


def main_network():
    return MLP(3, 2, (4,), verbose=False)


def remember(hnet, params):
    """What EWC and SI keep of an earlier task."""
    for i, param in enumerate(params):
        hnet.register_buffer(f"ewc_prev_task_0_weights_{i}", param.detach().clone())
        hnet.register_buffer(f"ewc_fisher_estimate_task_0_weights_{i}", torch.ones_like(param))
        param.grad = torch.ones_like(param)
    si_pre_optim_step(hnet, params)
    si_post_optim_step(hnet, params)
    si_compute_importance(hnet, params)


@pytest.fixture
def known_values(monkeypatch):
    """Fisher information is looked at once; meta tensors have no values to look at."""
    monkeypatch.setattr("hnetfast.utils.hnet_regularizer.has_negative", lambda tensor: False)
    monkeypatch.setattr("hnetfast.utils.ewc_regularizer.has_negative", lambda tensor: False)


@pytest.mark.parametrize("name", sorted(HNETS.keys() - {"StructuredHMLP that computes"}))  # with tensors on the CPU
def test_no_step_waits_for_the_device(name, known_values):
    hnet, mnet = HNETS[name]().to("meta"), main_network()
    wrapped = isinstance(hnet, HPerturbWrapper)
    params = [p for p in hnet.parameters() if p.requires_grad]
    remember(hnet, params)
    noise = {"uncond_input": torch.empty(1, hnet.num_outputs, device="meta")} if wrapped else {}
    x, labels = torch.empty(8, 3, device="meta"), torch.empty(8, dtype=torch.int64, device="meta")
    previous = None if wrapped else (hnet.unconditional_params, hnet.conditional_params)
    targets = [[torch.empty(s, device="meta") for s in SHAPES] for _ in range(2)]
    fisher = [[torch.ones(s, device="meta") for s in SHAPES] for _ in range(2)]
    regularizer = None if wrapped else OutputRegularizer(hnet, mnet=mnet, inds_of_out_heads=HEADS, **PER_TASK)
    optimizer = torch.optim.SGD(params, 0.1, momentum=0.9, foreach=True)
    if regularizer is not None:
        regularizer.snapshot()

    def step():
        optimizer.zero_grad()
        loss = F.cross_entropy(mnet.forward(x, weights=hnet(cond_id=2, **noise)), labels)
        loss = loss + si_regularizer(hnet, params) + ewc_regularizer(1, params, hnet)
        if not wrapped:
            previous_parameters = dict(zip(("prev_theta", "prev_task_embs"), previous, strict=True))
            loss = loss + regularizer.loss(2)
            for sources in ({"targets": targets}, previous_parameters):
                options = sources | {"mnet": mnet, "inds_of_out_heads": HEADS} | PER_TASK
                loss = loss + calc_fix_target_reg(hnet, 2, **options, fisher_estimates=fisher)
                loss = loss + calc_fix_target_reg(hnet, 2, **sources)
        loss.backward()
        si_pre_optim_step(hnet, params)
        optimizer.step()
        si_post_optim_step(hnet, params)

    with GpuPath() as first:
        step()
    assert first.num_launches > 20
    with GpuPath() as path:
        step()
    assert not path.waits


def test_waits_are_noticed():
    x = torch.empty(4, device="meta")
    with GpuPath() as path:
        for wait in (
            lambda: x.nonzero(),
            lambda: x[x > 0],
            lambda: bool((x > 0).any()),
            lambda: x[[0, 1]],
            lambda: x[torch.tensor([0])],
            lambda: torch.tensor([1.0], device="meta"),
            lambda: torch.ones(3).to("meta"),
            lambda: x.cpu(),
        ):
            before = path.waits.total()
            try:
                wait()
            except (NotImplementedError, RuntimeError):  # what meta tensors cannot do
                pass
            assert path.waits.total() > before
        before = path.waits.total()
        x.sum().add(1).mul(torch.tensor(2.0)), x[0], x[1:], x[x.long()], x.clone()  # a number of the host's
        assert path.waits.total() == before
