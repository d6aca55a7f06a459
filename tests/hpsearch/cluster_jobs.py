"""Jobs for a cluster, and waiting for what becomes of them."""

import time

from hnetfast.hpsearch._executor import Job, State
from hnetfast.hpsearch._lsf import LsfExecutor
from hnetfast.hpsearch._slurm import SlurmExecutor

ENDS = {  # what a scheduler says of a job that it has ended, and what that is
    "slurm": [
        ("TIMEOUT", "", State.TIMEOUT),
        ("DEADLINE", "", State.TIMEOUT),
        ("OUT_OF_MEMORY", "", State.KILLED),
        ("NODE_FAIL", "", State.KILLED),
        ("PREEMPTED", "", State.KILLED),
        ("CANCELLED", "", State.KILLED),
        ("FAILED", "", State.FAILED),
    ],
    "lsf": [
        ("EXIT", "TERM_RUNLIMIT", State.TIMEOUT),
        ("EXIT", "TERM_MEMLIMIT", State.KILLED),
        ("EXIT", "TERM_PREEMPT", State.KILLED),
        ("EXIT", "TERM_OWNER", State.KILLED),
        ("EXIT", "TERM_CPULIMIT", State.KILLED),
        ("EXIT", "", State.KILLED),  # by an unknown hand, with exit code 137
    ],
}


def executor(cluster, folder, **options):
    options = {"num_jobs": 4, "hours": 2, "folder": folder, "interval": 0.02, "grace": 0.1} | options
    if cluster.scheduler == "slurm":
        named = dict.fromkeys(["mem", "gres", "partition", "qos", "constraint"], "")
        return SlurmExecutor(**named | options)
    return LsfExecutor(**{"resources": ""} | options)


def shell_job(folder, command="true", name="search-1", cwd=None):
    """A job that executes a command of the shell."""
    own = folder / f"jobs/{name}"
    own.mkdir(parents=True, exist_ok=True)
    return Job(name=name, command=("bash", "-c", command), cwd=cwd or folder, folder=own)


def poll_until_ended(executor, number=1):
    """The jobs that end, in the order in which they are reported."""
    ended, deadline = [], time.monotonic() + 20
    while len(ended) < number:
        assert time.monotonic() < deadline, f"only {ended}"
        ended += executor.poll()
        time.sleep(0.005)
    assert executor.poll() == []
    return ended


def poll_for_a_while(executor, cluster, questions=3):
    """Poll until the scheduler was asked so many times more; nothing may end."""
    program = "squeue" if cluster.scheduler == "slurm" else "bjobs"
    asked = len(cluster.calls(program)) + questions
    while len(cluster.calls(program)) < asked:
        assert executor.poll() == []
        time.sleep(0.005)


def wait_for_log(job, text):
    """Wait until a job has written a text."""
    deadline = time.monotonic() + 20
    while not job.log.exists() or text not in job.log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.005)
