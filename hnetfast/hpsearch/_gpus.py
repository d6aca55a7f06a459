"""The GPUs of this machine: how busy they are."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """A GPU.

    Attributes:
        index: Its number.
        load: How busy it is, between 0 and 1.
        memory: Which share of its memory is in use.
    """

    index: int
    load: float
    memory: float


def list_gpus() -> list[Gpu]:
    """Ask the driver, through pynvml or else nvidia-smi, for all GPUs; none where there is neither."""
    try:
        import pynvml
    except ImportError:
        return _from_nvidia_smi()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return _from_nvidia_smi()
    try:
        return [_from_pynvml(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount())]
    finally:
        pynvml.nvmlShutdown()


def _from_pynvml(pynvml, index: int) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    try:
        load = pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
    except pynvml.NVMLError:  # not told for a part of a GPU
        load = 0.0
    return Gpu(index, load, memory.used / memory.total)


def _from_nvidia_smi() -> list[Gpu]:
    if shutil.which("nvidia-smi") is None:
        return []
    query = "--query-gpu=index,utilization.gpu,memory.used,memory.total"
    try:
        done = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader,nounits"],
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return []
    gpus = []
    for line in done.stdout.splitlines():
        index, load, used, total = (cell.strip() for cell in line.split(","))
        # "[N/A]" for what is not told
        gpus.append(Gpu(int(index), float(load) / 100 if load.isdigit() else 0.0, float(used) / float(total)))
    return gpus
