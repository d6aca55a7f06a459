"""Parsing command lines of posterior replay, and which options go together."""

from __future__ import annotations

import argparse
import math
import warnings
from argparse import Namespace
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from hnetfast.examples._run_options import Start, parse_given, take_stored_options
from hnetfast.examples.posterior_replay._images.options import make_parser
from hnetfast.utils import cli_args
from hnetfast.utils._cli_options import HNET_OPTIONS, MAIN_NET_OPTIONS

# Smallest numbers, for those options that a command has.
_AT_LEAST = {
    "num_tasks": 1,
    "num_classes_per_task": 1,
    "skip_tasks": 0,
    "batch_size": 1,
    "n_iter": 1,
    "val_iter": 1,
    "val_batch_size": 1,
    "val_set_size": 0,
    "synthetic_data": 0,
    "beta": 0,
    "weight_decay": 0,
    "checkpoint_every": 0,
    "train_sample_size": 1,
    "val_sample_size": 1,
    "kl_scale": 0,
    "num_kl_samples": 1,
    "latent_dim": 1,
    "ssge_sample_size": 2,
}
_POSITIVE = ("lr", "prior_variance", "latent_std", "std_normal_temb", "std_normal_emb")
# -1 switches these off.
_OFF_OR_AT_LEAST_ONE = ("epochs", "hnet_reg_batch_size", "num_ssge_eigenvals")
_OFF_OR_POSITIVE = (
    "clip_grad_value",
    "clip_grad_norm",
    "full_support_perturbation",
    "rbf_kernel_width",
)

_PREFIXES = ("", "imp_", "hh_")
_WITH_CHUNKING = ("resnet", "wrn")  # main networks that a structured hypernetwork can follow


# Options that may change when a run goes on: they don't change its numbers.
_MAY_CHANGE = ("out_dir", "data_dir", "no_cuda", "loglevel_info")


def parse_arguments(method: str, arguments: Sequence[str] | None = None) -> tuple[Namespace, Start]:
    """Parse the command line of a command.

    Args:
        method: One of :data:`hnetfast.examples.posterior_replay._images.options.METHODS`.
        arguments: The arguments; those of the process by default.

    Returns:
        The options of the experiment, those of the run that goes on if there is one, and how to begin.

    Raises:
        SystemExit: For arguments that are not accepted, and for ``--help``.
    """
    parser = make_parser(method)
    config, given = parse_given(parser, arguments)
    names, notes = list(given), []
    if config.resume:
        notes += take_stored_options(parser, config, given, _MAY_CHANGE)
    notes += check_options(parser, config, names)
    return config, Start.take_from(config, notes)


def check_options(parser: argparse.ArgumentParser, config: Namespace, given: Collection[str]) -> list[str]:
    """Check options, as parsed.

    Args:
        parser: The parser, which reports what is wrong.
        config: The options.
        given: Names of those that stand in the command line.

    Returns:
        What the user should know.

    Raises:
        SystemExit: If a number is out of range, or options contradict each other; the message names them.
    """
    for check in (_out_of_range, _contradictions, _impossible_tasks):
        for message in check(config):
            parser.error(f"argument {message}")
    for message in _misfits(config, given):
        parser.error(f"argument {message}")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            cli_args.check_invalid_argument_usage(config)
        except ValueError as error:
            parser.error(str(error))
    return [f"--{warning.message}" for warning in caught]


def _out_of_range(config: Namespace) -> Iterator[str]:
    options = vars(config)

    def wrong(name: str, accepted: bool, expected: str) -> Iterator[str]:
        if not accepted:
            yield f"--{name}: expected {expected}, got {options[name]}"

    for name, least in _AT_LEAST.items():
        if name in options:
            yield from wrong(name, least <= options[name] < math.inf, f"a number of at least {least}")
    for name in _POSITIVE:
        if name in options:
            yield from wrong(name, 0 < options[name] < math.inf, "a positive number")
    for name in _OFF_OR_AT_LEAST_ONE:
        if name in options:
            value = options[name]
            yield from wrong(name, value == -1 or value >= 1, "a number of at least 1, or -1")
    for name in _OFF_OR_POSITIVE:
        if name in options:
            value = options[name]
            yield from wrong(name, value == -1 or 0 < value < math.inf, "a positive number, or -1")
    yield from wrong("adam_beta1", 0 <= config.adam_beta1 < 1, "a number from 0 to 1 without it")
    if "thr_ssge_eigenvals" in options:
        yield from wrong(
            "thr_ssge_eigenvals", 0 < config.thr_ssge_eigenvals <= 1, "a share above 0, and at most 1"
        )


