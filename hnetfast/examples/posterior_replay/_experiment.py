"""What experiments on small networks share: options, runs of several seeds, and their results as files."""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from hnetfast._errors import InputError
from hnetfast._files import write_atomically
from hnetfast.examples._run_options import check_matplotlib, integer_from
from hnetfast.examples.posterior_replay._learners import Learner, Task
from hnetfast.examples.posterior_replay._settings import Settings
from hnetfast.examples.posterior_replay._training import (
    Measurements,
    NotFiniteError,
    Optimization,
    learn_tasks,
)

DEFAULT_FOLDER = Path("out") / "posterior_replay"


@dataclass(frozen=True)
class Method:
    """A published run.

    Attributes:
        title: What it is.
        settings: Its settings.
        published: The published figures, by the names of ours: "given", "inferred" in percent, or "mse".
        criterion: By what the published run inferred tasks; None for the best of them.
        note: In what its settings differ from the published ones, if they do.
    """

    title: str
    settings: Settings
    published: Mapping[str, Any]
    criterion: str | None = None
    note: str = ""


@dataclass(frozen=True)
class Experiment:
    """Tasks, and methods that learn them.

    Attributes:
        name: Its name, with which names of files begin.
        title: What it is about.
        methods: The methods by name.
        make_tasks: Makes the tasks of a seed.
        make_learner: Makes a learner from settings.
        quick_steps: Steps a task with ``--quick``.
        measure: Measures a learner on the tasks, with a number of samples.
        draw: Draws pictures of a learner into a folder.
    """

    name: str
    title: str
    methods: Mapping[str, Method]
    make_tasks: Callable[[int], list[Task]]
    make_learner: Callable[[Settings, Sequence[Task]], Learner]
    quick_steps: int
    measure: Callable[[Learner, Sequence[Task], int], Measurements]
    draw: Callable[[Learner, Sequence[Task], Measurements, Path, str], list[Path]]


