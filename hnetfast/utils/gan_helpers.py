"""Losses of generative adversarial networks, from a discriminator's linear outputs.

``loss_choice`` is one of

- 0: Goodfellow et al., 2014, https://arxiv.org/abs/1406.2661, non-saturating, with real samples labelled 0.9;
- 1: least squares, real samples to 1 and fake ones to 0, eq. 14 of Mao et al., 2018,
  https://arxiv.org/abs/1712.06391;
- 2: least squares, real samples to 1, fake ones to -1, and the generator's to 0, eq. 13 there (Pearson chi²);
- 3: Wasserstein, Arjovski et al., 2017, https://arxiv.org/abs/1701.07875.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hnetfast._errors import InputError

__all__ = ["accuracy", "concat_mean_stats", "dis_loss", "gen_loss"]


def dis_loss(logit_real: Tensor, logit_fake: Tensor, loss_choice: int) -> Tensor:
    """Compute the loss that the discriminator's weights are trained with.

    Args:
        logit_real: The discriminator's outputs for real samples, without an activation function; any shape.
        logit_fake: Likewise for fake samples, of which there may be another number.
        loss_choice: Which loss: 0 to 3, as listed in this module.

    Returns:
        Scalar tensor.

    Raises:
        ValueError: For another ``loss_choice``.
    """
    _check_choice(loss_choice)
    if loss_choice == 3:
        return -logit_real.mean() + logit_fake.mean()
    if loss_choice == 0:
        real, fake = torch.sigmoid(logit_real), torch.sigmoid(logit_fake)
        real_loss = F.binary_cross_entropy(real, torch.full_like(real, 0.9))
        return real_loss + F.binary_cross_entropy(fake, torch.zeros_like(fake))
    fake_target = torch.full_like(logit_fake, 0.0 if loss_choice == 1 else -1.0)
    real_loss = F.mse_loss(logit_real, torch.ones_like(logit_real))
    return real_loss + F.mse_loss(logit_fake, fake_target)


def gen_loss(logit_fake: Tensor, loss_choice: int) -> Tensor:
    """Compute the loss that the generator's weights are trained with.

    Args:
        logit_fake: The discriminator's outputs for fake samples, without an activation function; any shape.
        loss_choice: Which loss: 0 to 3, as listed in this module.

    Returns:
        Scalar tensor.

    Raises:
        ValueError: For another ``loss_choice``.
    """
    _check_choice(loss_choice)
    if loss_choice == 3:
        return -logit_fake.mean()
    if loss_choice == 0:
        fake = torch.sigmoid(logit_fake)
        return F.binary_cross_entropy(fake, torch.ones_like(fake))
    return F.mse_loss(logit_fake, torch.full_like(logit_fake, 1.0 if loss_choice == 1 else 0.0))


def accuracy(logit_real: Tensor, logit_fake: Tensor, loss_choice: int) -> Tensor:
    """Compute the fraction of samples that the discriminator tells right.

    What is above a threshold counts as real: an output of 0.5 for loss 1, one of 0 for the other losses (a
    probability of 0.5 for loss 0).

    Args:
        logit_real: The discriminator's outputs for real samples, without an activation function; any shape.
        logit_fake: The discriminator's outputs for fake samples, without an activation function; any shape.
        loss_choice: Which loss: 0 to 3, as listed in this module.

    Returns:
        Scalar tensor.

    Raises:
        ValueError: For another ``loss_choice``.
    """
    _check_choice(loss_choice)
    threshold = 0.5 if loss_choice == 1 else 0.0
    right = (logit_real > threshold).sum() + (logit_fake <= threshold).sum()
    return right.float() / (logit_real.numel() + logit_fake.numel())


def concat_mean_stats(inputs: Tensor) -> Tensor:
    """Put the mean of the batch before every sample's features: a discriminator sees if all are alike.

    Args:
        inputs: Samples ``[batch, features, ...]``.

    Returns:
        Samples ``[batch, 2 * features, ...]``.

    Raises:
        ValueError: If there are fewer than two dimensions.
    """
    if inputs.dim() < 2:
        raise InputError(f"inputs: expected shape [batch, features, ...], got {list(inputs.shape)}")
    return torch.cat([inputs.mean(dim=0, keepdim=True).expand_as(inputs), inputs], dim=1)


def _check_choice(loss_choice: int) -> None:
    if loss_choice not in (0, 1, 2, 3):
        raise InputError(f"loss_choice: expected 0, 1, 2 or 3, got {loss_choice!r}")
