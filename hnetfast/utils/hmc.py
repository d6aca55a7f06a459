"""Sampling by Markov chains: Hamiltonian Monte Carlo, the No-U-Turn Sampler and Metropolis-Hastings.

A chain samples positions q with a density proportional to exp(-U(q)) for a given potential energy U. With a
momentum p and a symmetric, positive definite mass matrix M the Hamiltonian is H(q, p) = U(q) + pᵀM⁻¹p / 2.
See Neal, "MCMC using Hamiltonian dynamics", 2012, https://arxiv.org/abs/1206.1901, and Hoffman and Gelman,
"The No-U-Turn Sampler", 2014, https://arxiv.org/abs/1111.4246. Whether chains are long enough is told by
:mod:`hnetfast.utils.mcmc_diagnostics`.

U must be a function of the position alone: it is evaluated once at every position that a chain comes to.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import weakref
from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from hnetfast._checks import check_integer
from hnetfast._errors import InputError
from hnetfast._progress import progress_bar
from hnetfast.utils._markov_chain import Chain, Momenta, Point, Random, metropolis, positive
from hnetfast.utils._potentials import (
    Evaluation,
    Potential,
    evaluate,
    log_prob_standard_normal_prior,
    nn_pot_energy,
    run,
    run_together,
)

__all__ = [
    "HMC",
    "MCMC",
    "NUTS",
    "MultiChainHMC",
    "leapfrog",
    "log_prob_standard_normal_prior",
    "nn_pot_energy",
]


def leapfrog(
    position: Tensor,
    momentum: Tensor,
    stepsize: float,
    num_steps: int,
    inv_mass: float | Tensor,
    pot_energy: Potential,
) -> tuple[Tensor, Tensor]:
    """Follow Hamilton's equations by the leapfrog method.

    Args:
        position: Where to start, ``[n]``.
        momentum: The momentum there, ``[n]``.
        stepsize: Time of a step; negative to go back.
        num_steps: Number of steps, at least 1.
        inv_mass: Inverse of the mass matrix ``[n, n]``, its diagonal ``[n]``, or a number.
        pot_energy: Computes the potential energy at a position.

    Returns:
        Position and momentum after the last step, detached.

    Raises:
        ValueError: If ``num_steps`` is no positive integer, or the energy is no scalar that depends on the
            position.
    """
    num_steps = check_integer("num_steps", num_steps, 1)
    _, gradient = evaluate(pot_energy, position)
    steps = _leap(Point(position.detach(), 0.0, gradient, momentum.detach()), stepsize, num_steps, inv_mass)
    position = next(steps)
    try:
        while True:
            position = steps.send(evaluate(pot_energy, position))
    except StopIteration as end:
        return end.value.position, end.value.momentum


def _leap(
    start: Point, stepsize: float, num_steps: int, inv_mass: float | Tensor
) -> Generator[Tensor, Evaluation, Point]:
    """Leapfrog steps that ask for the energy of each position."""
    position, energy, gradient, momentum = start
    momentum = momentum - 0.5 * stepsize * gradient
    for left in range(num_steps - 1, -1, -1):
        position = position + stepsize * _grad_kin_energy(momentum, inv_mass)
        energy, gradient = yield position
        momentum = momentum - (stepsize if left else 0.5 * stepsize) * gradient
    return Point(position, energy, gradient, momentum)


def _grad_pot_energy(pot_energy: Potential, position: Tensor) -> Tensor:
    return evaluate(pot_energy, position)[1]


def _grad_kin_energy(momentum: Tensor, inv_mass: float | Tensor) -> Tensor:
    if not isinstance(inv_mass, Tensor):
        return momentum if inv_mass == 1 else inv_mass * momentum
    return inv_mass @ momentum if inv_mass.dim() == 2 else inv_mass * momentum


def _kin_energy(momentum: Tensor, inv_mass: float | Tensor) -> Tensor:
    return 0.5 * momentum @ _grad_kin_energy(momentum, inv_mass)


class HMC(Chain):
    """Hamiltonian Monte Carlo, fig. 2 of Neal.

    Args:
        initial_position: Where to start, ``[n]``.
        pot_energy_func: Computes the potential energy, minus the logarithm of a density up to a constant,
            from a position ``[n]``, as a scalar tensor. :func:`nn_pot_energy` makes that of a network.
        stepsize: Of the leapfrog method; positive.
        num_steps: Leapfrog steps to a state.
        inv_mass: Inverse of the mass matrix ``[n, n]``, its diagonal ``[n]``, or a number.
        logger: Gets a message (DEBUG) about states.
        log_interval: About every how many.
        writer: TensorBoard writer that gets kinetic and potential energy, Hamiltonian and acceptance.
        writer_tag: Put before its tags.

    Raises:
        TypeError: If position or potential are of another type.
        ValueError: If an argument has a value or shape that is not accepted.

    Example:
        A normal distribution in two dimensions:

        >>> chain = HMC(torch.zeros(2), lambda q: 0.5 * q.square().sum(), stepsize=0.3, num_steps=5)
        >>> chain.simulate_chain(100)
        >>> len(chain.position_trajectory), chain.current_position.shape
        (101, torch.Size([2]))
    """

    _name, _tag = "HMC", "hmc"

    def __init__(
        self,
        initial_position: Tensor,
        pot_energy_func: Potential,
        stepsize: float = 0.02,
        num_steps: int = 1,
        inv_mass: float | Tensor = 1.0,
        logger: logging.Logger | None = None,
        log_interval: int = 100,
        writer: Any = None,
        writer_tag: str = "",
    ) -> None:
        super().__init__(initial_position, pot_energy_func, logger, log_interval, writer, writer_tag)
        if self._position.dim() != 1:
            raise InputError(f"initial_position: expected a vector, got shape {list(self._position.shape)}")
        self._stepsize = positive("stepsize", stepsize)
        self._num_steps = check_integer("num_steps", num_steps, 1)
        self._inv_mass = inv_mass
        self._momentum_dist = _momenta(inv_mass, self._position)

    @property
    def stepsize(self) -> float:
        """Step size of the leapfrog method; may be set at any time."""
        return self._stepsize

    @stepsize.setter
    def stepsize(self, value: float) -> None:
        self._stepsize = positive("stepsize", value)

    @property
    def num_steps(self) -> int:
        """Leapfrog steps to a state; may be set at any time."""
        return self._num_steps

    @num_steps.setter
    def num_steps(self, value: int) -> None:
        self._num_steps = check_integer("num_steps", value, 1)

    def _next_state(self, point: Point, random: Random):
        start = point._replace(momentum=random.momentum(self._momentum_dist))
        end = yield from _leap(start, self._stepsize, self._num_steps, self._inv_mass)
        kinetic = [_kin_energy(each.momentum, self._inv_mass).item() for each in (start, end)]
        accepted = metropolis(kinetic[0] - kinetic[1] + start.energy - end.energy, random)
        point = end if accepted else start
        quantities = {"kinetic": kinetic[accepted], "potential": point.energy}
        return point, accepted, quantities | {"hamiltonian": sum(quantities.values())}


class NUTS(HMC):
    """Hamiltonian Monte Carlo that chooses the number of steps: algorithm 3 of Hoffman and Gelman.

    A state comes from a trajectory that is doubled, forwards or backwards, until it turns round.

    Args:
        initial_position: Where to start, ``[n]``.
        pot_energy_func: Computes the potential energy, minus the logarithm of a density up to a constant,
            from a position ``[n]``, as a scalar tensor. :func:`nn_pot_energy` makes that of a network.
        stepsize: Of the leapfrog method; positive.
        delta_max: The trajectory ends where the Hamiltonian is larger than the slice allows by this.
        inv_mass: Inverse of the mass matrix ``[n, n]``, its diagonal ``[n]``, or a number.
        logger: Gets a message (DEBUG) about states.
        log_interval: About every how many.
        writer: TensorBoard writer that gets potential energy, acceptance and the number of doublings.
        writer_tag: Put before its tags.
        max_tree_depth: Most doublings of a trajectory; no limit by default.

    Raises:
        TypeError: If position or potential are of another type.
        ValueError: If an argument has a value or shape that is not accepted.
    """

    _name, _tag = "NUTS", "nuts"

    def __init__(
        self,
        initial_position: Tensor,
        pot_energy_func: Potential,
        stepsize: float = 0.02,
        delta_max: float = 1000.0,
        inv_mass: float | Tensor = 1.0,
        logger: logging.Logger | None = None,
        log_interval: int = 100,
        writer: Any = None,
        writer_tag: str = "",
        *,
        max_tree_depth: int | None = None,
    ) -> None:
        super().__init__(
            initial_position, pot_energy_func, stepsize, 1, inv_mass, logger, log_interval, writer, writer_tag
        )
        if not delta_max >= 0:
            raise InputError(f"delta_max: expected a number of at least 0, got {delta_max!r}")
        self._num_steps = None
        self._delta_max = delta_max
        self._max_depth = (
            math.inf if max_tree_depth is None else check_integer("max_tree_depth", max_tree_depth, 1)
        )

    @property
    def num_steps(self) -> int:
        """Not there, as the number of steps differs from state to state."""
        raise RuntimeError("num_steps: NUTS has none, since it chooses the number for every state")

    @num_steps.setter
    def num_steps(self, value: int) -> None:
        raise RuntimeError("num_steps: NUTS has none, since it chooses the number for every state")

    def _u_turn(self, q1: Tensor, q2: Tensor, p: Tensor) -> int:
        """1 while the momentum ``p`` at either end takes the ends ``q1`` and ``q2`` apart, else 0."""
        return int(((q2 - q1) @ _grad_kin_energy(p, self._inv_mass)).item() >= 0)

    def _next_state(self, point: Point, random: Random):
        start = point._replace(momentum=random.momentum(self._momentum_dist))
        # Its logarithm, since the slice's height underflows or overflows where the Hamiltonian is beyond 100.
        height = _log(random.uniform()) - start.energy - _kin_energy(start.momentum, self._inv_mass).item()
        first = last = state = start
        size, depth, goes_on, accepted = 1, 0, True, False
        while goes_on and depth < self._max_depth:
            forwards = random.uniform() >= 0.5
            end = last if forwards else first
            new_first, new_last, candidate, new_size, goes_on = yield from self._grow(
                end, height, forwards, depth, random
            )
            first, last = (first, new_last) if forwards else (new_first, last)
            if goes_on and random.uniform() < new_size / size:
                state, accepted = candidate, True
            size += new_size
            goes_on = goes_on and not self._turns(first, last)
            depth += 1
        return state, accepted, {"potential": state.energy, "tree_depth": depth}

    def _grow(self, end: Point, height: float, forwards: bool, depth: int, random: Random):
        """Build a tree of 2 ** depth points from one end of the trajectory.

        Returns:
            Its first and last point in time, a point drawn from those in the slice, how many those are, and
            whether the trajectory may go on.
        """
        if depth == 0:
            stepsize = self._stepsize if forwards else -self._stepsize
            point = yield from _leap(end, stepsize, 1, self._inv_mass)
            energy = point.energy + _kin_energy(point.momentum, self._inv_mass).item()
            return point, point, point, int(height <= -energy), height - self._delta_max < -energy
        first, last, candidate, size, goes_on = yield from self._grow(
            end, height, forwards, depth - 1, random
        )
        if goes_on:
            new_first, new_last, new_candidate, new_size, goes_on = yield from self._grow(
                last if forwards else first, height, forwards, depth - 1, random
            )
            first, last = (first, new_last) if forwards else (new_first, last)
            size += new_size
            if size and random.uniform() < new_size / size:
                candidate = new_candidate
            goes_on = goes_on and not self._turns(first, last)
        return first, last, candidate, size, goes_on

    def _turns(self, first: Point, last: Point) -> bool:
        ends = first.position, last.position
        return not (self._u_turn(*ends, first.momentum) and self._u_turn(*ends, last.momentum))


class MCMC(Chain):
    """Metropolis-Hastings with normally distributed steps, which needs no gradient.

    Args:
        initial_position: Where to start, of any shape.
        pot_energy_func: Computes the potential energy from a position, as a scalar tensor.
        proposal_std: Standard deviation of the steps; positive.
        logger: Gets a message (DEBUG) about states.
        log_interval: About every how many.
        writer: TensorBoard writer that gets potential energy and acceptance.
        writer_tag: Put before its tags.

    Raises:
        TypeError: If position or potential are of another type.
        ValueError: If an argument has a value that is not accepted.
    """

    _name, _tag, _needs_gradient = "MH", "mh", False

    def __init__(
        self,
        initial_position: Tensor,
        pot_energy_func: Potential,
        proposal_std: float = 1.0,
        logger: logging.Logger | None = None,
        log_interval: int = 100,
        writer: Any = None,
        writer_tag: str = "",
    ) -> None:
        super().__init__(initial_position, pot_energy_func, logger, log_interval, writer, writer_tag)
        self._proposal_std = positive("proposal_std", proposal_std)

    @property
    def proposal_std(self) -> float:
        """Standard deviation of the steps; may be set at any time."""
        return self._proposal_std

    @proposal_std.setter
    def proposal_std(self, value: float) -> None:
        self._proposal_std = positive("proposal_std", value)

    def _next_state(self, point: Point, random: Random):
        position = point.position + self._proposal_std * random.standard_normal(point.position)
        evaluation = yield position
        proposal = Point(position, *evaluation)
        accepted = metropolis(point.energy - proposal.energy, random)
        point = proposal if accepted else point
        return point, accepted, {"potential": point.energy}


class MultiChainHMC:
    """Several chains from different positions.

    Args:
        initial_positions: A position ``[n]`` for each chain.
        pot_energy_func: Computes the potential energy from a position ``[n]``, as a scalar tensor; or a list
            of functions, one for each chain.
        chain_type: "hmc" or "nuts".
        **kwargs: Arguments of the chains. ``logger`` is given to the first chain; of a list, each chain gets
            one, and None in it is a logger of the chain's own that writes to standard output. ``writer`` is
            shared, with "chain_i/" added to ``writer_tag``; where it is a folder, chain i writes to its
            subfolder "chain_i".

    Raises:
        TypeError: If positions or potentials are of another type, or an argument is not one of a chain.
        ValueError: If an argument has a value or shape that is not accepted, there is no position, or not a
            function or logger for each.
    """

    def __init__(
        self,
        initial_positions: Sequence[Tensor],
        pot_energy_func: Potential | Sequence[Potential],
        chain_type: str = "hmc",
        **kwargs: Any,
    ) -> None:
        kinds = {"hmc": HMC, "nuts": NUTS}
        if chain_type not in kinds:
            raise InputError(f"chain_type: expected 'hmc' or 'nuts', got {chain_type!r}")
        positions = list(initial_positions)
        if not positions:
            raise InputError("initial_positions: expected at least one, got none")
        functions = _one_each("pot_energy_func", pot_energy_func, len(positions))
        loggers = kwargs.pop("logger", None)
        if isinstance(loggers, (list, tuple)):
            loggers = [
                self._get_chain_specific_logger(i) if logger is None else logger
                for i, logger in enumerate(_one_each("logger", loggers, len(positions)))
            ]
        else:
            loggers = [loggers] + [None] * (len(positions) - 1)
        writer, tag = kwargs.pop("writer", None), kwargs.pop("writer_tag", "")
        folder = writer if isinstance(writer, (str, os.PathLike)) else None
        self._chains: list[HMC] = []
        for i, (position, function, logger) in enumerate(zip(positions, functions, loggers, strict=True)):
            of_chain = tag if folder is not None or writer is None else f"{tag}chain_{i}/"
            self._chains.append(
                kinds[chain_type](position, function, logger=logger, writer_tag=of_chain, **kwargs)
            )
        writers = [
            writer if folder is None else _folder_writer(os.path.join(folder, f"chain_{i}"))
            for i in range(len(positions))
        ]
        for chain, each in zip(self._chains, writers, strict=True):
            chain._writer = each
        if folder is not None:
            weakref.finalize(self, _close, writers)

    @property
    def num_chains(self) -> int:
        """Number of chains."""
        return len(self._chains)

    @property
    def chains(self) -> list[HMC]:
        """The chains."""
        return self._chains

    @property
    def avg_acceptance_probability(self) -> float:
        """Mean of the chains' acceptance probabilities."""
        return float(np.mean([chain.acceptance_probability for chain in self._chains]))

    def simulate_chains(
        self,
        num_states: int,
        num_chains: int | Sequence[int] = -1,
        num_parallel: int = 1,
        *,
        progress: bool = False,
    ) -> None:
        """Simulate the next states of the chains.

        One after the other they use PyTorch's global random numbers. In parallel each has random numbers of
        its own, seeded from the global ones, so that results do not depend on which chain is faster. Energies
        of parallel chains are evaluated as a batch where they share a function that :func:`torch.vmap` takes,
        or that has a method ``batched``, as those of :func:`nn_pot_energy` have; else each has a thread.

        Args:
            num_states: States to be added to each chain.
            num_chains: Which chains: their indices, or how many, those with the fewest states; -1 for all.
            num_parallel: How many at a time.
            progress: Whether to show a progress bar.

        Raises:
            ValueError: If an argument has a value that is not accepted.
        """
        num_states = check_integer("num_states", num_states, 0)
        num_parallel = check_integer("num_parallel", num_parallel, 1)
        chosen = self._choose(num_chains)
        with progress_bar(num_states * len(chosen), "Chains", progress) as advance:
            for start in range(0, len(chosen), num_parallel):
                group = chosen[start : start + num_parallel]
                if len(group) == 1:
                    run(group[0]._states(num_states, Random(), advance), group[0]._pot_energy_func)
                    continue
                seeds = torch.randint(2**62, (len(group),)).tolist()
                random = [
                    Random(seed, chain._position.device) for seed, chain in zip(seeds, group, strict=True)
                ]
                states = [
                    chain._states(num_states, each, advance)
                    for chain, each in zip(group, random, strict=True)
                ]
                run_together(states, [chain._pot_energy_func for chain in group])

    def _choose(self, num_chains: int | Sequence[int]) -> list[HMC]:
        if not isinstance(num_chains, (list, tuple, range, np.ndarray, Tensor)):
            count = check_integer("num_chains", num_chains, -1)
            if count == 0:
                raise InputError("num_chains: expected -1, a positive number or a list of indices, got 0")
            return list(self._chains) if count == -1 else sorted(self._chains, key=_num_states)[:count]
        indices = [check_integer("num_chains", i, -self.num_chains) for i in num_chains]
        if any(i >= self.num_chains for i in indices):
            raise InputError(f"num_chains: expected indices below {self.num_chains}, got {list(num_chains)}")
        indices = [i % self.num_chains for i in indices]
        if len(set(indices)) < len(indices):
            indices = sorted(set(indices))
        return [self._chains[i] for i in indices]

    @staticmethod
    def _get_chain_specific_logger(chain_id: int) -> logging.Logger:
        logger = logging.Logger(f"logger_chain{chain_id}", logging.DEBUG)
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(
            logging.Formatter(f"%(asctime)s - %(levelname)s - chain {chain_id} - %(message)s")
        )
        logger.addHandler(handler)
        return logger