def make_parser(module: str, title: str, methods: Iterable[str]) -> argparse.ArgumentParser:
    """A parser of the options that all experiments have.

    Args:
        module: Name of the experiment's module.
        title: What it is about.
        methods: Names of the methods.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m hnetfast.examples.posterior_replay.{module}", description=title
    )
    names = list(methods)
    parser.add_argument(
        "--method", choices=[*names, "all"], default=names[0], help="which to run; default: %(default)s"
    )
    parser.add_argument(
        "--seeds", type=integer_from(1), default=5, help="number of runs; default: %(default)s"
    )
    parser.add_argument("--first_seed", type=integer_from(0), default=0, help="seed of the first run")
    parser.add_argument("--n_iter", type=integer_from(1), help="steps a task instead of those of the method")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one seed, whatever --seeds says, and fewer steps: two minutes at most",
    )
    parser.add_argument("--out_dir", type=Path, default=DEFAULT_FOLDER, help="where results and pictures go")
    parser.add_argument("--no_pictures", action="store_true", help="draw nothing")
    parser.add_argument(
        "--threads", type=integer_from(1), default=1, help="threads; such networks gain nothing from more"
    )
    return parser


def run_command(experiment: Experiment, config: argparse.Namespace) -> int:
    """Do what a command does: run the methods that were asked for, and say what is wrong if anything is.

    Args:
        experiment: The experiment.
        config: The options.

    Returns:
        The exit status of the process.
    """
    try:
        print(format_table(run(experiment, config)))
    except (InputError, OSError, ImportError, NotFiniteError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def run(experiment: Experiment, config: argparse.Namespace) -> list[dict[str, Any]]:
    """Run the methods that were asked for, and store what came out, a file a method.

    Args:
        experiment: The experiment.
        config: The options.

    Returns:
        What was stored, an entry a method.

    Raises:
        ImportError: If pictures are asked for and matplotlib is not installed.
        OSError: If data are not there, or the output folder can't be written.
        NotFiniteError: If a term of a loss is not finite.
    """
    config.out_dir.mkdir(parents=True, exist_ok=True)
    if not config.no_pictures:
        check_matplotlib()
    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    # Adam's moments of weights without gradients decay through numbers that CPUs are slow with.
    torch.set_flush_denormal(True)
    try:
        names = list(experiment.methods) if config.method == "all" else [config.method]
        return [_run_method(experiment, name, config) for name in names]
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)


def _run_method(experiment: Experiment, name: str, config: argparse.Namespace) -> dict[str, Any]:
    method = experiment.methods[name]
    settings, seeds = method.settings, config.seeds
    if config.quick:
        settings, seeds = replace(settings, n_iter=min(settings.n_iter, experiment.quick_steps)), 1
    if config.n_iter is not None:
        settings = replace(settings, n_iter=config.n_iter)
    runs = []
    for seed in range(config.first_seed, config.first_seed + seeds):
        start = time.perf_counter()
        tasks = experiment.make_tasks(seed)
        torch.manual_seed(seed)
        learner = experiment.make_learner(settings, tasks)
        optimization = Optimization(
            **{f.name: getattr(settings, f.name) for f in dataclasses.fields(Optimization)}
        )
        measured = learn_tasks(learner, tasks, optimization, settings.val_sample_size, experiment.measure)
        runs.append({"seed": seed, **measured.figures, "details": measured.details})
        figures = ", ".join(f"{key} {value:.4g}" for key, value in measured.figures.items())
        print(f"{method.title}, seed {seed}: {figures} ({time.perf_counter() - start:.0f} s)", flush=True)
        if seed == config.first_seed and not config.no_pictures:
            for path in experiment.draw(
                learner, tasks, measured, config.out_dir, f"{experiment.name}_{name}"
            ):
                print(f"  {path}")
    result = {
        "experiment": experiment.name,
        "method": name,
        "title": method.title,
        "published": dict(method.published),
        "criterion": method.criterion,
        "note": method.note,
        "settings": dataclasses.asdict(settings),
        "runs": runs,
    }
    text = json.dumps(result, indent=1, sort_keys=True)
    write_atomically(config.out_dir / f"{experiment.name}_{name}.json", (text + "\n").encode())
    return result


def inferred_by(result: Mapping[str, Any]) -> str | None:
    """By what tasks were inferred, for the figure "inferred": as published, or else what was best on average.

    Args:
        result: What was stored of a method.

    Returns:
        The criterion, None where no task is inferred.
    """
    if result["criterion"] is not None:
        return result["criterion"]
    prefix = "inferred by "
    means = {
        key.removeprefix(prefix): statistics.fmean(run[key] for run in result["runs"])
        for key in result["runs"][0]
        if key.startswith(prefix)
    }
    # Of equal ones that of the first name: stored runs are in another order than those just made.
    return max(sorted(means), key=lambda name: means[name]) if means else None


def summarize(result: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation over seeds of what is compared with the published figures.

    Args:
        result: What was stored of a method.

    Returns:
        The figures by the names that the table has, in its order.

    Raises:
        KeyError: If one is missing in a run.
    """
    figures = {}
    for key, published in result["published"].items():
        for name, _ in _pairs(key, published):
            stored = f"inferred by {inferred_by(result)}" if name == "inferred" else name
            values = [float(run[stored]) for run in result["runs"]]
            figures[name] = (statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0)
    return figures


def format_table(results: Sequence[Mapping[str, Any]]) -> str:
    """A table in Markdown of published figures and ours, with the spread over seeds, and notes below it.

    Args:
        results: What was stored of methods.

    Raises:
        KeyError: If a figure is missing in a run.
    """
    lines = [
        "| experiment | method | figure | published | here | seeds | steps a task |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    notes = []
    for result in results:
        figures, num_seeds = summarize(result), len(result["runs"])
        head = (result["experiment"], result["title"])
        for key, published in result["published"].items():
            for name, value in _pairs(key, published):
                mean, spread = figures[name]
                cells = (
                    *head,
                    f"{name} ({inferred_by(result)})" if name == "inferred" else name,
                    "–" if value is None else f"{value:g}",
                    f"{mean:.4g} ± {spread:.2g}" if num_seeds > 1 else f"{mean:.4g}",
                    num_seeds,
                    result["settings"]["n_iter"],
                )
                lines.append(f"| {' | '.join(map(str, cells))} |")
                head = ("", "")
        if result["note"]:
            notes.append(f"- {result['experiment']}, {result['title']}: {result['note']}")
    return "\n".join([*lines, *([""] if notes else []), *notes])


def _pairs(key: str, published: Any) -> list[tuple[str, float | None]]:
    """A figure by its name, or that of each task."""
    if isinstance(published, (list, tuple)):
        return [(f"{key} of task {t}", value) for t, value in enumerate(published)]
    return [(key, published)]
