"""The experiment: adapters from descriptions against adapters that are trained, and the base network."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, cast

import torch
from torch import Tensor, nn

from hnetfast.adapters import LoRA
from hnetfast.examples.text_to_adapter._base_model import ADAPTED, load_or_pretrain
from hnetfast.examples.text_to_adapter._learning import Learner, Scores, measure, train
from hnetfast.examples.text_to_adapter._tasks import Task, held_out_tasks, seen_tasks
from hnetfast.hnets import LayerHMLP
from hnetfast.mnets import ModuleTarget, from_module

BASE_SEED = 0
"""Of the base network, which is the same in all runs, like one from elsewhere."""
GROUPS = {
    "seen": "seen tasks",
    "seen, anew": "seen tasks, held-out phrases",
    "new": "held-out tasks",
    "new, anew": "held-out tasks, held-out phrases",
}
"""Tasks of the training and others, described by phrases of the training and by others."""
LEARNERS = {
    "base": "Base network",
    "shared": "One adapter for all tasks",
    "hnet": "Hypernetwork",
    "alone": "An adapter trained for the task alone",
}


@dataclass(frozen=True)
class Settings:
    """Sizes and lengths.

    Attributes:
        width, depth, heads: Of the base network.
        pretraining_steps: Of the base network.
        rank: Of the adapters.
        hidden: Layers of the hypernetwork.
        noise: Standard deviation of what is added to embeddings of descriptions, whose own is 1.
        steps: Of the hypernetwork's training.
        tasks_per_step: Tasks in a step's batch.
        lines_per_task: Lines of each, on average.
        learning_rate: Of the hypernetwork.
        adapter_learning_rate: Of adapters that are trained themselves.
        descriptions: Of a task, used in training.
        measured_descriptions: Of a task, that results are means over; three are kept for tests.
        test_lines: Of a task, a multiple of that number.
        curve_points: How often the hypernetwork is measured while it learns.
        compared_tasks: Every so many of the seen tasks get an adapter that is trained alone.
    """

    width: int = 64
    depth: int = 3
    heads: int = 4
    pretraining_steps: int = 1000
    rank: int = 8
    hidden: tuple[int, ...] = (256, 256)
    noise: float = 0.5
    steps: int = 1000
    tasks_per_step: int = 32
    lines_per_task: int = 4
    learning_rate: float = 1.5e-3
    adapter_learning_rate: float = 1e-2
    descriptions: int = 40
    measured_descriptions: int = 3
    test_lines: int = 24
    curve_points: int = 5
    compared_tasks: int = 9


DEFAULT = Settings()
QUICK = dataclasses.replace(DEFAULT, pretraining_steps=250, steps=200, descriptions=8, curve_points=4)
Embed = Callable[[Sequence[str]], Tensor]
Report = Callable[[str], None]


@dataclass
class Descriptions:
    """Descriptions of tasks as numbers, of mean 0 and standard deviation 1 over those of the training.

    Attributes:
        tasks: All tasks, the seen ones first.
        num_seen: How many these are.
        texts: Descriptions of each task: those of the training, and those for tests.
        embeddings: Theirs, each ``[descriptions, numbers]``.
        mean: That was subtracted, ``[numbers]``.
        scale: That was divided by.
    """

    tasks: list[Task]
    num_seen: int
    texts: tuple[list[list[str]], list[list[str]]]
    embeddings: tuple[list[Tensor], list[Tensor]]
    mean: Tensor
    scale: Tensor

    @classmethod
    def make(cls, embed: Embed, settings: Settings) -> Descriptions:
        """Embed the descriptions of all tasks.

        Args:
            embed: Makes numbers ``[texts, numbers]`` of texts.
            settings: How many there are.
        """
        seen, new = seen_tasks(), held_out_tasks()
        tasks = [*seen, *new]
        for_training = [task.descriptions(limit=settings.descriptions) for task in tasks]
        for_tests = [task.descriptions(True, settings.measured_descriptions) for task in tasks]
        everything = [text for texts in (*for_training, *for_tests) for text in texts]
        numbers = embed(everything).split([len(texts) for texts in (*for_training, *for_tests)])
        of_training = torch.cat(numbers[: len(seen)])
        mean = of_training.mean(0)
        scale = (of_training - mean).std()
        numbers = [(some - mean) / scale for some in numbers]
        embeddings = numbers[: len(tasks)], numbers[len(tasks) :]
        return cls(tasks, len(seen), (for_training, for_tests), embeddings, mean, scale)

    def draw(self, chosen: Sequence[int], random: Random, noise: float) -> Tensor:
        """Draw a description of each of some tasks, those of the training.

        Args:
            chosen: The numbers of the tasks.
            random: Draws.
            noise: Standard deviation of what is added.

        Returns:
            Tensor ``[tasks, numbers]``.
        """
        some = torch.stack(
            [self.embeddings[0][i][random.randrange(len(self.embeddings[0][i]))] for i in chosen]
        )
        return some + noise * torch.randn_like(some)

    def measured(self, group: str, count: int) -> Tensor:
        """The descriptions that a group is measured with.

        Args:
            group: One of :data:`GROUPS`.
            count: How many of each task.

        Returns:
            Tensor ``[tasks · count, numbers]``.
        """
        embeddings = self.embeddings[group.endswith("anew")][self.places(group)]
        return torch.cat([some[torch.arange(count) % len(some)] for some in embeddings])

    def places(self, group: str) -> slice:
        """Where the tasks of a group are.

        Args:
            group: One of :data:`GROUPS`.
        """
        return slice(self.num_seen, None) if group.startswith("new") else slice(self.num_seen)


@dataclass
class Experiment:
    """A run with one seed.

    Attributes:
        settings: Sizes and lengths.
        seed: Decides all that is drawn, except for the base network.
        embed: Makes numbers of texts.
        folder: Where the base network is kept.
        report: Gets lines of text while it runs.
        seconds: What each part took.
        curve: The hypernetwork while it learns: steps, and the mean share of exact answers in each group.
    """

    settings: Settings
    seed: int
    embed: Embed
    folder: Path
    report: Report = print
    seconds: dict[str, float] = field(default_factory=dict)
    curve: list[tuple[int, dict[str, float]]] = field(default_factory=list)

    def prepare(self) -> None:
        """Make the base network and the descriptions.

        Raises:
            OSError: If the base network can't be stored.
        """
        settings = self.settings
        with self._timed("base network"):
            losses: list[float] = []
            sizes = (settings.width, settings.depth, settings.heads)
            base, path, was_there = load_or_pretrain(
                self.folder, *sizes, settings.pretraining_steps, BASE_SEED, losses.append
            )
        size = sum(p.numel() for p in base.parameters())
        trained = f"from {path}" if was_there else f"loss {losses[-1]:.2f} after {len(losses)} steps; {path}"
        self.report(f"Base network of {size:,} weights: {trained} ({self.seconds['base network']:.0f} s)")
        with self._timed("descriptions"):
            self.descriptions = Descriptions.make(self.embed, settings)
        adapters = LoRA(rank=settings.rank, alpha=2 * settings.rank, modules=list(ADAPTED))
        torch.manual_seed(self.seed)
        self.target: ModuleTarget = from_module(base, adapters=adapters)
        self.initial = torch.cat([w.detach().flatten() for w in self.target.initial_weights])
        count = sum(map(len, self.descriptions.texts[0][: self.descriptions.num_seen]))
        self.report(
            f"{self.descriptions.num_seen} tasks with {count} descriptions, "
            f"{len(self.descriptions.tasks) - self.descriptions.num_seen} more for tests; "
            f"adapters of {len(self.initial):,} numbers ({self.seconds['descriptions']:.0f} s)"
        )

    def learn_from_descriptions(self) -> dict[str, Scores]:
        """Train the hypernetwork.

        Returns:
            What it reaches, by group.
        """
        settings, descriptions = self.settings, self.descriptions
        torch.manual_seed(self.seed + 1)
        self.hnet = LayerHMLP(
            self.target,
            cond_in_size=len(descriptions.mean),
            layers=settings.hidden,
            depth_emb_size=32,
            use_offsets=True,
            num_cond_embs=0,
            verbose=False,
        )
        self.hnet.apply_bias_hyperinit(self.target, weight_scale=0.1)
        every = max(1, settings.steps // settings.curve_points)

        def adapters(chosen: Sequence[int], random: Random) -> Tensor:
            return self.adapters_for(descriptions.draw(chosen, random, settings.noise))

        def advance(step: int, loss: float) -> None:
            if step % every == 0 and step < settings.steps:
                scores = self._measure_hnet(lines=settings.measured_descriptions * 4)
                means = {group: _mean(found.exact) for group, found in scores.items()}
                self.curve.append((step, means))
                shares = ", ".join(f"{group} {100 * mean:.0f} %" for group, mean in means.items())
                self.report(f"  step {step}: loss {loss:.3f}; exact answers: {shares}")

        with self._timed("hypernetwork"):
            learner = Learner(list(self.hnet.parameters()), adapters, settings.learning_rate)
            self._train(learner, descriptions.tasks[: descriptions.num_seen], settings.steps, 2, advance)
            scores = self._measure_hnet(settings.test_lines)
        self.curve.append((settings.steps, {group: _mean(found.exact) for group, found in scores.items()}))
        return scores

    def adapters_for(self, embeddings: Tensor) -> Tensor:
        """Generate adapters.

        Args:
            embeddings: Of descriptions, ``[B, numbers]``, normalised.

        Returns:
            Tensor ``[B, n]``.
        """
        return cast("Tensor", self.hnet(cond_input=embeddings, ret_format="flattened"))

    @torch.no_grad()
    def _measure_hnet(self, lines: int) -> dict[str, Scores]:
        found = {}
        for group in GROUPS:
            embeddings = self.descriptions.measured(group, self.settings.measured_descriptions)
            tasks = self.descriptions.tasks[self.descriptions.places(group)]
            found[group] = measure(self.target, self.adapters_for(embeddings), tasks, lines, self.seed)
        return found

    def learn_alone(self) -> dict[str, Scores]:
        """Train an adapter for each new task, and some seen ones, on as many lines as the hypernetwork sees.

        One call evaluates the adapters of all these tasks; as each has lines of its own, so are gradients and
        the optimiser's steps.

        Returns:
            What they reach, by group; of the seen tasks, of those that were trained.
        """
        settings, num_seen = self.settings, self.descriptions.num_seen
        tasks = [self.descriptions.tasks[i] for i in self.compared()]
        weights = nn.Parameter(self.initial.repeat(len(tasks), 1))
        # Steps are of twice as many lines of a task, so that they are fewer.
        steps = max(1, round(settings.steps * settings.tasks_per_step / num_seen / 2))
        with self._timed("adapters alone"):
            learner = Learner(
                [weights], lambda chosen, _: weights[list(chosen)], settings.adapter_learning_rate
            )
            self._train(learner, tasks, steps, 3, sizes=(len(tasks), 2 * settings.lines_per_task))
        split = sum(i < num_seen for i in self.compared())
        found = {}
        for group, places in (("seen", slice(split)), ("new", slice(split, None))):
            some = weights.detach()[places]
            found[group] = measure(self.target, some, tasks[places], settings.test_lines, self.seed)
        return found

    def compared(self) -> list[int]:
        """The tasks that have an adapter trained alone."""
        num_seen = self.descriptions.num_seen
        return [
            *range(0, num_seen, self.settings.compared_tasks),
            *range(num_seen, len(self.descriptions.tasks)),
        ]

    def learn_shared(self) -> dict[str, Scores]:
        """Train one adapter for all seen tasks, for a sixth of the steps.

        Returns:
            What it reaches, by group.
        """
        settings, descriptions = self.settings, self.descriptions
        weights = nn.Parameter(self.initial.clone().unsqueeze(0))
        with self._timed("shared adapter"):
            learner = Learner([weights], lambda *_: weights, settings.adapter_learning_rate)
            steps = max(1, settings.steps // 6)
            self._train(learner, descriptions.tasks[: descriptions.num_seen], steps, 4)
        return self.measure_shared(weights.detach())

    def measure_shared(self, weights: Tensor) -> dict[str, Scores]:
        """Measure one adapter on all tasks.

        Args:
            weights: ``[1, n]``.

        Returns:
            The scores, by group.
        """
        return {
            group: measure(
                self.target,
                weights,
                self.descriptions.tasks[self.descriptions.places(group)],
                self.settings.test_lines,
                self.seed,
            )
            for group in ("seen", "new")
        }

    def _train(
        self,
        learner: Learner,
        tasks: Sequence[Task],
        steps: int,
        stream: int,
        advance: Callable[[int, float], None] = lambda step, loss: None,
        sizes: tuple[int, int] | None = None,
    ) -> None:
        settings = self.settings
        tasks_per_step, lines_per_task = sizes or (settings.tasks_per_step, settings.lines_per_task)
        train(
            self.target,
            learner,
            tasks,
            steps=steps,
            tasks_per_step=tasks_per_step,
            lines_per_task=lines_per_task,
            random=Random(10 * self.seed + stream),
            advance=advance,
        )

    @contextmanager
    def _timed(self, part: str):
        start = time.perf_counter()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start


def run(experiment: Experiment) -> dict[str, Any]:
    """Run an experiment.

    Args:
        experiment: The experiment, of which nothing has been done yet.

    Returns:
        What is stored as JSON: settings, seed, names of the tasks, scores by learner and group (a list has
        a number for each task), the curve, and seconds.

    Raises:
        OSError: If the base network can't be stored.
    """
    experiment.prepare()
    scores = {"base": experiment.measure_shared(experiment.initial.unsqueeze(0))}
    experiment.report("The hypernetwork learns from descriptions")
    scores["hnet"] = experiment.learn_from_descriptions()
    experiment.report("Adapters are trained for single tasks, and one for all of them")
    scores["alone"] = experiment.learn_alone()
    scores["shared"] = experiment.learn_shared()
    descriptions = experiment.descriptions
    return {
        "experiment": "text_to_adapter",
        "seed": experiment.seed,
        "settings": dataclasses.asdict(experiment.settings),
        "tasks": [task.name for task in descriptions.tasks],
        "num_seen": descriptions.num_seen,
        "compared": experiment.compared(),
        "scores": {
            name: {group: found._asdict() for group, found in groups.items()}
            for name, groups in scores.items()
        },
        "curve": experiment.curve,
        "seconds": experiment.seconds,
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
