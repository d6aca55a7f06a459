"""The PEP 517 backend (setuptools' own, plus torch where the extension needs it) and what setup.py asks.

The extension must be compiled against the torch that will load it. So the build uses, in this order: torch
where it is importable (`--no-build-isolation`); torch of the environment that pip installs into, which
pip's build isolation merely hides; torch fetched into the isolated build environment.
"""

import importlib.util
import os
import re
import shutil
import site
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403  (the hooks of the backend are setuptools' own)

TORCH = "torch>=2.11"


def wants_build() -> bool:
    """Returns whether the user lets the extension be built (HNETFAST_BUILD, default 1)."""
    value = os.environ.get("HNETFAST_BUILD", "1").strip() or "1"
    if value not in ("0", "1"):
        raise SystemExit(f"HNETFAST_BUILD is {value!r}; accepted are '0' (pure Python) and '1'.")
    return value == "1"


def compiler() -> str | None:
    """Returns the C++ compiler to use: $CXX, else Python's own, else one found on PATH; None without one."""
    asked = os.environ.get("CXX", "").strip()
    if asked:
        if shutil.which(asked.split()[-1] if "ccache" in asked.split()[0] else asked.split()[0]) is None:
            raise SystemExit(f"CXX is {asked!r}, which can't be run. Unset it, or set HNETFAST_BUILD=0.")
        return asked
    candidates = [sysconfig.get_config_var("CXX") or "", "c++", "g++", "clang++"]
    return next((name for name in candidates if name and shutil.which(name.split()[0])), None)


def find_torch() -> bool:
    """Makes torch of the target environment importable and returns whether there is one."""
    if importlib.util.find_spec("torch") is None:
        for folder in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
            site.addsitedir(folder)
    return importlib.util.find_spec("torch") is not None


def why_pure() -> str | None:
    """Returns why this build leaves the extension out, or None where it is built."""
    if not wants_build():
        return "HNETFAST_BUILD=0"
    if compiler() is None:
        return "no C++ compiler was found (CXX, c++, g++, clang++)"
    if not find_torch():
        return "torch is not installed; install it, then repeat with --no-build-isolation"
    return None


def cuda_home(torch_cuda: str | None) -> tuple[str | None, str]:
    """Finds the CUDA toolkit to build .cu files with.

    Args:
        torch_cuda: The CUDA version that torch was built with, or None for a CPU-only torch.

    Returns:
        The folder and its version, or None and the reason why there is none.
    """
    if torch_cuda is None:
        return None, "this torch is built without CUDA"
    asked = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    for folder in [asked] if asked else ["/usr/local/cuda"]:
        nvcc = Path(folder, "bin", "nvcc")
        if not (nvcc.is_file() and Path(folder, "include", "cuda_runtime.h").is_file()):
            return None, f"{folder} lacks bin/nvcc or include/cuda_runtime.h"
        text = subprocess.run([str(nvcc), "--version"], capture_output=True, text=True, check=True).stdout
        version = re.search(r"release (\d+)\.(\d+)", text)
        if version is None or version[1] != torch_cuda.split(".")[0]:
            return None, f"{nvcc} is CUDA {version and version[0]}, torch was built with CUDA {torch_cuda}"
    return folder, ".".join(version.groups())


def get_requires_for_build_wheel(config_settings=None):
    """Asks for torch in an isolated build only where the extension is built and no torch is there already."""
    extra = [TORCH] if wants_build() and compiler() is not None and not find_torch() else []
    return [*build_meta.get_requires_for_build_wheel(config_settings), *extra]


def get_requires_for_build_editable(config_settings=None):
    """As for a wheel."""
    extra = [TORCH] if wants_build() and compiler() is not None and not find_torch() else []
    return [*build_meta.get_requires_for_build_editable(config_settings), *extra]


def say(message: str) -> None:
    """Tells the person who installs: on pip's own stderr, as pip swallows what a successful build prints."""
    text = f"hnetfast: {message}"
    if "_PYPROJECT_HOOKS_BUILD_BACKEND" in os.environ or "PEP517_BUILD_BACKEND" in os.environ:
        try:
            with open(f"/proc/{os.getppid()}/fd/2", "a") as stderr_of_pip:
                print(text, file=stderr_of_pip)
            return
        except OSError:
            pass
    print(text, file=sys.stderr)
