"""Markov chains: batches and threads, what is mended, errors, diagnostics."""

import copy
import math
import random
import sys
import threading

import pytest
import torch
from torch import nn

from hnetfast._progress import progress_bar
from hnetfast.mnets import MLP
from hnetfast.utils import hmc
from hnetfast.utils._potentials import evaluate, evaluate_all
from hnetfast.utils.mcmc_diagnostics import bulk_ess, rank_normalised_rhat


def square(q):
    return (q**2).sum() / 2


def not_to_be_batched(q):
    return square(q) + 0 * q[0].item()


def several(potential, kind, count=3, seed=0, **kwargs):
    torch.manual_seed(seed)
    return hmc.MultiChainHMC([torch.randn(3) for _ in range(count)], potential, kind, stepsize=0.4, **kwargs)


def trajectories(chains):
    return torch.stack([torch.stack(chain.position_trajectory) for chain in chains.chains])


@pytest.mark.parametrize("kind", ["hmc", "nuts"])
def test_parallel_chains_do_not_depend_on_how_they_run(kind):
    results = []
    threads = set()

    def named(q):
        threads.add(threading.current_thread().name)
        return not_to_be_batched(q)

    for potential in (square, named, [square, not_to_be_batched, square]):
        chains = several(potential, kind)
        chains.simulate_chains(4, num_parallel=2)
        chains.simulate_chains(1, num_parallel=8)
        results.append(trajectories(chains))
    torch.testing.assert_close(results[0], results[1])
    torch.testing.assert_close(results[0], results[2])
    assert len(threads) > 1
    assert not torch.equal(results[0][0, 1:], results[0][1, 1:])


def test_parallel_chains_share_evaluations():
    shapes = []

    class Square:
        def __call__(self, q):
            shapes.append(q.shape)
            return square(q)

        def batched(self, q):
            shapes.append(q.shape)
            return (q**2).sum(1) / 2

    several(Square(), "hmc", num_steps=2).simulate_chains(2, num_parallel=3)
    assert shapes == [(3, 3)] * 5


def test_an_energy_is_evaluated_once_at_a_position():
    positions = []

    def recording(q):
        positions.append(tuple(q.tolist()))
        return square(q)

    hmc.HMC(torch.randn(2), recording, num_steps=3).simulate_chain(4)
    assert len(positions) == len(set(positions)) == 13


@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_energies_of_a_network_in_batches(kind):
    targets = torch.randn(6, 3) if kind == "regression" else torch.randint(3, (6,))
    for network in (MLP(n_in=2, n_out=3, hidden_layers=[4], verbose=False), _Single()):
        potential = hmc.nn_pot_energy(
            network, torch.randn(6, 2), targets, hmc.log_prob_standard_normal_prior, nll_type=kind
        )
        positions = torch.randn(5, network.num_params)
        torch.testing.assert_close(
            potential.batched(positions), torch.stack([potential(q) for q in positions])
        )
        with pytest.raises(ValueError, match="position"):
            potential(torch.zeros(network.num_params + 1))


def _random_potential(seed):
    generator = random.Random(seed)
    torch.manual_seed(seed)
    dtype = generator.choice([torch.float32, torch.float64])
    n_in, n_out, samples = (generator.choice(sizes) for sizes in ((1, 7, 64), (1, 2, 10), (1, 2, 20, 129)))
    net = MLP(
        n_in=n_in,
        n_out=n_out,
        hidden_layers=[generator.choice([1, 3, 10, 33, 64]) for _ in range(generator.randrange(4))],
        activation_fn=generator.choice([nn.ReLU(), nn.Tanh(), nn.Sigmoid(), nn.GELU(), None]),
        use_bias=generator.random() < 0.7,
        verbose=False,
    )
    kind = generator.choice(["regression", "classification"])
    targets = torch.randn(samples, n_out, dtype=dtype)
    potential = hmc.nn_pot_energy(
        net,
        torch.randn(samples, n_in, dtype=dtype),
        targets if kind == "regression" else targets.argmax(1),
        generator.choice(
            [
                hmc.log_prob_standard_normal_prior,
                lambda q: -square(q) - 0.3 * q.abs().sum() + q.sin().sum(),
                lambda q: torch.zeros(1, dtype=dtype),
            ]
        ),
        tau_pred=3.7 if kind == "regression" else 1.0,
        nll_type=kind,
    )
    return potential, torch.randn(net.num_params, dtype=dtype)


