"""What a training step does on a GPU: it never waits for the device, and launches few kernels.

Meta tensors stand for those on a GPU, see tests/gpu_path.py.
"""

import contextlib

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hnetfast.hnets import HMLP, ChunkedHMLP, HPerturbWrapper, StructuredHMLP
from hnetfast.hnets.structured_hmlp_examples import resnet_chunking
from hnetfast.mnets import MLP, ResNet
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
from tests.gpu_path import GpuPath

NAMES = sorted(HNETS.keys() - {"StructuredHMLP that computes"})  # whose function makes tensors on the CPU
HEADS = [[0], [1]]
SCALING = [0.5, 2.0, 1.0]
OPTIONS = {"num_cond_embs": 6, "verbose": False}
RESNET = ResNet(n=1, num_classes=12, verbose=False)


# --- waiting ---------------------------------------------------------------------------------------


def remember(hnet, params):
    """What EWC and SI keep of an earlier task."""
    for i, param in enumerate(params):
        hnet.register_buffer(f"ewc_prev_task_0_weights_{i}", param.detach().clone())
        hnet.register_buffer(f"ewc_fisher_estimate_task_0_weights_{i}", torch.ones_like(param))
        param.grad = torch.ones_like(param)
    si_pre_optim_step(hnet, params)
    si_post_optim_step(hnet, params)
    si_compute_importance(hnet, params)


def training_step(name, device):
    """A step of training with everything that may be part of its loss."""
    hnet, mnet = HNETS[name]().to(device), MLP(3, 2, (4,), verbose=False)
    wrapped = isinstance(hnet, HPerturbWrapper)
    params = [p for p in hnet.parameters() if p.requires_grad]
    remember(hnet, params)
    noise = {"uncond_input": torch.ones(1, hnet.num_outputs, device=device)} if wrapped else {}
    x, labels = torch.ones(8, 3, device=device), torch.zeros(8, dtype=torch.int64, device=device)
    targets, fisher = ([[torch.ones(s, device=device) for s in SHAPES] for _ in range(2)] for _ in range(2))
    optimizer = torch.optim.SGD(params, 0.1, momentum=0.9, foreach=True)
    if not wrapped:
        options = {"mnet": mnet, "inds_of_out_heads": HEADS, "reg_scaling": SCALING}
        regularizer = OutputRegularizer(hnet, **options)
        regularizer.snapshot()
        previous = {"prev_theta": hnet.unconditional_params, "prev_task_embs": hnet.conditional_params}

    def step():
        optimizer.zero_grad()
        loss = F.cross_entropy(mnet.forward(x, weights=hnet(cond_id=2, **noise)), labels)
        loss = loss + si_regularizer(hnet, params) + ewc_regularizer(1, params, hnet)
        if not wrapped:
            loss = loss + regularizer.loss(2) + calc_fix_target_reg(hnet, 2, **previous)
            loss = loss + calc_fix_target_reg(hnet, 2, targets=targets, fisher_estimates=fisher, **options)
        loss.backward()
        si_pre_optim_step(hnet, params)
        optimizer.step()
        si_post_optim_step(hnet, params)

    return step


@pytest.mark.parametrize("name", NAMES)
def test_no_step_waits_for_the_device(name, monkeypatch):
    # Fisher information is looked at once, and meta tensors have no values.
    for module in ("regularizers._output_penalty", "utils.ewc_regularizer"):
        monkeypatch.setattr(f"hnetfast.{module}.has_negative", lambda tensor: False)
    step = training_step(name, "meta")
    with GpuPath():
        step()
    with GpuPath() as path:
        step()
    assert path.num_launches > 20
    assert not path.waits


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_no_step_waits_for_a_gpu(name):
    step = training_step(name, "cuda")
    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


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
            with contextlib.suppress(NotImplementedError, RuntimeError):  # what meta tensors cannot do
                wait()
            assert path.waits.total() > before
        before = path.waits.total()
        for fine in (lambda: x.sum().mul(torch.tensor(2.0)), lambda: x[x.long()], lambda: x[1:].clone()):
            fine()
        assert path.waits.total() == before


