"""Which options of the search go together, and what executes its jobs."""

from __future__ import annotations

import argparse
from pathlib import Path

from hnetfast._errors import InputError
from hnetfast.hpsearch._executor import Executor
from hnetfast.hpsearch._gpus import list_gpus
from hnetfast.hpsearch._local import LocalExecutor


def check_options(args: argparse.Namespace) -> None:
    """Refuse options that exclude each other or need another one.

    Args:
        args: The command line.

    Raises:
        InputError: A ``ValueError``.
    """
    here = args.visible_gpus or args.num_cpu_jobs != 1 or args.timeout
    adaptive = args.sampler != "grid"
    for wrong, message in (
        (
            args.run_cluster and here,
            "run_cluster: --visible_gpus, --num_cpu_jobs and --timeout are about runs on this machine; on a "
            "cluster use --num_jobs and --num_hours",
        ),
        (
            args.num_cpu_jobs != 1 and args.visible_gpus not in ("", "-1"),
            f"num_cpu_jobs: runs get no GPU then, but --visible_gpus={args.visible_gpus} is given; use "
            "--max_num_jobs_per_gpu for several runs on a GPU",
        ),
        (args.num_cpu_jobs < 1, f"num_cpu_jobs: expected at least 1, got {args.num_cpu_jobs}"),
        (
            args.resume and (args.force or args.dont_force_new_dir),
            "resume: it goes on with a search, --force and --dont_force_new_dir overwrite it",
        ),
        (args.force and args.dont_force_new_dir, "force: --dont_force_new_dir keeps what it would delete"),
        (
            adaptive and args.dont_generate_full_grid,
            f"sampler: {args.sampler} never builds the grid, leave out --dont_generate_full_grid",
        ),
        (
            adaptive and args.deterministic_search,
            f"sampler: {args.sampler} has no order of the grid, leave out --deterministic_search",
        ),
        (
            adaptive and args.num_searches < 1 and not args.resume,
            f"num_searches: --sampler={args.sampler} needs a number of runs, got {args.num_searches}",
        ),
        (
            args.study and not adaptive and args.pruner == "none" and not args.resume,
            "study: there is none without --sampler=random|tpe or a --pruner",
        ),
    ):
        if wrong:
            raise InputError(f"{message}.")


def make_executor(args: argparse.Namespace, folder: Path) -> Executor:
    """Choose what executes the jobs.

    Args:
        args: The command line.
        folder: In which the folders of the jobs are.

    Returns:
        The executor.

    Raises:
        InputError: A ``ValueError``, if an option is out of range or a GPU is not there.
        RuntimeError: If the scheduler is not there.
    """
    if args.run_cluster:
        if args.scheduler == "slurm":
            from hnetfast.hpsearch._slurm import SlurmExecutor

            return SlurmExecutor(
                num_jobs=args.num_jobs,
                hours=args.num_hours,
                mem=args.slurm_mem,
                gres=args.slurm_gres,
                partition=args.slurm_partition,
                qos=args.slurm_qos,
                constraint=args.slurm_constraint,
                folder=folder,
            )
        from hnetfast.hpsearch._lsf import LsfExecutor

        return LsfExecutor(
            num_jobs=args.num_jobs, hours=args.num_hours, resources=args.resources, folder=folder
        )
    gpus = None if args.num_cpu_jobs > 1 else _gpus(args.visible_gpus)
    if gpus is None:
        return LocalExecutor(slots=args.num_cpu_jobs, timeout=args.timeout)
    return LocalExecutor(
        slots=args.max_num_jobs_per_gpu,
        gpus=gpus,
        max_load=args.allowed_load,
        max_memory=args.allowed_memory,
        startup_time=args.sim_startup_time,
        timeout=args.timeout,
    )


def _gpus(visible: str) -> list[int] | None:
    """Returns the numbers of the GPUs to which runs are assigned; None if there are to be none."""
    if visible.strip() == "-1":
        return None
    try:
        asked = [int(number) for number in visible.split(",")] if visible.strip() else []
    except ValueError:
        raise InputError(
            f"visible_gpus: expected numbers with commas, -1, or nothing, got {visible!r}."
        ) from None
    present = [gpu.index for gpu in list_gpus()]
    missing = sorted(set(asked) - set(present))
    if missing:
        raise InputError(
            f"visible_gpus: of {visible!r}, this machine has no {', '.join(map(str, missing))}; it has "
            f"{', '.join(map(str, present)) or 'none'}."
        )
    return list(dict.fromkeys(asked)) or present or None
