"""What turns an image into a function of coordinates: generated networks, and what they are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hnetfast.hnets import HMLP
from hnetfast.mnets import MLP
from hnetfast.nn import Sine, siren_variances

_OF_ALL = 0.9  # share of the variance of generated weights that all images have in common at first


@dataclass(frozen=True)
class Settings:
    """Sizes of networks, and how long they are trained.

    Attributes:
        code_size: Numbers that the encoder makes of an image.
        encoder: Widths of its hidden layers.
        hnet: Widths of the hidden layers of the hypernetwork.
        field: Widths of the hidden layers of a generated network.
        omega: Factor within its sines.
        steps: Steps of the optimiser.
        batch_size: Images a step.
        learning_rate: Of Adam, at first; it falls to 0 along a cosine.
        pixels: How many pixels of each image a step sees at most.
    """

    code_size: int
    encoder: tuple[int, ...]
    hnet: tuple[int, ...]
    field: tuple[int, ...]
    omega: float
    steps: int
    batch_size: int = 32
    learning_rate: float = 1e-3
    pixels: int = 64


class Encoder(nn.Sequential):
    """An MLP from all pixels of an image to a code of mean 0 and variance 1.

    Args:
        num_pixels: Numbers that an image consists of.
        settings: Sizes.
    """

    def __init__(self, num_pixels: int, settings: Settings) -> None:
        widths = [num_pixels, *settings.encoder]
        layers: list[nn.Module] = [nn.Flatten()]
        for i in range(len(settings.encoder)):
            layers += [nn.Linear(widths[i], widths[i + 1]), nn.ReLU()]
        layers += [nn.Linear(widths[-1], settings.code_size)]
        super().__init__(*layers, nn.LayerNorm(settings.code_size, elementwise_affine=False))


class GeneratedFields(nn.Module):
    """Encoder and hypernetwork, which generates the weights of a network with sines for every image.

    Args:
        size: Height and width of images.
        channels: Their channels.
        settings: Sizes.
    """

    def __init__(self, size: int, channels: int, settings: Settings) -> None:
        super().__init__()
        self.encoder = Encoder(size * size * channels, settings)
        self.field = MLP(
            2,
            channels,
            settings.field,
            activation_fn=Sine(settings.omega),
            no_weights=True,
            verbose=False,
        )
        self.hnet = HMLP(
            self.field.param_shapes,
            uncond_in_size=settings.code_size,
            cond_in_size=0,
            layers=settings.hnet,
            num_cond_embs=0,
            verbose=False,
        )
        variances = siren_variances(self.field)
        self.hnet.apply_hyperfan_init(
            mnet=self.field,
            target_vars=[(1 - _OF_ALL) * (variance or 0) for variance in variances],
            b_var=[_OF_ALL * (variance or 0) for variance in variances],
        )

    def forward(self, images: Tensor, coordinates: Tensor) -> Tensor:
        """Encode images, and evaluate what is generated.

        Args:
            images: ``[B, size·size, channels]``.
            coordinates: ``[P, 2]``.

        Returns:
            Values ``[B, P, channels]``.
        """
        weights = self.hnet(self.encoder(images), ret_format="flattened")
        return 0.5 + self.field.forward_batched(coordinates, weights, x_per_set=False)


class ConcatenatedFields(nn.Module):
    """Encoder, and one network with sines for all images, which reads their codes beside the coordinates.

    Args:
        size: Height and width of images.
        channels: Their channels.
        widths: Of its hidden layers.
        settings: Sizes of the rest.
    """

    def __init__(self, size: int, channels: int, widths: Sequence[int], settings: Settings) -> None:
        super().__init__()
        self.encoder = Encoder(size * size * channels, settings)
        self.field = MLP(
            2 + settings.code_size, channels, widths, activation_fn=Sine(settings.omega), verbose=False
        )
        weights = list(self.field.internal_params or ())
        first = weights[0]
        with torch.no_grad():
            for weight, variance in zip(weights, siren_variances(self.field), strict=True):
                _draw(weight, variance or 0)
            # Frequencies as without a code, which shifts phases by about 1.
            _draw(first[:, :2], 1 / 12)
            _draw(first[:, 2:], 1 / (settings.code_size * settings.omega**2))

    def forward(self, images: Tensor, coordinates: Tensor) -> Tensor:
        """Encode images, and evaluate the network.

        Args:
            images: ``[B, size·size, channels]``.
            coordinates: ``[P, 2]``.

        Returns:
            Values ``[B, P, channels]``.
        """
        codes = self.encoder(images)
        sizes = len(codes), len(coordinates), -1
        inputs = torch.cat([coordinates.expand(sizes), codes.unsqueeze(1).expand(sizes)], dim=2)
        return 0.5 + self.field(inputs)


def _draw(tensor: Tensor, variance: float) -> None:
    bound = (3 * variance) ** 0.5
    tensor.uniform_(-bound, bound)


def width_for(num_params: int, num_inputs: int, num_outputs: int, num_hidden: int) -> int:
    """Width of the hidden layers with which an MLP has about so many parameters.

    Args:
        num_params: Parameters.
        num_inputs: Width of its input.
        num_outputs: Width of its output.
        num_hidden: Number of hidden layers.
    """
    # a·w² + b·w + c = 0
    a, b, c = num_hidden - 1, num_inputs + num_outputs + num_hidden, num_outputs - num_params
    root = (b * b - 4 * a * c) ** 0.5
    return max(round((root - b) / (2 * a) if a else -c / b), 1)


def reconstruct_by_components(train: Tensor, images: Tensor, count: int) -> Tensor:
    """Project images onto the principal components of others; with none, that is their mean.

    Args:
        train: Images whose components they are, ``[N, P, C]``.
        images: ``[B, P, C]``.
        count: How many components.

    Returns:
        Images ``[B, P, C]``.
    """
    mean = train.flatten(1).mean(0)
    directions = torch.linalg.svd(train.flatten(1) - mean, full_matrices=False).Vh[:count]
    return F.linear((images.flatten(1) - mean) @ directions.T, directions.T, mean).view_as(images)
