"""Jobs on a cluster with SLURM.

submitit writes the sbatch script and reads the job's ID, through the methods that its own executor and those
of its plugins implement. Its ``submit`` is not used: what that runs is a pickled Python function, in an
interpreter that must find submitit on the compute node, and 90 s before the time limit the command would get
a signal that ends a program which does not expect it. Nor is its watcher, which knows of jobs by sacct only.

A job goes from squeue, where it stays for some minutes after its end, to sacct, where there is accounting.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from hnetfast._files import write_atomically
from hnetfast.hpsearch._cluster import (
    ClusterExecutor,
    NoAnswer,
    Record,
    check_option,
    run_program,
    said,
    scheduler_name,
    script,
    script_body,
    submit_with,
)
from hnetfast.hpsearch._executor import Job, State

# Any other state is one of a job that waits or runs, or is about to do so again.
_ENDS = {
    "COMPLETED": (State.FINISHED, "completed"),
    "FAILED": (State.FAILED, "failed"),
    "TIMEOUT": (State.TIMEOUT, "ran past its time limit"),
    "DEADLINE": (State.TIMEOUT, "ran past its deadline"),
    "OUT_OF_MEMORY": (State.KILLED, "out of memory"),
    "NODE_FAIL": (State.KILLED, "its node failed"),
    "BOOT_FAIL": (State.KILLED, "its node did not boot"),
    "LAUNCH_FAILED": (State.KILLED, "could not be started on its node"),
    "PREEMPTED": (State.KILLED, "preempted by another job"),
    "CANCELLED": (State.KILLED, "cancelled"),
    "REVOKED": (State.KILLED, "taken back by another cluster"),
}
_FOR_NOW = re.compile(
    "timed out|unable to contact|connection refused|connection failure|connection reset|zero bytes"
    "|temporarily|not responding|MaxSubmit|limit on submitted jobs",
    re.IGNORECASE,
)


class SlurmExecutor(ClusterExecutor):
    """Runs jobs through SLURM. Empty strings are options that are not given.

    Args:
        num_jobs: How many jobs may wait or run at once.
        hours: Time limit of a job, in hours.
        mem: Memory of a job, such as "8G".
        gres: Generic resources, such as "gpu:1".
        partition: Partition.
        qos: Quality of service.
        constraint: Features that the node must have.
        folder: An existing folder that all machines of the cluster share, in which the jobs' folders are.
        interval: Seconds between two calls of squeue.
        grace: Seconds for which neither squeue nor sacct must know a job before it counts as lost.

    Raises:
        InputError: A ``ValueError``, if an argument is out of range.
        NotADirectoryError: If there is no such folder.
        ImportError: If submitit is not installed.
        RuntimeError: If this machine has not SLURM's programs.
    """

    scheduler = "SLURM"
    programs = ("sbatch", "squeue", "scancel", "srun")  # submitit asks for srun

    def __init__(
        self,
        *,
        num_jobs: int,
        hours: float,
        mem: str,
        gres: str,
        partition: str,
        qos: str,
        constraint: str,
        folder: Path,
        interval: float = 30.0,
        grace: float = 120.0,
    ) -> None:
        options = {"mem": mem, "gres": gres, "partition": partition, "qos": qos, "constraint": constraint}
        for name, value in options.items():
            check_option(f"slurm_{name}", value)
        super().__init__(num_jobs=num_jobs, hours=hours, folder=folder, interval=interval, grace=grace)
        try:
            import submitit
        except ImportError as error:
            raise ImportError(
                "To search on a cluster with SLURM, install submitit: pip install 'hnetfast[hpsearch]'"
            ) from error
        self._submitit = submitit.SlurmExecutor(folder)
        self._submitit.update_parameters(
            time=self._minutes,
            stderr_to_stdout=True,
            use_srun=False,
            wckey=None,
            **{name: value for name, value in options.items() if value},
        )
        self._user = str(os.getuid())
        self._has_accounting = shutil.which("sacct") is not None

    def _start(self, job: Job) -> str:
        self._submitit.update_parameters(
            job_name=scheduler_name(job.name),
            # sbatch is run in the job's folder, so that no path needs to be written as a pattern
            additional_parameters={"output": job.log.name},
        )
        text = self._submitit._make_submission_file_text(script_body(job), uid="")
        write_atomically(script(job), os.fsencode(text))
        command = self._submitit._make_submission_command(Path(script(job).name))
        result = submit_with(command, job)
        if result.returncode:
            if _FOR_NOW.search(result.stderr):
                raise NoAnswer(said(result))
            raise RuntimeError(f"SLURM refuses the job. {said(result)}")
        try:
            return self._submitit._get_job_id_from_submission_command(result.stdout)
        except Exception as error:  # of a class that submitit keeps to itself
            raise NoAnswer(said(result)) from error

    def _list_queue(self) -> list[Record]:
        # Also those that ended within slurm.conf's MinJobAge. Not by ID: for a forgotten one squeue fails.
        result = run_program(
            ["squeue", "--noheader", "--states=all", f"--user={self._user}", "--format=%i|%T|%j"]
        )
        if result.returncode:
            raise NoAnswer(said(result))
        return _records(result.stdout)

    def _search_history(self, handles: Sequence[str], jobs: Sequence[Job]) -> list[Record]:
        records = []
        if handles:
            records += self._ask_accounting(f"--jobs={','.join(handles)}")
        if jobs:
            # Without a start, sacct looks for names in jobs of today; databases refuse to search for years.
            written = [script(job).stat().st_mtime for job in jobs if script(job).exists()]
            submitted = min(written, default=time.time())
            start = time.strftime("%Y-%m-%d", time.localtime(submitted - 24 * 3600))
            names = ",".join(scheduler_name(job.name) for job in jobs)
            records += self._ask_accounting(f"--name={names}", f"--starttime={start}")
        return records

    def _ask_accounting(self, *which: str) -> list[Record]:
        if not self._has_accounting:
            return []
        result = run_program(
            ["sacct", "--noheader", "--parsable2", "--allocations", "--format=JobID,State,JobName", *which]
        )
        if result.returncode and "storage is disabled" in result.stderr:
            self._has_accounting = False
            return []
        if result.returncode:
            raise NoAnswer(said(result))
        return _records(result.stdout)

    def _kill(self, job: Job, handle: str) -> None:
        which = [handle] if handle else [f"--user={self._user}", f"--name={scheduler_name(job.name)}"]
        result = run_program(["scancel", *which])
        if result.returncode and not re.search("Invalid job id|already complet", result.stderr):
            raise NoAnswer(said(result))


def _records(text: str) -> list[Record]:
    """Read lines of ID, state and name; those of steps and of arrays are none of ours."""
    records = []
    for line in text.splitlines():
        match = re.fullmatch(r"\s*(\d+)\|(\w+)[^|]*\|(.*)", line)  # "CANCELLED by 1000"
        if match:
            handle, state, name = match.groups()
            end, words = _ENDS.get(state, (None, "in the queue"))
            records.append(Record(handle, name.strip(), end, f"{words} (SLURM: {state})"))
    return records


def _write_slurm_script(args: argparse.Namespace, cmd_str: str, cmd_folder_name: str) -> str:
    """Write a script for sbatch into the current folder.

    Args:
        args: The search's options ``num_hours``, ``slurm_mem``, ``slurm_gres``, ``slurm_partition``,
            ``slurm_qos`` and ``slurm_constraint``; of the latter five, empty ones are left out.
        cmd_str: The command, as a shell takes it.
        cmd_folder_name: Names the job, the script and the files for its output.

    Returns:
        The script's name, ``<cmd_folder_name>_script.sh``.

    Raises:
        ValueError: If the number of hours is no number.
        OSError: If the script can't be written.
    """
    options = {
        "job-name": cmd_folder_name,
        "output": f"{cmd_folder_name}_%j.out",
        "error": f"{cmd_folder_name}_%j.err",
        "time": f"{int(args.num_hours)}:00:00",
        "mem": args.slurm_mem,
        "gres": args.slurm_gres,
        "partition": args.slurm_partition,
        "qos": args.slurm_qos,
        "constraint": args.slurm_constraint,
    }
    lines = [f"#SBATCH --{name} {shlex.quote(value)}" for name, value in options.items() if value]
    file_name = f"{cmd_folder_name}_script.sh"
    write_atomically(file_name, os.fsencode("\n".join(["#!/bin/bash", *lines, cmd_str])))
    return file_name
