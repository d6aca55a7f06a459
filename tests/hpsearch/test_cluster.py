"""Jobs on clusters with SLURM and LSF, on fakes of both that really execute what is submitted."""

import logging
import os
import re
import shutil
import signal
import sys
import time

import pytest

from hnetfast.hpsearch._cluster import end_by_code, read_exit_code, scheduler_name
from hnetfast.hpsearch._executor import Job, State
from tests.hpsearch.cluster_jobs import (
    ENDS,
    executor,
    poll_for_a_while,
    poll_until_ended,
    shell_job,
    wait_for_log,
)

# What is submitted


def test_a_job_runs_to_its_end(cluster, tmp_path):
    cwd = tmp_path / "work"
    cwd.mkdir()
    search = executor(cluster, tmp_path)
    job = shell_job(tmp_path, "pwd; echo on stderr >&2; cat; echo out > result.txt", cwd=cwd)
    handle = search.submit(job)
    assert cluster.job(handle)["name"] == job.name
    (ended,) = poll_until_ended(search)
    assert (ended.job, ended.state, ended.reason) == (job, State.FINISHED, "exit code 0")
    assert job.log.read_text() == f"{cwd}\non stderr\n"
    assert job.exit_code.read_text().strip() == "0"
    assert (cwd / "result.txt").exists()
    assert search.free_slots() == 4


def test_a_job_that_fails(cluster, tmp_path):
    search = executor(cluster, tmp_path)
    job = shell_job(tmp_path, "echo oh; exit 3")
    search.submit(job)
    (ended,) = poll_until_ended(search)
    assert (ended.state, ended.reason) == (State.FAILED, "exit code 3")
    assert job.log.read_text() == "oh\n"


def test_a_job_that_kills_itself(cluster, tmp_path):
    search = executor(cluster, tmp_path)
    search.submit(shell_job(tmp_path, "kill -SEGV $$"))
    (ended,) = poll_until_ended(search)
    assert (ended.state, ended.reason) == (State.KILLED, "killed by signal 11 (SIGSEGV)")


@pytest.mark.parametrize("what", ["program", "folder"])
def test_a_job_without_its_program_or_folder_fails(cluster, tmp_path, what):
    search = executor(cluster, tmp_path)
    job = shell_job(tmp_path)
    command = ("no-such-program",) if what == "program" else job.command
    job = Job(job.name, command, tmp_path / "gone" if what == "folder" else tmp_path, job.folder)
    search.submit(job)
    (ended,) = poll_until_ended(search)
    assert ended.state == State.FAILED
    assert ("no-such-program" if what == "program" else "gone") in job.log.read_text()


def test_commands_paths_and_names_may_hold_anything(cluster, tmp_path):
    strange = "a b'c\"d\n#SBATCH --mem=1\n#BSUB -W 1\n$(touch hacked)`touch hacked`\\ *%j,ü\N{SNOWMAN}"
    base = tmp_path / strange.replace("/", "")
    cwd = base / "cwd é'"
    own = base / "job \n% %j own"
    for folder in (cwd, own):
        folder.mkdir(parents=True)
    program = "import os, sys; print(ascii([os.getcwd(), *sys.argv[1:]]))"
    command = (sys.executable, "-c", program, strange, "", "--x=\udcff")
    job = Job(strange, command, cwd, own)
    search = executor(cluster, base)
    handle = search.submit(job)
    (ended,) = poll_until_ended(search)
    assert ended.state == State.FINISHED, job.log.read_text()
    assert job.log.read_text() == ascii([str(cwd), strange, "", "--x=\udcff"]) + "\n"
    assert not list(base.rglob("hacked"))
    assert cluster.job(handle)["name"] == scheduler_name(strange)
    if cluster.scheduler == "slurm":
        assert "mem" not in cluster.job(handle)["options"]


def test_the_command_gets_signals_and_its_own_time_to_end(cluster, tmp_path):
    search = executor(cluster, tmp_path)
    program = "trap 'sleep .05; echo saved; exit 0' TERM; echo up; while :; do sleep .01; done"
    job = shell_job(tmp_path, program)
    handle = search.submit(job)
    wait_for_log(job, "up")
    cluster.end(handle, "PREEMPTED" if cluster.scheduler == "slurm" else "EXIT", number=signal.SIGTERM)
    (ended,) = poll_until_ended(search)
    assert ended.state == State.FINISHED
    assert "saved" in job.log.read_text()


