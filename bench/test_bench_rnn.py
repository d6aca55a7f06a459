"""Recurrent main networks with given weights: ``pytest bench/test_bench_rnn.py``."""

from __future__ import annotations

import functools
import importlib

import pytest
import torch
from torch import nn

from bench.harness import check
from bench.tables import Table, field, mode_label, times, times_as_fast
from hnetfast._comparison import MODES, compute, libraries

STEPS, BATCH, N_IN, WIDTH, N_OUT = 100, 32, 10, 100, 10


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
def test_sequences(use_lstm, mode, bench):
    device = bench.device
    torch.manual_seed(0)
    x = torch.randn(STEPS, BATCH, N_IN, device=device)
    calls, outputs, weights = {}, {}, None
    for name in libraries():
        network = importlib.import_module(f"{name}.mnets").SimpleRNN(
            N_IN, (WIDTH,), fc_layers=(N_OUT,), use_lstm=use_lstm, no_weights=True, verbose=False
        )
        if weights is None:
            weights = [
                (0.1 * torch.randn(*shape, device=device)).requires_grad_() for shape in network.param_shapes
            ]
        forward = functools.partial(network.forward, x, weights=weights)
        outputs[name] = forward()
        calls[name] = functools.partial(compute, mode, forward, weights)
        check([outputs[name]], [outputs["hnetfast"]], 1e-4, f"{name} against hnetfast")
    reference = _TorchNetwork(use_lstm).to(device)
    own = list(reference.parameters())
    calls["torch.nn"] = functools.partial(compute, mode, functools.partial(reference, x), own)
    bench.add(TABLE, bench.time(calls, minimum=5), network="LSTM" if use_lstm else "Elman", mode=mode)


TABLE = Table(
    key="rnns",
    title="Recurrent networks",
    intro=(
        "`SimpleRNN` with given weights, 100 steps, width 100, batch 32, and the layer of `torch.nn` with "
        "its own, in milliseconds."
    ),
    columns={
        "network": field("network"),
        "mode": mode_label,
        **times("hnetfast", "hypnettorch", "torch.nn", digits=2, digits_from_10=2),
        "× hypnettorch": times_as_fast(),
    },
    place=100,
)
