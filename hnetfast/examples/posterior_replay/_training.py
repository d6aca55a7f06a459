"""Training on tasks one after another, and what is measured afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hnetfast._errors import InputError
from hnetfast.examples.posterior_replay._learners import Learner, Task
from hnetfast.probabilistic import CRITERIA, calibration_error, infer_tasks, predictive_probabilities


@dataclass(frozen=True)
class Optimization:
    """How a task is learned, by Adam.

    Attributes:
        n_iter: Number of steps a task.
        lr: Learning rate.
        batch_size: Number of training samples in a step.
        clip_grad_norm: Largest norm of the gradient; -1 for any.
        clip_grad_value: Largest absolute value in it; -1 for any.
        keep_every: After how many steps the parameters are kept, to return to if a loss is not finite.
    """

    n_iter: int
    lr: float
    batch_size: int = 32
    clip_grad_norm: float = -1
    clip_grad_value: float = -1
    keep_every: int = 100

    def __post_init__(self) -> None:
        for name in ("n_iter", "batch_size", "keep_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: expected a positive integer, got {getattr(self, name)!r}")
        if not self.lr > 0:
            raise InputError(f"lr: expected a positive number, got {self.lr!r}")


class NotFiniteError(ArithmeticError):
    """A term of the loss is NaN or infinite; the parameters are again what they were at an earlier step.

    Attributes:
        term: The term's name.
        task: The task.
        step: The step in which it happened.
        restored: The step before which the parameters were what they are now.
    """

    def __init__(self, term: str, value: float, task: int, step: int, restored: int) -> None:
        super().__init__(
            f"the term {term!r} of the loss of task {task} is {value} in step {step}; the parameters are "
            f"again those before step {restored}"
        )
        self.term, self.task, self.step, self.restored = term, task, step, restored


def train_task(
    learner: Learner,
    task: int,
    data: Task,
    optimization: Optimization,
    report: Callable[[int, dict[str, Tensor]], None] | None = None,
) -> None:
    """Learn a task.

    Args:
        learner: What learns it.
        task: Which one.
        data: Its data.
        optimization: How.
        report: Called in every step with its number and the terms of the loss.

    Raises:
        NotFiniteError: If a term of the loss is not finite.
    """
    learner.begin(task)
    params = list(learner.parameters(task))
    state = learner.posterior(task).state()
    optimizer = torch.optim.Adam(params, lr=optimization.lr, fused=True)
    kept: tuple[int, list[Tensor]] = (0, [])
    num_train = len(data.x)
    for step in range(optimization.n_iter):
        now = None
        if step % optimization.keep_every == 0:
            now = (step, [tensor.detach().clone() for tensor in state])
        indices = torch.randint(num_train, (optimization.batch_size,))
        terms = learner.losses(task, data.x[indices], data.y[indices], num_train)
        loss = torch.stack(list(terms.values())).sum() if len(terms) > 1 else next(iter(terms.values()))
        if not torch.isfinite(loss):
            _restore(state, kept[1])
            _raise_not_finite(terms, task, step, kept[0])
        kept = now or kept
        optimizer.zero_grad()
        loss.backward()
        if optimization.clip_grad_value != -1:
            nn.utils.clip_grad_value_(params, optimization.clip_grad_value)
        if optimization.clip_grad_norm != -1:
            nn.utils.clip_grad_norm_(params, optimization.clip_grad_norm)
        optimizer.step()
        if report is not None:
            report(step, terms)
    learner.end(task, data)


@torch.no_grad()
def _restore(state: Sequence[Tensor], kept: Sequence[Tensor]) -> None:
    for tensor, value in zip(state, kept, strict=False):
        tensor.copy_(value)


def _raise_not_finite(terms: dict[str, Tensor], task: int, step: int, restored: int) -> None:
    for name, term in terms.items():
        if not torch.isfinite(term):
            raise NotFiniteError(name, term.item(), task, step, restored)
    raise NotFiniteError("sum", float("nan"), task, step, restored)


NUM_BINS = 15  # of confidence, those of the calibration error


def _reliability(confidences: Tensor, right: Tensor) -> dict[str, list[float]]:
    """What is in each bin of confidence: numbers of samples and of right answers, the sum of confidences."""
    bins = (confidences * NUM_BINS).ceil().long().sub(1).clamp(0, NUM_BINS - 1)
    columns = {"count": torch.ones_like(confidences), "confidence": confidences, "right": right}
    return {
        name: torch.bincount(bins, column.double(), NUM_BINS).tolist() for name, column in columns.items()
    }


@dataclass
class Measurements:
    """What was measured after the last task.

    Attributes:
        figures: Numbers by name; accuracies in percent.
        details: What is behind them, by task.
    """

    figures: dict[str, float]
    details: dict[str, Any] = field(default_factory=dict)


@torch.no_grad()
def measure_classes(learner: Learner, tasks: Sequence[Task], num_samples: int) -> Measurements:
    """Measure accuracies on the test sets of tasks that have been learned.

    Args:
        learner: What has learned them.
        tasks: The tasks.
        num_samples: Number of samples of each posterior.

    Returns:
        "given" and "inferred by <criterion>", means over tasks of the accuracy if the task is given or
        inferred; a wrong task counts as a wrong class. That one sample agrees with itself tells nothing: then
        "agreement" is left out. "calibration error", the task given. The details have
        the same for each task, and under "reliability" the numbers of samples and of right answers and the
        sum of confidences in each of 15 bins of confidence.
    """
    by_task: dict[str, list[float]] = {}
    reliability = []
    for t, task in enumerate(tasks):
        logits = [learner.predict(j, task.x_test, num_samples) for j in range(len(tasks))]
        criteria = [name for name in CRITERIA if name != "agreement" or len(logits[t]) > 1]
        probabilities = predictive_probabilities(logits[t])
        confidences, classes = probabilities.max(1)
        right = classes == task.y_test
        values = {
            "given": _percent(right),
            **{
                f"inferred by {name}": _percent((infer_tasks(logits, name) == t) & right) for name in criteria
            },
            "calibration error": float(calibration_error(probabilities, task.y_test, NUM_BINS)),
        }
        chosen = learner.predict_class(task.x_test, len(tasks))
        if chosen is not None:
            values["inferred by softmax"] = _percent(chosen == task.y_test + t * logits[t].shape[-1])
        for name, value in values.items():
            by_task.setdefault(name, []).append(value)
        reliability.append(_reliability(confidences, right))
    figures = {name: sum(values) / len(values) for name, values in by_task.items()}
    return Measurements(figures, {"by task": by_task, "reliability": reliability})


def _percent(right: Tensor) -> float:
    return 100 * float(right.double().mean())


def learn_tasks(
    learner: Learner,
    tasks: Sequence[Task],
    optimization: Optimization,
    num_samples: int,
    measure: Callable[[Learner, Sequence[Task], int], Measurements],
) -> Measurements:
    """Learn tasks one after another, and measure.

    Args:
        learner: What learns them.
        tasks: The tasks.
        optimization: How each is learned.
        num_samples: Number of samples of a posterior that are measured.
        measure: Measures a learner on the tasks that it has learned.

    Returns:
        What was measured after the last task. The details have under "after" the first figure of each task
        after each task.

    Raises:
        NotFiniteError: If a term of the loss is not finite.
    """
    after = []
    for t, task in enumerate(tasks):
        train_task(learner, t, task, optimization)
        measured = measure(learner, tasks[: t + 1], num_samples)
        after.append(next(iter(measured.details["by task"].values())))
    measured.details["after"] = after
    return measured