# --- launches --------------------------------------------------------------------------------------


def launches(function, *args, **kwargs):
    """How many kernels a call launches, and its result."""
    with GpuPath() as path:
        result = function(*args, **kwargs)
    return path.num_launches, result


def launches_of_gradients(out, params):
    grad = torch.empty_like(out)
    return launches(torch.autograd.grad, out, params, grad, allow_unused=True)[0]


def structured(layers):
    chunk_shapes, num_per_chunk, assembly = resnet_chunking(RESNET)
    hnet = StructuredHMLP(
        RESNET.param_shapes, chunk_shapes, num_per_chunk, 8, {"layers": layers}, assembly, **OPTIONS
    )
    return hnet.to("meta")


def test_launches_are_counted():
    x = torch.empty(4, 3, device="meta", requires_grad=True)
    count, out = launches(lambda: (x.t().reshape(-1)[1:] * 2).view(-1, 1).sum())  # a copy, a product, a sum
    assert count == 3
    assert launches_of_gradients(out, [x]) <= 4


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ELU(), nn.Tanh()], ids=str)
@pytest.mark.parametrize("conditions", [1, 4])
def test_launches_of_a_four_layer_network(conditions, activation):
    for hnet in (
        HMLP([[30, 20], [30]], layers=(50,) * 4, activation_fn=activation, **OPTIONS),
        ChunkedHMLP([[30, 20], [30]], 100, layers=(50,) * 4, activation_fn=activation, **OPTIONS),
    ):
        params = list(hnet.to("meta").parameters())
        forward, out = launches(hnet, cond_id=list(range(conditions)), ret_format="flattened")
        assert forward <= 3
        assert launches_of_gradients(out, params) <= 10


@pytest.mark.parametrize("conditions", [1, 4])
def test_launches_of_structured_assembly(conditions):
    hnet = structured((10, 10))
    params, count = list(hnet.parameters()), len(hnet.internal_hnets)
    assert count == 8
    with GpuPath():
        hnet(cond_id=0)  # copies where chunks go to the device
    forward, out = launches(hnet, cond_id=list(range(conditions)), ret_format="flattened")
    assert forward <= 3
    # Autograd adds up the gradients of embeddings that all internal networks read.
    assert launches_of_gradients(out, params) <= 7 + count - 1


@pytest.mark.parametrize(
    ("make", "heads", "most"),
    [
        (lambda shapes: HMLP(shapes, layers=(50, 50), **OPTIONS), False, 23),
        (lambda shapes: HMLP(shapes, layers=(50, 50), **OPTIONS), True, 33),
        (lambda shapes: HMLP(shapes, layers=(50,) * 4, **OPTIONS), True, 33),
        (lambda shapes: ChunkedHMLP(shapes, 100, layers=(50, 50), **OPTIONS), False, 28),
        (lambda shapes: ChunkedHMLP(shapes, 500, layers=(50, 50), **OPTIONS), True, 38),
        (lambda shapes: ChunkedHMLP(shapes, 50, layers=(50, 50), **OPTIONS), True, 38),  # in many chunks
        (lambda shapes: structured((10, 10)), False, 24),
        (lambda shapes: structured((50, 50)), True, 39),
    ],
)
def test_launches_of_the_regulariser(make, heads, most):
    mnet = MLP(4, 12, (30, 20), verbose=False)
    hnet = make(mnet.param_shapes).to("meta")
    mnet = RESNET if isinstance(hnet, StructuredHMLP) else mnet
    options = {"mnet": mnet, "inds_of_out_heads": [[2 * i, 2 * i + 1] for i in range(6)]} if heads else {}
    params = list(hnet.parameters())
    for scaling in ({}, {"reg_scaling": [0.5, 2.0, 1.0, 1.0, 3.0]}):
        regularizer = OutputRegularizer(hnet, **options, **scaling)
        regularizer.snapshot()
        with GpuPath():
            regularizer.loss(5)
        with GpuPath() as path:
            torch.autograd.grad(regularizer.loss(5), params, allow_unused=True)
        assert path.num_launches <= (40 if scaling else most), path.launches
