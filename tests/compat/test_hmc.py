"""Markov chains against those of hypnettorch, number for number."""

import logging
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hnetfast.mnets import MLP
from hnetfast.utils import hmc

pytest.importorskip("hypnettorch")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from hypnettorch.mnets import MLP as OracleMLP
    from hypnettorch.utils import hmc as oracle

pytestmark = pytest.mark.filterwarnings("ignore:Duplicates found")
seeds = st.integers(0, 10_000)
POTENTIALS = {
    "square": lambda q: (q**2).sum() / 2,
    "correlated": lambda q: (q**2).sum() + 0.3 * q.sum() ** 2,
    "one number": lambda q: (q**4).sum().reshape(1),
    "double well": lambda q: ((q**2 - 1) ** 2).sum(),
}


class Writer:
    """What a TensorBoard writer is given."""

    def __init__(self):
        self.scalars = []

    def add_scalar(self, tag, value, global_step=None, **title):
        self.scalars.append(((tag, title), np.asarray(value).item(), global_step))


def inverse_masses(n, dtype):
    torch.manual_seed(n)
    root = torch.randn(n, n, dtype=dtype)
    return [1.0, 0.5, torch.rand(n, dtype=dtype) + 0.5, root @ root.T / n + torch.eye(n, dtype=dtype)]


def simulated(module, kind, position, potential, options, seed, lengths):
    """Positions, scalars, fraction accepted, and the random number that follows."""
    torch.manual_seed(seed)
    writer = Writer()
    chain = getattr(module, kind)(position.clone(), potential, writer=writer, writer_tag="t/", **options)
    for n in lengths:
        chain.simulate_chain(n)
    positions = [position.detach() for position in chain.position_trajectory]
    assert torch.equal(chain.current_position, positions[-1])
    return positions, writer.scalars, chain.acceptance_probability, torch.rand(1).item(), chain.num_states


@given(
    st.sampled_from(["HMC", "NUTS", "MCMC"]),
    st.sampled_from(sorted(POTENTIALS)),
    st.integers(2, 4),
    st.sampled_from([torch.float32, torch.float64]),
    st.integers(0, 3),
    st.sampled_from([0.1, 0.3, 0.8]),
    st.integers(1, 4),
    st.sampled_from([0.1, 1000.0]),
    st.lists(st.integers(0, 4), max_size=3),
    seeds,
)
def test_chains_are_the_same(kind, potential, n, dtype, mass, size, num_steps, delta_max, lengths, seed):
    torch.manual_seed(seed)
    position = 0.5 * torch.randn(n, dtype=dtype)
    if kind == "MCMC":
        options = {"proposal_std": size}
    else:
        options = {"stepsize": size, "inv_mass": inverse_masses(n, dtype)[mass]}
        options |= {"num_steps": num_steps} if kind == "HMC" else {"delta_max": delta_max}
    arguments = kind, position, POTENTIALS[potential], options, seed, lengths
    ours, theirs = simulated(hmc, *arguments), simulated(oracle, *arguments)
    assert len(ours[0]) == len(theirs[0])
    for our, their in zip(ours[0], theirs[0], strict=True):
        assert torch.equal(our, their)
    assert ours[2:] == theirs[2:]
    assert [(tag, step) for tag, _, step in ours[1]] == [(tag, step) for tag, _, step in theirs[1]]
    assert [value for _, value, _ in ours[1]] == pytest.approx(
        [value for _, value, _ in theirs[1]], rel=1e-5, abs=1e-5
    )


@given(st.sampled_from(["hmc", "nuts"]), st.lists(st.integers(0, 2), min_size=1, max_size=4), seeds)
def test_several_chains_are_the_same(kind, chosen, seed):
    chains = []
    for module in (hmc, oracle):
        torch.manual_seed(seed)
        potentials = [POTENTIALS["square"], POTENTIALS["double well"], POTENTIALS["square"]]
        several = module.MultiChainHMC([torch.randn(2) / 2 for _ in range(3)], potentials, kind, stepsize=0.4)
        several.simulate_chains(2)
        several.simulate_chains(1, num_chains=chosen)
        several.simulate_chains(1, num_chains=-1)
        chains.append(several)
    ours, theirs = chains
    assert (ours.num_chains, ours.avg_acceptance_probability) == (
        theirs.num_chains,
        theirs.avg_acceptance_probability,
    )
    for our, their in zip(ours.chains, theirs.chains, strict=True):
        assert our.num_states == their.num_states
        for a, b in zip(our.position_trajectory, their.position_trajectory, strict=True):
            assert torch.equal(a, b)


