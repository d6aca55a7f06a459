"""The programs of fake schedulers: sbatch, squeue, sacct, scancel, bsub, bjobs, bhist and bkill.

Each is a call of :func:`main` in a process of its own, see tests/hpsearch/fake_schedulers.py. They share a
folder and execute jobs in the background. Nothing but the standard library is imported: they start quickly.
"""

import fcntl
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

# Of sbatch's manual, those that submitit may write and those that ask for resources.
SBATCH_OPTIONS = {
    "account", "chdir", "comment", "constraint", "cpus-per-gpu", "cpus-per-task", "error", "exclude",
    "exclusive", "export", "gpus", "gpus-per-node", "gpus-per-task", "gres", "job-name", "mem",
    "mem-per-cpu", "mem-per-gpu", "nodelist", "nodes", "no-requeue", "ntasks", "ntasks-per-node",
    "open-mode", "output", "partition", "qos", "requeue", "signal", "time", "wckey",
}  # fmt: skip
ACTIVE = {"PENDING", "RUNNING", "PEND", "RUN"}


class Store:
    """The state of a scheduler: a file a job, and settings, in a folder."""

    def __init__(self, root):
        self.root = Path(root)
        self.lock_depth = 0

    @contextmanager
    def locked(self):
        with open(self.root / "lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def settings(self):
        return json.loads((self.root / "settings.json").read_text())

    def write_settings(self, settings):
        self._write("settings.json", settings)

    def jobs(self):
        files = sorted((self.root / "jobs").glob("*.json"), key=lambda file: int(file.stem))
        return [json.loads(file.read_text()) for file in files]

    def job(self, handle):
        file = self.root / "jobs" / f"{handle}.json"
        return json.loads(file.read_text()) if file.exists() else None

    def write_job(self, job):
        self._write(f"jobs/{job['id']}.json", job)

    def delete_job(self, handle):
        (self.root / "jobs" / f"{handle}.json").unlink()

    def _write(self, name, content):
        part = self.root / f"{name}.part"
        part.write_text(json.dumps(content))
        part.rename(self.root / name)

    def kill(self, job, state, reason="", number=signal.SIGKILL):
        """End a job that is locked; its node writes the state down when it is dead."""
        if job["pid"]:
            job["verdict"] = [state, reason]
            self.write_job(job)
            kill_processes(job, number)
        else:
            job["state"], job["reason"] = state, reason
            self.write_job(job)


def kill_processes(job, number=signal.SIGKILL):
    """Send a signal to everything that a job has started."""
    try:
        if job["pid"]:
            os.killpg(job["pid"], number)
    except ProcessLookupError:  # it has just ended
        pass


def add_job(store, **fields):
    """Add a job and execute it in the background."""
    with store.locked():
        last = store.root / "last_id"
        handle = int(last.read_text()) + 1
        last.write_text(str(handle))
        job = {
            "id": handle, "pid": None, "node": None, "verdict": None, "reason": "", "code": None, "runs": 0,
            "listed": True, "accounted": True, "submitted": time.time(), **fields,
        }  # fmt: skip
        script = store.root / f"{handle}.sh"
        script.write_bytes(job.pop("text"))
        store.write_job(job)
    if os.fork() == 0:
        os.setsid()
        devnull = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(devnull, stream)
        os.closerange(3, 1024)  # a real machine inherits nothing of the program that submits
        try:
            run_node(store, handle)
        finally:
            os._exit(0)
    return handle


def run_node(store, handle):
    """Be the machine that executes a job, until the job has ended."""
    script = store.root / f"{handle}.sh"
    waiting, running = ("PENDING", "RUNNING") if store.job(handle)["slurm"] else ("PEND", "RUN")
    while True:
        start = time.monotonic()
        while store.settings()["held"] or time.monotonic() < start + store.settings()["delay"]:
            time.sleep(0.01)
            if store.job(handle) is None:
                return
        with store.locked():
            job = store.job(handle)
            if job is None or job["state"] != waiting:
                return
            output = os.path.join(job["cwd"], job["output"] or os.devnull)
            with open(output, "ab") as file:
                process = subprocess.Popen(
                    ["bash", script], cwd=job["cwd"], stdin=subprocess.DEVNULL, stdout=file,
                    stderr=subprocess.STDOUT, start_new_session=True,
                )  # fmt: skip
            job |= {"state": running, "pid": process.pid, "node": os.getpid(), "runs": job["runs"] + 1}
            store.write_job(job)
        scale = store.settings()["seconds_per_hour"]
        try:
            code = process.wait(None if scale is None else job["minutes"] / 60 * scale)
        except subprocess.TimeoutExpired:
            with store.locked():
                if (job := store.job(handle)) is not None:
                    store.kill(job, *(("TIMEOUT", "") if job["slurm"] else ("EXIT", "TERM_RUNLIMIT")))
            code = process.wait()
        with store.locked():
            job = store.job(handle)
            if job is None:
                return
            state, reason = job["verdict"] or [None, ""]
            code = code if code >= 0 else 128 - code
            job |= {"pid": None, "verdict": None}
            if state == "REQUEUE":
                job["state"] = waiting
                store.write_job(job)
                continue
            plain = ("FAILED" if code else "COMPLETED") if job["slurm"] else ("EXIT" if code else "DONE")
            job |= {"state": state or plain, "reason": reason, "code": code}
            store.write_job(job)
            if not job["slurm"]:
                with open(output, "ab") as file:
                    file.write(f"Sender: LSF System\nSubject: Job {handle}: {job['state']}\n".encode())
            return


def options_of(arguments, known):
    """Split a command line into a dictionary of long options, with or without values, and the rest."""
    options, rest = {}, []
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name.startswith("-"):
            if name not in known:
                sys.exit(f"unrecognized option '{name}'")
            options[name] = value
        else:
            rest.append(argument)
    return options, rest


def sbatch(store, arguments):
    (path,) = arguments
    text = Path(path).read_bytes()
    options = {}
    for line in text.decode("utf-8", "surrogateescape").splitlines():
        if line.startswith("#SBATCH"):
            for word in shlex.split(line)[1:]:
                name, _, value = word.removeprefix("--").partition("=")
                if not word.startswith("--") or name not in SBATCH_OPTIONS:
                    sys.exit(f"sbatch: unrecognized option '{word}'")
                options[name] = value
        elif line.strip() and not line.startswith("#"):
            break
    handle = add_job(
        store,
        slurm=True,
        name=options["job-name"],
        state="PENDING",
        cwd=os.getcwd(),
        output=options["output"],
        minutes=int(options["time"]),
        options=options,
        text=text,
    )
    print(f"Submitted batch job {handle}")


def squeue(store, arguments):
    known = {"--noheader", "--states", "--user", "--format"}
    options, rest = options_of(arguments, known)
    assert not rest and options["--format"] == "%i|%T|%j" and options["--user"] == str(os.getuid())
    if "--noheader" not in options:
        print("JOBID|STATE|NAME")
    print("90000_[1-4%2]|PENDING|an array | of others")
    for job in store.jobs():
        state = job.get("shown") or job["state"]
        if job["listed"] and (options.get("--states") == "all" or state in ACTIVE):
            print(f"{job['id']}|{state}|{job['name']}")


def sacct(store, arguments):
    if not store.settings()["accounting"]:
        sys.exit("Slurm accounting storage is disabled")
    known = {"--noheader", "--parsable2", "--allocations", "--format", "--jobs", "--name", "--starttime"}
    options, rest = options_of(arguments, known)
    assert not rest and options["--format"] == "JobID,State,JobName" and "--parsable2" in options
    start = "1970-01-01" if "--jobs" in options else time.strftime("%Y-%m-%d")
    start = time.mktime(time.strptime(options.get("--starttime", start), "%Y-%m-%d"))
    for job in store.jobs():
        wanted = str(job["id"]) in options.get("--jobs", "").split(",")
        wanted = wanted or job["name"] in options.get("--name", "").split(",")
        if wanted and job["accounted"] and job["submitted"] >= start:
            state = "CANCELLED by 1000" if job["state"] == "CANCELLED" else job["state"]
            print(f"{job['id']}|{state}|{job['name']}")
            if "--allocations" not in options:
                print(f"{job['id']}.batch|COMPLETED|batch")


def scancel(store, arguments):
    options, handles = options_of(arguments, {"--user", "--name"})
    with store.locked():
        for job in store.jobs():
            wanted = job["name"] == options.get("--name") or str(job["id"]) in handles
            if wanted and job["state"] in ACTIVE:
                store.kill(job, "CANCELLED")
        for handle in handles:
            if store.job(handle) is None:
                sys.exit(f"scancel: error: Kill job error on job id {handle}: Invalid job id specified")


def bsub(store, arguments):
    options = dict(zip(arguments[::2], arguments[1::2], strict=True))
    assert set(options) <= {"-J", "-W", "-R", "-o"}, options
    hours, minutes = options["-W"].split(":")
    handle = add_job(
        store,
        slurm=False,
        name=options["-J"],
        state="PEND",
        cwd=os.getcwd(),
        output=options["-o"],
        minutes=int(hours) * 60 + int(minutes),
        options=options,
        text=sys.stdin.buffer.read(),
    )
    print(f"Job <{handle}> is submitted to default queue <normal>.")


def bjobs(store, arguments):
    assert arguments[:3] == ["-a", "-noheader", "-o"], arguments
    assert arguments[3] == "jobid stat exit_code exit_reason job_name delimiter='|'"
    jobs = [job for job in store.jobs() if job["listed"]]
    if not jobs:
        sys.exit("No job found")
    print("90000[1]|PEND|-|-|an array")
    for job in jobs:
        reason = f"{job['reason']}: job killed in some way" if job["reason"] else "-"
        state = job.get("shown") or job["state"]
        print(f"{job['id']}|{state}|{job['code'] or '-'}|{reason}|{job['name']}")


def bhist(store, arguments):
    assert arguments[:3] == ["-l", "-n", "0"], arguments
    name = arguments[arguments.index("-J") + 1] if "-J" in arguments else None
    jobs = [job for job in store.jobs() if str(job["id"]) in arguments or job["name"] == name]
    jobs = [job for job in jobs if job["accounted"]]
    if not jobs:
        sys.exit("No matching job found")
    for job in jobs:
        day = "Thu Mar 13 20:18:32: "
        lines = [
            f"Job <{job['id']}>, Job Name <{job['name']}>, User <someone>, Project <default>, Command <x>"
        ]
        lines += [f"{day}Submitted from host <login>, CWD <$HOME>, Output File <lsf.txt>;"]
        lines += [f"{day}Dispatched to <node>;", f"{day}Starting (Pid 258999);"]
        if job["state"] == "DONE":
            lines += [f"{day}Done successfully. The CPU time used is 31.0 seconds;"]
        if job["state"] == "EXIT":
            lines += [f"{day}Exited with exit code {job['code']}. The CPU time used is 31.0 seconds;"]
            if job["reason"]:
                lines += [
                    f"{day}Completed <exit>; {job['reason']}: job killed in some way which takes a line;"
                ]
        for line in lines:
            print(re.sub(r"(.{80}|(?<= {21}).{59})(?=.)", r"\1\n" + 21 * " ", line))
        print("\nSummary of time in seconds spent in various states by  Thu Mar 13 20:18:32\n")


def bkill(store, arguments):
    with store.locked():
        name = arguments[1] if arguments[0] == "-J" else None
        jobs = [job for job in store.jobs() if job["name"] == name or str(job["id"]) in arguments]
        if not jobs:
            sys.exit("No matching job found" if name else f"Job <{arguments[0]}>: No matching job found")
        for job in jobs:
            if job["state"] in ACTIVE:
                store.kill(job, "EXIT", "TERM_OWNER")
                print(f"Job <{job['id']}> is being terminated")
            elif name is None:
                sys.exit(f"Job <{job['id']}>: Job has already finished")


def srun(store, arguments):
    sys.exit("srun: nothing here starts steps")


PROGRAMS = {
    "slurm": [sbatch, squeue, sacct, scancel, srun],
    "lsf": [bsub, bjobs, bhist, bkill],
}


def main(root, program, arguments):
    """Be a program of a scheduler, or fail as one where the settings want that."""
    store = Store(root)
    with store.locked():
        with open(store.root / "calls.jsonl", "a") as file:
            file.write(json.dumps([program, *arguments]) + "\n")
        settings = store.settings()
        failure = settings["failures"].get(program)
        if failure:
            failure["times"] -= 1
            if failure["times"] == 0:
                del settings["failures"][program]
            store.write_settings(settings)
    if failure and not failure["after"]:
        sys.exit(f"{program}: error: {failure['message']}")
    {function.__name__: function for some in PROGRAMS.values() for function in some}[program](
        store, arguments
    )
    if failure:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        sys.exit(f"{program}: error: {failure['message']}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
