"""Jobs on a cluster: the script that is executed, and what became of it.

The script writes the command's exit code into the job's folder, in one step. Exit code 0 is the end of a job,
whatever the scheduler says. Any other is its end only when the scheduler no longer holds the job: one that is
preempted is killed, writes the code of that, and is run again from the start. Without an exit code the
scheduler decides. It is asked for all jobs at once, and not answering is no answer: nothing has ended then.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from abc import abstractmethod
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from hnetfast._errors import InputError
from hnetfast.hpsearch._executor import Ended, Executor, Job, State

_PATIENCE = 60.0  # seconds for a scheduler's program; bsub and squeue may wait for a daemon for hours

_logger = logging.getLogger(__name__)


class NoAnswer(Exception):
    """The scheduler could not be asked; whether it did what it was told is not known."""


@dataclass(frozen=True)
class Record:
    """What a scheduler knows of a job.

    Attributes:
        handle: The job's ID.
        name: Its name there, see :func:`scheduler_name`.
        end: How it ended; None while it waits or runs, or may do so again.
        reason: The scheduler's word for it and what it means.
    """

    handle: str
    name: str
    end: State | None
    reason: str


@dataclass
class _Submitted:
    job: Job
    handle: str  # "": not known to be submitted
    cancelled: bool = False
    unknown_since: float | None = None  # since when the scheduler knows nothing of it


class ClusterExecutor(Executor):
    """Runs jobs through a scheduler; the subclasses know its programs.

    Args:
        num_jobs: How many jobs may wait or run at once.
        hours: Time limit of a job, in hours.
        folder: An existing folder that all machines of the cluster share, in which the jobs' folders are.
        interval: Seconds between two questions to the scheduler.
        grace: Seconds for which the scheduler must know nothing of a job before it counts as lost.

    Raises:
        InputError: A ``ValueError``, if an argument is out of range.
        NotADirectoryError: If there is no such folder.
        RuntimeError: If this machine has not the scheduler's programs.
    """

    scheduler: str  # its name, for people
    programs: tuple[str, ...]  # those that are needed

    def __init__(self, *, num_jobs: int, hours: float, folder: Path, interval: float, grace: float) -> None:
        if num_jobs < 1:
            raise InputError(f"num_jobs: expected at least 1, got {num_jobs}.")
        if not (math.isfinite(hours) and hours > 0):
            raise InputError(f"num_hours: expected a positive number of hours, got {hours}.")
        if not folder.is_dir():
            raise NotADirectoryError(f"folder: {folder} is not an existing folder.")
        missing = [program for program in self.programs if shutil.which(program) is None]
        if missing:
            raise RuntimeError(
                f"The search is to run on a cluster with {self.scheduler}, but there is no "
                f"{', '.join(missing)} on this machine's PATH. Start it where jobs can be submitted (perhaps "
                f"after `module load {self.scheduler.lower()}`), choose another --scheduler, or leave out "
                "--run_cluster to search on this machine."
            )
        self._num_jobs = num_jobs
        self._minutes = max(1, math.ceil(hours * 60))
        self._interval = interval
        self._grace = grace
        self._jobs: dict[str, _Submitted] = {}  # those that have not been reported, by name
        self._silent = False  # the scheduler did not answer the last time
        self._next_question = self._next_look = -math.inf
        self._queue: tuple[float, list[Record]] = (-math.inf, [])  # as of when

    @abstractmethod
    def _start(self, job: Job) -> str:
        """Write the job's script and submit it.

        Returns:
            The job's ID.

        Raises:
            NoAnswer: If it may or may not have been submitted, or is refused for the time being only.
            RuntimeError: If it is refused, with what the scheduler said.
        """

    @abstractmethod
    def _list_queue(self) -> list[Record]:
        """List the user's jobs that wait or run, and those that ended a short while ago; raises NoAnswer."""

    @abstractmethod
    def _search_history(self, handles: Sequence[str], jobs: Sequence[Job]) -> list[Record]:
        """Look jobs that are not in the queue up in the accounting, where there is one.

        Args:
            handles: Of jobs whose ID is known.
            jobs: Those to be found by their names.

        Raises:
            NoAnswer: If it could not be asked.
        """

    @abstractmethod
    def _kill(self, job: Job, handle: str) -> None:
        """End a job, found by its name if there is no handle, unless it has ended; raises NoAnswer."""

    def free_slots(self) -> int:
        # Whatever was submitted to a scheduler that is down would only wait here.
        return 0 if self._silent else max(0, self._num_jobs - len(self._jobs))

    def submit(self, job: Job) -> str:
        """Start a job.

        Args:
            job: The job.

        Returns:
            Its ID; "" if the scheduler did not answer. :meth:`poll` submits it as soon as it does, unless it
            turns out to be there.

        Raises:
            InputError: A ``ValueError``, if there is a job of that name.
            RuntimeError: If the scheduler refuses the job, or its script can't be written.
        """
        if job.name in self._jobs:
            raise InputError(f"job: there already is a job of the name {job.name!r}.")
        submitted = _Submitted(job, "")
        self._try_to_start(submitted)
        self._jobs[job.name] = submitted
        return submitted.handle

    def adopt(self, job: Job, handle: str | None) -> str | None:
        submitted = _Submitted(job, handle or "")
        if not (handle or script(job).exists()):
            return None  # the script is written before it is submitted
        _wait_for_submission(job)
        try:
            if read_exit_code(job) is None or not handle:
                record = self._ask([submitted], self._recent_queue())[job.name]
                if record is not None:
                    submitted.handle = record.handle
                elif read_exit_code(job) is None:
                    self._kill(job, submitted.handle)  # should the scheduler know it after all
                    return None
        except NoAnswer as error:
            self._note_silence(error)
        self._jobs[job.name] = submitted
        return submitted.handle

    def poll(self) -> list[Ended]:
        now = time.monotonic()
        ended: list[Ended] = []
        if now >= self._next_look:  # shared file systems don't like to be asked all the time
            self._next_look = now + min(self._interval, 1.0)
            ended += [
                Ended(submitted.job, *end_by_code(0))
                for submitted in self._jobs.values()
                if read_exit_code(submitted.job) == 0
            ]
            self._forget(ended)
        if now >= self._next_question and (self._jobs or self._silent):
            self._next_question = now + self._interval
            try:
                records = self._ask(self._jobs.values(), self._fresh_queue())
            except NoAnswer as error:
                self._note_silence(error)
            else:
                self._silent = False
                judged = [self._judge(submitted, records[name]) for name, submitted in self._jobs.items()]
                ended += [end for end in judged if end is not None]
                self._forget(ended)
        return ended

    def cancel(self, job: Job) -> None:
        if (submitted := self._jobs.get(job.name)) is not None:
            submitted.cancelled = True
            try:
                self._kill(job, submitted.handle)
            except NoAnswer as error:  # poll tries again
                self._note_silence(error)

    def _try_to_start(self, submitted: _Submitted) -> None:
        job = submitted.job
        try:
            job.exit_code.unlink(missing_ok=True)
            job.log.unlink(missing_ok=True)
            submitted.handle = self._start(job)
        except NoAnswer as error:
            self._note_silence(error)
        except OSError as error:
            raise RuntimeError(f"The job's script can't be written: {error}") from error

    def _forget(self, ended: Iterable[Ended]) -> None:
        for end in ended:
            self._jobs.pop(end.job.name, None)

    def _note_silence(self, error: NoAnswer) -> None:
        if not self._silent:
            _logger.warning(
                "%s does not answer, or takes no job for now; it is asked again: %s", self.scheduler, error
            )
        self._silent = True

    def _fresh_queue(self) -> list[Record]:
        self._queue = (time.monotonic(), self._list_queue())
        return self._queue[1]

    def _recent_queue(self) -> list[Record]:
        return self._queue[1] if time.monotonic() < self._queue[0] + self._interval else self._fresh_queue()

    def _ask(self, jobs: Collection[_Submitted], queue: list[Record]) -> dict[str, Record | None]:
        """Tell what the scheduler knows of jobs, by their names; raises NoAnswer."""
        records = {submitted.job.name: _find(submitted, queue) for submitted in jobs}
        unlisted = [submitted for submitted in jobs if records[submitted.job.name] is None]
        if unlisted:
            history = self._search_history(
                [submitted.handle for submitted in unlisted if submitted.handle],
                [submitted.job for submitted in unlisted if not submitted.handle],
            )
            # The accounting may believe that a job runs whose end it was not told.
            history = [record for record in history if record.end is not None]
            records |= {submitted.job.name: _find(submitted, history) for submitted in unlisted}
        return records

    def _judge(self, submitted: _Submitted, record: Record | None) -> Ended | None:
        """Tell whether, and how, a job has ended; submit it or end it where that has failed so far."""
        job = submitted.job
        code = read_exit_code(job)  # after the scheduler was asked: of a job that had ended then, it is there
        if record is not None:
            submitted.unknown_since = None
            submitted.handle = record.handle
        if code == 0:
            end = end_by_code(0)
        elif record is not None and record.end is None:
            if submitted.cancelled and not self._silent:
                self.cancel(job)
            return None
        elif submitted.cancelled:
            end = State.KILLED, "cancelled"
        elif code is not None and (record is None or record.end not in (State.TIMEOUT, State.KILLED)):
            end = end_by_code(code)
        elif record is not None:
            end = cast("State", record.end), record.reason
        elif not submitted.handle:
            if not self._silent:
                try:
                    self._try_to_start(submitted)
                except RuntimeError as error:
                    return Ended(job, State.FAILED, str(error))
            return None
        else:
            now = time.monotonic()
            submitted.unknown_since = submitted.unknown_since or now
            if now < submitted.unknown_since + self._grace:
                return None
            end = State.LOST, f"{self.scheduler} knows nothing of the job {submitted.handle} any more"
        return Ended(job, *end)