def test_scheduler_names_are_plain_and_unique():
    names = ["a-1.b_2", "A-1.b_2", "a,b", "a*b", "ü", "", "-a", "x" * 200, "x" * 199 + "y", "[1-3]", "a\nb"]
    made = [scheduler_name(name) for name in names]
    assert len(set(made)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,79}", name) for name in made)
    assert made[0] == names[0]


# What becomes of jobs


@pytest.mark.parametrize("listed", [True, False], ids=["in the queue's list", "in the accounting"])
def test_jobs_that_the_scheduler_ends(cluster, tmp_path, listed):
    ends = ENDS[cluster.scheduler]
    search = executor(cluster, tmp_path, num_jobs=len(ends))
    handles = [search.submit(shell_job(tmp_path, "sleep 60", f"job-{index}")) for index in range(len(ends))]
    for handle in handles:
        cluster.wait(handle, "RUNNING", "RUN")
    poll_for_a_while(search, cluster, 1)
    for handle, (state, reason, _) in zip(handles, ends, strict=True):
        cluster.end(handle, state, reason)
        if not listed:
            cluster.retire(handle)
    ended = {end.job.name: end for end in poll_until_ended(search, len(ends))}
    for index, (state, reason, expected) in enumerate(ends):
        assert ended[f"job-{index}"].state == expected
        assert (reason or ("SIGKILL" if state == "EXIT" else state)) in ended[f"job-{index}"].reason


def test_a_time_limit(cluster, tmp_path):
    cluster.set(seconds_per_hour=0.05)
    search = executor(cluster, tmp_path, hours=2)
    search.submit(shell_job(tmp_path, "sleep 60"))
    (ended,) = poll_until_ended(search)
    assert ended.state == State.TIMEOUT and "time limit" in ended.reason


def test_an_exit_code_does_not_hide_why_the_scheduler_killed_a_job(cluster, tmp_path):
    search = executor(cluster, tmp_path)
    job = shell_job(tmp_path, "echo up; sleep 60")
    handle = search.submit(job)
    wait_for_log(job, "up")
    state, reason, expected = ENDS[cluster.scheduler][0]
    cluster.end(handle, state, reason, signal.SIGTERM)  # the script lives to write the command's exit code
    assert job.exit_code.read_text() == "143\n"
    (ended,) = poll_until_ended(search)
    assert ended.state == expected


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["TERM", "KILL"])
def test_a_job_that_is_requeued_starts_anew(cluster, tmp_path, number):
    search = executor(cluster, tmp_path)
    job = shell_job(tmp_path, "[ -e again ] && exit 5; touch again; echo up; sleep 60")
    handle = search.submit(job)
    wait_for_log(job, "up")
    cluster.set(held=True)
    cluster.requeue(handle, number)
    cluster.wait(handle, "PENDING", "PEND")
    assert job.exit_code.exists() == (number == signal.SIGTERM)
    poll_for_a_while(search, cluster)  # it is not taken for one that was killed by that signal
    cluster.set(held=False)
    (ended,) = poll_until_ended(search)
    assert (ended.state, ended.reason) == (State.FAILED, "exit code 5")
    assert cluster.job(handle)["runs"] == 2


def test_a_requeued_job_forgets_its_old_exit_code_before_it_runs(cluster, tmp_path):
    search = executor(cluster, tmp_path)
    job = shell_job(tmp_path, "cat exit_code; echo -n none; sleep 60")
    job = Job(job.name, job.command, job.folder, job.folder)
    handle = search.submit(job)
    wait_for_log(job, "none")
    cluster.set(held=True)
    cluster.requeue(handle)
    cluster.wait(handle, "PENDING", "PEND")
    job.log.unlink()
    cluster.set(held=False)
    wait_for_log(job, "none")
    assert "143" not in job.log.read_text()


def test_states_that_are_no_end(cluster, tmp_path):
    search = executor(cluster, tmp_path)
    handle = search.submit(shell_job(tmp_path, "exit 4"))
    slurm = ["SUSPENDED", "COMPLETING", "REQUEUE_HOLD", "A_STATE_OF_2040"]
    for shown in slurm if cluster.scheduler == "slurm" else ["UNKWN", "USUSP", "WAIT", "PROV"]:
        cluster.show(handle, shown)
        cluster.wait(handle)
        poll_for_a_while(search, cluster, 2)
    cluster.show(handle, None)
    assert poll_until_ended(search)[0].state == State.FAILED