@pytest.mark.parametrize("threads", [1, 2])
def test_gradients_are_those_of_autograd_to_the_last_bit(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for seed in range(60):
            potential, position = _random_potential(seed)
            energy, gradient = evaluate(potential, position)
            of_autograd = position.clone().requires_grad_()
            expected = potential(of_autograd)
            expected.backward()
            assert energy == expected.item()
            assert torch.equal(gradient, of_autograd.grad)
            assert not gradient.requires_grad
            assert not position.requires_grad
    finally:
        torch.set_num_threads(before)


def test_energies_and_gradients_at_several_positions_at_once():
    for seed in range(60):
        potential, position = _random_potential(seed)
        positions = torch.stack([position, -position, 0.1 * position])
        for q, (energy, gradient) in zip(positions, evaluate_all(potential, positions), strict=True):
            expected_energy, expected = evaluate(potential, q)
            tolerance = 1e-4 if q.dtype == torch.float32 else 1e-10
            assert energy == pytest.approx(expected_energy, rel=tolerance)
            assert (gradient - expected).norm() <= tolerance * expected.norm()
            assert not gradient.requires_grad


def test_networks_that_compute_something_else_are_called():
    class Doubled(MLP):
        def forward(self, x, weights=None, **kwargs):
            return 2 * super().forward(x, weights, **kwargs)

    options = {"n_in": 2, "n_out": 1, "hidden_layers": [3], "verbose": False}
    watched = MLP(**options, activation_fn=nn.Tanh())
    called = []
    watched._a_fun.register_forward_hook(lambda *_: called.append(1))
    patched = MLP(**options)
    patched.forward = lambda x, weights: called.append(1) or x @ weights[0].T @ weights[2].T
    modulated = MLP(**options, use_context_mod=True)
    for net in (Doubled(**options), watched, patched, modulated, MLP(**options, dropout_rate=0.0)):
        potential = hmc.nn_pot_energy(
            net, torch.randn(4, 2), torch.randn(4, 1), hmc.log_prob_standard_normal_prior
        )
        position = torch.randn(net.num_params).requires_grad_()
        energy, gradient = evaluate(potential, position)
        expected = potential(position)
        torch.testing.assert_close(
            (energy, gradient), (expected.item(), *torch.autograd.grad(expected, position))
        )
    assert len(called) == 4
    with pytest.raises(TypeError, match="float64"):
        evaluate(potential, position.double())


class _Single:
    """A main network that takes one set of weights at a time."""

    param_shapes, num_params = [[3, 2]], 6

    def forward(self, x, weights):
        return x @ weights[0].T


def test_a_slice_sampler_of_high_energies_is_the_same():
    # exp(-H) is 0 or infinite in single precision, where hypnettorch leaves out the slice or never moves.
    results = []
    for offset in (0.0, 512.0, -512.0):
        torch.manual_seed(1)
        chain = hmc.NUTS(torch.ones(2), lambda q, offset=offset: square(q) + offset, stepsize=0.5)
        chain.simulate_chain(10)
        results.append(torch.stack(chain.position_trajectory))
    torch.testing.assert_close(results[1], results[0])
    torch.testing.assert_close(results[2], results[0])


def test_positions_without_an_energy_are_never_accepted():
    def only_at_zero(q):
        return square(q) * (math.nan if bool((q != 0).any()) else 1.0)

    for chain in (
        hmc.HMC(torch.zeros(2), only_at_zero),
        hmc.MCMC(torch.zeros(2), only_at_zero),
        hmc.NUTS(torch.zeros(2), only_at_zero),
    ):
        chain.simulate_chain(3)
        assert chain.acceptance_probability == 0
        assert not torch.stack(chain.position_trajectory).any()
        chain.position_trajectory[1].fill_(5)
        assert not chain.position_trajectory[2].any()


def test_trajectories_hold_no_graph_and_no_memory_of_the_caller():
    start = torch.zeros(2)
    for kind in (hmc.HMC, hmc.NUTS, hmc.MCMC):
        chain = kind(start, square)
        with torch.no_grad():
            chain.simulate_chain(3)
        assert not any(position.requires_grad for position in chain.position_trajectory)
        assert not start.requires_grad
        assert not start.any()
        assert chain.current_position is chain.position_trajectory[-1]
        other = copy.deepcopy(chain)
        chain.simulate_chain(2)
        assert (other.num_states, chain.num_states) == (3, 5)
        chain.clear_position_trajectory(4)
        assert len(chain.position_trajectory) == 2
        chain.clear_position_trajectory()
        assert chain.position_trajectory == []


def test_a_chosen_number_of_chains_are_those_with_the_fewest_states():
    chains = several(square, "hmc")
    chains.simulate_chains(2, num_chains=[0])
    chains.simulate_chains(1, num_chains=2)
    chains.simulate_chains(1, num_chains=1, num_parallel=4)
    assert [chain.num_states for chain in chains.chains] == [2, 2, 1]


def test_a_faulty_energy_is_reported_and_the_chain_stays_usable():
    calls = []

    def faulty(q):
        calls.append(q)
        if len(calls) > 4:
            raise ZeroDivisionError("here")
        return square(q)

    chain = hmc.HMC(torch.zeros(2), faulty)
    with pytest.raises(ZeroDivisionError, match="here"):
        chain.simulate_chain(10)
    assert chain.num_states == len(chain.position_trajectory) - 1 == 3
    for parallel in (1, 2):
        with pytest.raises(ZeroDivisionError, match="here"):
            several(faulty, "hmc").simulate_chains(1, num_parallel=parallel)


def test_flat_energies_end_with_a_limited_tree():
    chain = hmc.NUTS(torch.zeros(2), lambda q: 0 * q.sum(), max_tree_depth=3)
    chain.simulate_chain(2)
    assert chain.num_states == 2


def test_progress_is_shown(monkeypatch, capsys):
    hmc.HMC(torch.zeros(2), square).simulate_chain(2, progress=True)
    assert "2/2" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "tqdm", None)
    several(square, "nuts").simulate_chains(2, num_parallel=3, progress=True)
    assert "6/6" in capsys.readouterr().err
    with progress_bar(3, "work", show=False) as advance:
        advance()
    assert capsys.readouterr().err == ""


