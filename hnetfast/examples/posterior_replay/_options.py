"""The options of the posterior-replay commands: a parser for each method.

There are three methods. In "bbb" (Bayes by backprop) a hypernetwork generates means and scales of a Gaussian
over the main network's weights. In "ssge" and "avb" an implicit hypernetwork (options ``--imp_…``) turns
noise into samples of these weights, and a hyper-hypernetwork (``--hh_…``) generates the implicit one; the
methods differ in how they estimate the divergence from the prior.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hnetfast.examples._run_options import add_run_options
from hnetfast.utils import cli_args
from hnetfast.utils._cli_options import Option

METHODS = ("bbb", "ssge", "avb")


@dataclass(frozen=True)
class Experiment:
    """What the command lines of an experiment have in common, whatever the method.

    Attributes:
        about: What is learned, for the help.
        main_nets: Types of main networks, the default first.
        hnets: Types of hypernetworks, the default first.
        images: Whether the tasks are parts of a data set of images, instead of being drawn at random.
        without: Options that the experiment has no use for.
        defaults: Defaults that differ: ``d<option>`` for each of the functions of
            :mod:`hnetfast.utils.cli_args`, which its name stands for.
    """

    about: str
    main_nets: tuple[str, ...]
    hnets: tuple[str, ...]
    images: bool
    without: tuple[str, ...] = ()
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


IMAGES = Experiment(
    about="tasks of SplitCIFAR",
    main_nets=("resnet", "wrn", "iresnet"),
    hnets=("chunked_hmlp", "hmlp", "structured_hmlp"),
    images=True,
    without=("mnet_only", "local_reparam_trick", "keep_orig_init", "use_prev_post_as_prior", "prior_focused"),
    defaults={
        "cl_args": {"dnum_tasks": 6, "dnum_classes_per_task": 10},
        "train_args": {"dlr": 1e-3, "dn_iter": 5000},
    },
)

MIXTURES = Experiment(
    about="mixtures of Gaussians",
    main_nets=("mlp",),
    hnets=("hmlp", "chunked_hmlp"),
    images=False,
    defaults={
        "cl_args": {"dnum_tasks": 3, "dnum_classes_per_task": 2},
        "train_args": {"dlr": 1e-3, "dn_iter": 5001},
        "main_net_args": {"dmlp_arch": "10,10"},
        "hnet_args": {"dhmlp_arch": "10,10"},
    },
)

_SKIP_TASKS = Option(
    "skip_tasks",
    int,
    "Number of tasks of the split that are left out, the first ones; CIFAR-10's come first.",
    0,
)
_POSTERIOR = [
    Option("train_sample_size", int, "Number of weight samples in a training step.", 1),
    Option("val_sample_size", int, "Number of weight samples in validation and test.", 10),
    Option("prior_variance", float, "Variance of the prior, a Gaussian around zero.", 1.0),
    Option(
        "kl_scale",
        float,
        "Factor of the divergence from the prior, besides 1 / number of training samples; 0 leaves it out.",
        1.0,
    ),
    Option("num_kl_samples", int, "Number of weight samples that a divergence is estimated with.", 1),
]
_GAUSSIAN = [
    Option(
        "regularizer",
        str,
        "What keeps the posteriors of earlier tasks: the squared change of what the hypernetwork generates "
        "(mse), the divergence of the earlier posterior from the present one (fkl), of the present from the "
        "earlier one (rkl), or their Wasserstein distance (w2).",
        "mse",
        choices=("mse", "fkl", "rkl", "w2"),
    ),
    Option("mean_only", bool, "Learn a single solution for each task instead of a distribution."),
    Option(
        "mnet_only", bool, "No hypernetwork: the main network keeps one Gaussian, or one solution, itself."
    ),
    Option("use_prev_post_as_prior", bool, "The posterior of the last task is the prior of the next one."),
    Option("local_reparam_trick", bool, "Sample activations instead of weights."),
    Option("radial_bnn", bool, "A radial distribution instead of a Gaussian (arXiv:1907.00865)."),
    Option("hyper_gauss_init", bool, "Initialise the hypernetwork so that means and scales begin as usual."),
    Option("keep_orig_init", bool, "Means begin at the main network's own initialisation."),
]
_GCD_CHUNKING = Option(
    "shmlp_gcd_chunking",
    bool,
    "If the {network} is of type structured_hmlp: cut layers into chunks of as many channels as divide those "
    "of all of them, instead of having internal hypernetworks for layers that differ.",
)
_IMPLICIT = [
    Option(
        "full_support_perturbation",
        float,
        "Standard deviation of noise that is added to weight samples, so that every weight has a density; -1 "
        "is no noise.",
        -1,
    ),
    Option(
        "prior_focused",
        bool,
        "No hyper-hypernetwork: one implicit distribution, which is the prior of the next task once learned.",
    ),
]
_SSGE = [
    Option("rbf_kernel_width", float, "Width of its kernel; -1 is the median distance between samples.", -1),
    Option("num_ssge_eigenvals", int, "Number of eigenvalues it uses; -1 leaves it to the threshold.", -1),
    Option(
        "thr_ssge_eigenvals",
        float,
        "It uses the largest eigenvalues that make up this share of their sum.",
        1.0,
    ),
    Option("ssge_sample_size", int, "Number of weight samples that it estimates with.", 10),
]
_AVB = [
    Option("dis_lr", float, "Learning rate of the discriminator; -1 is that of the networks.", -1),
    Option(
        "dis_batch_size", int, "Number of weight samples of each kind in a step of the discriminator.", 10
    ),
    Option("num_dis_steps", int, "Number of steps of the discriminator for each training step.", 1),
    Option(
        "use_batchstats", bool, "The discriminator also sees the statistics of the batch of weight samples."
    ),
    Option("num_ac_samples", int, "Number of weight samples of adaptive contrast.", 100),
]


def make_parser(method: str, experiment: Experiment) -> argparse.ArgumentParser:
    """Make the parser of a command.

    Args:
        method: One of ``METHODS``.
        experiment: What is learned.

    Returns:
        The parser. What it parses is to be checked by
        :func:`hnetfast.examples.posterior_replay._command_line.check_options`.
    """
    makers = {"bbb": _bbb_parser, "ssge": _ssge_parser, "avb": _avb_parser}
    return makers[method](experiment)


def _bbb_parser(experiment: Experiment) -> argparse.ArgumentParser:
    parser = _common_parser(experiment, "by Bayes by backprop: a hypernetwork generates Gaussian posteriors")
    _add_hnet(parser, experiment, None, None)
    _add_group(parser, experiment, "Options of the Gaussian posterior", _GAUSSIAN)
    return parser


def _ssge_parser(experiment: Experiment) -> argparse.ArgumentParser:
    parser = _implicit_parser(experiment, "the spectral Stein gradient estimator")
    _add_group(parser, experiment, "Options of the spectral Stein gradient estimator", _SSGE)
    return parser


def _avb_parser(experiment: Experiment) -> argparse.ArgumentParser:
    parser = _implicit_parser(experiment, "adversarial variational Bayes")
    cli_args.main_net_args(
        parser,
        ["mlp"],
        dmlp_arch="10,10",
        show_batchnorm=False,
        show_specnorm=False,
        prefix="dis_",
        pf_name="discriminator",
    )
    group = _add_group(parser, experiment, "Options of adversarial variational Bayes", _AVB)
    # The discriminator is an MLP; command lines say so all the same.
    _add_options(group, experiment, [Option("dis_net_type", str, "Type of it.", "mlp", choices=("mlp",))])
    return parser


def _implicit_parser(experiment: Experiment, estimator: str) -> argparse.ArgumentParser:
    parser = _common_parser(
        experiment,
        f"by {estimator}: a hyper-hypernetwork generates implicit posteriors, from which weights are drawn",
    )
    group = _add_hnet(parser, experiment, "imp_", "implicit hyper")
    cli_args.generator_args(group, dlatent_dim=8)
    _add_options(group, experiment, _IMPLICIT)
    _add_hnet(parser, experiment, "hh_", "hyper-hyper")
    return parser


def _common_parser(experiment: Experiment, method: str) -> argparse.ArgumentParser:
    """A parser with the options that do not depend on the method."""
    parser = argparse.ArgumentParser(
        description=f"Learn {experiment.about} one after another {method}. Henning, Cervera et al., 2021, "
        "arXiv:2103.01133.",
        allow_abbrev=False,  # an option is one of several that begin alike
    )
    defaults = experiment.defaults
    group = cli_args.cl_args(
        parser,
        show_from_scratch=not experiment.images,
        show_num_tasks=True,
        show_num_classes_per_task=experiment.images,
        show_hnet_reg_batch_size=True,
        **defaults.get("cl_args", {}),
    )
    if experiment.images:
        _add_options(group, experiment, [_SKIP_TASKS])
    cli_args.train_args(
        parser,
        show_lr=True,
        show_epochs=True,
        show_adam_beta1=True,
        show_momentum=False,
        show_clip_grad_value=True,
        show_clip_grad_norm=True,
        **defaults.get("train_args", {}),
    )
    cli_args.main_net_args(
        parser,
        experiment.main_nets,
        show_net_act=not experiment.images,  # residual networks have one of their own
        show_no_bias=True,
        show_specnorm=False,
        show_batchnorm=False,
        show_no_batchnorm=experiment.images,
        show_bn_no_running_stats=experiment.images,
        show_bn_no_stats_checkpointing=experiment.images,
        **defaults.get("main_net_args", {}),
    )
    cli_args.init_args(
        parser, custom_option=False, show_normal_init=False, show_hyper_fan_init=not experiment.images
    )
    cli_args.eval_args(
        parser,
        show_val_batch_size=True,
        show_val_set_size=experiment.images,
        show_test_with_val_set=experiment.images,
    )
    _add_data_options(parser, experiment)
    _add_group(parser, experiment, "Options of posteriors", _POSTERIOR)
    group = cli_args.miscellaneous_args(
        parser, big_data=False, synthetic_data=not experiment.images, show_plots=not experiment.images
    )
    add_run_options(group)
    return parser


def _add_data_options(parser: argparse.ArgumentParser, experiment: Experiment) -> None:
    if not experiment.images:
        return
    group = cli_args.data_args(
        parser, show_disable_data_augmentation=True, show_data_dir=True, ddata_dir="datasets"
    )
    group.add_argument(
        "--synthetic_data",
        type=int,
        nargs="?",
        const=50,
        default=0,
        metavar="N",
        help="Learn made images of the same shape, which need no download, instead: N of each class (50 if "
        "none is given), and a tenth as many for testing. 0 is CIFAR. Default: %(default)s.",
    )


def _add_hnet(
    parser: argparse.ArgumentParser, experiment: Experiment, prefix: str | None, name: str | None
) -> argparse._ArgumentGroup:
    """Add the options of a hypernetwork.

    Args:
        parser: The parser.
        experiment: What is learned.
        prefix: What the options' names begin with.
        name: What the help calls the "… network".
    """
    implicit = prefix == "imp_"  # it has no conditions, but noise as its input
    hnets = [net for net in experiment.hnets if net != "structured_hmlp" or prefix != "hh_"]
    group = cli_args.hnet_args(
        parser,
        hnets,
        dchunk_emb_size="8",
        show_cond_emb_size=not implicit,
        show_use_cond_chunk_embs=not implicit,
        prefix=prefix,
        pf_name=name,
        show_no_bias=True,
        show_specnorm=False,
        show_batchnorm=False,
        **experiment.defaults.get("hnet_args", {}),
    )
    if "structured_hmlp" in hnets:
        cli_args._add_options(group, [_GCD_CHUNKING], {}, prefix or "", f"{name or ''}network")
    return group


def _add_group(
    parser: argparse.ArgumentParser, experiment: Experiment, title: str, options: list[Option]
) -> argparse._ArgumentGroup:
    group = parser.add_argument_group(title)
    _add_options(group, experiment, options)
    return group


def _add_options(group: argparse._ArgumentGroup, experiment: Experiment, options: list[Option]) -> None:
    cli_args._add_options(group, [option for option in options if option.name not in experiment.without], {})
