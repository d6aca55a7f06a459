"""Fake SLURM and LSF clusters, whose programs are put on PATH.

They really execute what is submitted, in the background. ``fake_slurm`` and ``fake_lsf`` are fixtures; a test
file that uses them imports them. Processes that the test starts find the programs too.
"""

import json
import os
import shlex
import signal
import sys
import time

import pytest

from tests.hpsearch import fake_scheduler_programs
from tests.hpsearch.fake_scheduler_programs import ACTIVE, PROGRAMS, Store, kill_processes


class FakeCluster:
    """A cluster, and what may happen on it.

    Args:
        scheduler: "slurm" or "lsf".
        root: A folder for its state, which is made. The programs are in ``root / "bin"``.
    """

    def __init__(self, scheduler, root):
        self.scheduler = scheduler
        self.root = root
        self.bin = root / "bin"
        for folder in (self.bin, root / "jobs"):
            folder.mkdir(parents=True)
        self._store = Store(root)
        self._store.write_settings(
            {"delay": 0.0, "held": False, "failures": {}, "accounting": True, "seconds_per_hour": None}
        )
        (root / "last_id").write_text("100")
        (root / "calls.jsonl").touch()
        for program in PROGRAMS[scheduler]:
            command = [sys.executable, "-I", "-S", fake_scheduler_programs.__file__, root, program.__name__]
            file = self.bin / program.__name__
            file.write_text(f'#!/bin/sh\nexec {shlex.join(map(str, command))} "$@"\n')
            file.chmod(0o755)

    def set(self, **settings):
        """Change settings.

        Args:
            **settings: ``delay``, seconds before a job starts; ``held``, whether no job starts;
                ``accounting``, whether sacct works; ``seconds_per_hour``, how long an hour of a job's time
                limit is (None: there are no limits).
        """
        with self._store.locked():
            known = self._store.settings()
            assert settings.keys() <= known.keys()
            self._store.write_settings(known | settings)

    def fail(self, program, message, *, times=-1, after=False):
        """Let a program fail so many times (-1: until :meth:`recover`), before or after its work."""
        with self._store.locked():
            settings = self._store.settings()
            settings["failures"][program] = {"message": message, "times": times, "after": after}
            self._store.write_settings(settings)

    def recover(self):
        """Let no program fail any more."""
        self.set(failures={})

    def remove(self, program):
        """Take a program away."""
        (self.bin / program).unlink()

    def jobs(self):
        """Returns what is known of all jobs, oldest first; those that were lost are gone."""
        with self._store.locked():
            return self._store.jobs()

    def job(self, handle):
        """Returns what is known of a job: its ``name``, ``state``, ``options``, ``runs``, …"""
        with self._store.locked():
            return self._store.job(handle)

    def calls(self, program=None):
        """Returns the command lines of all calls, or of those of a program."""
        calls = [json.loads(line) for line in (self.root / "calls.jsonl").read_text().splitlines()]
        return [call for call in calls if program in (None, call[0])]

    def wait(self, handle, *states):
        """Wait until a job is in one of these states, or has ended if none is given."""
        deadline = time.monotonic() + 20
        while (state := self.job(handle)["state"]) not in states and (states or state in ACTIVE):
            assert time.monotonic() < deadline, f"job {handle} is {state}"
            time.sleep(0.01)

    def end(self, handle, state, reason="", number=signal.SIGKILL):
        """End a job with a state of the scheduler, such as "TIMEOUT", or "EXIT" and "TERM_RUNLIMIT"."""
        with self._store.locked():
            self._store.kill(self._store.job(handle), state, reason, number)
        self.wait(handle)

    def requeue(self, handle, number=signal.SIGTERM):
        """Kill a job that runs and let it wait again, with the same ID."""
        with self._store.locked():
            self._store.kill(self._store.job(handle), "REQUEUE", "", number)

    def lose(self, handle):
        """Let a job end without a trace."""
        with self._store.locked():
            job = self._store.job(handle)
            self._store.delete_job(handle)
            kill_processes(job)

    def retire(self, *handles):
        """Take jobs out of the queue's list; only the accounting still knows them."""
        self._change(handles, listed=False)

    def forget(self, *handles):
        """Take jobs out of the accounting too."""
        self._change(handles, listed=False, accounted=False)

    def show(self, handle, state):
        """Let the queue's list give a state that is not the job's; None: its own again."""
        self._change([handle], shown=state)

    def stop(self):
        """End all jobs."""
        with self._store.locked():
            jobs = self._store.jobs()
            for job in jobs:
                self._store.delete_job(job["id"])  # which its node takes as the end
                kill_processes(job)

    def _change(self, handles, **fields):
        with self._store.locked():
            for handle in handles:
                self._store.write_job(self._store.job(handle) | fields)


def _fixture(scheduler, tmp_path, monkeypatch):
    cluster = FakeCluster(scheduler, tmp_path / f"fake {scheduler}")
    monkeypatch.setenv("PATH", f"{cluster.bin}{os.pathsep}{os.environ['PATH']}")
    yield cluster
    cluster.stop()


@pytest.fixture
def fake_slurm(tmp_path, monkeypatch):
    """A cluster with SLURM."""
    yield from _fixture("slurm", tmp_path, monkeypatch)


@pytest.fixture
def fake_lsf(tmp_path, monkeypatch):
    """A cluster with LSF."""
    yield from _fixture("lsf", tmp_path, monkeypatch)
