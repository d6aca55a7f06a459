"""The command lines of the script that gathers random seeds: its own, and that of the search it starts."""

from __future__ import annotations

import shlex
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable

from hnetfast.hpsearch import hpsearch

# Name of the job that a whole search is on a cluster, and of its files.
JOB = "random_seeds"


def seeds_parser() -> ArgumentParser:
    """Returns the parser of the script's own options."""
    parser = ArgumentParser(description="Gather random seeds for a run, or for the best run of a search.")
    own = parser.add_argument
    own(
        "--seeds_dir",
        default="",
        help="Output folder of seeds that have been gathered. Their summary is written again; all other "
        'options but "grid_module" are ignored.',
    )
    own(
        "--run_dir",
        default="",
        help="Output folder of a run, or of a search, whose best run is taken. The run is repeated with "
        "other random seeds.",
    )
    own(
        "--config_name",
        default="hpsearch_random_seeds",
        help="Name of the file with the grid, in the folder for temporary files; each gathering needs its "
        "own. Default: %(default)s.",
    )
    own("--grid_module", help="Name of the configuration module, as for the search.")
    own("--num_seeds", type=int, default=10, help="Number of random seeds. Default: %(default)s.")
    own(
        "--seeds_list",
        default="",
        help='The random seeds, separated by commas. Without them, they are 0, 1, …, "num_seeds" - 1.',
    )
    own(
        "--vary_data_seed",
        action="store_true",
        help='Set "data_random_seed" to "random_seed", too, instead of leaving it as it is.',
    )
    own("--start_gathering", action="store_true", help="Start the search.")
    whole = parser.add_argument_group("Hpsearch call options")
    whole.add_argument(
        "--hps_num_hours",
        type=int,
        metavar="N",
        default=24,
        help="Hours for which the search itself may run on a cluster. Default: %(default)s.",
    )
    whole.add_argument(
        "--hps_resources",
        default='"rusage[mem=8000]"',
        help="Resources of the search itself on a cluster with LSF (option -R of bsub). "
        "Default: %(default)s.",
    )
    whole.add_argument(
        "--hps_slurm_mem",
        default="8G",
        help="Memory of the search itself on a cluster with SLURM. Default: %(default)s.",
    )
    hpsearch.hpsearch_cli_arguments(parser, show_out_dir=False, show_grid_module=False)
    return parser


def get_hpsearch_call(
    cmd_args: Namespace, num_seeds: int, grid_config: str, hpsearch_dir: str | None = None
) -> str:
    """Write the command that starts the search.

    Args:
        cmd_args: Options of this script.
        num_seeds: Number of runs.
        grid_config: Path of the file with the grid.
        hpsearch_dir: Output folder of the search, by default a new one of the search's choice.

    Returns:
        The command, for a shell. With LSF it submits the search as a job; with SLURM it is what a job script
        has to hold.
    """
    options = [f"--grid_module={cmd_args.grid_module}", f"--grid_config={grid_config}"]
    options.append(f"--run_cwd={cmd_args.run_cwd}")
    options += [
        f"--{name}" for name in ("deterministic_search", "dont_generate_full_grid") if vars(cmd_args)[name]
    ]
    if hpsearch_dir is not None:
        options += [f"--out_dir={hpsearch_dir}", "--force_out_dir", "--dont_force_new_dir"]
    num_searches = cmd_args.num_searches
    if cmd_args.run_cluster:
        options += ["--run_cluster", *_given(cmd_args, "scheduler", "num_jobs", "num_hours")]
        if cmd_args.scheduler == "slurm":
            options += _given(
                cmd_args, "slurm_mem", "slurm_gres", "slurm_partition", "slurm_qos", "slurm_constraint"
            )
        if num_searches == -1:
            num_searches = num_seeds
    else:
        options += _given(
            cmd_args,
            "visible_gpus",
            "allowed_load",
            "allowed_memory",
            "sim_startup_time",
            "max_num_jobs_per_gpu",
        )
    if num_searches != -1:
        options.append(f"--num_searches={num_searches}")
    options += _further(cmd_args, options)
    command = [sys.executable, "-m", "hnetfast.hpsearch", *options]
    if not cmd_args.run_cluster or cmd_args.scheduler == "slurm":
        return shlex.join(command)
    # LSF's shell reads the command again, so it is quoted twice.
    inner = [shlex.quote(word) for word in command]
    inner.append(f"--resources={quoted(_without_quotes(cmd_args.resources))}")
    hours = ["-n", "1", "-W", f"{cmd_args.hps_num_hours}:00"]
    files = ["-e", f"{JOB}.err", "-o", f"{JOB}.out"]
    resources = ["-R", _without_quotes(cmd_args.hps_resources)]
    return shlex.join(["bsub", *hours, *files, *resources, *inner])


def quoted(text: str) -> str:
    """Quote text for the shell: as hypnettorch does, unless the shell would find something in it."""
    return shlex.quote(text) if set(text) & set('"$`\\') else f'"{text}"'


def _without_quotes(resources: str) -> str:
    return resources[1:-1] if len(resources) > 1 and resources[0] == resources[-1] == '"' else resources


def _given(args: Namespace, *names: str) -> list[str]:
    values = ((name, getattr(args, name)) for name in names)
    return [
        f"--{name}={value:f}" if isinstance(value, float) else f"--{name}={value}" for name, value in values
    ]


def _further(args: Namespace, options: Iterable[str]) -> list[str]:
    """Write the search's other options, where they are given."""
    parser = ArgumentParser()
    hpsearch.hpsearch_cli_arguments(parser, show_out_dir=False, show_grid_module=False)
    written = {option[2:].partition("=")[0] for option in options} | {"resources"}
    return [
        f"--{name}" if value is True else f"--{name}={value}"
        for name, default in vars(parser.parse_args([])).items()
        if name not in written and (value := getattr(args, name, default)) != default
    ]
