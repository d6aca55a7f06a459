"""Recurrent main networks with given weights: ``pytest bench/test_bench_rnn.py``."""

from __future__ import annotations

import functools
import importlib
import statistics

import pytest
import torch
from torch import nn

from hnetfast.examples._speed import import_hypnettorch, time_in_turns

STEPS, BATCH, N_IN, WIDTH, N_OUT = 100, 32, 10, 100, 10
MODES = ("forward", "forward+backward")


class _TorchNetwork(nn.Module):
    """The library's recurrent layer, with weights of its own, and a linear map."""

    def __init__(self, use_lstm: bool) -> None:
        super().__init__()
        self.layer = (nn.LSTM if use_lstm else nn.RNN)(N_IN, WIDTH)
        self.out = nn.Linear(WIDTH, N_OUT)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.layer(x)[0])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("use_lstm", [True, False], ids=["LSTM", "Elman"])
def test_sequences(use_lstm, mode, benchmark, results, pytestconfig):
    device = pytestconfig.option.bench_device
    torch.manual_seed(0)
    x = torch.randn(STEPS, BATCH, N_IN, device=device)
    calls, outputs, weights = {}, {}, None
    for name, module in (
        ("hnetfast", importlib.import_module("hnetfast.mnets")),
        ("hypnettorch", import_hypnettorch("mnets")),
    ):
        if module is None:
            continue
        network = module.SimpleRNN(
            N_IN, (WIDTH,), fc_layers=(N_OUT,), use_lstm=use_lstm, no_weights=True, verbose=False
        )
        if weights is None:
            weights = [
                (0.1 * torch.randn(*shape, device=device)).requires_grad_() for shape in network.param_shapes
            ]
        forward = functools.partial(network.forward, x, weights=weights)
        outputs[name] = forward()
        calls[name] = functools.partial(_call, forward, weights, mode)
    for name, output in outputs.items():
        torch.testing.assert_close(output, outputs["hnetfast"], rtol=1e-4, atol=1e-5, msg=name)
    reference = _TorchNetwork(use_lstm).to(device)
    calls["torch.nn"] = functools.partial(
        _call, functools.partial(reference, x), list(reference.parameters()), mode
    )
    durations = time_in_turns(calls, pytestconfig.option.seconds, minimum=5)
    benchmark.pedantic(calls["hnetfast"], rounds=1, iterations=1)
    ms = {name: 1e3 * statistics.median(times) for name, times in durations.items()}
    results.rnns.append({"network": "LSTM" if use_lstm else "Elman", "mode": mode, "ms": ms})


def _call(forward, parameters, mode) -> None:
    if mode == MODES[0]:
        with torch.no_grad():
            result = forward()
    else:
        (result, *_) = torch.autograd.grad(forward().sum(), parameters)
    if result.is_cuda:
        torch.cuda.synchronize()
