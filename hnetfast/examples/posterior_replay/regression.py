"""Three polynomials learned one after another, as in the first paper on hypernetworks for continual learning.

Von Oswald et al., "Continual learning with hypernetworks", 2020, https://arxiv.org/abs/1906.00695, fig. 2.
Run it with ``python -m hnetfast.examples.posterior_replay.regression``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hnetfast.data.special.regression1d_data import ToyRegression
from hnetfast.examples.posterior_replay import _figures
from hnetfast.examples.posterior_replay._experiment import Experiment, Method, make_parser, run_command
from hnetfast.examples.posterior_replay._learners import Learner, Task
from hnetfast.examples.posterior_replay._settings import Settings, make_learner
from hnetfast.examples.posterior_replay._training import Measurements

STD = 0.05  # of the noise
INTERVALS = ((-4, -2), (-1, 1), (2, 4))
FUNCTIONS = (lambda x: x + 3, lambda x: 2 * x**2 - 1, lambda x: (x - 3) ** 3)
PUBLISHED = (0.004, 0.002, 0.006)

METHODS = {
    "deterministic": Method(
        "One solution a task",
        Settings(
            n_iter=4001,
            lr=1e-2,
            cond_emb_size=8,
            beta=0.005,
            kl_scale=0.0,
            net_act="sigmoid",
            hnet_net_act="sigmoid",
            val_sample_size=1,
        ),
        {"mse": PUBLISHED},
    ),
    "bbb": Method(
        "Bayes by backprop",
        Settings(
            family="gaussian",
            n_iter=4001,
            lr=5e-3,
            beta=10.0,
            regularizer="w2",
            train_sample_size=10,
            local_reparam_trick=True,
            net_act="sigmoid",
            hmlp_arch=(50, 50),
            cond_emb_size=8,
            hnet_net_act="sigmoid",
            hyper_gauss_init=True,
        ),
        {"mse": (None, None, None)},
        note="not published",
    ),
    "fine_tuned": Method(
        "Fine-tuning the hypernetwork",
        Settings(
            n_iter=4001,
            lr=1e-2,
            cond_emb_size=8,
            beta=0.0,
            kl_scale=0.0,
            net_act="sigmoid",
            hnet_net_act="sigmoid",
            val_sample_size=1,
        ),
        {"mse": (None, None, None)},
        note="what the regulariser prevents",
    ),
}


def make_tasks(seed: int) -> list[Task]:
    """Draw the points of all tasks.

    Args:
        seed: Their seed.
    """
    return [
        Task.of(
            ToyRegression(interval, 100, interval, 50, map_function=function, std=STD, rseed=3 * seed + t)
        )
        for t, (interval, function) in enumerate(zip(INTERVALS, FUNCTIONS, strict=True))
    ]


def _make_learner(settings: Settings, tasks: Sequence[Task]) -> Learner:
    # Point estimates minimise the mean squared error itself.
    variance = 0.5 if settings.family == "point" else STD**2
    return make_learner(settings, n_in=1, n_out=1, num_tasks=len(tasks), variance=variance)


@torch.no_grad()
def measure(learner: Learner, tasks: Sequence[Task], num_samples: int) -> Measurements:
    """Measure mean squared errors of mean predictions on the test sets.

    Args:
        learner: What has learned the tasks.
        tasks: The tasks.
        num_samples: Number of samples of each posterior.
    """
    errors = [
        float((learner.predict(t, task.x_test, num_samples).mean(0) - task.y_test).square().mean())
        for t, task in enumerate(tasks)
    ]
    return Measurements({f"mse of task {t}": e for t, e in enumerate(errors)}, {"by task": {"mse": errors}})


EXPERIMENT = Experiment(
    name="regression",
    title="Three polynomials",
    methods=METHODS,
    make_tasks=make_tasks,
    make_learner=_make_learner,
    quick_steps=4001,
    measure=measure,
    draw=_figures.draw_functions,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Its options; those of the command line by default.

    Returns:
        Its exit status.
    """
    return run_command(EXPERIMENT, make_parser("regression", EXPERIMENT.title, METHODS).parse_args(arguments))


if __name__ == "__main__":
    raise SystemExit(main())
