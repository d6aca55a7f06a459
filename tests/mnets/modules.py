"""Ordinary modules to make main networks of."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.utils import parametrizations
from torchvision.models import resnet18

from hnetfast.mnets import MLP


class Tied(nn.Module):
    """A language model in miniature, with keyword inputs and a dictionary as output."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 6)
        self.position = nn.Parameter(torch.randn(4, 6) + 3)
        self.hidden = nn.Linear(6, 6)
        self.head = nn.Linear(6, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens, mask=None, scale=1.0):
        dtype = next(self.parameters()).dtype  # as Hugging Face's models do
        h = self.hidden(self.embedding(tokens) + self.position).to(dtype)
        h = h if mask is None else h * mask[..., None]
        return {"logits": scale * self.head(h), "cache": None}


@dataclass
class Output:
    hidden: torch.Tensor
    parts: tuple
    loss: torch.Tensor | None = None


class Pair(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor


class Structured(nn.Module):
    """Several inputs, and dataclasses, named tuples and lists as output."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, a, b):
        h = self.linear(a) * self.scale
        return Output(h, (Pair(h + 1, b), [h.sum()]))


class Conditioned(nn.Linear):
    def forward(self, x, condition):
        return super().forward(x) + condition


def convolutions():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, groups=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3, groups=2, bias=False),
        nn.GroupNorm(2, 6), nn.ConvTranspose2d(6, 4, 3, stride=2), nn.Flatten(), nn.Linear(324, 3),
    )  # fmt: skip


def small_resnet():
    return resnet18(num_classes=3)


def random_sets(network, num_sets, spread=0.1):
    """Sets of weights near the initial ones, as a list of tensors with gradients."""
    return [
        (value + spread * torch.randn(num_sets, *value.shape, device=value.device)).requires_grad_()
        for value in network.initial_weights
    ]


def tensors_of(output):
    if isinstance(output, torch.Tensor):
        return [output]
    if isinstance(output, Output):
        output = [output.hidden, output.parts, output.loss]
    entries = (
        output.values() if isinstance(output, dict) else output if isinstance(output, (list, tuple)) else []
    )
    return [tensor for entry in entries for tensor in tensors_of(entry)]


MODULES = {
    "linear": (lambda: nn.Linear(3, 2), lambda: torch.randn(5, 3)),
    "perceptron": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)),
        lambda: torch.randn(5, 3),
    ),
    "convolutions": (convolutions, lambda: torch.randn(2, 3, 8, 8)),
    "tied": (Tied, lambda: {"tokens": torch.randint(7, (2, 4))}),
    "structured": (Structured, lambda: (torch.randn(5, 3), torch.randn(5, 2))),
    "lstm": (lambda: nn.LSTM(3, 4, 2, bidirectional=True), lambda: torch.randn(6, 2, 3)),
    "gru cell": (lambda: nn.GRUCell(3, 4), lambda: torch.randn(6, 3)),
    "transformer": (
        lambda: nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True),
        lambda: torch.randn(2, 3, 8),
    ),
    "instance norm": (
        lambda: nn.Sequential(nn.Conv1d(2, 3, 2), nn.InstanceNorm1d(3, 1e-5, 0.1, True, True)),
        lambda: torch.randn(3, 2, 6),
    ),
    "parametrised": (
        lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 4)), nn.PReLU()),
        lambda: torch.randn(5, 3),
    ),
    "spectral norm": (lambda: parametrizations.spectral_norm(nn.Linear(3, 4)), lambda: torch.randn(5, 3)),
    "main network": (
        lambda: MLP(3, 2, [4], use_batch_norm=True, verbose=False),
        lambda: torch.randn(5, 3),
    ),
}  # fmt: skip


def call(module, x):
    if isinstance(x, dict):
        return module(**x)
    return module(*x) if isinstance(x, tuple) else module(x)
