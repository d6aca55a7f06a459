"""Training of fields, and how close they come to images."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hnetfast._errors import InputError
from hnetfast.examples.image_fields._data import Images, pixel_coordinates
from hnetfast.examples.image_fields._models import Settings


def psnr(found: Tensor, images: Tensor) -> Tensor:
    """Peak signal-to-noise ratio, with 1 as the peak.

    Args:
        found: Values ``[B, P, C]``, which are clamped to [0, 1].
        images: Values in [0, 1] likewise.

    Returns:
        Decibels ``[B]``.
    """
    errors = (found.clamp(0, 1) - images).square().mean(dim=(1, 2))
    return -10 * torch.log10(errors.clamp(min=1e-12))


@torch.no_grad()
def evaluate(model: nn.Module, images: Tensor, coordinates: Tensor, batch_size: int = 256) -> Tensor:
    """Evaluate a model, some images at a time.

    Args:
        model: Computes values from images and coordinates.
        images: ``[N, P, C]``.
        coordinates: ``[Q, 2]``.
        batch_size: Images at a time.

    Returns:
        Values ``[N, Q, C]``.
    """
    return torch.cat([model(some, coordinates) for some in images.split(batch_size)])


def train(
    model: nn.Module,
    images: Images,
    settings: Settings,
    seed: int,
    pixels: int,
    report: Callable[[int, float], object] = lambda step, loss: None,
) -> list[tuple[int, float]]:
    """Train a model to reproduce images.

    Args:
        model: Computes values from images and coordinates.
        images: Those for training are used.
        settings: How long.
        seed: Of the order of images and pixels.
        pixels: How many pixels of each image a step sees, drawn anew if there are more.
        report: Called with the number of steps done, and the mean squared error since it was called last.

    Returns:
        What ``report`` was called with.

    Raises:
        ValueError: If the loss is not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    coordinates = pixel_coordinates(images.size)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: (1 + math.cos(math.pi * step / settings.steps)) / 2
    )
    every = max(settings.steps // 10, 1)
    curve, total = [], torch.zeros(())
    for step in range(1, settings.steps + 1):
        batch = images.train[torch.randint(len(images.train), (settings.batch_size,), generator=generator)]
        targets, at = batch, coordinates
        if pixels < len(coordinates):
            chosen = torch.randperm(len(coordinates), generator=generator)[:pixels]
            targets, at = batch[:, chosen], coordinates[chosen]
        loss = F.mse_loss(model(batch, at), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        total += loss.detach()
        if step % every == 0:
            mean = total.item() / every
            if not math.isfinite(mean):
                raise InputError(f"learning rate: the loss is {mean} after {step} steps; choose a lower one")
            curve.append((step, mean))
            report(step, mean)
            total = torch.zeros(())
    return curve
