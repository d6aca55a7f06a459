"""Posterior replay on split MNIST with a small main network: five tasks of two digits each.

The published figures are those of MNIST; Fashion-MNIST and scikit-learn's digits, which need no download,
stand in where it cannot be had and are compared with a single solution a task only. Run it with
``python -m hnetfast.examples.posterior_replay.split_mnist --data=mnist --data_dir=datasets``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from hnetfast.data import DigitsData, FashionMNISTData, MNISTData, split_by_class
from hnetfast.data.dataset import Dataset
from hnetfast.examples.posterior_replay import _figures
from hnetfast.examples.posterior_replay._experiment import Experiment, Method, make_parser, run_command
from hnetfast.examples.posterior_replay._learners import Learner, Task
from hnetfast.examples.posterior_replay._settings import Settings, make_learner
from hnetfast.examples.posterior_replay._training import measure_classes

NUM_CLASSES = 2  # of a task

DATA: dict[str, Callable[[Path], Dataset]] = {
    "digits": lambda folder: DigitsData(use_one_hot=True),
    "mnist": lambda folder: MNISTData(folder, use_one_hot=True, validation_size=0),
    "fashion_mnist": lambda folder: FashionMNISTData(folder, use_one_hot=True),
}
"""The data sets by name, made from the folder where their files are."""

_PUBLISHED = {"deterministic": {"given": 99.7, "inferred": 63}}
_NOTE = "settings are ours"

_POINT = Settings(
    n_iter=2000,
    lr=5e-4,
    batch_size=128,
    kl_scale=0.0,
    val_sample_size=1,
    cond_emb_size=8,
)
_BAYESIAN = Settings(
    n_iter=2000,
    batch_size=128,
    clip_grad_norm=1.0,
    kl_scale=0.1,  # with all of it, some tasks stay at the prior
    val_sample_size=20,
    cond_emb_size=8,
)

SETTINGS = {
    "deterministic": ("One solution a task", _POINT),
    "bbb": (
        "Bayes by backprop",
        replace(
            _BAYESIAN,
            family="gaussian",
            lr=1e-3,
            beta=3.0,
            regularizer="w2",
            train_sample_size=1,
            local_reparam_trick=True,
            hyper_gauss_init=True,
        ),
    ),
    "ssge": ("Implicit posterior, SSGE", replace(_BAYESIAN, family="ssge", beta=3.0)),
    "separate": ("A network a task", replace(_POINT, approach="separate")),
    "fine_tuned": ("Fine-tuning the hypernetwork", replace(_POINT, beta=0.0)),
}
"""Title and settings of each method."""


def make_experiment(data: str, folder: Path) -> Experiment:
    """The experiment on one of the data sets.

    Args:
        data: Its name, one of ``DATA``.
        folder: Where its files are, or are downloaded to.
    """

    @cache
    def load() -> list[Task]:
        return [
            Task.of(task) for task in split_by_class(DATA[data](folder), num_classes_per_task=NUM_CLASSES)
        ]

    def method(name: str) -> Method:
        title, settings = SETTINGS[name]
        published = _PUBLISHED.get(name, {}) if data == "mnist" else {}
        figures = {key: published.get(key) for key in ("given", "inferred")}
        return Method(title, settings, figures, note=_NOTE)

    return Experiment(
        name=f"split_{data}",
        title="Split MNIST, five tasks of two classes, a small main network",
        methods={name: method(name) for name in SETTINGS},
        make_tasks=lambda seed: load(),
        make_learner=_make_learner,
        quick_steps=500,
        measure=measure_classes,
        draw=_figures.draw_classes,
    )


def _make_learner(settings: Settings, tasks: Sequence[Task]) -> Learner:
    return make_learner(settings, n_in=tasks[0].x.shape[1], n_out=NUM_CLASSES, num_tasks=len(tasks))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Its options; those of the command line by default.

    Returns:
        Its exit status.
    """
    parser = make_parser("split_mnist", "Split MNIST with a small main network", SETTINGS)
    parser.add_argument(
        "--data", choices=list(DATA), default="digits", help="the images; digits come with scikit-learn"
    )
    parser.add_argument(
        "--data_dir",
        type=Path,
        default=Path("datasets"),
        help="where MNIST's files are, or are downloaded to",
    )
    config = parser.parse_args(arguments)
    return run_command(make_experiment(config.data, config.data_dir), config)


if __name__ == "__main__":
    raise SystemExit(main())