def _momenta(inv_mass: float | Tensor, position: Tensor) -> Momenta:
    """The distribution of momenta, whose covariance is the mass matrix."""
    n = len(position)
    given = inv_mass if isinstance(inv_mass, Tensor) else torch.tensor(positive("inv_mass", inv_mass))
    if given.dim() == 2:
        if given.shape != (n, n):
            raise InputError(f"inv_mass: expected the shape [{n}, {n}], got {list(given.shape)}")
        zeros = torch.zeros_like(position)
        try:  # validated even where a program has turned that off for all distributions
            return MultivariateNormal(zeros, precision_matrix=given, validate_args=True)
        except ValueError:
            raise InputError(
                "inv_mass: expected a symmetric, positive definite matrix, got another"
            ) from None
    if given.dim() > 2 or given.numel() not in (1, n):
        raise InputError(f"inv_mass: expected a number, [{n}] or [{n}, {n}], got shape {list(given.shape)}")
    if not (given > 0).all():
        raise InputError(f"inv_mass: expected positive numbers, got {inv_mass}")
    std = (1.0 / inv_mass) ** 0.5
    return Normal(torch.zeros_like(position), std * torch.ones_like(position))


def _num_states(chain: HMC) -> int:
    return chain.num_states


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def _one_each(name: str, values: Any, count: int) -> list[Any]:
    if not isinstance(values, (list, tuple)):
        return [values] * count
    if len(values) != count:
        raise InputError(f"{name}: expected one for each of {count} chains, got {len(values)}")
    return list(values)


def _folder_writer(path: str) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        from torch.utils.tensorboard import SummaryWriter
    return SummaryWriter(path)


def _close(writers: Sequence[Any]) -> None:
    for writer in writers:
        writer.close()
