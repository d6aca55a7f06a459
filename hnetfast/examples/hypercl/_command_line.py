"""The options of the continual-learning example."""

from __future__ import annotations

import argparse
import math
import os
from argparse import Namespace
from collections.abc import Sequence

from hnetfast.examples._run_options import Start, add_run_options, parse_given, take_stored_options
from hnetfast.utils import cli_args

DATA_FOLDER = "datasets"

# Options that may change when a run goes on: they don't change its numbers.
_MAY_CHANGE = ("out_dir", "data_dir", "no_cuda", "loglevel_info")


def parse_arguments(arguments: Sequence[str] | None = None) -> tuple[Namespace, Start]:
    """Parse the command line.

    Args:
        arguments: The arguments; those of the process by default.

    Returns:
        The options of the experiment, those of the run that goes on if there is one, and how to begin.

    Raises:
        SystemExit: For arguments that are not accepted, and for ``--help``.
    """
    parser = _parser()
    config, given = parse_given(parser, arguments)
    notes = []
    if config.resume:
        notes += take_stored_options(parser, config, given, _MAY_CHANGE, may_be_none=("data_dir",))
    if "cl_exp" not in given and config.data_dir is None and not _has_mnist(data_folder(config)):
        config.cl_exp = "splitdigits"
        notes.insert(
            0,
            f"There are no data of MNIST in the folder {data_folder(config)!r}, and neither --cl_exp nor "
            "--data_dir is given: SplitDigits, scikit-learn's digits, is learned instead of SplitMNIST.",
        )
    if config.cl_exp == "permmnist":
        if given.get("num_classes_per_task", 10) != 10:
            parser.error("argument --num_classes_per_task: tasks of permmnist have 10 classes")
        config.num_classes_per_task = 10
    _check(parser, config)
    if config.momentum != 0:
        notes.append("--momentum has no effect: Adam, the optimiser, has --adam_beta1 in its place.")
    return config, Start.take_from(config, notes)


def data_folder(config: Namespace) -> str:
    """Return the folder of the data sets.

    Args:
        config: The options.

    Returns:
        That of ``data_dir`` if it was given; "datasets" in the working folder, or if there is none, beside
        this script if there is one.
    """
    if config.data_dir is not None:
        return config.data_dir
    beside = os.path.join(os.path.dirname(os.path.abspath(__file__)), DATA_FOLDER)
    if not os.path.isdir(DATA_FOLDER) and os.path.isdir(beside):
        return beside
    return DATA_FOLDER


def _has_mnist(folder: str) -> bool:
    return os.path.isdir(os.path.join(folder, "MNIST"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Learn tasks one after another by a hypernetwork, whose output for earlier tasks a "
        "regulariser keeps as it was (von Oswald et al., 2020)."
    )
    group = cli_args.cl_args(
        parser,
        dnum_tasks=5,
        show_num_tasks=True,
        show_num_classes_per_task=True,
        show_calc_hnet_reg_targets_online=True,
        show_hnet_reg_batch_size=True,
    )
    group.add_argument(
        "--cl_exp",
        choices=("splitmnist", "permmnist", "splitcifar", "splitdigits"),
        default="splitmnist",
        help="The tasks. splitdigits needs no download; it is learned if neither --cl_exp nor --data_dir is "
        "given and there are no data of MNIST. Default: %(default)s.",
    )
    group = cli_args.train_args(
        parser, show_lr=True, dlr=1e-4, show_epochs=True, dn_iter=1001, show_adam_beta1=True
    )
    cli_args.main_net_args(
        parser,
        ["mlp", "lenet", "resnet", "wrn"],
        show_no_bias=True,
        show_bn_no_running_stats=True,
        show_bn_no_stats_checkpointing=True,
    )
    cli_args.hnet_args(
        parser,
        ["chunked_hmlp", "hmlp"],
        dchmlp_chunk_size=750,
        dchunk_emb_size="8",
        show_no_bias=True,
        show_specnorm=False,
        show_batchnorm=False,
    )
    cli_args.eval_args(
        parser,
        show_val_batch_size=True,
        show_val_set_size=True,
        dval_set_size=100,
        show_test_with_val_set=True,
    )
    group = cli_args.miscellaneous_args(parser, big_data=False)
    group.add_argument(
        "--data_dir",
        help=f'Folder of the data. Default: "{DATA_FOLDER}", in the working folder or beside the script.',
    )
    add_run_options(group)
    return parser


def _check(parser: argparse.ArgumentParser, config: Namespace) -> None:
    for name, least in (
        ("num_tasks", 1),
        ("num_classes_per_task", 1),
        ("batch_size", 1),
        ("n_iter", 1),
        ("val_iter", 1),
        ("val_batch_size", 1),
        ("val_set_size", 0),
        ("beta", 0),
        ("weight_decay", 0),
        ("checkpoint_every", 0),
    ):
        value = getattr(config, name)
        if not least <= value < math.inf:
            parser.error(f"argument --{name}: expected a number of at least {least}, got {value}")
    for name in ("epochs", "hnet_reg_batch_size"):
        value = getattr(config, name)
        if value != -1 and value < 1:
            parser.error(f"argument --{name}: expected a number of at least 1, or -1, got {value}")
    if not 0 < config.lr < math.inf:
        parser.error(f"argument --lr: expected a positive number, got {config.lr}")
    if not 0 <= config.adam_beta1 < 1:
        parser.error(
            f"argument --adam_beta1: expected a number from 0 to 1 without it, got {config.adam_beta1}"
        )
    if config.test_with_val_set and config.val_set_size == 0:
        parser.error("argument --test_with_val_set: needs a validation set, got --val_set_size=0")
    try:
        cli_args.check_invalid_argument_usage(config)
    except ValueError as error:
        parser.error(str(error))
