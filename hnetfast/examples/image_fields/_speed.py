"""How long a step takes: all images at once, and in loops over them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from hnetfast._comparison import time_in_turns
from hnetfast.examples.image_fields._models import GeneratedFields

AT_ONCE, FIELDS_IN_TURN, IN_TURN = "all at once", "weights at once, fields in turn", "one image at a time"


def steps(model: GeneratedFields, images: Tensor, coordinates: Tensor) -> dict[str, Callable[[], Tensor]]:
    """The same step in three ways: errors of reconstructions, and all gradients.

    Args:
        model: Generates the networks.
        images: ``[B, P, C]``.
        coordinates: Of their pixels, ``[P, 2]``.

    Returns:
        Functions that return the mean squared error.
    """
    field, hnet = model.field, model.hnet

    def fields_in_turn() -> Tensor:
        generated = hnet(model.encoder(images), ret_format="sequential")
        return 0.5 + torch.stack([field(coordinates, weights=weights) for weights in generated])

    def in_turn() -> Tensor:
        codes = model.encoder(images).split(1)
        return 0.5 + torch.stack([field(coordinates, weights=hnet(code)) for code in codes])

    def step(forward: Callable[[], Tensor]) -> Callable[[], Tensor]:
        def run() -> Tensor:
            model.zero_grad()
            loss = F.mse_loss(forward(), images)
            loss.backward()
            return loss.detach()

        return run

    ways = {AT_ONCE: lambda: model(images, coordinates), FIELDS_IN_TURN: fields_in_turn, IN_TURN: in_turn}
    return {name: step(forward) for name, forward in ways.items()}


def time_steps(
    model: GeneratedFields, images: Tensor, coordinates: Tensor, seconds: float
) -> dict[str, float]:
    """Time :func:`steps` in turns.

    Args:
        model: Generates the networks.
        images: ``[B, P, C]``.
        coordinates: Of their pixels, ``[P, 2]``.
        seconds: How long to measure.

    Returns:
        The shortest duration in milliseconds by name: others tell what else the machine does.
    """
    durations = time_in_turns(steps(model, images, coordinates), seconds)
    return {name: 1e3 * min(times) for name, times in durations.items()}