def test_an_lsf_zombie_is_lost(lsf, tmp_path):
    search = executor(lsf, tmp_path)
    handle = search.submit(shell_job(tmp_path, "sleep 60"))
    lsf.show(handle, "ZOMBI")
    (ended,) = poll_until_ended(search)
    assert ended.state == State.LOST and "ZOMBI" in ended.reason


def test_a_lost_job(cluster, tmp_path):
    search = executor(cluster, tmp_path)
    handle = search.submit(shell_job(tmp_path, "sleep 60"))
    cluster.wait(handle, "RUNNING", "RUN")
    cluster.lose(handle)
    start = time.monotonic()
    (ended,) = poll_until_ended(search)
    assert ended.state == State.LOST and handle in ended.reason
    assert time.monotonic() > start + 0.1  # not before the time of grace


def test_a_job_that_is_missing_for_a_moment_is_not_lost(cluster, tmp_path):
    search = executor(cluster, tmp_path, grace=1000)
    handle = search.submit(shell_job(tmp_path, "until [ -e go ]; do sleep .01; done; exit 2"))
    cluster.forget(handle)
    poll_for_a_while(search, cluster, 2)
    (tmp_path / "go").touch()
    (ended,) = poll_until_ended(search)  # by its exit code, though nobody knows it
    assert (ended.state, ended.reason) == (State.FAILED, "exit code 2")


def test_jobs_that_nobody_knows_end_by_their_exit_codes(cluster, tmp_path):
    search = executor(cluster, tmp_path, num_jobs=9, grace=1000)
    for code in (0, 1, 143):
        handle = search.submit(shell_job(tmp_path, f"exit {code}", f"job-{code}"))
        cluster.wait(handle)
        cluster.forget(handle)
    states = {ended.job.name: ended.state for ended in poll_until_ended(search, 3)}
    assert states == {"job-0": State.FINISHED, "job-1": State.FAILED, "job-143": State.KILLED}


@pytest.mark.parametrize("how", ["disabled", "not there"])
def test_slurm_without_accounting(slurm, tmp_path, how):
    if how == "disabled":
        slurm.set(accounting=False)
    else:
        slurm.remove("sacct")
    search = executor(slurm, tmp_path, num_jobs=9)
    timeout = search.submit(shell_job(tmp_path, "sleep 60", "timeout"))
    lost = search.submit(shell_job(tmp_path, "sleep 60", "lost"))
    failed = search.submit(shell_job(tmp_path, "exit 3", "failed"))
    for handle in (timeout, lost):
        slurm.wait(handle, "RUNNING")
    slurm.wait(failed)
    slurm.end(timeout, "TIMEOUT")  # squeue tells it for some time
    slurm.retire(failed)
    slurm.lose(lost)
    states = {ended.job.name: ended.state for ended in poll_until_ended(search, 3)}
    assert states == {"timeout": State.TIMEOUT, "failed": State.FAILED, "lost": State.LOST}
    assert len(slurm.calls("sacct")) == (1 if how == "disabled" else 0)


def test_lsf_without_bhist(lsf, tmp_path):
    lsf.remove("bhist")
    search = executor(lsf, tmp_path)
    handle = search.submit(shell_job(tmp_path, "sleep 60"))
    lsf.lose(handle)
    assert poll_until_ended(search)[0].state == State.LOST


def test_accounting_that_believes_a_job_to_run(cluster, tmp_path):
    search = executor(cluster, tmp_path)
    handle = search.submit(shell_job(tmp_path, "sleep 60"))
    cluster.wait(handle, "RUNNING", "RUN")
    cluster.retire(handle)  # it is not in the queue, but the accounting has no end of it
    assert poll_until_ended(search)[0].state == State.LOST


# When the scheduler fails


