"""Posterior replay on Gaussian mixtures: three tasks of two components each in the plane.

Each task is to tell its two components apart, with outputs of its own. If the task of an input is not given,
it is the one whose posterior is the surest. Settings are the published ones where the method says nothing
else. Run it with ``python -m hnetfast.examples.posterior_replay.gmm --method=bbb``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from hnetfast.data.special.gaussian_mixture_data import CHE_MEANS, get_gmm_tasks
from hnetfast.data.special.gmm_data import GMMData
from hnetfast.examples.posterior_replay import _figures
from hnetfast.examples.posterior_replay._experiment import Experiment, Method, make_parser, run_command
from hnetfast.examples.posterior_replay._learners import Learner, Task
from hnetfast.examples.posterior_replay._settings import Settings, make_learner
from hnetfast.examples.posterior_replay._training import measure_classes

NUM_TASKS = 3
STD = 0.2  # of the components
NUM_SAMPLES = 100  # of a component, for training and for testing

_POINT = Settings(kl_scale=0.0, val_sample_size=1)
_GAUSSIAN = Settings(family="gaussian", clip_grad_norm=1.0, train_sample_size=10, hyper_gauss_init=True)

METHODS = {
    "deterministic": Method(
        "One solution a task",
        replace(_POINT, lr=1e-4),
        {"given": 100, "inferred": 45},
    ),
    "bbb": Method(
        "Bayes by backprop",
        replace(
            _GAUSSIAN,
            lr=5e-4,
            beta=0.1,
            regularizer="w2",
            local_reparam_trick=True,
            hmlp_arch=(50, 50),
            cond_emb_size=32,
            hnet_net_act="sigmoid",
        ),
        {"given": 100, "inferred": 90},
        "agreement",
    ),
    "radial": Method(
        "Radial posterior",
        replace(_GAUSSIAN, family="radial", beta=1.0, hmlp_arch=(50, 50), cond_emb_size=8),
        {"given": 95, "inferred": 76},
        "agreement",
    ),
    "avb": Method(
        "Implicit posterior, AVB",
        Settings(
            family="avb",
            beta=0.1,
            train_sample_size=100,
            num_kl_samples=10,
            imp_hmlp_arch=(100, 100),
            hmlp_arch=(100, 100),
            cond_emb_size=8,
        ),
        {"given": 100, "inferred": 100},
        note="embeddings of 8 numbers, published with 2: these are drawn too near each other with most seeds",
    ),
    "ssge": Method(
        "Implicit posterior, SSGE",
        Settings(
            family="ssge",
            n_iter=20001,
            clip_grad_norm=1.0,
            beta=0.1,
            train_sample_size=10,
            hmlp_arch=(100, 100),
            cond_emb_size=32,
            latent_dim=32,
            thr_ssge_eigenvals=0.9,
        ),
        {"given": 100, "inferred": 100},
    ),
    "ewc": Method(
        "Elastic weight consolidation, growing softmax",
        replace(_POINT, approach="ewc", n_iter=10001, lr=5e-4, clip_grad_value=1.0),
        {"inferred": 50},
        "softmax",
    ),
    "vcl": Method(
        "Prior-focused VCL",
        Settings(
            approach="prior_focused",
            family="gaussian",
            n_iter=10001,
            lr=5e-4,
            train_sample_size=100,
            initial_std=0.003,
            initial_mean_std=0.1,
        ),
        {"given": 100, "inferred": 45.17},
        "entropy",
    ),
    "ewc_fixed": Method(
        "Elastic weight consolidation, fixed softmax",
        replace(
            _POINT,
            approach="ewc",
            n_iter=2001,
            lr=1e-4,
            clip_grad_value=1.0,
            ewc_lambda=10.0,
            non_growing_sf_cl3=True,
        ),
        {"inferred": 66.97},
        "softmax",
    ),
    "separate": Method(
        "A network a task",
        replace(_POINT, approach="separate", n_iter=10001, clip_grad_norm=1.0),
        {"given": 100, "inferred": 71},
    ),
    "separate_bbb": Method(
        "A Gaussian network a task",
        Settings(
            approach="separate",
            family="gaussian",
            n_iter=10001,
            clip_grad_norm=1.0,
            local_reparam_trick=True,
        ),
        {"given": 100, "inferred": 88},
        "agreement",
    ),
    "fine_tuned": Method(
        "Fine-tuning the network",
        replace(_POINT, approach="single", n_iter=2001),
        {"given": 99.90, "inferred": 47.98},
        "entropy",
    ),
    "fine_tuned_hnet": Method(
        "Fine-tuning the hypernetwork",
        replace(
            _POINT,
            n_iter=10001,
            lr=5e-4,
            clip_grad_norm=1.0,
            beta=0.0,
            hmlp_arch=(50, 50),
            cond_emb_size=8,
        ),
        {"given": 100, "inferred": 49.68},
        "entropy",
    ),
}


def make_tasks(seed: int) -> list[Task]:
    """Draw the points of all tasks.

    Args:
        seed: Their seed.
    """
    components = get_gmm_tasks(
        means=CHE_MEANS[: 2 * NUM_TASKS],
        covs=[STD**2 * np.eye(2)] * (2 * NUM_TASKS),
        num_train=NUM_SAMPLES,
        num_test=NUM_SAMPLES,
        rseed=2 * NUM_TASKS * seed,
    )
    pairs = zip(components[::2], components[1::2], strict=True)
    return [Task.of(GMMData(list(pair), classification=True, use_one_hot=True)) for pair in pairs]


def _make_learner(settings: Settings, tasks: Sequence[Task]) -> Learner:
    return make_learner(settings, n_in=2, n_out=2, num_tasks=len(tasks))


EXPERIMENT = Experiment(
    name="gmm",
    title="Gaussian mixtures, three tasks",
    methods=METHODS,
    make_tasks=make_tasks,
    make_learner=_make_learner,
    quick_steps=1500,
    measure=measure_classes,
    draw=_figures.draw_plane,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Its options; those of the command line by default.

    Returns:
        Its exit status.
    """
    return run_command(EXPERIMENT, make_parser("gmm", EXPERIMENT.title, METHODS).parse_args(arguments))


if __name__ == "__main__":
    raise SystemExit(main())
