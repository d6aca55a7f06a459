"""What runs the jobs of a search: this machine, or a cluster's scheduler."""

from __future__ import annotations

import enum
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path


class State(str, enum.Enum):
    """How a job ended."""

    FINISHED = "finished"  # exit code 0
    FAILED = "failed"  # any other exit code
    TIMEOUT = "timeout"  # ran past its time limit
    KILLED = "killed"  # by a signal, the scheduler or the user; also cancelled and out of memory
    LOST = "lost"  # nobody knows: the machine or the scheduler's record of it is gone


@dataclass(frozen=True)
class Job:
    """One command to be executed.

    Attributes:
        name: Unique among all searches; the job's name on a cluster.
        command: Program and arguments.
        cwd: Folder in which it is executed.
        folder: An existing folder for the job's own files: its log, its exit code, its script.
    """

    name: str
    command: tuple[str, ...]
    cwd: Path
    folder: Path

    @property
    def log(self) -> Path:
        """Where the job's output goes, both streams."""
        return self.folder / "log.txt"

    @property
    def exit_code(self) -> Path:
        """A file with the job's exit code, written when the command has ended."""
        return self.folder / "exit_code"


@dataclass(frozen=True)
class Ended:
    """A job that has ended.

    Attributes:
        job: The job.
        state: How it ended.
        reason: A sentence for people, such as "exit code 3" or "out of memory (SLURM: OUT_OF_MEMORY)".
    """

    job: Job
    state: State
    reason: str


class Executor(ABC):
    """Runs jobs. Not thread-safe; nothing blocks for long.

    The search writes down that it is about to submit a job, submits it, and writes down the handle. If it is
    killed in between, or later, the next search calls :meth:`adopt` for every job that it finds no end of.
    """

    @abstractmethod
    def free_slots(self) -> int:
        """Tell how many more jobs may be submitted now."""

    @abstractmethod
    def submit(self, job: Job) -> str:
        """Start a job.

        Args:
            job: The job.

        Returns:
            A handle by which another process finds the job again, such as the cluster's job ID.

        Raises:
            RuntimeError: If the job can't be started, with what the scheduler said.
        """

    @abstractmethod
    def adopt(self, job: Job, handle: str | None) -> str | None:
        """Take over a job that a search which has ended since had submitted, or was about to.

        Args:
            job: The job.
            handle: What :meth:`submit` had returned; None if the search was killed before it knew.

        Returns:
            The handle, if the job is there (waiting, running, or ended with an exit code); :meth:`poll` tells
            its end as if it had been submitted here. None if it never ran or its end is unknown: it may be
            submitted again, nothing of it runs.
        """

    @abstractmethod
    def poll(self) -> list[Ended]:
        """Tell which jobs have ended since the last call, each once."""

    @abstractmethod
    def cancel(self, job: Job) -> None:
        """End a job with everything that it started; :meth:`poll` reports it as killed."""

    def wait(self, seconds: float) -> None:
        """Return when a job may have ended, or after some seconds.

        Args:
            seconds: How long to wait at most.
        """
        time.sleep(seconds)

    def close(self) -> None:  # noqa: B027  (most hold nothing)
        """Free what the executor holds. Jobs that run go on."""
