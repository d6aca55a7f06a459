"""Small networks to adapt, and what the tests do with all of them."""

import torch
from torch import nn

from hnetfast.adapters import IA3, BottleneckAdapter, LoRA, Modulation, Residual, Scale
from hnetfast.mnets import from_module


class Block(nn.Module):
    """A layer of a stack, with a shortcut, a normalisation and what has no bias."""

    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fused = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x, mask=None):
        q, k, v = self.fused(self.norm(x)).chunk(3, -1)
        scores = q @ k.mT if mask is None else (q @ k.mT).masked_fill(~mask[:, None], -1e9)
        return x + self.out(scores.softmax(-1) @ v)


class SmallTransformer(nn.Module):
    """Tokens in, a number for each token out; the head is tied to the embedding."""

    def __init__(self, depth=2, width=6, num_tokens=11, length=5):
        super().__init__()
        self.embedding = nn.Embedding(num_tokens, width)
        self.position = nn.Embedding(length, width)  # called with one row for all samples
        self.layers = nn.ModuleList(Block(width) for _ in range(depth))
        self.head = nn.Linear(width, num_tokens, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens, mask=None):
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        h = self.embedding(tokens) + self.position(positions[None])
        for layer in self.layers:
            h = layer(h, mask)
        return self.head(h)


def transformer(dtype=torch.float64):
    return SmallTransformer().to(dtype).requires_grad_(False)


def convolutions():
    return (
        nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1, stride=2), nn.GroupNorm(2, 6), nn.ReLU(), nn.Conv2d(6, 4, 2)
        )
        .double()
        .requires_grad_(False)
    )


def tokens(num=6):
    return torch.randint(11, (num, 5))


def images(num=6):
    return torch.randn(num, 3, 9, 9, dtype=torch.float64)


LINEAR = ["layers.*.fused", "layers.*.out"]
# name: (network, input, adapters, whether all sets are computed at once)
CASES = {
    "lora": (transformer, tokens, LoRA(2, 4, LINEAR), True),
    "rslora": (transformer, tokens, LoRA(2, 3, ["*.fused"], rslora=True), True),
    "lora of embeddings": (transformer, tokens, LoRA(3, 1, ["embedding", "position", "head"]), True),
    "lora of convolutions": (convolutions, images, LoRA(2, 4, ["0", "3"]), True),
    "ia3": (transformer, tokens, IA3(["*.fused"], feedforward="*.out"), True),
    "ia3 of convolutions": (convolutions, images, IA3(["0"], feedforward=["3"]), True),
    "bottleneck": (transformer, tokens, BottleneckAdapter(3, ["*.out", "embedding"], torch.tanh), True),
    "bottleneck of modules": (transformer, tokens, BottleneckAdapter(3, "layers.?", features=6), True),
    "modulation": (transformer, tokens, Modulation(["*.norm", "*.fused", "position"]), True),
    "modulation of convolutions": (convolutions, images, Modulation(["0", "1"]), True),
    "residual of biases": (transformer, tokens, Residual("*.bias", scale=0.5), True),
    "residual": (transformer, tokens, Residual(["layers.1.*", "embedding.weight"]), False),
    "scale of vectors": (transformer, tokens, Scale(["*.norm.*", "*.bias"]), True),
    "scale of convolutions": (convolutions, images, Scale("?.bias"), True),
    "scale": (convolutions, images, Scale(["*.weight", "*.bias"]), False),
    "several": (
        transformer,
        tokens,
        [
            Modulation("*.fused"),
            LoRA(2, 4, LINEAR),
            IA3((), "*.fused"),
            Scale("*.fused.bias"),
            Scale("*.norm.*"),
        ],
        True,
    ),
    "matrices too": (transformer, tokens, [LoRA(2, 4, LINEAR), Residual("*.out.weight")], False),
}


def make(name):
    network, make_input, adapters, at_once = CASES[name]
    torch.manual_seed(1)
    base = network()
    return base, from_module(base, adapters=adapters), make_input(), at_once


def random_sets(target, num_sets):
    """Weights ``[num_sets, n]`` with gradients."""
    size = sum(torch.Size(shape).numel() for shape in target.hyper_shapes_learned)
    dtype = target.initial_weights[0].dtype
    return (0.5 * torch.randn(num_sets, size, dtype=dtype)).requires_grad_()


def unflattened(target, flat):
    return target.flatten_params(flat, target.hyper_shapes_learned, unflatten=True)
