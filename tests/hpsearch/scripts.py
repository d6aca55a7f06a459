"""A script and configuration modules for tests of the search, which is started in a process of its own."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

# What it does depends on --mode; without torch, it starts in a few hundredths of a second.
SCRIPT = r"""
import argparse, os, sys, time
parser = argparse.ArgumentParser()
parser.add_argument("--out_dir", required=True)
parser.add_argument("--x", type=float, default=1.0)
parser.add_argument("--text", default="")
parser.add_argument("--flag", action="store_true")
parser.add_argument("--mode", default="good")
parser.add_argument("--seconds", type=float, default=0.0)
args = parser.parse_args()
print("threads", os.environ.get("OMP_NUM_THREADS"), os.environ.get("OMP_WAIT_POLICY"))
print("gpu", os.environ.get("CUDA_VISIBLE_DEVICES"))
print("argv", sys.argv[1:])
sys.stdout.flush()
os.makedirs(args.out_dir)  # fails if the run is started twice with the same folder
with open(os.path.join(args.out_dir, "started"), "a") as file:
    file.write("once\n")

def write(text):
    path = os.path.join(args.out_dir, "performance_overview.txt")
    with open(path + ".part", "w") as file:
        file.write(text)
    os.replace(path + ".part", path)

if args.mode == "fail":
    sys.stderr.write("no such luck\n")
    sys.exit(3)
if args.mode == "hang":
    if os.fork() == 0:  # a child that would outlive its parent
        open(os.path.join(args.out_dir, "child"), "w").write(str(os.getpid()))
    time.sleep(1000)
if args.mode == "signal":
    os.kill(os.getpid(), 9)
if args.mode == "nothing":
    sys.exit(0)
for step in range({"steps": 3, "slow": 1000}.get(args.mode, 0)):
    write(f"acc {args.x}\nfinished 0\n")
    time.sleep(0.3)
if args.seconds:
    time.sleep(args.seconds)
contents = {
    "garbage": "\x00\x01 what? \n" * 3,
    "nan": "acc nan\nfinished 1\n",
    "short": "finished 1\n",
}
write(contents.get(args.mode, f"acc {args.x * 2}\nfinished 1\n"))
"""

CONFIG = """
grid = {grid!r}
conditions = {conditions!r}
_SCRIPT_NAME = "script.py"
_SUMMARY_FILENAME = "performance_overview.txt"
_SUMMARY_KEYWORDS = ["acc", "finished"]
_PERFORMANCE_KEY = "acc"
"""


def write_files(folder: Path, grid: dict, conditions: list = (), more: str = "") -> None:
    """Write a configuration module, my_config, and its script."""
    (folder / "script.py").write_text(SCRIPT)
    (folder / "my_config.py").write_text(CONFIG.format(grid=grid, conditions=list(conditions)) + more)
    bin_folder = folder / "bin"
    if (
        not bin_folder.exists()
    ):  # the interpreter itself: a wrapper of some environments costs a tenth of a second
        bin_folder.mkdir()
        (bin_folder / "python3").symlink_to(sys.executable)


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Returns the environment for a search in a folder."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "CUDA_", "PYTHONHASHSEED"))}
    return kept | {"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"} | more


def command(*options: str, cpu: bool = True) -> list[str]:
    """Returns the command of a search; the options of the output folder are added."""
    here = ["--visible_gpus=-1"] if cpu else []
    start = [sys.executable, "-m", "hnetfast.hpsearch", "--grid_module=my_config"]
    return [*start, "--out_dir=out", "--force_out_dir", *here, *options]


def search(folder: Path, *options: str, cpu: bool = True, **variables: str) -> subprocess.CompletedProcess:
    """Run a search to its end."""
    return subprocess.run(
        command(*options, cpu=cpu),
        cwd=folder, env=environment(folder, **variables), stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def rows(folder: Path) -> list[dict[str, str]]:
    """Returns the rows of the results."""
    with open(folder / "out" / "search_results.csv", newline="") as file:
        return list(csv.DictReader(file, delimiter=";"))
