"""What all kinds of Markov chains share: states, random numbers, and reports of how they go."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from hnetfast._checks import check_integer, check_positive
from hnetfast._errors import InputError, InputTypeError
from hnetfast._progress import progress_bar
from hnetfast.utils._potentials import Evaluation, Potential, Requests, run

_TITLES = {
    "kinetic": "Kinetic Energy",
    "potential": "Potential Energy",
    "hamiltonian": "Hamiltonian",
    "accept": "Acceptance Probability",
    "tree_depth": "Tree Depth",
}
Momenta = Normal | MultivariateNormal


class Point(NamedTuple):
    """Where a chain, or the end of a trajectory, is."""

    position: Tensor  # [n]
    energy: float
    gradient: Any  # tensor [n], or None for chains that do without
    momentum: Any = None  # tensor [n], or None likewise


class Random:
    """Random numbers of a chain: PyTorch's global ones, or from a generator of its own."""

    def __init__(self, seed: int | None = None, device: torch.device | None = None) -> None:
        self._generator = None if seed is None else torch.Generator(device).manual_seed(seed)

    def uniform(self) -> float:
        generator = self._generator
        device = "cpu" if generator is None else generator.device
        return torch.rand(1, generator=generator, device=device).item()

    def standard_normal(self, like: Tensor) -> Tensor:
        return torch.normal(torch.zeros_like(like), 1, generator=self._generator)

    def momentum(self, momenta: Momenta) -> Tensor:
        if isinstance(momenta, Normal):
            return torch.normal(momenta.loc, momenta.scale, generator=self._generator)
        noise = torch.normal(
            torch.zeros_like(momenta.loc), torch.ones_like(momenta.loc), generator=self._generator
        )
        return momenta.loc + (momenta._unbroadcasted_scale_tril @ noise.unsqueeze(-1)).squeeze(-1)


class Chain:
    """What all kinds of chains share."""

    _name: str  # in messages
    _tag: str  # in TensorBoard
    _needs_gradient = True

    def __init__(
        self,
        initial_position: Tensor,
        pot_energy_func: Potential,
        logger: logging.Logger | None,
        log_interval: int,
        writer: Any,
        writer_tag: str,
    ) -> None:
        if not isinstance(initial_position, Tensor) or not initial_position.is_floating_point():
            got = (
                initial_position.dtype
                if isinstance(initial_position, Tensor)
                else type(initial_position).__name__
            )
            raise InputTypeError(f"initial_position: expected a tensor of floating point numbers, got {got}")
        if initial_position.numel() == 0:
            raise InputError("initial_position: expected at least one number, got none")
        if not callable(pot_energy_func):
            raise InputTypeError(
                f"pot_energy_func: expected a function, got {type(pot_energy_func).__name__}"
            )
        self._position = initial_position.detach().clone()
        self._pot_energy_func = pot_energy_func
        self._logger = logger
        self._log_interval = check_integer("log_interval", log_interval, 1)
        self._writer, self._writer_tag = writer, writer_tag
        self._positions = [self._position]
        self._num_states = self._accumulated_accept = 0

    @property
    def current_position(self) -> Tensor:
        """The last position, a constant."""
        return self._position

    @property
    def num_states(self) -> int:
        """Number of states that have been simulated, the initial one not counted."""
        return self._num_states

    @property
    def position_trajectory(self) -> list[Tensor]:
        """The initial position and those of all states, but for what was cleared."""
        return self._positions

    @property
    def acceptance_probability(self) -> float:
        """Fraction of the states whose proposal was accepted; 1 before the first."""
        return self._accumulated_accept / self._num_states if self._num_states else 1.0

    def clear_position_trajectory(self, n: int | None = None) -> None:
        """Forget positions, such as those of the burn-in; counters stay.

        Args:
            n: Number of positions to forget, the oldest ones; by default all.

        Raises:
            ValueError: If it is negative or no integer.
        """
        self._positions = [] if n is None else self._positions[check_integer("n", n, 0) :]

    def simulate_chain(self, n: int, *, progress: bool = False) -> None:
        """Simulate the next states.

        Args:
            n: How many.
            progress: Whether to show a progress bar.

        Raises:
            ValueError: If ``n`` is negative or no integer, or the potential energy is no scalar tensor.
        """
        n = check_integer("n", n, 0)
        with progress_bar(n, self._name, progress) as advance:
            run(self._states(n, Random(), advance), self._pot_energy_func, self._needs_gradient)

    def _states(self, n: int, random: Random, advance: Callable[[], object]) -> Requests:
        """Simulate states; yields positions and is sent the energy there and its gradient."""
        evaluation = yield self._position
        point = Point(self._position, *evaluation)
        for _ in range(n):
            point, accepted, quantities = yield from self._next_state(point, random)
            # A copy, so that who changes one position in place does not change two.
            self._position = point.position if accepted else point.position.clone()
            self._positions.append(self._position)
            self._num_states += 1
            self._accumulated_accept += accepted
            self._report(quantities)
            advance()

    def _next_state(
        self, point: Point, random: Random
    ) -> Generator[Tensor, Evaluation, tuple[Point, bool, dict[str, float]]]:
        """Yields positions; returns the next point, whether it is a new one, and what to report."""
        raise NotImplementedError

    def _report(self, quantities: dict[str, float]) -> None:
        acceptance = self.acceptance_probability
        if self._logger is not None and (self._num_states - 1) % self._log_interval == 0:
            text = ", ".join(f"{name} {value:g}" for name, value in quantities.items())
            self._logger.debug(f"{self._name} state {self._num_states}: {text}; {acceptance:.2%} accepted")
        if self._writer is not None:
            depth = quantities.pop("tree_depth", None)
            quantities |= {"accept": acceptance} | ({} if depth is None else {"tree_depth": depth})
            for name, value in quantities.items():
                tag = f"{self._writer_tag}{self._tag}/{name}"
                title = {"display_name": _TITLES[name]} if _takes_titles(self._writer) else {}
                self._writer.add_scalar(tag, value, self._num_states, **title)


def metropolis(log_ratio: float, random: Random) -> bool:
    """Whether to accept, with probability exp(log_ratio); never if that is NaN."""
    return (
        random.uniform() < math.exp(min(log_ratio, 0.0)) if log_ratio == log_ratio else random.uniform() < 0
    )


def _takes_titles(writer: Any) -> bool:
    """Whether tags may have titles, as in tensorboardX."""
    parameters = inspect.signature(writer.add_scalar).parameters.values()
    return any(p.name == "display_name" or p.kind is p.VAR_KEYWORD for p in parameters)


def positive(name: str, value: Any) -> Any:
    check_positive(name, value.detach() if isinstance(value, Tensor) else value)
    return value