def test_own_loggers_write_to_standard_output(capsys):
    chains = several(square, "hmc", 2, logger=[None, None], log_interval=1)
    chains.simulate_chains(1)
    lines = capsys.readouterr().out.splitlines()
    assert ["chain 0" in lines[0], "chain 1" in lines[1], len(lines)] == [True, True, 2]


def test_writers_without_titles_are_accepted():
    class Writer:
        def add_scalar(self, tag, scalar_value, global_step=None, walltime=None):
            tags.append(tag)

    tags = []
    hmc.MCMC(torch.zeros(2), square, writer=Writer()).simulate_chain(1)
    assert tags == ["mh/potential", "mh/accept"]


def test_a_folder_is_written_to(tmp_path):
    pytest.importorskip("tensorboardX")
    chains = several(square, "hmc", 2, writer=tmp_path)
    chains.simulate_chains(1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chain_0", "chain_1"]


ZEROS = torch.zeros(2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hmc.HMC([0.0], square), "initial_position"),
        (lambda: hmc.HMC(ZEROS.long(), square), "initial_position"),
        (lambda: hmc.HMC(ZEROS.view(1, 2), square), "initial_position"),
        (lambda: hmc.NUTS(ZEROS[:0], square), "initial_position"),
        (lambda: hmc.MCMC(ZEROS, None), "pot_energy_func"),
        (lambda: hmc.HMC(ZEROS, lambda q: 3.0).simulate_chain(1), "pot_energy_func"),
        (lambda: hmc.HMC(ZEROS, lambda q: q).simulate_chain(1), "pot_energy_func"),
        (lambda: hmc.HMC(ZEROS, lambda q: torch.ones(())).simulate_chain(1), "pot_energy_func"),
        (lambda: hmc.HMC(ZEROS, square, stepsize=0), "stepsize"),
        (lambda: hmc.HMC(ZEROS, square, stepsize="a"), "stepsize"),
        (lambda: setattr(hmc.HMC(ZEROS, square), "stepsize", math.nan), "stepsize"),
        (lambda: hmc.HMC(ZEROS, square, num_steps=0), "num_steps"),
        (lambda: setattr(hmc.HMC(ZEROS, square), "num_steps", 1.5), "num_steps"),
        (lambda: hmc.HMC(ZEROS, square, inv_mass=-1.0), "inv_mass"),
        (lambda: hmc.HMC(ZEROS, square, inv_mass=torch.ones(3)), "inv_mass"),
        (lambda: hmc.HMC(ZEROS, square, inv_mass=-torch.ones(2)), "inv_mass"),
        (lambda: hmc.HMC(ZEROS, square, inv_mass=-torch.eye(2)), "inv_mass"),
        (lambda: hmc.HMC(ZEROS, square, inv_mass=torch.eye(3)), "inv_mass"),
        (lambda: hmc.HMC(ZEROS, square, log_interval=0), "log_interval"),
        (lambda: hmc.HMC(ZEROS, square).simulate_chain(-1), "n: "),
        (lambda: hmc.HMC(ZEROS, square).clear_position_trajectory(-1), "n: "),
        (lambda: hmc.NUTS(ZEROS, square, delta_max=-1), "delta_max"),
        (lambda: hmc.MCMC(ZEROS, square, proposal_std=0), "proposal_std"),
        (lambda: hmc.leapfrog(ZEROS, ZEROS, 0.1, 0, 1.0, square), "num_steps"),
        (lambda: hmc.MultiChainHMC([], square), "initial_positions"),
        (lambda: hmc.MultiChainHMC([ZEROS], square, "mcmc"), "chain_type"),
        (lambda: hmc.MultiChainHMC([ZEROS], [square, square]), "pot_energy_func"),
        (lambda: hmc.MultiChainHMC([ZEROS] * 2, square, logger=[None]), "logger"),
        (lambda: several(square, "hmc").simulate_chains(-1), "num_states"),
        (lambda: several(square, "hmc").simulate_chains(1, num_chains=0), "num_chains"),
        (lambda: several(square, "hmc").simulate_chains(1, num_chains=[3]), "num_chains"),
        (lambda: several(square, "hmc").simulate_chains(1, num_chains=[0.5]), "num_chains"),
        (lambda: several(square, "hmc").simulate_chains(1, num_parallel=0), "num_parallel"),
        (lambda: hmc.log_prob_standard_normal_prior(ZEROS, std=0.0), "std"),
        (lambda: _energy(net=torch.nn.Linear(2, 3)), "net"),
        (lambda: _energy(targets=[0, 1]), "targets"),
        (lambda: _energy(targets=torch.zeros(4, 1))(torch.zeros(6)), "targets"),
        (lambda: _energy(nll_type="binary"), "nll_type"),
        (lambda: _energy(tau_pred=0.0), "tau_pred"),
        (lambda: _energy(tau_pred=2.0, nll_type="classification"), "tau_pred"),
        (lambda: _energy(targets=torch.zeros(4, 1).long(), nll_type="classification"), "targets"),
        (lambda: _energy(prior_log_prob_func=None), "prior_log_prob_func"),
    ],
)
@pytest.mark.parametrize("validated", [True, False])
def test_what_is_not_accepted(call, message, validated, monkeypatch):
    # Programs may turn the validation of distributions off, for all of them.
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", validated)
    with pytest.raises(ValueError, match=message):
        call()


