"""Diagonal of the Fisher information for EWC: ``pytest bench/test_bench_fisher.py``."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch

from bench.harness import check
from bench.tables import Table, field, times, times_as_fast
from hnetfast._comparison import libraries

_CASES = {"MLP 784-100-100-10": (200, 784), "ResNet-32": (20, 3072)}


class _Samples:
    """What ``compute_fisher`` asks of a data handler, without the cost of a real one."""

    classification = is_one_hot = True
    num_classes, out_shape = 10, [10]

    def __init__(self, count: int, features: int) -> None:
        generator = np.random.RandomState(0)
        self.num_train_samples, self.in_shape = count, [features]
        self._inputs = generator.randn(count, features).astype("float32")
        self._targets = np.eye(10, dtype="float32")[generator.randint(0, 10, count)]
        self._next = 0

    def reset_batch_generator(self, train: bool, test: bool, val: bool) -> None:
        self._next = 0

    def next_train_batch(self, batch_size: int, return_ids: bool = False):
        self._next += batch_size
        rows = slice(self._next - batch_size, self._next)
        return self._inputs[rows], self._targets[rows]

    def input_to_torch_tensor(self, x, device, mode):
        return torch.from_numpy(x)

    output_to_torch_tensor = input_to_torch_tensor


def _network(library: str, name: str):
    mnets = importlib.import_module(f"{library}.mnets")
    torch.manual_seed(0)
    if name == "ResNet-32":
        return mnets.ResNet(in_shape=(32, 32, 3), num_classes=10, verbose=False)
    return mnets.MLP(n_in=784, n_out=10, hidden_layers=[100, 100], verbose=False)


@pytest.mark.parametrize("name", _CASES)
def test_fisher(name, bench):
    data = _Samples(*_CASES[name])
    calls, estimates = {}, {}
    for library in libraries():
        network = _network(library, name)
        module = importlib.import_module(f"{library}.utils.ewc_regularizer")

        def call(network=network, module=module):
            module.compute_fisher(0, data, list(network.weights), "cpu", network)
            return [value for key, value in network.named_buffers() if "fisher" in key]

        calls[library], estimates[library] = call, call()
    check(estimates["hnetfast"], list(estimates.values())[-1], 1e-3, "Fisher information")
    durations = bench.time(calls, minimum=5, maximum=60)
    bench.add(TABLE, durations, network=name, samples=_CASES[name][0])


TABLE = Table(
    key="fishers",
    title="Fisher information",
    intro="`compute_fisher` of elastic weight consolidation, in milliseconds for all samples.",
    columns={
        "network": field("network"),
        "samples": field("samples"),
        **times("hnetfast", "hypnettorch", digits=1),
        "× hypnettorch": times_as_fast(),
    },
    place=60,
)
