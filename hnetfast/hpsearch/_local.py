"""Jobs on this machine: so many at once, each with its own process group and, if wanted, a GPU.

A small shell script executes the command and writes down its exit code, so that the search may be killed
meanwhile. The script holds a lock on a file of the job for as long as it lives: whoever finds the lock taken
knows that the job runs, whatever has become of process numbers, and whoever finds it free that it does not.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hnetfast._errors import InputError
from hnetfast.hpsearch._executor import Ended, Executor, Job, State
from hnetfast.hpsearch._gpus import Gpu, list_gpus

# How long a script that holds its lock may take until it has written down its process number.
_PATIENCE = 10.0
# Where the system can't tell at once that a process of another search has ended, it is asked this often.
_INTERVAL = 0.05
# A GPU's load is asked for this often, at most.
_GPU_INTERVAL = 1.0


@dataclass
class _Running:
    job: Job
    pid: int
    gpu: int | None
    started: float  # time.time()
    process: subprocess.Popen | None = None  # None: of an earlier search
    pidfd: int | None = None
    verdict: tuple[State, str] | None = None  # why it was killed


class LocalExecutor(Executor):
    """Runs jobs on this machine.

    Args:
        slots: How many jobs run at once, or how many a GPU may have at once.
        gpus: The GPUs to which jobs are assigned; None assigns none.
        max_load: Up to which load a GPU may get another job.
        max_memory: Up to which share of its memory in use it may.
        startup_time: Seconds after a job's start on a GPU until these two are looked at.
        timeout: Seconds after which a job is killed; 0 is never.

    Raises:
        InputError: A ``ValueError``, if an argument is out of range.
    """

    def __init__(
        self,
        *,
        slots: int = 1,
        gpus: Sequence[int] | None = None,
        max_load: float = 0.5,
        max_memory: float = 0.5,
        startup_time: float = 60.0,
        timeout: float = 0.0,
        read_gpus: Callable[[], list[Gpu]] = list_gpus,
    ) -> None:
        if slots < 1:
            raise InputError(f"slots: expected at least one job at once, got {slots}.")
        if not timeout >= 0:
            raise InputError(f"timeout: expected a number of seconds of at least 0, got {timeout}.")
        self._slots = slots
        self._gpus = gpus
        self._max_load, self._max_memory, self._startup_time = max_load, max_memory, startup_time
        self._timeout = timeout
        self._read_gpus = read_gpus
        self._running: dict[str, _Running] = {}
        self._ended: list[Ended] = []
        self._busy_until: dict[int, float] = {}  # GPU to when its load is looked at again
        self._looked: tuple[float, list[Gpu]] = (-_GPU_INTERVAL, [])
        at_once = slots * (1 if gpus is None else len(gpus))
        self._threads = max(1, _cores() // at_once)

    def free_slots(self) -> int:
        if self._gpus is None:
            return max(0, self._slots - len(self._running))
        return len(self._free_gpus())

    def _free_gpus(self) -> list[int]:
        """List the GPUs that may get a job, those with the fewest first."""
        counts = {
            gpu: sum(running.gpu == gpu for running in self._running.values()) for gpu in self._gpus or ()
        }
        now = time.monotonic()
        candidates = [
            gpu for gpu, n in counts.items() if n < self._slots and now >= self._busy_until.get(gpu, 0)
        ]
        if not candidates:
            return []
        if now - self._looked[0] >= _GPU_INTERVAL:
            self._looked = (now, self._read_gpus())
        known = {gpu.index: gpu for gpu in self._looked[1]}
        free = [
            index
            for index in candidates
            if index in known
            and known[index].load <= self._max_load
            and known[index].memory <= self._max_memory
        ]
        return sorted(free, key=lambda gpu: counts[gpu])

    def submit(self, job: Job) -> str:
        """Start a job.

        Args:
            job: The job.

        Returns:
            The process number of its script.

        Raises:
            RuntimeError: If no slot is free.
            OSError: If it can't be started, as when the disk is full: then no other could be.
        """
        if not self.free_slots():
            raise RuntimeError("there is no free slot for another job")
        gpu = self._free_gpus()[0] if self._gpus is not None else None
        for path in (job.exit_code, job.log, _pid_file(job)):
            path.unlink(missing_ok=True)
        script = _write_script(job, self._threads, gpu)
        with open(_lock_file(job), "a+b") as lock, open(job.log, "ab") as log:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            process = subprocess.Popen(
                ["/bin/sh", str(script)], stdin=lock, stdout=log, stderr=log, start_new_session=True
            )
        self._add(_Running(job, process.pid, gpu, time.time(), process))
        if gpu is not None:
            self._busy_until[gpu] = time.monotonic() + self._startup_time
        return str(process.pid)

    def adopt(self, job: Job, handle: str | None) -> str | None:
        if not _is_locked(job):
            if job.exit_code.exists():
                self._ended.append(_by_exit_code(job))
                return handle or "ended"
            return None
        found = _read_pid(job)
        if found is None:  # it ended while we waited for its number
            return self.adopt(job, handle)
        pid, gpu, started = found
        self._add(_Running(job, pid, gpu, started))
        return str(pid)

    def _add(self, running: _Running) -> None:
        if hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):  # an old kernel, or it has just ended
                running.pidfd = os.pidfd_open(running.pid)
        self._running[running.job.name] = running

    def poll(self) -> list[Ended]:
        for running in list(self._running.values()):
            late = self._timeout and time.time() - running.started >= self._timeout
            if late and running.verdict is None:
                self._kill(running, State.TIMEOUT, f"ran longer than {self._timeout:g} s")
            if self._is_over(running):
                self._ended.append(self._finish(running))
        ended, self._ended = self._ended, []
        return ended

    def _is_over(self, running: _Running) -> bool:
        if running.process is not None:
            return running.process.poll() is not None
        return not _is_locked(running.job)

    def _finish(self, running: _Running) -> Ended:
        del self._running[running.job.name]
        if running.pidfd is not None:
            os.close(running.pidfd)
        ended = _by_exit_code(running.job)
        if ended.state == State.LOST:
            _kill_group(running.pid)  # somebody may have killed the script only
            if running.process is not None and running.process.returncode >= 0:
                ended = _by_code(running.job, running.process.returncode)  # it could not write: a full disk
        if running.verdict is not None and ended.state != State.FINISHED:
            return Ended(running.job, *running.verdict)
        return ended

    def cancel(self, job: Job) -> None:
        running = self._running.get(job.name)
        if running is not None and running.verdict is None:
            self._kill(running, State.KILLED, "cancelled")

    def _kill(self, running: _Running, state: State, reason: str) -> None:
        if not self._is_over(running):
            running.verdict = (state, reason)
            _kill_group(running.pid)
            if running.process is not None:
                running.process.wait()

    def wait(self, seconds: float) -> None:
        if self._ended:
            return
        if self._timeout:
            ends = [running.started + self._timeout for running in self._running.values()]
            seconds = max(0.0, min([seconds, *(end - time.time() for end in ends)]))
        watched = [running.pidfd for running in self._running.values() if running.pidfd is not None]
        if len(watched) < len(self._running):
            seconds = min(seconds, _INTERVAL)
        poll = select.poll()
        for pidfd in watched:
            poll.register(pidfd, select.POLLIN)
        poll.poll(1000 * seconds)


def _cores() -> int:
    """Returns how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _lock_file(job: Job) -> Path:
    return job.folder / "lock"