def script(job: Job) -> Path:
    """Returns where a job's script is."""
    return job.folder / "job.sh"


def script_body(job: Job) -> str:
    """Write the part of a job's script that executes the command and keeps its exit code.

    Args:
        job: The job.

    Returns:
        Lines for bash.
    """
    part = job.exit_code.absolute().with_name(f".{job.exit_code.name}.part")
    return "\n".join(
        [
            f"exit_code={shlex.quote(str(job.exit_code.absolute()))}",
            f"part={shlex.quote(str(part))}",
            'rm -f "$exit_code"  # of a run before the job was requeued',
            "trap : HUP INT TERM USR1 USR2  # they are the command's; bash waits for what it makes of them",
            f"(cd {shlex.quote(str(job.cwd.absolute()))} && exec {shlex.join(job.command)}) </dev/null",
            "code=$?",
            'echo "$code" >"$part" && mv -f "$part" "$exit_code"',
            'exit "$code"',
            "",
        ]
    )


def scheduler_name(name: str) -> str:
    """Make a job's name one that schedulers take as it is and that finds no other job.

    Commas, asterisks, and brackets have a meaning in their options; some keep names in lower case.

    Args:
        name: Any name.

    Returns:
        The name itself where it is plain, else a similar one of at most 80 characters.
    """
    if re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,79}", name):
        return name
    plain = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("._-")[:63]
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return f"{plain}-{digest}".lstrip("-")


