r"""The divergence of an implicit distribution from its prior, by a discriminator.

Mescheder, Nowozin and Geiger, "Adversarial Variational Bayes", 2017, https://arxiv.org/abs/1701.04722.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hnetfast._checks import check_positive, check_tensor
from hnetfast._errors import InputError, InputTypeError
from hnetfast.probabilistic._checks import check_matrix

__all__ = ["AdversarialKL"]


class AdversarialKL(nn.Module):
    r"""Estimate :math:`KL(q \| p)` of samples of q from a Gaussian prior :math:`p = N(0, v I)`.

    A discriminator T that tells samples of q from those of p by logistic regression converges to
    :math:`\log q(w) - \log p(w)`, so that the divergence is the mean of T over q.

    With *adaptive contrast* it compares with the Gaussian :math:`r = N(\mu, \sigma^2)` of the
    moments of q instead of the prior, in normalised coordinates :math:`\tilde w = (w - \mu) / \sigma`, which
    is the easier the more q is like r:

    .. math:: KL(q \| p) = E_q[T(\tilde w)] + E_q[\log r(w) - \log p(w)]

    Training alternates: :meth:`loss` for the discriminator's parameters, :meth:`forward` for those of q. Both
    update no moments; :meth:`adapt` does, from fresh samples. The moments are buffers: they are stored and
    moved with the discriminator, which has learned to read samples that they normalise.

    .. code-block:: python

        kl = AdversarialKL(MLP(n_in=n, n_out=1))
        kl.adapt(posterior.sample(100).detach())
        kl.loss(posterior.sample(10)).backward()      # a step of the discriminator
        ...
        loss = nll + kl(posterior.sample(10)) / num_train  # a step of the posterior

    Args:
        discriminator: The network T from ``[S, n]`` (with ``batch_statistics`` ``[S, 2 n]``) to ``[S, 1]`` or
            ``[S]``.
        prior_variance: The variance v of the prior.
        adaptive_contrast: Whether to compare with a Gaussian of the same moments.
        batch_statistics: Whether the discriminator reads each sample beside the mean of those that it came
            with.

    Raises:
        TypeError, ValueError: If an argument is not accepted; it is named.
    """

    def __init__(
        self,
        discriminator: Callable[[Tensor], Tensor],
        *,
        prior_variance: float = 1.0,
        adaptive_contrast: bool = True,
        batch_statistics: bool = False,
    ) -> None:
        super().__init__()
        if not callable(discriminator):
            raise InputTypeError(f"discriminator: expected a network, got {type(discriminator).__name__}")
        self.discriminator = discriminator
        self.prior_variance = check_positive("prior_variance", prior_variance)
        self.adaptive_contrast = adaptive_contrast
        self.batch_statistics = batch_statistics
        self.mean: Tensor | None
        self.std: Tensor | None
        self.register_buffer("mean", None)
        self.register_buffer("std", None)

    def adapt(self, samples: Tensor) -> None:
        """Take the moments of q from samples.

        Args:
            samples: Samples ``[M, n]`` of q, M at least 2.

        Raises:
            TypeError, ValueError: If the shape is another one, or contrast is not adaptive.
        """
        if not self.adaptive_contrast:
            raise InputError("adapt: expected adaptive_contrast=True, which this was not constructed with")
        check_matrix("samples", samples, rows=2)
        with torch.inference_mode(False), torch.no_grad():
            std, mean = torch.std_mean(samples.detach(), 0)
            self.mean, self.std = mean, std.clamp_min(1e-6 * math.sqrt(self.prior_variance))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # How many weights there are is not known before the first samples.
        for name in ("mean", "std"):
            stored, own = state_dict.get(f"{prefix}{name}"), getattr(self, name)
            if stored is None:
                setattr(self, name, None)
            elif own is None or own.shape != stored.shape:
                like = next(self.parameters(), stored)
                setattr(self, name, torch.empty_like(stored, dtype=like.dtype, device=like.device))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def loss(self, samples: Tensor) -> Tensor:
        """The logistic loss of the discriminator between samples of q and as many of what it compares with.

        Args:
            samples: Samples ``[S, n]`` of q; gradients do not reach them.

        Returns:
            A scalar.

        Raises:
            TypeError, ValueError: If the shape is another one, or :meth:`adapt` was not called before.
        """
        check_matrix("samples", samples)
        ours = self._normalised(samples.detach())
        others = torch.randn_like(ours)
        logits = self._discriminate(ours), self._discriminate(others)
        return F.softplus(-logits[0]).mean() + F.softplus(logits[1]).mean()

    def forward(self, samples: Tensor) -> Tensor:
        """The estimate of the divergence in nats.

        Gradients reach the samples; those of the discriminator's parameters mean nothing here (where it is
        optimal, their mean does not depend on q, as the paper proves).

        Args:
            samples: Samples ``[S, n]`` of q.

        Returns:
            A scalar.

        Raises:
            TypeError, ValueError: If the shape is another one, or :meth:`adapt` was not called before.
        """
        check_matrix("samples", samples)
        normalised = self._normalised(samples)
        estimate = self._discriminate(normalised).mean()
        if self.std is None:
            return estimate
        # log r − log p; the constants of both densities are the same.
        log_r = -0.5 * normalised.square().sum(1).mean() - self.std.log().sum()
        n, variance = samples.shape[1], self.prior_variance
        log_p = -0.5 * (samples.square().sum(1).mean() / variance + n * math.log(variance))
        return estimate + log_r - log_p

    def _normalised(self, samples: Tensor) -> Tensor:
        if not self.adaptive_contrast:
            return samples / math.sqrt(self.prior_variance)
        if self.mean is None or self.std is None:
            raise InputError("adapt: expected to be called with samples before, it was not")
        if samples.shape[1] != len(self.mean):
            raise InputError(f"samples: expected the shape [S, {len(self.mean)}], got {list(samples.shape)}")
        return (samples - self.mean) / self.std

    def _discriminate(self, normalised: Tensor) -> Tensor:
        if self.batch_statistics:
            mean = normalised.mean(0, keepdim=True).expand_as(normalised)
            normalised = torch.cat([normalised, mean], 1)
        logits = self.discriminator(normalised)
        check_tensor("discriminator", logits)
        if tuple(logits.shape) not in ((len(normalised),), (len(normalised), 1)):
            raise InputError(
                f"discriminator: expected one output a sample, [{len(normalised)}, 1], "
                f"got {list(logits.shape)}"
            )
        return logits.flatten()
