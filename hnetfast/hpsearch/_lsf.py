"""Jobs on a cluster with IBM Spectrum LSF, of version 9.1 or later.

A job goes from bjobs, where it stays for an hour after its end, to bhist. LSF's own report on a job is in
``lsf.txt`` in the job's folder: appended to its log, it would hide the end of that. The script itself writes
the log, since LSF may keep what a job writes to itself until the job has ended.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from hnetfast._files import write_atomically
from hnetfast.hpsearch._cluster import (
    ClusterExecutor,
    NoAnswer,
    Record,
    check_option,
    end_by_code,
    run_program,
    said,
    scheduler_name,
    script,
    script_body,
    submit_with,
)
from hnetfast.hpsearch._executor import Job, State

_REASONS = {
    "TERM_RUNLIMIT": (State.TIMEOUT, "ran past its time limit"),
    "TERM_DEADLINE": (State.TIMEOUT, "ran past its deadline"),
    "TERM_MEMLIMIT": (State.KILLED, "out of memory"),
    "TERM_SWAP": (State.KILLED, "out of memory"),
    "TERM_PREEMPT": (State.KILLED, "preempted by another job"),
    "TERM_OWNER": (State.KILLED, "cancelled"),
    "TERM_FORCE_OWNER": (State.KILLED, "cancelled"),
    "TERM_ADMIN": (State.KILLED, "cancelled by an administrator"),
    "TERM_FORCE_ADMIN": (State.KILLED, "cancelled by an administrator"),
}
_FOR_NOW = re.compile(
    "timed out|time ?out|cannot connect|connection refused|not responding|temporarily|LSF is down|threshold"
    "|LSF library call|still trying|job limit",
    re.IGNORECASE,
)
_NONE_THERE = re.compile(r"no (unfinished |matching )?job found|is not found|already finished", re.IGNORECASE)

_EVENTS = re.compile(
    r"(?P<start>Starting|Started)|(?P<done>Done successfully)|Completed <exit>; (?P<reason>TERM_\w+)"
    r"|Exited(?: with exit ?code (?P<code>\d+)| by (?:LSF )?signal (?P<signal>\d+))?"
)


class LsfExecutor(ClusterExecutor):
    """Runs jobs through LSF.

    Args:
        num_jobs: How many jobs may wait or run at once.
        hours: Time limit of a job, in hours.
        resources: What a job needs, such as "rusage[mem=8000, ngpus_excl_p=1]", which may be in quotes of its
            own; empty for the queue's defaults.
        folder: An existing folder that all machines of the cluster share, in which the jobs' folders are.
        interval: Seconds between two calls of bjobs.
        grace: Seconds for which neither bjobs nor bhist must know a job before it counts as lost.

    Raises:
        InputError: A ``ValueError``, if an argument is out of range.
        NotADirectoryError: If there is no such folder.
        RuntimeError: If this machine has not LSF's programs.
    """

    scheduler = "LSF"
    programs = ("bsub", "bjobs", "bkill")

    def __init__(
        self,
        *,
        num_jobs: int,
        hours: float,
        resources: str,
        folder: Path,
        interval: float = 30.0,
        grace: float = 120.0,
    ) -> None:
        check_option("resources", resources)
        super().__init__(num_jobs=num_jobs, hours=hours, folder=folder, interval=interval, grace=grace)
        self._options = ["-W", f"{self._minutes // 60}:{self._minutes % 60:02d}", "-o", "lsf.txt"]
        if resources := _without_quotes(resources.strip()):
            self._options += ["-R", resources]
        self._has_history = shutil.which("bhist") is not None

    def _start(self, job: Job) -> str:
        text = f"#!/bin/bash\nexec >>{shlex.quote(str(job.log.absolute()))} 2>&1\n{script_body(job)}"
        write_atomically(script(job), os.fsencode(text))
        # As an argument, bsub would hand the command to a shell of the user's choice.
        result = submit_with(
            ["bsub", "-J", scheduler_name(job.name), *self._options],
            job,
            text=f"#!/bin/bash\nexec bash {shlex.quote(str(script(job).absolute()))}\n",
        )
        if result.returncode:
            if _FOR_NOW.search(result.stderr):
                raise NoAnswer(said(result))
            raise RuntimeError(f"LSF refuses the job. {said(result)}")
        match = re.search(r"Job <(\d+)>", result.stdout)
        if match is None:
            raise NoAnswer(said(result))
        return match[1]

    def _list_queue(self) -> list[Record]:
        # Also those that ended within lsb.params' CLEAN_PERIOD.
        fields = "jobid stat exit_code exit_reason job_name delimiter='|'"
        result = run_program(["bjobs", "-a", "-noheader", "-o", fields])
        if result.returncode and not _NONE_THERE.search(result.stderr):
            raise NoAnswer(said(result))
        rows = [line.strip().split("|", 4) for line in result.stdout.splitlines()]
        return [
            Record(row[0], row[4].strip(), *_end(*row[1:4]))
            for row in rows
            if len(row) == 5 and row[0].isdecimal()  # "123[4]" is of an array
        ]

    def _search_history(self, handles: Sequence[str], jobs: Sequence[Job]) -> list[Record]:
        which = [list(handles)] if handles else []
        which += [["-a", "-J", scheduler_name(job.name)] for job in jobs]
        return [record for arguments in which for record in self._ask_history(arguments)]

    def _ask_history(self, which: list[str]) -> list[Record]:
        if not self._has_history:
            return []
        result = run_program(["bhist", "-l", "-n", "0", *which])  # in all of LSF's event logs
        if result.returncode and not _NONE_THERE.search(result.stderr):
            raise NoAnswer(said(result))
        return _read_history(result.stdout)

    def _kill(self, job: Job, handle: str) -> None:
        result = run_program(["bkill", *([handle] if handle else ["-J", scheduler_name(job.name), "0"])])
        if result.returncode and not _NONE_THERE.search(result.stderr + result.stdout):
            raise NoAnswer(said(result))


def _without_quotes(resources: str) -> str:
    """Take off the quotes that hypnettorch needs around resources, and has in its default."""
    match = re.fullmatch(r"\"([^\"]*)\"|'([^']*)'", resources)
    return (match[1] or match[2] or "") if match else resources


def _end(status: str, code: str, reason: str) -> tuple[State | None, str]:
    """Tell how a job has ended, None if it has not, from bjobs' fields.

    One in the state UNKWN may come back with its host. A ZOMBI is on a host that has not come back, and was
    killed or is to run elsewhere.
    """
    if status == "DONE":
        return State.FINISHED, "done (LSF: DONE)"
    if status == "ZOMBI":
        return State.LOST, "its host can't be reached (LSF: ZOMBI)"
    if status != "EXIT":
        return None, f"in the queue (LSF: {status})"
    word, _, words = reason.partition(":")
    if word in _REASONS:
        end, words = _REASONS[word]
        return end, f"{words} (LSF: {word})"
    if word.startswith("TERM_") and word != "TERM_UNKNOWN":
        return State.KILLED, f"{words.strip() or 'killed'} (LSF: {word})"
    if code.isdecimal() and int(code):
        return end_by_code(int(code))
    return State.FAILED, "failed (LSF: EXIT)"


def _read_history(text: str) -> list[Record]:
    """Read what ``bhist -l`` says of jobs: a paragraph each, with lines broken and indented at any place."""
    records = []
    for part in re.split(r"(?m)^(?=Job <)", text.replace("\n" + 21 * " ", "")):
        header = re.match(r"Job <(\d+)>(?:, Job Name <([^>]*)>)?", part)
        if header is None:
            continue
        end, code = _end("RUN", "", ""), ""
        for event in _EVENTS.finditer(part):
            if event["start"]:  # requeued
                end, code = _end("RUN", "", ""), ""
            elif event["done"]:
                end = _end("DONE", "", "")
            else:
                code = event["code"] or (str(128 + int(event["signal"])) if event["signal"] else code)
                end = _end("EXIT", code, event["reason"] or "")
        records.append(Record(header[1], (header[2] or "").strip(), *end))
    return records
