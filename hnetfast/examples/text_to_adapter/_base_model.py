"""The network that is adapted: a small decoder of characters, pretrained on text that comes with Python."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hnetfast._files import replacing
from hnetfast.examples.text_to_adapter._text import ALPHABET, CODES, END, FIELD, encode_lines, shipped_text

LONGEST = 24
"""Characters of a line."""
ADAPTED = ("*.qkv", "*.out", "*.up", "*.down", "head")
"""The linear maps of :class:`Decoder`."""


class Block(nn.Module):
    """Attention to what was before, and a feed-forward network.

    Args:
        width: Features.
        heads: Of the attention.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the next features.

        Args:
            x: ``[lines, characters, width]``.

        Returns:
            As ``x``.
        """
        split = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1))  # [B, T, 3, heads, size]
        query, key, value = split.permute(2, 0, 3, 1, 4)
        found = F.scaled_dot_product_attention(query, key, value, is_causal=True)  # [B, heads, T, size]
        x = x + self.out(found.transpose(1, 2).flatten(2))
        return x + self.down(F.relu(self.up(self.norm2(x))))


class Decoder(nn.Module):
    """A transformer that predicts the next character.

    Args:
        width: Features.
        depth: Blocks.
        heads: Of each block's attention.
    """

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.characters = nn.Embedding(len(ALPHABET), width)
        self.places = nn.Embedding(LONGEST, width)
        self.layers = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, len(ALPHABET))
        for embedding in (self.characters, self.places):
            nn.init.normal_(embedding.weight, std=0.3)

    def forward(self, codes: Tensor) -> Tensor:
        """Predict.

        Args:
            codes: ``[lines, characters]``, int64.

        Returns:
            Logits ``[lines, characters, alphabet]``.
        """
        x = self.characters(codes) + self.places.weight[: codes.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


def draw_pretraining_batch(random: Random, size: int) -> tuple[Tensor, Tensor]:
    """Draw pieces of the text, and as many shorter ones that are said twice.

    Args:
        random: Draws.
        size: Lines.

    Returns:
        Inputs and targets, see :func:`encode_lines`.
    """
    text = shipped_text()
    lines, echoes = [], []
    for _ in range(size // 2):
        start = random.randrange(len(text) - LONGEST)
        lines.append([CODES[character] for character in text[start : start + LONGEST]])
        start, length = random.randrange(len(text) - FIELD), random.randint(2, FIELD)
        piece = text[start : start + length].strip() or "a"
        echoes.append((piece, piece))
    running = torch.tensor(lines)
    inputs, targets = encode_lines(echoes)
    missing = LONGEST - 1 - inputs.shape[1]
    inputs = torch.cat([running[:, :-1], F.pad(inputs, (0, missing), value=CODES[END])])
    return inputs, torch.cat([running[:, 1:], F.pad(targets, (0, missing), value=-100)])


def answer_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy of the characters that are to be predicted, in nats.

    Args:
        logits: ``[lines, characters, alphabet]``.
        targets: ``[lines, characters]``, -100 for characters that do not count.
    """
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def pretrain(
    width: int,
    depth: int,
    heads: int,
    steps: int,
    seed: int,
    advance: Callable[[float], None] = lambda loss: None,
    batch_size: int = 64,
    learning_rate: float = 3e-3,
) -> Decoder:
    """Teach a new network to predict text.

    Args:
        width: Features.
        depth: Blocks.
        heads: Of each block's attention.
        steps: Of Adam.
        seed: Decides weights and samples.
        advance: Called after each step with its loss.
        batch_size: Lines a step.
        learning_rate: The largest; it rises at first, and falls to zero.
    """
    torch.manual_seed(seed)
    random = Random(seed)
    model = Decoder(width, depth, heads)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)
    for step in range(steps):
        set_learning_rate(optimizer, learning_rate, step, steps)
        inputs, targets = draw_pretraining_batch(random, batch_size)
        loss = answer_loss(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        advance(loss.item())
    return model


def set_learning_rate(optimizer: torch.optim.Optimizer, largest: float, step: int, steps: int) -> None:
    """Let the learning rate rise for fifty steps, and then fall to zero.

    Args:
        optimizer: Whose it is.
        largest: The largest, which fewer than fifty steps do not reach.
        step: The step that follows, counted from 0.
        steps: How many there are.
    """
    for group in optimizer.param_groups:
        group["lr"] = largest * min(1.0, (step + 1) / 50) * (1 - step / steps)


def load_or_pretrain(
    folder: Path,
    width: int,
    depth: int,
    heads: int,
    steps: int,
    seed: int,
    advance: Callable[[float], None] = lambda loss: None,
) -> tuple[Decoder, Path, bool]:
    """Read the network from a file, or train it and write that file.

    Args:
        folder: Where the file is. Its name tells the options and the text apart.
        width: Features.
        depth: Blocks.
        heads: Of each block's attention.
        steps: Of Adam.
        seed: Decides weights and samples.
        advance: Called after each step with its loss.

    Returns:
        The network, frozen; the file; and whether it was there.

    Raises:
        OSError: If the folder can't be written.
    """
    options = (width, depth, heads, steps, seed)
    key = hashlib.sha256(repr((options, ALPHABET, FIELD, LONGEST, shipped_text())).encode()).hexdigest()
    path = folder / f"base_model_{key[:16]}.pt"
    model = Decoder(width, depth, heads)
    was_there = True
    try:
        model.load_state_dict(torch.load(path, weights_only=True))
    except (FileNotFoundError, EOFError, RuntimeError, TypeError, pickle.UnpicklingError):  # or broken
        was_there = False
        model = pretrain(*options, advance)
        with replacing(path) as file:
            torch.save(model.state_dict(), file)
    return model.requires_grad_(False).eval(), path, was_there
