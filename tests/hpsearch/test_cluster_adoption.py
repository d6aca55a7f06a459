"""Jobs that a search finds on a cluster when it goes on."""

import pytest

from hnetfast.hpsearch._cluster import script
from hnetfast.hpsearch._executor import State
from tests.hpsearch.cluster_jobs import (
    ENDS,
    executor,
    poll_for_a_while,
    poll_until_ended,
    shell_job,
    wait_for_log,
)


@pytest.mark.parametrize("know_handle", [True, False])
def test_adopt(cluster, tmp_path, know_handle):
    first = executor(cluster, tmp_path, num_jobs=9)
    commands = {
        "runs": "until [ -e go ]; do sleep .01; done; exit 1",
        "done": "exit 0",
        "failed": "exit 2",
        "killed": "sleep 60",
    }
    jobs = {name: shell_job(tmp_path, command, name) for name, command in commands.items()}
    handles = {name: first.submit(job) for name, job in jobs.items()}
    cluster.wait(handles["done"])
    cluster.wait(handles["failed"])
    cluster.wait(handles["runs"], "RUNNING", "RUN")
    cluster.wait(handles["killed"], "RUNNING", "RUN")
    cluster.end(handles["killed"], *ENDS[cluster.scheduler][0][:2])
    cluster.retire(handles["failed"], handles["killed"])

    second = executor(cluster, tmp_path, num_jobs=9)
    for name, job in jobs.items():
        assert second.adopt(job, handles[name] if know_handle else None) == handles[name]
    assert second.free_slots() == 5
    (tmp_path / "go").touch()
    states = {ended.job.name: ended.state for ended in poll_until_ended(second, 4)}
    assert states == {
        "runs": State.FAILED,
        "done": State.FINISHED,
        "failed": State.FAILED,
        "killed": State.TIMEOUT,
    }
    assert len(cluster.jobs()) == 4


def test_adopt_a_job_that_waits(cluster, tmp_path):
    cluster.set(held=True)
    job = shell_job(tmp_path, name="Waits; for 'ever'")
    handle = executor(cluster, tmp_path).submit(job)
    second = executor(cluster, tmp_path)
    assert second.adopt(job, None) == handle
    poll_for_a_while(second, cluster)
    cluster.set(held=False)
    assert poll_until_ended(second)[0].state == State.FINISHED


def test_adopt_a_requeued_job_that_has_an_old_exit_code(cluster, tmp_path):
    job = shell_job(tmp_path, "[ -e again ] && exit 0; touch again; echo up; sleep 60")
    handle = executor(cluster, tmp_path).submit(job)
    wait_for_log(job, "up")
    cluster.set(held=True)
    cluster.requeue(handle)
    cluster.wait(handle, "PENDING", "PEND")
    assert job.exit_code.exists()
    second = executor(cluster, tmp_path)
    assert second.adopt(job, handle) == handle
    poll_for_a_while(second, cluster)
    cluster.set(held=False)
    assert poll_until_ended(second)[0].state == State.FINISHED


def test_adopt_what_never_ran(cluster, tmp_path):
    search = executor(cluster, tmp_path)
    job = shell_job(tmp_path)
    assert search.adopt(job, None) is None
    assert cluster.calls() == []  # without a script it can't have been submitted
    script(job).write_text("")  # the search was killed right before sbatch
    assert search.adopt(job, None) is None
    assert search.free_slots() == 4


@pytest.mark.parametrize("know_handle", [True, False])
def test_adopt_what_nobody_knows(cluster, tmp_path, know_handle):
    job = shell_job(tmp_path, "sleep 60")
    handle = executor(cluster, tmp_path).submit(job)
    cluster.wait(handle, "RUNNING", "RUN")
    cluster.forget(handle)
    second = executor(cluster, tmp_path)
    assert second.adopt(job, handle if know_handle else None) is None
    cluster.wait(handle)  # nothing of it runs, should it only have been hidden for a moment
    assert second.free_slots() == 4


@pytest.mark.parametrize("was_submitted", [True, False])
def test_adopt_without_an_answer(cluster, tmp_path, was_submitted):
    job = shell_job(tmp_path, "exit 7")
    if was_submitted:
        executor(cluster, tmp_path).submit(job)
    else:
        script(job).write_text("")
    cluster.fail("squeue" if cluster.scheduler == "slurm" else "bjobs", "Socket timed out", times=2)
    second = executor(cluster, tmp_path)
    assert second.adopt(job, None) == ""  # it is not known, so it must not be submitted by anyone else
    assert second.free_slots() == 0
    assert poll_until_ended(second)[0].reason == "exit code 7"
    assert len(cluster.jobs()) == 1


def test_many_jobs_are_adopted_by_one_question(cluster, tmp_path):
    first = executor(cluster, tmp_path, num_jobs=9)
    cluster.set(held=True)
    jobs = [shell_job(tmp_path, name=f"job-{index}") for index in range(5)]
    handles = [first.submit(job) for job in jobs]
    second = executor(cluster, tmp_path, num_jobs=9, interval=1000)
    assert [second.adopt(job, handle) for job, handle in zip(jobs, handles, strict=True)] == handles
    assert len(cluster.calls("squeue" if cluster.scheduler == "slurm" else "bjobs")) == 1
