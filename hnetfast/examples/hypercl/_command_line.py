"""The options of the continual-learning example."""

from __future__ import annotations

import argparse
import json
import math
import os
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hnetfast.utils import cli_args

DATA_FOLDER = "datasets"

# Options that may change when a run goes on: they don't change its numbers.
_MAY_CHANGE = ("out_dir", "data_dir", "no_cuda", "loglevel_info")
_UNSET = object()


@dataclass(frozen=True)
class Start:
    """How a run begins: options that are no part of the experiment.

    Attributes:
        resume: Whether to go on with the run in ``out_dir``.
        force: Whether an existing ``out_dir`` is deleted without a question.
        checkpoint_every: Seconds between checkpoints in the middle of a task.
        notes: What the user should know about how options were understood.
    """

    resume: bool
    force: bool
    checkpoint_every: float
    notes: tuple[str, ...]


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
    config = parser.parse_args(arguments)
    unset = Namespace(**dict.fromkeys(vars(config), _UNSET))
    given = {
        name: value
        for name, value in vars(parser.parse_args(arguments, unset)).items()
        if value is not _UNSET
    }
    notes = []
    if config.resume:
        if "out_dir" not in given:
            parser.error("argument --resume: --out_dir of the run that is to go on is needed as well")
        stored = Path(config.out_dir, "config.json")
        if stored.is_file():
            _take_stored(parser, config, given, stored)
            given = vars(config)
        elif os.path.isdir(os.path.join(config.out_dir, "checkpoints")):
            parser.error(f"argument --resume: {stored}, the options of the run, is missing")
        else:
            notes.append(f"There is no run in {config.out_dir} yet: it starts from the beginning.")
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
    start = Start(config.resume, config.force, config.checkpoint_every, tuple(notes))
    for name in ("resume", "force", "checkpoint_every"):
        delattr(config, name)
    return config, start


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
    group.add_argument(
        "--resume",
        action="store_true",
        help="Go on with the run in --out_dir, which was stopped or killed, with its options.",
    )
    group.add_argument(
        "--force", action="store_true", help="Delete an existing --out_dir without a question."
    )
    group.add_argument(
        "--checkpoint_every",
        type=float,
        default=10,
        metavar="SECONDS",
        help="Time between checkpoints in the middle of a task, from which --resume goes on; there is one "
        "after each task as well. Default: %(default)s.",
    )
    return parser


def _take_stored(
    parser: argparse.ArgumentParser, config: Namespace, given: dict[str, Any], path: Path
) -> None:
    """Replace the options by those of the run that goes on."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(stored, dict):
            raise ValueError("an object is expected")
    except ValueError as error:
        parser.error(f"argument --resume: {path} does not hold the options of a run ({error})")
    kinds: dict[str, Any] = {
        action.dest: action.type or (str if action.nargs != 0 else bool) for action in parser._actions
    }
    for name, value in stored.items():
        kind = kinds.get(name)
        fits = isinstance(value, (int, float) if kind is float else kind or ()) or (
            name == "data_dir" and value is None
        )
        if not fits or (isinstance(value, bool) and kind is not bool):
            parser.error(
                f"argument --resume: {path} holds {name}: {value!r}, which is no option of this script"
            )
        if name in given and given[name] != value:
            if name not in _MAY_CHANGE:
                parser.error(
                    f"argument --{name}: the run in {config.out_dir} was started with {value!r}, got "
                    f"{given[name]!r}"
                )
            continue
        setattr(config, name, value)


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
