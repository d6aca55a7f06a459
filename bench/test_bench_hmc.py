"""Markov chains over the weights of a small network: ``pytest bench/test_bench_hmc.py``."""

from __future__ import annotations

import importlib
import statistics

import pytest
import torch

from hnetfast.examples._speed import import_hypnettorch, time_in_turns

_CASES = {
    "HMC, 1 leapfrog step": ("hmc", {"num_steps": 1, "stepsize": 0.01}, 40),
    "HMC, 10 leapfrog steps": ("hmc", {"num_steps": 10, "stepsize": 0.01}, 10),
    "NUTS": ("nuts", {"stepsize": 0.03}, 3),
}


def _chains(library: str, kind: str, options: dict):
    """Four chains from the same positions; their energies are small enough for hypnettorch's NUTS."""
    hmc = importlib.import_module(f"{library}.utils.hmc")
    torch.manual_seed(0)
    net = importlib.import_module(f"{library}.mnets").MLP(
        n_in=1, n_out=1, hidden_layers=[10, 10], verbose=False
    )
    inputs = torch.linspace(-1, 1, 20)[:, None]
    potential = hmc.nn_pot_energy(net, inputs, torch.sin(3 * inputs), lambda q: -q.square().sum() / 2)
    positions = [0.3 * torch.randn(net.num_params) for _ in range(4)]
    return hmc.MultiChainHMC(positions, potential, chain_type=kind, **options)


@pytest.mark.parametrize("parallel", [1, 4])
@pytest.mark.parametrize("name", _CASES)
def test_sampler(name, parallel, benchmark, results, pytestconfig):
    kind, options, states = _CASES[name]
    calls, positions = {}, {}
    for library in ("hnetfast", "hypnettorch"):
        if library == "hypnettorch" and import_hypnettorch("mnets") is None:
            continue

        def call(library=library):
            chains = _chains(library, kind, options)
            torch.manual_seed(1)
            chains.simulate_chains(states, num_parallel=parallel)
            return torch.stack([chain.current_position.detach() for chain in chains.chains])

        calls[library], positions[library] = call, call()
    if len(positions) == 2 and parallel == 1:
        torch.testing.assert_close(*positions.values(), rtol=1e-3, atol=1e-4)
    durations = time_in_turns(calls, pytestconfig.option.seconds, minimum=7, maximum=60)
    benchmark.pedantic(calls["hnetfast"], rounds=1, iterations=1)
    row = {"sampler": name + (", parallel" if parallel > 1 else ""), "states": 4 * states}
    row["ms"] = {library: 1e3 * statistics.median(times) for library, times in durations.items()}
    results.samplers.append(row)
