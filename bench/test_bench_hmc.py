"""Markov chains over the weights of a small network: ``pytest bench/test_bench_hmc.py``."""

from __future__ import annotations

import importlib

import pytest
import torch

from bench.tables import Table, field, times, times_as_fast
from hnetfast._comparison import libraries

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
def test_sampler(name, parallel, bench):
    kind, options, states = _CASES[name]
    calls, positions = {}, {}
    for library in libraries():

        def call(library=library):
            chains = _chains(library, kind, options)
            torch.manual_seed(1)
            chains.simulate_chains(states, num_parallel=parallel)
            return torch.stack([chain.current_position.detach() for chain in chains.chains])

        calls[library], positions[library] = call, call()
    if len(positions) == 2 and parallel == 1:
        torch.testing.assert_close(*positions.values(), rtol=1e-3, atol=1e-4)
    durations = bench.time(calls, minimum=7, maximum=60)
    bench.add(TABLE, durations, sampler=name + ", parallel" * (parallel > 1), states=4 * states)


TABLE = Table(
    key="samplers",
    title="Markov chains",
    intro=(
        "Four chains of `MultiChainHMC` over the weights of an MLP 1-10-10-1, 20 samples, in milliseconds "
        "for all states. *parallel* is `num_parallel=4`: a batch in hnetfast, threads in hypnettorch."
    ),
    columns={
        "sampler": field("sampler"),
        "states": field("states"),
        **times("hnetfast", "hypnettorch", digits=1),
        "× hypnettorch": times_as_fast(),
    },
    place=70,
)
