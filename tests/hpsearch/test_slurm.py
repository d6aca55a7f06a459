"""What SLURM is told, and what is read from its answers."""

import argparse
import subprocess
import sys

import pytest

from hnetfast.hpsearch._cluster import script
from hnetfast.hpsearch._executor import State
from hnetfast.hpsearch._slurm import _records, _write_slurm_script
from tests.hpsearch.cluster_jobs import (
    executor,
    shell_job,
)


def test_slurm_options(slurm, tmp_path):
    slurm.set(held=True)
    options = {
        "mem": "8G",
        "gres": "gpu:v100:1",
        "partition": "long",
        "qos": "high",
        "constraint": "a100|h100",
    }
    search = executor(slurm, tmp_path, hours=30, **options)
    job = shell_job(tmp_path)
    given = slurm.job(search.submit(job))["options"]
    assert given.items() >= options.items()
    assert (given["job-name"], given["time"], given["output"]) == ("search-1", "1800", "log.txt")
    assert "error" not in given and "wckey" not in given
    assert subprocess.run(["bash", "-n", script(job)], check=False).returncode == 0
    assert script(job).read_text().startswith("#!/bin/bash\n")


def test_slurm_options_that_are_not_given(slurm, tmp_path):
    slurm.set(held=True)
    given = slurm.job(executor(slurm, tmp_path, hours=0.01).submit(shell_job(tmp_path)))["options"]
    assert not given.keys() & {"mem", "gres", "partition", "qos", "constraint"}
    assert given["time"] == "1"


def test_without_submitit(slurm, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ImportError, match=r"hnetfast\[hpsearch\]"):
        executor(slurm, tmp_path)


def test_submitit_is_imported_when_it_is_needed():
    code = "import sys, hnetfast.hpsearch._slurm, hnetfast.hpsearch._lsf; print('submitit' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"


def test_lines_of_squeue_and_sacct():
    lines = ["12|RUNNING|a|b", "12.batch|COMPLETED|batch", "13_[1-3]|PENDING|x", "14+0|FAILED|x", "", "?"]
    text = "\n".join([*lines, "15|CANCELLED by 7|y", ""])
    assert [(record.handle, record.name, record.end) for record in _records(text)] == [
        ("12", "a|b", None),
        ("15", "y", State.KILLED),
    ]


def options(**changed):
    plain = {"mem": "8G", "gres": "gpu:1", "partition": "", "qos": "", "constraint": ""} | changed
    return argparse.Namespace(num_hours=24, **{f"slurm_{name}": value for name, value in plain.items()})


def test_write_slurm_script(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert _write_slurm_script(options(qos="high"), "python3 x.py --a='1 2'", "a b") == "a b_script.sh"
    assert (tmp_path / "a b_script.sh").read_text() == (
        "#!/bin/bash\n#SBATCH --job-name 'a b'\n#SBATCH --output 'a b_%j.out'\n#SBATCH --error 'a b_%j.err'\n"
        "#SBATCH --time 24:00:00\n#SBATCH --mem 8G\n#SBATCH --gres gpu:1\n#SBATCH --qos high\n"
        "python3 x.py --a='1 2'"
    )
    with pytest.raises(FileNotFoundError):
        _write_slurm_script(options(), "true", "no/such")
