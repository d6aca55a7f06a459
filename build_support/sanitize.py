"""Builds the extension with AddressSanitizer in build/sanitize and runs the tests of the ops: `make asan`.

Every read or write outside of what was allocated ends a test process with a report of where it was.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import hnetfast_build as build

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "sanitize"
# Written out in full: what the sanitizer needs on top of the ordinary flags, see setup.py. Bits are
# tested too, so products and sums are to be contracted as usual.
FLAGS = "-O1 -fexpensive-optimizations -g1 -fno-omit-frame-pointer -fsanitize=address"
# Loads the extension before pytest does, so that the tests cannot get hold of the ordinary one.
RUN = f"""
import sys
sys.path.insert(0, {str(FOLDER / "lib")!r})
import hnetfast._ext
assert hnetfast._ext.__file__.startswith({str(FOLDER)!r}) and hnetfast._ext.load(), hnetfast._ext.__file__
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""


def library(compiler: str, name: str) -> str:
    """Returns the path of a library that the compiler brings; ends the program where it brings none."""
    command = [*compiler.split(), f"-print-file-name={name}"]
    path = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    if not os.path.isabs(path):
        sys.exit(f"make asan needs {name}, which {compiler} does not bring; set CXX to a GCC that does")
    return path


def main() -> None:
    """Builds, then passes the command line on to pytest."""
    compiler = build.compiler()
    if compiler is None:
        sys.exit("make asan needs a C++ compiler")
    # Python itself is not built with the sanitizer, so that its runtime must be there before anything else;
    # it also looks for the C++ runtime when it starts.
    preload = [library(compiler, name) for name in ("libasan.so", "libstdc++.so")]
    environment = {**os.environ, "CXX": compiler, "HNETFAST_SANITIZE": FLAGS}
    command = [
        sys.executable,
        "setup.py",
        "-q",
        "build",
        "--build-base",
        FOLDER,
        "--build-lib",
        FOLDER / "lib",
    ]
    built = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if built.returncode:
        sys.exit(f"{built.stdout}\nmake asan: the extension does not build")
    environment |= {
        "LD_PRELOAD": ":".join(preload),
        # Python keeps memory until it ends, which is no leak. What asks for more memory than there is gets an
        # error, as without the sanitizer. pytest would swallow a report on stderr.
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1:allocator_may_return_null=1:"
        f"log_path={FOLDER / 'report'}",
        "HYPOTHESIS_PROFILE": "brief",
        "BAD_CALLS": os.environ.get("BAD_CALLS", "400"),  # of each op, in tests/ops/test_bad_calls.py
    }
    options = ["-q", "-p", "no:faulthandler", "-o", f"pythonpath={FOLDER / 'lib'} ."]
    command = [sys.executable, "-c", RUN, *options, *(sys.argv[1:] or ["tests/ops"])]
    returned = subprocess.run(command, cwd=ROOT, env=environment).returncode
    for report in FOLDER.glob("report.*"):
        text = report.read_text()
        if "ERROR" in text:  # and not only a warning of memory that was refused
            print(text)
        report.unlink()
    sys.exit(1 if returned < 0 else returned)


if __name__ == "__main__":
    main()
