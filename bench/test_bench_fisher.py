"""Diagonal of the Fisher information for EWC: ``pytest bench/test_bench_fisher.py``."""

from __future__ import annotations

import importlib
import statistics

import numpy as np
import pytest
import torch

from hnetfast.examples._speed import import_hypnettorch, time_in_turns

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
def test_fisher(name, benchmark, results, pytestconfig):
    data = _Samples(*_CASES[name])
    calls, estimates = {}, {}
    for library in ("hnetfast", "hypnettorch"):
        if library == "hypnettorch" and import_hypnettorch("mnets") is None:
            continue
        network = _network(library, name)
        module = importlib.import_module(f"{library}.utils.ewc_regularizer")

        def call(network=network, module=module):
            module.compute_fisher(0, data, list(network.weights), "cpu", network)
            return [value for key, value in network.named_buffers() if "fisher" in key]

        calls[library], estimates[library] = call, call()
    for a, b in zip(*estimates.values(), strict=True) if len(estimates) == 2 else ():
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)
    durations = time_in_turns(calls, pytestconfig.option.seconds, minimum=5, maximum=60)
    benchmark.pedantic(calls["hnetfast"], rounds=1, iterations=1)
    row = {"network": name, "samples": _CASES[name][0]}
    row["ms"] = {library: 1e3 * statistics.median(times) for library, times in durations.items()}
    results.fishers.append(row)