def _energy(**options):
    defaults = {"net": _Single(), "inputs": torch.zeros(4, 2), "targets": torch.zeros(4, 3)}
    defaults["prior_log_prob_func"] = hmc.log_prob_standard_normal_prior
    return hmc.nn_pot_energy(**(defaults | options))


def test_the_sampler_without_number_of_steps():
    chain = hmc.NUTS(ZEROS, square)
    with pytest.raises(RuntimeError, match="num_steps"):
        _ = chain.num_steps
    with pytest.raises(RuntimeError, match="num_steps"):
        chain.num_steps = 2


def autoregressive(coefficient, chains=4, states=2000):
    noise = torch.randn(chains, states, dtype=torch.float64)
    values = [noise[:, 0]]
    for i in range(1, states):
        values.append(coefficient * values[-1] + math.sqrt(1 - coefficient**2) * noise[:, i])
    return torch.stack(values, 1)


@pytest.mark.parametrize("coefficient", [0.0, 0.6, 0.9, -0.5])
def test_effective_sample_size_of_an_autoregressive_process(coefficient):
    states = autoregressive(coefficient)
    expected = states.numel() * (1 - coefficient) / (1 + coefficient)
    assert bulk_ess(states).item() == pytest.approx(expected, rel=0.2)
    assert rank_normalised_rhat(states).item() < 1.03