def _pid_file(job: Job) -> Path:
    return job.folder / "process"


def _write_script(job: Job, threads: int, gpu: int | None) -> Path:
    """Write the script that executes a job; its standard input is the locked file."""
    folder = shlex.quote(str(job.folder.absolute()))
    lines = [
        "#!/bin/sh",
        f"cd {folder} || exit 1",
        f'echo "$$ {"" if gpu is None else gpu}" >process',
        # Runs that share the cores spin at OpenMP's barriers and slow each other down many times over. What
        # the user has set stays.
        f'export OMP_NUM_THREADS="${{OMP_NUM_THREADS-{threads}}}"',
        'export OMP_WAIT_POLICY="${OMP_WAIT_POLICY-passive}"',
        *([] if gpu is None else [f"export CUDA_VISIBLE_DEVICES={gpu}"]),
        # The command does not hold the lock, nor does what it may leave in the background.
        f"(cd {shlex.quote(str(job.cwd.absolute()))} && exec {shlex.join(job.command)}) </dev/null",
        'code=$?; echo "$code" >exit_code; exit "$code"',
        "",
    ]
    script = job.folder / "job.sh"
    script.write_text("\n".join(lines), encoding="utf-8", errors="surrogateescape")
    return script


def _is_locked(job: Job) -> bool:
    try:
        lock = os.open(_lock_file(job), os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _read_pid(job: Job) -> tuple[int, int | None, float] | None:
    """Read the process number, the GPU and the time of start of a job that runs; None if it has ended."""
    until = time.monotonic() + _PATIENCE
    while True:
        with contextlib.suppress(FileNotFoundError, ValueError):  # ValueError: it is being written
            pid, *gpu = _pid_file(job).read_text().split()
            return int(pid), int(gpu[0]) if gpu else None, _pid_file(job).stat().st_mtime
        if not _is_locked(job):
            return None
        if time.monotonic() > until:
            raise RuntimeError(f"{job.folder}: a job runs there, but its process is not known")
        time.sleep(0.01)


def _kill_group(pid: int) -> None:
    # The number of a process group is not given to another process while anything of the group lives.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _by_exit_code(job: Job) -> Ended:
    try:
        code = int(job.exit_code.read_text())
    except (FileNotFoundError, ValueError):  # ValueError: it was killed while it wrote
        return Ended(job, State.LOST, "its processes are gone, and nobody knows how they ended")
    return _by_code(job, code)


def _by_code(job: Job, code: int) -> Ended:
    if code == 0:
        return Ended(job, State.FINISHED, "exit code 0")
    if code > 128:
        with contextlib.suppress(ValueError):
            name = signal.Signals(code - 128).name
            return Ended(job, State.KILLED, f"killed by signal {code - 128} ({name})")
    return Ended(job, State.FAILED, f"exit code {code}")
