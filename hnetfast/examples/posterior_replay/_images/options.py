"""The options of the commands that learn tasks of images.

In the method "bbb" (Bayes by backprop) a hypernetwork generates means and scales of a Gaussian over the main
network's weights. In "ssge" (named after the estimator of the divergence from the prior) an implicit
hypernetwork (options ``--imp_…``) turns noise into samples of these weights, and a hyper-hypernetwork
(``--hh_…``) generates the implicit one.
"""

from __future__ import annotations

import argparse

from hnetfast.examples._run_options import add_run_options
from hnetfast.utils import cli_args
from hnetfast.utils._cli_options import Option

METHODS = ("bbb", "ssge")

# Types of networks, the default first.
MAIN_NETS = ("resnet", "wrn", "iresnet")
HNETS = ("chunked_hmlp", "hmlp", "structured_hmlp")

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
        "local_reparam_trick",
        bool,
        "In training, sample results of layers instead of weights (arXiv:1506.02557).",
    ),
    Option("radial_bnn", bool, "A radial distribution instead of a Gaussian (arXiv:1907.00865)."),
    Option("hyper_gauss_init", bool, "Initialise the hypernetwork so that means and scales begin as usual."),
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


def make_parser(method: str) -> argparse.ArgumentParser:
    """Make the parser of a command.

    Args:
        method: One of ``METHODS``.

    Returns:
        The parser. What it parses is to be checked by
        :func:`hnetfast.examples.posterior_replay._images.command_line.check_options`.
    """
    what = (
        "Bayes by backprop: a hypernetwork generates a Gaussian posterior for each task"
        if method == "bbb"
        else "the spectral Stein gradient estimator: a hyper-hypernetwork generates hypernetworks that turn "
        "noise into weights"
    )
    parser = argparse.ArgumentParser(
        description=f"Learn tasks of SplitCIFAR one after another by {what}. Henning, Cervera et al., 2021, "
        "arXiv:2103.01133.",
        allow_abbrev=False,  # many options begin alike
    )
    _add_task_options(parser)
    _add_training_options(parser)
    _add_main_net_options(parser)
    if method == "bbb":
        _add_hnet(parser, None, None)
        _add_group(parser, "Options of the Gaussian posterior", _GAUSSIAN)
    else:
        group = _add_hnet(parser, "imp_", "implicit hyper")
        cli_args.generator_args(group, dlatent_dim=8)
        cli_args._add_options(group, _IMPLICIT, {})
        _add_hnet(parser, "hh_", "hyper-hyper")
        _add_group(parser, "Options of the spectral Stein gradient estimator", _SSGE)
    cli_args.init_args(parser, custom_option=False, show_normal_init=False)
    add_run_options(cli_args.miscellaneous_args(parser, big_data=False))
    return parser


def _add_task_options(parser: argparse.ArgumentParser) -> None:
    group = cli_args.cl_args(
        parser,
        show_num_tasks=True,
        dnum_tasks=6,
        show_num_classes_per_task=True,
        dnum_classes_per_task=10,
        show_hnet_reg_batch_size=True,
    )
    cli_args._add_options(group, [_SKIP_TASKS], {})
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


def _add_training_options(parser: argparse.ArgumentParser) -> None:
    cli_args.train_args(
        parser,
        show_lr=True,
        dlr=1e-3,
        show_epochs=True,
        dn_iter=5000,
        show_adam_beta1=True,
        show_momentum=False,
        show_clip_grad_value=True,
        show_clip_grad_norm=True,
    )
    _add_group(parser, "Options of posteriors", _POSTERIOR)
    cli_args.eval_args(parser, show_val_batch_size=True, show_val_set_size=True, show_test_with_val_set=True)


def _add_main_net_options(parser: argparse.ArgumentParser) -> None:
    cli_args.main_net_args(
        parser,
        MAIN_NETS,
        show_net_act=False,  # these networks have one of their own
        show_no_bias=True,
        show_specnorm=False,
        show_batchnorm=False,
        show_no_batchnorm=True,
        show_bn_no_running_stats=True,
        show_bn_no_stats_checkpointing=True,
    )


def _add_hnet(
    parser: argparse.ArgumentParser, prefix: str | None, name: str | None
) -> argparse._ArgumentGroup:
    """Add the options of a hypernetwork.

    Args:
        parser: The parser.
        prefix: What the options' names begin with.
        name: What the help calls the "… network".
    """
    implicit = prefix == "imp_"  # it has no conditions, but noise as its input
    # What the hyper-hypernetwork generates has no layers of convolutions.
    hnets = HNETS if prefix != "hh_" else tuple(net for net in HNETS if net != "structured_hmlp")
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
    )
    if "structured_hmlp" in hnets:
        cli_args._add_options(group, [_GCD_CHUNKING], {}, prefix or "", f"{name or 'hyper'}network")
    return group


def _add_group(parser: argparse.ArgumentParser, title: str, options: list[Option]) -> None:
    cli_args._add_options(parser.add_argument_group(title), options, {})
