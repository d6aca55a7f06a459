"""What LSF is told, and what is read from its answers."""

import subprocess

from hnetfast.hpsearch._cluster import script
from hnetfast.hpsearch._executor import State
from hnetfast.hpsearch._lsf import _end, _read_history, _without_quotes
from tests.hpsearch.cluster_jobs import (
    executor,
    shell_job,
)


def test_lsf_options(lsf, tmp_path):
    lsf.set(held=True)
    search = executor(lsf, tmp_path, hours=30.5, resources='"rusage[mem=8000, ngpus_excl_p=1]"')
    job = shell_job(tmp_path)
    given = lsf.job(search.submit(job))["options"]
    assert given == {
        "-J": "search-1",
        "-W": "30:30",
        "-R": "rusage[mem=8000, ngpus_excl_p=1]",
        "-o": "lsf.txt",
    }
    assert subprocess.run(["bash", "-n", script(job)], check=False).returncode == 0


def test_quotes_around_resources():
    for resources in ["select[mem>1 && type=='any']", "", '"', '"a" -R "b"']:
        assert _without_quotes(resources) == resources
    assert _without_quotes("'rusage[mem=1]'") == "rusage[mem=1]"


def test_history_of_lsf():
    text = """
Job <1>, Job Name <one>, User <me>, Project <default>, Command <x>
Thu Mar 13 20:18:30: Submitted from host <a>, CWD <$HOME>, Output File <lsf.txt>;
Thu Mar 13 20:18:31: Starting (Pid 1);
Thu Mar 13 20:18:32: Exited with exit
                      code 143. The CPU time used is 0.1 seconds;
Thu Mar 13 20:18:32: Completed <exit>; TERM_MEMLIMIT: job killed after reaching
                      LSF memory usage limit;

Summary of time in seconds spent in various states by  Thu Mar 13 20:18:32
---------------------------------------------------------------------------

Job <2>, Job Name <a long name that is brok
                     en>, User <me>, Project <default>, Command <x>
Thu Mar 13 20:18:31: Starting (Pid 1);
Thu Mar 13 20:18:32: Exited by signal 9. The CPU time used is 0.1 seconds;

Job <3>, Job Name <three>, User <me>, Project <default>, Command <x>
Thu Mar 13 20:18:31: Starting (Pid 1);
Thu Mar 13 20:18:32: Exited with exit code 1. The CPU time used is 0.1 seconds;
Thu Mar 13 20:18:33: Requeue the finished job;
Thu Mar 13 20:18:34: Starting (Pid 2);
Thu Mar 13 20:18:35: Done successfully. The CPU time used is 0.1 seconds;

Job <4>, User <me>, Project <default>, Command <x>
Thu Mar 13 20:18:31: Starting (Pid 1);
Thu Mar 13 20:18:32: Exited with exit code 9. The CPU time used is 0.1 seconds;
Thu Mar 13 20:18:33: Requeue the finished job;
Thu Mar 13 20:18:34: Starting (Pid 2);
"""
    assert [(record.handle, record.name, record.end) for record in _read_history(text)] == [
        ("1", "one", State.KILLED),
        ("2", "a long name that is broken", State.KILLED),
        ("3", "three", State.FINISHED),
        ("4", "", None),
    ]
    assert "memory" in _read_history(text)[0].reason


def test_ends_of_lsf():
    assert (
        _end("EXIT", "140", "TERM_RUNLIMIT: job killed after reaching LSF run time limit")[0] == State.TIMEOUT
    )
    assert _end("EXIT", "3", "-") == (State.FAILED, "exit code 3")
    assert _end("EXIT", "-", "TERM_UNKNOWN: unknown")[0] == State.FAILED
    assert _end("EXIT", "130", "TERM_CWD_NOTEXIST: no such folder") == (
        State.KILLED,
        "no such folder (LSF: TERM_CWD_NOTEXIST)",
    )