def test_writers_and_loggers_of_several_chains(monkeypatch):
    class Folder(Writer):
        made = []

        def __init__(self, logdir):
            super().__init__()
            self.made.append((str(logdir), self))

        def close(self):
            self.scalars.append("closed")

    monkeypatch.setattr(oracle, "SummaryWriter", Folder)
    monkeypatch.setattr(hmc, "_folder_writer", Folder)
    results = []
    for module in (hmc, oracle):
        Folder.made.clear()
        records = []
        logger = logging.Logger("test", logging.DEBUG)
        logger.addFilter(lambda record, records=records: records.append(record.levelname))
        positions = [torch.zeros(2), torch.ones(2)]
        options = {"logger": logger, "log_interval": 2, "writer_tag": "a"}
        torch.manual_seed(0)
        several = module.MultiChainHMC(positions, POTENTIALS["square"], writer="folder", **options)
        several.simulate_chains(4)
        shared = Folder("own")
        options["logger"] = [logger, logging.Logger("silent", logging.ERROR)]
        other = module.MultiChainHMC(positions, POTENTIALS["square"], writer=shared, **options)
        other.simulate_chains(1)
        del several, other
        results.append((records, [(name, writer.scalars) for name, writer in Folder.made]))
    (our_records, ours), (their_records, theirs) = results
    assert our_records == their_records
    assert len(our_records) == 3
    assert (
        [name for name, _ in ours]
        == [name for name, _ in theirs]
        == ["folder/chain_0", "folder/chain_1", "own"]
    )
    for (_, our), (_, their) in zip(ours, theirs, strict=True):
        assert [x if x == "closed" else (x[0], x[2]) for x in our] == [
            x if x == "closed" else (x[0], x[2]) for x in their
        ]


@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_networks_weights_are_sampled_alike(kind):
    inputs = torch.randn(7, 2)
    targets = torch.randn(7, 3) if kind == "regression" else torch.randint(3, (7,))
    chains = []
    for module, network in ((hmc, MLP), (oracle, OracleMLP)):
        torch.manual_seed(3)
        net = network(n_in=2, n_out=3, hidden_layers=[4], verbose=False)
        potential = module.nn_pot_energy(
            net,
            inputs,
            targets,
            lambda q, module=module: module.log_prob_standard_normal_prior(q, mean=0.1, std=0.5),
            tau_pred=2.0 if kind == "regression" else 1.0,
            nll_type=kind,
        )
        position = net.flatten_params(net.internal_params).detach()
        chain = module.HMC(position, potential, stepsize=0.05, num_steps=3)
        chain.simulate_chain(5)
        chains.append((potential(position), torch.stack([q.detach() for q in chain.position_trajectory])))
    torch.testing.assert_close(*(energy for energy, _ in chains))
    torch.testing.assert_close(*(positions for _, positions in chains))


@given(st.integers(1, 5), seeds)
def test_prior_is_the_same(n, seed):
    torch.manual_seed(seed)
    position, mean, std = torch.randn(n), torch.randn(n), torch.rand(n) + 0.1
    for arguments in ((), (0.3, 2.0), (mean, std), (mean, 0.5), (0.0, std)):
        torch.testing.assert_close(
            hmc.log_prob_standard_normal_prior(position, *arguments),
            oracle.log_prob_standard_normal_prior(position, *arguments),
        )


@given(st.integers(1, 5), st.integers(0, 3), st.sampled_from([0.1, -0.3]), seeds)
def test_leapfrog_is_the_same(num_steps, mass, stepsize, seed):
    torch.manual_seed(seed)
    position, momentum = torch.randn(3), torch.randn(3)
    arguments = (
        momentum,
        stepsize,
        num_steps,
        inverse_masses(3, torch.float32)[mass],
        POTENTIALS["double well"],
    )
    ours = hmc.leapfrog(position, *arguments)
    theirs = oracle.leapfrog(position.clone().requires_grad_(), *arguments)
    for our, their in zip(ours, theirs, strict=True):
        assert torch.equal(our, their) or bool((our != our).any() and (their != their).any())
        assert not our.requires_grad
    assert not position.requires_grad
