"""The command line of the search."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

SAMPLERS = ("grid", "random", "tpe")
PRUNERS = ("none", "median", "hyperband", "successive_halving")
GROUP = "Hyperparameter search options"


@dataclass(frozen=True)
class Option:
    """An option of the command line.

    Attributes:
        name: Without dashes.
        default: Its default; an option whose default is False is a flag.
        help: What it does.
        choices: What is accepted; None is anything of the default's type.
    """

    name: str
    default: Any
    help: str
    choices: tuple[str, ...] | None = None

    def add(self, parser: argparse._ActionsContainer) -> None:
        """Add the option to a parser."""
        if self.default is False:
            parser.add_argument(f"--{self.name}", action="store_true", help=self.help)
            return
        kind = type(self.default)
        more: dict[str, Any] = (
            {"metavar": "N"} if kind in (int, float) and self.name not in _NO_METAVAR else {}
        )
        if self.choices:
            more["choices"] = list(self.choices)
        parser.add_argument(
            f"--{self.name}",
            type=kind,
            default=self.default,
            help=f"{self.help} Default: %(default)s.",
            **more,
        )


_NO_METAVAR = ("allowed_load", "allowed_memory")
_NUM_SEARCHES = Option(
    "num_searches",
    -1,
    "How many configurations are tried at most; -1 is all. Needed with --sampler=random|tpe.",
)
_OUT_DIR = (
    Option(
        "force_out_dir",
        False,
        "Store the search in --out_dir itself, not in a folder with the time below it.",
    ),
    Option(
        "dont_force_new_dir",
        False,
        "The output folder may exist already. Results of an earlier search there are overwritten, not "
        "continued; see --resume.",
    ),
)
_GRID_MODULE = (
    "Name of the module that holds the grid, the conditions and what there is to know of the script."
)
_GRID_CONFIG = Option(
    "grid_config",
    "",
    'A pickle file of a dictionary of "grid" and/or "conditions", which replace those of --grid_module.',
)
_MORE = (
    Option(
        "dont_generate_full_grid",
        False,
        "Pick --num_searches configurations at random instead of choosing from the whole grid, which may be "
        "too large to be built.",
    ),
    Option(
        "run_cwd",
        ".",
        "Folder in which runs are executed. A relative --out_dir is relative to it.",
    ),
    Option("run_cluster", False, "Submit the runs as jobs to the scheduler of a cluster, see --scheduler."),
    Option("scheduler", "lsf", "The cluster's scheduler.", ("lsf", "slurm")),
    Option("num_jobs", 8, "How many jobs may wait or run on the cluster at once."),
    Option("num_hours", 24, "For how many hours a job may run on the cluster."),
    Option(
        "resources", '"rusage[mem=8000, ngpus_excl_p=1]"', "What a job on LSF asks for (option -R of bsub)."
    ),
    Option(
        "slurm_mem", "8G", "A job's memory on SLURM (option mem of sbatch); empty: the cluster's default."
    ),
    Option("slurm_gres", "gpu:1", "A job's generic resources on SLURM (gres); empty: none are asked for."),
    Option("slurm_partition", "", "The partition on SLURM; empty: the cluster's default."),
    Option("slurm_qos", "", "The quality of service on SLURM; empty: the cluster's default."),
    Option("slurm_constraint", "", "Features that nodes must have on SLURM; empty: none."),
    Option(
        "visible_gpus",
        "",
        'GPUs of this machine to which runs are assigned, numbers with commas; empty: all. With "-1" runs '
        "are executed one after the other, and no GPU is assigned.",
    ),
    Option("allowed_load", 0.5, "Up to which load, between 0 and 1, a GPU may get another run."),
    Option("allowed_memory", 0.5, "Up to which share of its memory in use a GPU may get another run."),
    Option(
        "sim_startup_time",
        60,
        "Seconds after a run's start on a GPU until the load and memory tell whether it may get another.",
    ),
    Option("max_num_jobs_per_gpu", 1, "How many runs of this search a GPU may have at once."),
    Option("random_seed", 42, "Seed of the order of configurations, and of samplers."),
)
_NEW = (
    Option(
        "num_cpu_jobs",
        1,
        "How many runs are executed at once on this machine, no GPU being assigned to them.",
    ),
    Option("resume", False, "Go on with the search in the output folder, see --out_dir and --force_out_dir."),
    Option("force", False, "Delete an earlier search in the output folder without asking."),
    Option("timeout", 0.0, "Seconds after which a run on this machine is killed; 0: never."),
    Option(
        "sampler",
        "grid",
        "How configurations are chosen: all of the grid, or at random, or by optuna's tree-structured Parzen "
        "estimator, which prefers what resembles good runs.",
        SAMPLERS,
    ),
    Option(
        "pruner",
        "none",
        "Ends runs early whose performance, in the summary that they rewrite while they run, is worse than "
        "that of others at the same point (optuna's pruners).",
        PRUNERS,
    ),
    Option(
        "study",
        "",
        'SQLite file of optuna\'s study; several searches may share one. Empty: "study.db" in the output '
        "folder.",
    ),
)


def add_arguments(
    parser: argparse.ArgumentParser,
    show_num_searches: bool,
    show_out_dir: bool,
    dout_dir: str,
    show_grid_module: bool,
    default_grid: str,
) -> argparse._ArgumentGroup:
    """Add hypnettorch's options to a parser; the arguments are those of ``hpsearch_cli_arguments``."""
    group = parser.add_argument_group(GROUP)
    Option("deterministic_search", False, "Keep the order of the grid instead of a random one.").add(group)
    if show_num_searches:
        _NUM_SEARCHES.add(group)
    if show_out_dir:
        where = "Where the output goes; a folder with the time is added, see --force_out_dir."
        Option("out_dir", dout_dir, where).add(group)
        for option in _OUT_DIR:
            option.add(group)
    if show_grid_module:
        Option("grid_module", default_grid, _GRID_MODULE).add(group)
        _GRID_CONFIG.add(group)
    for option in _MORE:
        option.add(group)
    return group


def add_new_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that hypnettorch has not."""
    group = parser.add_argument_group("beyond hypnettorch")
    for option in _NEW:
        option.add(group)
