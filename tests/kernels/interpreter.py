"""Runs tests of Triton kernels under Triton's interpreter, on the CPU."""

import os
import subprocess
import sys
from pathlib import Path


def check_under_the_interpreter(name):
    """Run a test file of this folder in a process of its own.

    The interpreter is chosen when a kernel is defined.
    """
    script = Path(__file__).with_name(name)
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(script)]
    child = subprocess.run(
        command, env=environment, cwd=script.parents[2], capture_output=True, text=True, check=False
    )
    assert child.returncode == 0, child.stdout[-6000:] + child.stderr[-2000:]
    assert " passed" in child.stdout
