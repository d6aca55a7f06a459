"""A place for searches, and clusters that are not there."""

import sys
import tempfile

import pytest

from tests.hpsearch.fake_schedulers import fake_lsf, fake_slurm  # noqa: F401
from tests.hpsearch.toy_search import MODULE, READER, SCRIPT


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with a script and its configuration modules, and a folder for temporary files."""
    work = tmp_path / "work"
    for folder in (work, tmp_path / "tmp"):
        folder.mkdir()
    (work / "toy.py").write_text(SCRIPT)
    for name, text in {
        "toy_config": MODULE,
        "toy_config_asc": MODULE.replace("ASC = False", "ASC = True"),
        "toy_config_no_criteria": MODULE.replace("HANDLE = _performance_criteria", "HANDLE = None"),
        "toy_config_reader": MODULE.replace("_SUMMARY_PARSER_HANDLE = None", READER),
        "toy_config_out": MODULE.replace('"out_dir"', '"output"'),
        "toy_config_raises": MODULE.replace(
            "return float", "if summary['acc'][0] < '1': 1 / 0\n    return float"
        ),
    }.items():
        (work / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(work)
    monkeypatch.chdir(work)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(sys, "stdin", None)
    return work


@pytest.fixture(params=["slurm", "lsf"])
def cluster(request):
    return request.getfixturevalue(f"fake_{request.param}")


@pytest.fixture
def slurm(fake_slurm):  # noqa: F811
    return fake_slurm


@pytest.fixture
def lsf(fake_lsf):  # noqa: F811
    return fake_lsf