def _contradictions(config: Namespace) -> Iterator[str]:
    def on(name: str) -> Any:
        return getattr(config, name, False)

    if on("test_with_val_set") and config.val_set_size == 0:
        yield "--test_with_val_set: needs a validation set, got --val_set_size=0"
    if on("mean_only"):
        for name in ("radial_bnn", "local_reparam_trick"):
            if on(name):
                yield f"--mean_only: excludes --{name}, for there are no scales to sample with"
        if config.regularizer != "mse":
            yield f"--regularizer: expected mse with --mean_only, got {config.regularizer}"
        if config.kl_scale != 0:
            yield f"--kl_scale: expected 0 with --mean_only, which has no divergence, got {config.kl_scale}"
    if on("radial_bnn"):
        if on("local_reparam_trick"):
            yield "--radial_bnn: excludes --local_reparam_trick, which samples from a Gaussian"
        if config.regularizer != "mse":
            yield f"--regularizer: expected mse with --radial_bnn, got {config.regularizer}"
    if on("hyper_gauss_init"):
        if on("mean_only"):
            yield "--hyper_gauss_init: excludes --mean_only"
        if config.hnet_type == "structured_hmlp":
            yield "--hyper_gauss_init: structured_hmlp has no such initialisation"
    if getattr(config, "regularizer", "mse") != "mse" and config.hnet_reg_batch_size != -1:
        yield f"--hnet_reg_batch_size: expected -1 unless --regularizer is mse, got {config.regularizer}"
    yield from _contradictions_of_ssge(config)


def _contradictions_of_ssge(config: Namespace) -> Iterator[str]:
    if not hasattr(config, "num_ssge_eigenvals"):
        return
    number, samples = config.num_ssge_eigenvals, config.ssge_sample_size
    if number > samples:
        yield (
            f"--num_ssge_eigenvals: expected at most as many as samples, --ssge_sample_size={samples}, "
            f"got {number}"
        )
    if number != -1 and config.thr_ssge_eigenvals != 1:
        yield (
            f"--num_ssge_eigenvals, --thr_ssge_eigenvals: exclude each other, got {number} and "
            f"{config.thr_ssge_eigenvals}"
        )


def _impossible_tasks(config: Namespace) -> Iterator[str]:
    per_task = config.num_classes_per_task
    if not config.synthetic_data and per_task not in (1, 2, 5, 10):
        yield f"--num_classes_per_task: expected 1, 2, 5 or 10 of CIFAR-10's classes, got {per_task}"
    possible = 110 // per_task
    number = config.skip_tasks + config.num_tasks
    if number > possible:
        yield (
            f"--num_tasks: expected at most {possible} with --skip_tasks, for CIFAR-10 and -100 have 110 "
            f"classes together, {per_task} a task, got {config.num_tasks} and {config.skip_tasks}"
        )


def _misfits(config: Namespace, given: Collection[str]) -> Iterator[str]:
    """Options that stand in the command line, but are those of networks of another type."""
    net = config.net_type
    for option in MAIN_NET_OPTIONS:
        if option.name in given and net not in option.nets:
            yield f"--{option.name}: needs --net_type {' or '.join(option.nets)}, got {net}"
    for prefix in _PREFIXES:
        hnet = getattr(config, f"{prefix}hnet_type", None)
        if hnet is None:
            continue
        for option in HNET_OPTIONS:
            if option.nets and f"{prefix}{option.name}" in given and hnet not in option.nets:
                yield (
                    f"--{prefix}{option.name}: needs --{prefix}hnet_type {' or '.join(option.nets)}, "
                    f"got {hnet}"
                )
        if f"{prefix}shmlp_gcd_chunking" in given and hnet != "structured_hmlp":
            yield f"--{prefix}shmlp_gcd_chunking: needs --{prefix}hnet_type structured_hmlp, got {hnet}"
        if hnet == "structured_hmlp" and net not in _WITH_CHUNKING:
            yield (
                f"--{prefix}hnet_type: structured_hmlp follows the layers of --net_type "
                f"{' or '.join(_WITH_CHUNKING)}, got {net}"
            )