def test_a_scheduler_that_does_not_answer_ends_nothing(cluster, tmp_path, caplog):
    search = executor(cluster, tmp_path, grace=0)
    handle = search.submit(shell_job(tmp_path, "sleep 60"))
    cluster.wait(handle, "RUNNING", "RUN")
    queue, history = ("squeue", "sacct") if cluster.scheduler == "slurm" else ("bjobs", "bhist")
    with caplog.at_level(logging.WARNING, "hnetfast"):
        cluster.fail(queue, "Socket timed out on send/recv operation")
        poll_for_a_while(search, cluster)
        assert search.free_slots() == 0  # nothing more is submitted meanwhile
    assert len(caplog.records) == 1 and "Socket timed out" in caplog.text
    cluster.recover()
    cluster.retire(handle)
    cluster.fail(history, "Connection refused")
    poll_for_a_while(search, cluster)
    cluster.recover()
    cluster.end(handle, *ENDS[cluster.scheduler][0][:2])
    assert poll_until_ended(search)[0].state == State.TIMEOUT
    assert search.free_slots() == 4


def test_success_is_known_without_the_scheduler(cluster, tmp_path):
    search = executor(cluster, tmp_path)
    search.submit(shell_job(tmp_path))
    cluster.fail("squeue" if cluster.scheduler == "slurm" else "bjobs", "Socket timed out")
    assert poll_until_ended(search)[0].state == State.FINISHED
    cluster.recover()
    while search.free_slots() == 0:  # it asks again though no job is left
        assert search.poll() == []
        time.sleep(0.005)


def test_a_refused_job(cluster, tmp_path):
    search = executor(cluster, tmp_path)
    program = "sbatch" if cluster.scheduler == "slurm" else "bsub"
    cluster.fail(program, "invalid partition specified: nowhere", times=1)
    job = shell_job(tmp_path)
    with pytest.raises(RuntimeError, match=r"refuses the job.*invalid partition specified: nowhere"):
        search.submit(job)
    assert search.free_slots() == 4 and search.poll() == []
    assert search.adopt(job, None) is None
    search.submit(job)
    assert poll_until_ended(search)[0].state == State.FINISHED


@pytest.mark.parametrize("after", [False, True], ids=["not submitted", "submitted all the same"])
def test_a_submission_without_an_answer(cluster, tmp_path, after):
    search = executor(cluster, tmp_path)
    program = "sbatch" if cluster.scheduler == "slurm" else "bsub"
    cluster.fail(program, "Batch job submission failed: Socket timed out", times=1, after=after)
    job = shell_job(tmp_path, "exit 6")
    assert search.submit(job) == ""
    assert search.free_slots() == 0
    (ended,) = poll_until_ended(search)
    assert (ended.state, ended.reason) == (State.FAILED, "exit code 6")
    assert len(cluster.jobs()) == 1  # it ran once
    assert search.free_slots() == 4


def test_a_submission_that_is_refused_later(cluster, tmp_path):
    search = executor(cluster, tmp_path)
    program = "sbatch" if cluster.scheduler == "slurm" else "bsub"
    cluster.fail(program, "temporarily unable to accept job")
    search.submit(shell_job(tmp_path))
    poll_for_a_while(search, cluster, 2)
    cluster.fail(program, "no such account")
    (ended,) = poll_until_ended(search)
    assert ended.state == State.FAILED and "no such account" in ended.reason


def test_a_script_that_cannot_be_written(cluster, tmp_path):
    search = executor(cluster, tmp_path)
    job = shell_job(tmp_path)
    shutil.rmtree(job.folder)
    with pytest.raises(RuntimeError, match="script can't be written"):
        search.submit(job)
    assert search.free_slots() == 4


