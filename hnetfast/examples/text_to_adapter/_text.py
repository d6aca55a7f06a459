"""Characters, and the text and words that come with Python: pydoc's chapters of the language reference."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from random import Random

import torch
from torch import Tensor

END = "\n"
ALPHABET = END + "".join(map(chr, range(32, 127)))
CODES = {character: code for code, character in enumerate(ALPHABET)}
FIELD = 6
"""Characters in front of the answer; shorter texts are filled up with spaces."""


@cache
def shipped_text() -> str:
    """The text of pydoc's topics, its characters outside of :data:`ALPHABET` left out."""
    from pydoc_data.topics import topics

    text = "\n".join(topics[name] for name in sorted(topics))
    return re.sub(r"[ \n]+", " ", "".join(character for character in text if character in CODES))


@cache
def words(for_tests: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Words of the text, a fifth of which is kept for tests.

    Args:
        for_tests: Whether to return those.

    Returns:
        Words of three to six letters, and shorter ones of two or three.
    """
    found = Counter(re.findall(r"\b[a-z]{2,6}\b", shipped_text()))
    common = sorted(found, key=lambda w: (-found[w], w))
    chosen = [word for i, word in enumerate(common) if (i % 5 == 4) == for_tests]
    return tuple(w for w in chosen if len(w) >= 3), tuple(w for w in chosen if len(w) <= 3)


def draw_input(random: Random, for_tests: bool = False) -> str:
    """Draw a text that is to be changed: a word, or, in a third of all cases, two short ones.

    Args:
        random: Draws.
        for_tests: Whether the words are those kept for tests.
    """
    single, short = words(for_tests)
    if random.random() < 2 / 3:
        return random.choice(single)
    while True:
        text = f"{random.choice(short)} {random.choice(short)}"
        if len(text) <= FIELD:
            return text


def encode_lines(pairs: Sequence[tuple[str, str]]) -> tuple[Tensor, Tensor]:
    """Write texts and answers as characters' codes.

    Args:
        pairs: Texts of at most :data:`FIELD` characters, and answers.

    Returns:
        Inputs ``[lines, characters]``, int64, and what is to be predicted after each, -100 where that is no
        part of an answer.
    """
    lines = [f"{text:<{FIELD}}>{answer}{END}" for text, answer in pairs]
    longest = max(map(len, lines))
    codes = torch.tensor([[CODES[c] for c in line.ljust(longest, END)] for line in lines])
    inputs, targets = codes[:, :-1].contiguous(), codes[:, 1:].clone()
    targets[:, :FIELD] = -100
    lengths = torch.tensor([len(line) for line in lines])
    targets[torch.arange(longest - 1) >= lengths.unsqueeze(1) - 1] = -100
    return inputs, targets