def read_exit_code(job: Job) -> int | None:
    """Read the exit code that a job's script has written.

    Args:
        job: The job.

    Returns:
        The exit code; None if there is none, or something else in its place.
    """
    try:
        text = job.exit_code.read_bytes()
    except OSError:  # also a network file system that has just forgotten the file
        return None
    return int(text) if re.fullmatch(rb"[0-9]{1,3}\n?", text) else None


def end_by_code(code: int) -> tuple[State, str]:
    """Tell how a command has ended.

    Args:
        code: The exit code that bash reports.

    Returns:
        How it ended, and a sentence for people.
    """
    if code == 0:
        return State.FINISHED, "exit code 0"
    try:
        name = signal.Signals(code - 128).name
    except ValueError:
        return State.FAILED, f"exit code {code}"
    return State.KILLED, f"killed by signal {code - 128} ({name})"


def submit_with(command: Sequence[str], job: Job, text: str = "") -> subprocess.CompletedProcess:
    """Run the program that submits a job, in the job's folder; see :func:`run_program`.

    It holds a lock of the job until it ends, also when this search is killed meanwhile: the next one waits
    for it, or would submit the job a second time.
    """
    with open(_submission_lock(job), "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return run_program(command, job.folder, text, pass_fds=(lock.fileno(),))


def _submission_lock(job: Job) -> Path:
    return job.folder / ".submitting"


def _wait_for_submission(job: Job) -> None:
    """Wait until nobody submits a job any more, a minute at most: some file systems lose locks."""
    until = time.monotonic() + _PATIENCE
    with open(_submission_lock(job), "ab") as lock:
        while time.monotonic() < until:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            time.sleep(0.05)


def run_program(
    command: Sequence[str], folder: Path | None = None, text: str = "", pass_fds: Sequence[int] = ()
) -> subprocess.CompletedProcess:
    """Run a program of the scheduler.

    Args:
        command: The program and its arguments.
        folder: Where it is run; None is the current folder.
        text: Its input.
        pass_fds: Open files that it inherits.

    Returns:
        Its exit code and its outputs, as text.

    Raises:
        NoAnswer: If it can't be run or doesn't come back.
    """
    try:
        # Not a pipe: the program would read half of a script if this search is killed.
        with tempfile.TemporaryFile() as stdin:
            stdin.write(os.fsencode(text))
            stdin.seek(0)
            return subprocess.run(
                command,
                cwd=folder,
                stdin=stdin,
                capture_output=True,
                pass_fds=pass_fds,
                timeout=_PATIENCE,
                encoding="utf-8",
                errors="surrogateescape",
            )
    except subprocess.TimeoutExpired as error:
        raise NoAnswer(f"{command[0]} did not end within {_PATIENCE:g} s") from error
    except OSError as error:
        raise NoAnswer(f"{command[0]} can't be run: {error}") from error


def said(result: subprocess.CompletedProcess) -> str:
    """Returns what a program said, in one line, for a message."""
    text = " ".join((result.stderr + " " + result.stdout).split())
    return f"{result.args[0]}: {text or f'exit code {result.returncode}'}"


def check_option(name: str, value: str) -> None:
    """Refuse an option that would not stay within its line of a script.

    Args:
        name: The argument's name.
        value: What was passed.

    Raises:
        InputError: A ``ValueError``, if it has control characters.
    """
    if not value.isprintable():
        raise InputError(f"{name}: expected printable characters only, got {value!r}.")


def _find(submitted: _Submitted, records: Iterable[Record]) -> Record | None:
    """Find a job by its ID, or else by its name: the one that is active, else the newest."""
    if submitted.handle:
        found = [record for record in records if record.handle == submitted.handle]
    else:
        name = scheduler_name(submitted.job.name)
        found = [record for record in records if record.name.lower() == name]
    return max(found, key=lambda record: (record.end is None, int(record.handle)), default=None)