def test_a_program_that_hangs(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr("hnetfast.hpsearch._cluster._PATIENCE", 0.1)
    search = executor(cluster, tmp_path)
    program = cluster.bin / ("sbatch" if cluster.scheduler == "slurm" else "bsub")
    text = program.read_text()
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    assert search.submit(shell_job(tmp_path)) == ""
    program.write_text(text)
    monkeypatch.undo()
    os.environ["PATH"] = f"{cluster.bin}{os.pathsep}{os.environ['PATH']}"
    try:
        assert poll_until_ended(search)[0].state == State.FINISHED
    finally:
        os.environ["PATH"] = os.environ["PATH"].partition(os.pathsep)[2]


# How it is asked


def test_slots_and_questions(cluster, tmp_path):
    cluster.set(held=True)
    search = executor(cluster, tmp_path, num_jobs=3, interval=1000)
    for index in range(3):
        assert search.free_slots() == 3 - index
        search.submit(shell_job(tmp_path, "exit 1", f"job-{index}"))
    assert search.free_slots() == 0
    with pytest.raises(ValueError, match="job-1"):
        search.submit(shell_job(tmp_path, name="job-1"))
    for _ in range(20):
        search.poll()
    queue = "squeue" if cluster.scheduler == "slurm" else "bjobs"
    assert len(cluster.calls(queue)) == 1  # for all jobs, and not again before the interval is over


def test_cancel(cluster, tmp_path):
    search = executor(cluster, tmp_path)
    running = shell_job(tmp_path, "trap '' TERM; sleep 60 & sleep 60", "running")
    handle = search.submit(running)
    cluster.wait(handle, "RUNNING", "RUN")
    search.cancel(running)
    cluster.set(held=True)
    waiting = shell_job(tmp_path, name="waiting")
    search.submit(waiting)
    search.cancel(waiting)
    assert {(ended.job.name, ended.state) for ended in poll_until_ended(search, 2)} == {
        ("running", State.KILLED),
        ("waiting", State.KILLED),
    }
    search.cancel(running)  # it has ended


def test_cancel_until_the_scheduler_answers(cluster, tmp_path):
    search = executor(cluster, tmp_path)
    job = shell_job(tmp_path, "sleep 60")
    handle = search.submit(job)
    cluster.wait(handle, "RUNNING", "RUN")
    cluster.fail("scancel" if cluster.scheduler == "slurm" else "bkill", "Socket timed out", times=2)
    search.cancel(job)
    (ended,) = poll_until_ended(search)
    assert (ended.state, ended.reason) == (State.KILLED, "cancelled")
    cluster.wait(handle)


def test_cancel_a_job_whose_submission_was_not_answered(cluster, tmp_path):
    cluster.set(held=True)
    search = executor(cluster, tmp_path)
    program = "sbatch" if cluster.scheduler == "slurm" else "bsub"
    for after in (False, True):
        cluster.fail(program, "Socket timed out", times=1, after=after)
        job = shell_job(tmp_path, name=f"job-{after}".lower())
        search.submit(job)
        search.cancel(job)
        assert poll_until_ended(search)[0].state == State.KILLED
    assert {job["state"] for job in cluster.jobs()} <= {"CANCELLED", "EXIT"}


# Another search takes over


# Bad input


def test_without_the_scheduler(cluster, tmp_path):
    missing = ("sbatch", "squeue") if cluster.scheduler == "slurm" else ("bsub", "bkill")
    for program in missing:
        cluster.remove(program)
    with pytest.raises(
        RuntimeError, match=f"{cluster.scheduler.upper()}.*{', '.join(missing)} .*--run_cluster"
    ):
        executor(cluster, tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_jobs": 0}, "num_jobs: expected at least 1, got 0"),
        ({"hours": 0}, "num_hours: .* got 0"),
        ({"hours": float("nan")}, "num_hours: .* got nan"),
    ],
)
def test_arguments_out_of_range(cluster, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        executor(cluster, tmp_path, **options)


def test_a_folder_that_is_not_there(cluster, tmp_path):
    with pytest.raises(NotADirectoryError, match="gone"):
        executor(cluster, tmp_path / "gone")


def test_options_stay_in_their_lines(cluster, tmp_path):
    name = "mem" if cluster.scheduler == "slurm" else "resources"
    with pytest.raises(ValueError, match=rf"{name}: expected printable characters"):
        executor(cluster, tmp_path, **{name: "8G\n#SBATCH --exclusive"})


@pytest.mark.parametrize("content", [b"", b"garbage", b"-1\n", b"0 0", b"\xd9\xa0\n", b"1234\n", b"\xff"])
def test_an_exit_code_that_is_none(tmp_path, content):
    job = shell_job(tmp_path)
    assert read_exit_code(job) is None
    job.exit_code.write_bytes(content)
    assert read_exit_code(job) is None


# What the schedulers write


def test_exit_codes():
    assert end_by_code(0) == (State.FINISHED, "exit code 0")
    assert end_by_code(127) == (State.FAILED, "exit code 127")
    assert end_by_code(137) == (State.KILLED, "killed by signal 9 (SIGKILL)")
    assert end_by_code(255) == (State.FAILED, "exit code 255")


# hypnettorch's script
