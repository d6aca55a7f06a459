"""Training and measuring sets of adapters, many tasks at a time in one call of the adapted network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hnetfast.examples.text_to_adapter._base_model import LONGEST, answer_loss, set_learning_rate
from hnetfast.examples.text_to_adapter._tasks import Task
from hnetfast.examples.text_to_adapter._text import ALPHABET, CODES, END, FIELD, draw_input, encode_lines
from hnetfast.mnets import ModuleTarget


@dataclass(frozen=True)
class Learner:
    """Where adapters come from.

    Attributes:
        parameters: What is trained.
        adapters: Makes the adapters of tasks, given by their numbers: ``[tasks, n]``, or ``[1, n]`` that all
            share.
        learning_rate: Of Adam, the largest.
    """

    parameters: list[nn.Parameter]
    adapters: Callable[[Sequence[int], Random], Tensor]
    learning_rate: float


class Scores(NamedTuple):
    """What was measured on each of some tasks.

    Attributes:
        exact: Share of answers of which every character is right when it is generated from the most likely
            ones.
        accuracy: Share of characters that are the most likely ones after the right beginning.
        loss: Mean cross entropy of a character, in nats.
    """

    exact: list[float]
    accuracy: list[float]
    loss: list[float]


def draw_lines(task: Task, count: int, random: Random, for_tests: bool = False) -> list[tuple[str, str]]:
    """Draw texts and answers.

    Args:
        task: The task.
        count: How many.
        random: Draws.
        for_tests: Whether the words are those kept for tests.
    """
    texts = [draw_input(random, for_tests) for _ in range(count)]
    return [(text, task.answer(text)) for text in texts]


def train(
    target: ModuleTarget,
    learner: Learner,
    tasks: Sequence[Task],
    *,
    steps: int,
    tasks_per_step: int,
    lines_per_task: int,
    random: Random,
    advance: Callable[[int, float], None] = lambda step, loss: None,
) -> None:
    """Train, each step on some tasks, with more lines of some than of others.

    Args:
        target: The adapted network.
        learner: Where adapters come from.
        tasks: The tasks.
        steps: Of Adam.
        tasks_per_step: How many of the tasks are drawn for a step.
        lines_per_task: The mean; there are half as many at least and half as many again at most.
        random: Draws.
        advance: Called after each step with its number, from 1 on, and its loss.
    """
    optimizer = torch.optim.Adam(learner.parameters, lr=learner.learning_rate, fused=True)
    fewest, most = lines_per_task - lines_per_task // 2, lines_per_task + lines_per_task // 2
    for step in range(steps):
        set_learning_rate(optimizer, learner.learning_rate, step, steps)
        chosen = random.sample(range(len(tasks)), min(tasks_per_step, len(tasks)))
        counts = [random.randint(fewest, most) for _ in chosen]
        lines = [
            line
            for i, count in zip(chosen, counts, strict=True)
            for line in draw_lines(tasks[i], count, random)
        ]
        inputs, targets = encode_lines(lines)
        weights = learner.adapters(chosen, random)
        rows = counts if len(weights) > 1 else [len(lines)]
        loss = answer_loss(target.forward_batched(inputs, weights, rows=rows), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        advance(step + 1, loss.item())


@torch.no_grad()
def measure(target: ModuleTarget, weights: Tensor, tasks: Sequence[Task], lines: int, seed: int) -> Scores:
    """Measure adapters on words that training does not use, the same ones for every learner.

    Args:
        target: The adapted network.
        weights: ``[tasks · k, n]``, k adapters of each task that share its lines; or ``[1, n]``.
        tasks: The tasks.
        lines: Of each task, a multiple of k.
        seed: Decides the lines.
    """
    inputs, targets = encode_lines(
        [line for task in tasks for line in draw_lines(task, lines, Random(seed), for_tests=True)]
    )
    logits = target.forward_batched(inputs, weights, rows=[len(inputs) // len(weights)] * len(weights))
    counted = targets != -100
    right = logits.argmax(2) == targets
    losses = nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")

    def of_tasks(values: Tensor, divisor: Tensor) -> list[float]:
        sums, counts = (x.view(len(tasks), -1).sum(1).double() for x in (values, divisor))
        return (sums / counts).tolist()

    exact = (right | ~counted).all(1)
    return Scores(
        of_tasks(exact, torch.ones_like(exact)), of_tasks(right & counted, counted), of_tasks(losses, counted)
    )


@torch.no_grad()
def generate(target: ModuleTarget, weights: Tensor, texts: Sequence[str]) -> list[str]:
    """Let adapted networks answer, by the most likely character at each place.

    Args:
        target: The adapted network.
        weights: ``[texts, n]``, the adapter for each text.
        texts: Of at most :data:`FIELD` characters.

    Returns:
        The answers.
    """
    codes = torch.tensor([[CODES[c] for c in f"{text:<{FIELD}}>"] for text in texts])
    for _ in range(LONGEST - codes.shape[1]):
        logits = target.forward_batched(codes, weights, rows=[1] * len(texts))
        codes = torch.cat([codes, logits[:, -1].argmax(1, keepdim=True)], 1)
    answers = ["".join(ALPHABET[code] for code in line) for line in codes[:, FIELD + 1 :].tolist()]
    return [answer.partition(END)[0] for answer in answers]
