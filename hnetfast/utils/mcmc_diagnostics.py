"""Are Markov chains long enough? R-hat and effective sample size.

Vehtari et al., "Rank-normalization, folding, and localization: an improved R-hat for assessing convergence of
MCMC", 2021, https://arxiv.org/abs/1903.08008. Every number of the position is looked at on its own. R-hat
should be below 1.01, and the effective sample size above 100 for each chain.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hnetfast._errors import InputError

__all__ = ["bulk_ess", "rank_normalised_rhat"]

Chains = Sequence[Sequence[Tensor]] | Tensor | np.ndarray


def rank_normalised_rhat(chains: Chains) -> Tensor:
    """Compare chains, cut into halves, with one another: near 1 if they sample the same distribution.

    Args:
        chains: States of several chains without their burn-in, ``[chains, states, ...]``; a list of
            ``position_trajectory`` of each will do. At least 4 states.

    Returns:
        The larger one of R-hat of the ranks and of the ranks of the distances to the median, ``[...]``; NaN
        where all states are equal.

    Raises:
        ValueError: If chains differ in length, or have too few states or NaN.

    Example:
        >>> chains = torch.randn(4, 1000, 1, generator=torch.Generator().manual_seed(0))
        >>> bool(rank_normalised_rhat(chains) < 1.01)
        True
        >>> chains[0] += 1  # one that is elsewhere
        >>> bool(rank_normalised_rhat(chains) < 1.01)
        False
    """
    halves = _halves(chains)
    folded = (halves - halves.flatten(0, 1).quantile(0.5, dim=0)).abs()
    return torch.maximum(*(_rhat(_normal_scores(each)) for each in (halves, folded)))


def bulk_ess(chains: Chains) -> Tensor:
    """Estimate how many independent samples tell as much about the centre of the distribution.

    Args:
        chains: States of several chains without their burn-in, ``[chains, states, ...]``; a list of
            ``position_trajectory`` of each will do. At least 4 states.

    Returns:
        Effective sample sizes of all chains together, ``[...]``; NaN where all states are equal.

    Raises:
        ValueError: If chains differ in length, or have too few states or NaN.
    """
    scores = _normal_scores(_halves(chains))
    m, n = scores.shape[:2]
    covariances = _autocovariances(scores)  # [m, n, ...]
    within = covariances[:, 0].mean(0) * n / (n - 1)
    variance = within * (n - 1) / n + scores.mean(1).var(0)
    correlations = 1 - (within - covariances.mean(0)) / variance  # [n, ...]
    correlations[0] = 1
    # Geyer: sums of neighbours are positive and fall; from where they do not, there is but noise.
    pairs = correlations[: n - n % 2].unflatten(0, (-1, 2)).sum(1)  # [n // 2, ...]
    positive = (pairs > 0).cumprod(0)
    falling = pairs.cummin(0).values * positive
    evens = torch.cat([correlations[: n - n % 2 : 2], correlations.new_zeros(1, *correlations.shape[1:])])
    next_even = evens.gather(0, positive.sum(0, keepdim=True))[0]  # counts half, as in Stan
    time = 2 * falling.sum(0) - 1 + next_even.clamp(min=0)
    ess = m * n / time.clamp(min=1 / np.log10(m * n))
    return ess.where(variance > 0, torch.nan)


def _halves(chains: Chains) -> Tensor:
    """Twice as many chains of half the length, without the middle of an odd length, in double precision."""
    if not isinstance(chains, (Tensor, np.ndarray)):
        lengths = {len(chain) for chain in chains}
        if len(lengths) != 1:
            raise InputError(
                f"chains: expected at least one, all of one length, got the lengths {sorted(lengths)}"
            )
        chains = torch.stack(
            [torch.stack([torch.as_tensor(state).detach() for state in chain]) for chain in chains]
        )
    states = torch.as_tensor(chains).detach().double()
    if states.dim() < 2 or states.shape[0] < 1 or states.shape[1] < 4:
        raise InputError(
            f"chains: expected a shape [chains, states, ...] with at least 4 states, got {list(states.shape)}"
        )
    if states.isnan().any():
        raise InputError("chains: expected numbers, got NaN")
    half = states.shape[1] // 2
    return torch.cat([states[:, :half], states[:, -half:]])


def _normal_scores(states: Tensor) -> Tensor:
    """Replace states by the normal quantiles of their ranks among all; equal ones have their mean rank."""
    flat = states.flatten(0, 1).movedim(0, -1).contiguous()  # [..., m * n]
    ordered = flat.sort(-1).values
    below = torch.searchsorted(ordered, flat)
    up_to = torch.searchsorted(ordered, flat, right=True)
    ranks = (below + up_to + 1) / 2
    scores = torch.special.ndtri((ranks.double() - 3 / 8) / (flat.shape[-1] + 1 / 4))
    return scores.movedim(-1, 0).unflatten(0, states.shape[:2])


def _rhat(states: Tensor) -> Tensor:
    n = states.shape[1]
    within = states.var(1).mean(0)
    between = n * states.mean(1).var(0)
    return (((n - 1) / n * within + between / n) / within).sqrt()


def _autocovariances(states: Tensor) -> Tensor:
    """Autocovariances of each chain at all lags, ``[m, n, ...]``, biased."""
    n = states.shape[1]
    spectrum = torch.fft.rfft(states - states.mean(1, keepdim=True), n=2 * n, dim=1)
    return torch.fft.irfft(spectrum.abs().square(), n=2 * n, dim=1)[:, :n] / n
