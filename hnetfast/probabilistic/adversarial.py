r"""The divergence of an implicit distribution from its prior, by a discriminator.

Mescheder, Nowozin and Geiger, "Adversarial Variational Bayes", 2017, https://arxiv.org/abs/1701.04722.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hnetfast._errors import InputError
from hnetfast.probabilistic._checks import check_matrix, check_positive

__all__ = ["AdversarialKL"]


class AdversarialKL(nn.Module):
    r"""Estimate :math:`KL(q \| p)` of samples of q from a Gaussian prior :math:`p = N(0, v I)`.

    A discriminator T that tells samples of q from those of p by logistic regression converges to
    :math:`\log q(w) - \log p(w)` (eq. 3.3 of the paper), so that the divergence is the mean of T over q.

    With *adaptive contrast* (sec. 3.3) it compares with the Gaussian :math:`r = N(\mu, \sigma^2)` of the
    moments of q instead of the prior, in normalised coordinates :math:`\tilde w = (w - \mu) / \sigma`, which
    is the easier the more q is like r:

    .. math:: KL(q \| p) = E_q[T(\tilde w)] + E_q[\log r(w) - \log p(w)]

    Training alternates: ``loss`` for the discriminator's parameters, ``forward`` for those of q. Both update
    no moments; :meth:`adapt` does, from fresh samples.

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
        self.discriminator = discriminator
        self.prior_variance = check_positive("prior_variance", prior_variance)
        self.adaptive_contrast = adaptive_contrast
        self.batch_statistics = batch_statistics
        self._mean: Tensor | None = None
        self._std: Tensor | None = None

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
        std, mean = torch.std_mean(samples.detach(), 0)
        self._mean, self._std = mean, std.clamp_min(1e-6 * math.sqrt(self.prior_variance))

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
        optimal, they do not matter to q, prop. 2 of the paper).

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
        if self._std is None:
            return estimate
        # log r − log p; the constants of both densities are the same.
        log_r = -0.5 * normalised.square().sum(1).mean() - self._std.log().sum()
        n, variance = samples.shape[1], self.prior_variance
        log_p = -0.5 * (samples.square().sum(1).mean() / variance + n * math.log(variance))
        return estimate + log_r - log_p

    def _normalised(self, samples: Tensor) -> Tensor:
        if not self.adaptive_contrast:
            return samples / math.sqrt(self.prior_variance)
        if self._mean is None or self._std is None:
            raise InputError("adapt: expected to be called with samples before, it was not")
        return (samples - self._mean) / self._std

    def _discriminate(self, normalised: Tensor) -> Tensor:
        if self.batch_statistics:
            mean = normalised.mean(0, keepdim=True).expand_as(normalised)
            normalised = torch.cat([normalised, mean], 1)
        logits = self.discriminator(normalised)
        if logits.numel() != len(normalised):
            raise InputError(
                f"discriminator: expected one output a sample, [{len(normalised)}, 1], "
                f"got {list(logits.shape)}"
            )
        return logits.flatten()
