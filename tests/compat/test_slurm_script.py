"""The script for sbatch that hypnettorch's search writes."""

import argparse
import warnings

import pytest

from hnetfast.hpsearch import _slurm


@pytest.mark.parametrize(
    "given", [{}, {"mem": "", "gres": ""}, {"partition": "long", "qos": "high", "constraint": "a100"}]
)
@pytest.mark.parametrize("hours", [0, 24, 200])
def test_same_script(tmp_path, monkeypatch, given, hours):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it misses packages for clusters
        from hypnettorch.hpsearch import hpsearch as oracle
    options = {"mem": "8G", "gres": "gpu:1", "partition": "", "qos": "", "constraint": ""} | given
    args = argparse.Namespace(num_hours=hours, **{f"slurm_{name}": value for name, value in options.items()})
    written = []
    for module in (oracle, _slurm):
        folder = tmp_path / module.__name__
        folder.mkdir()
        monkeypatch.chdir(folder)
        name = module._write_slurm_script(args, 'python3 x.py --a="1 ä"\necho done', "2024-01-01_12-00_ab")
        written.append((name, (folder / name).read_bytes()))
    assert written[0] == written[1]