def test_rhat_sees_other_centres_scales_and_drifts():
    states = torch.randn(4, 400, 3)
    assert (rank_normalised_rhat(states) < 1.02).all()
    for changed in (
        torch.cat([states[:3], states[3:] + 2]),
        torch.cat([states[:3], states[3:] * 10]),
        states + torch.linspace(0, 4, 400)[:, None],
    ):
        assert (rank_normalised_rhat(changed) > 1.1).all()
        assert rank_normalised_rhat(changed).shape == (3,)
    heavy = torch.distributions.Cauchy(0.0, 1.0).sample((4, 400))
    assert rank_normalised_rhat(heavy).item() < 1.03
    torch.testing.assert_close(bulk_ess(heavy), bulk_ess(heavy.pow(3)))  # ranks only


def test_diagnostics_of_chains():
    chains = several(square, "hmc", 2, num_steps=4)
    chains.simulate_chains(20)
    states = [chain.position_trajectory for chain in chains.chains]
    for diagnostic in (rank_normalised_rhat, bulk_ess):
        torch.testing.assert_close(diagnostic(states), diagnostic(trajectories(chains)))
        torch.testing.assert_close(diagnostic(states), diagnostic(trajectories(chains).numpy()))
        assert diagnostic(torch.ones(2, 5)).isnan()
        for wrong in (
            [states[0], states[1][1:]],
            torch.zeros(2, 3),
            torch.zeros(4),
            [],
            torch.full((2, 6), math.nan),
        ):
            with pytest.raises(ValueError, match="chains"):
                diagnostic(wrong)


@pytest.mark.parametrize("at_most", [0, 1, 2])
def test_with_too_little_memory_fewer_chains_are_evaluated_at_once(at_most):
    class Hungry:
        def __call__(self, q):
            return square(q)

        def batched(self, positions):
            if len(positions) > at_most:
                raise torch.OutOfMemoryError("out of memory")
            return (positions**2).sum(1) / 2

    results = []
    for potential in (Hungry(), square):
        chains = several(potential, "hmc", count=5)
        if at_most == 0 and potential is not square:
            with pytest.raises(torch.OutOfMemoryError):
                chains.simulate_chains(2, num_parallel=5)
            return
        chains.simulate_chains(2, num_parallel=5)
        results.append(trajectories(chains))
    torch.testing.assert_close(*results)
