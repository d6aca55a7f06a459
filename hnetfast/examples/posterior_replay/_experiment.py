"""What experiments on small networks share: options, runs of several seeds, and their results as files."""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from hnetfast._errors import InputError
from hnetfast._files import write_atomically
from hnetfast.examples.posterior_replay._learners import Learner, Task
from hnetfast.examples.posterior_replay._settings import Settings
from hnetfast.examples.posterior_replay._training import Measurements, Optimization, learn_tasks

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


def add_options(parser: argparse.ArgumentParser, methods: Sequence[str]) -> None:
    """Add the options that all experiments have.

    Args:
        parser: The parser.
        methods: Names of the methods.
    """
    parser.add_argument("--method", choices=[*methods, "all"], default=methods[0], help="which to run")
    parser.add_argument("--seeds", type=int, default=5, help="number of runs, with seeds from 0")
    parser.add_argument("--first_seed", type=int, default=0, help="seed of the first run")
    parser.add_argument("--n_iter", type=int, help="steps a task instead of those of the method")
    parser.add_argument("--quick", action="store_true", help="one seed and fewer steps: two minutes")
    parser.add_argument("--out_dir", type=Path, default=DEFAULT_FOLDER, help="where results and pictures go")
    parser.add_argument("--no_pictures", action="store_true", help="draw nothing")
    parser.add_argument(
        "--threads", type=int, default=1, help="threads; such networks gain nothing from more"
    )


def run(experiment: Experiment, config: argparse.Namespace) -> list[dict[str, Any]]:
    """Run the methods that were asked for, store and print what came out.

    Args:
        experiment: The experiment.
        config: The options.

    Returns:
        What was stored, an entry a method.
    """
    for name in ("seeds", "threads"):
        if getattr(config, name) < 1:
            raise InputError(f"{name}: expected a positive integer, got {getattr(config, name)}")
    torch.set_num_threads(config.threads)
    # Adam's moments of weights without gradients decay through numbers that CPUs are slow with.
    torch.set_flush_denormal(True)
    names = list(experiment.methods) if config.method == "all" else [config.method]
    results = [_run_method(experiment, name, config) for name in names]
    print(format_table(results))
    return results


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
    config.out_dir.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=1, sort_keys=True)
    write_atomically(config.out_dir / f"{experiment.name}_{name}.json", (text + "\n").encode())
    return result


def summarize(result: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation over seeds of what is compared with the published figures.

    Args:
        result: What was stored of a method.

    Returns:
        The figures by name. "inferred" is that of the method's criterion, or of the best one by its mean.
    """
    runs = result["runs"]
    columns = {key: [run[key] for run in runs] for key in runs[0] if isinstance(runs[0][key], (int, float))}
    figures = {key: _spread(values) for key, values in columns.items() if key != "seed"}
    inferred = {key: value for key, value in figures.items() if key.startswith("inferred by ")}
    if inferred:
        criterion = result["criterion"]
        best = max(inferred, key=lambda key: inferred[key][0])
        figures["inferred"] = inferred[best if criterion is None else f"inferred by {criterion}"]
    return figures


def _spread(values: Sequence[float]) -> tuple[float, float]:
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def format_table(results: Sequence[Mapping[str, Any]]) -> str:
    """A table in Markdown of published figures and ours, with the spread over seeds.

    Args:
        results: What was stored of methods.
    """
    lines = [
        "| experiment | method | figure | published | here | seeds | steps a task |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results:
        figures = summarize(result)
        for key, published in result["published"].items():
            for j, (name, value) in enumerate(_pairs(key, published)):
                mean, spread = figures[name]
                here = f"{mean:.4g} ± {spread:.2g}" if len(result["runs"]) > 1 else f"{mean:.4g}"
                title = result["title"] if j == 0 and key == next(iter(result["published"])) else ""
                experiment = result["experiment"] if title else ""
                by = f" ({result['criterion']})" if name == "inferred" and result["criterion"] else ""
                shown = "–" if value is None else f"{value:g}"
                lines.append(
                    f"| {experiment} | {title} | {name}{by} | {shown} | {here} | {len(result['runs'])} | "
                    f"{result['settings']['n_iter']} |"
                )
    return "\n".join(lines)


def _pairs(key: str, published: Any) -> list[tuple[str, float | None]]:
    """A figure by its name, or that of each task."""
    if isinstance(published, (list, tuple)):
        return [(f"{key} of task {t}", value) for t, value in enumerate(published)]
    return [(key, published)]
