"""The output folder of a search: where it is, and the files in it that tell what is executed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pickle
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from hnetfast._errors import InputError
from hnetfast._files import write_atomically
from hnetfast._terminal import confirmed
from hnetfast.hpsearch import _commands, _database
from hnetfast.hpsearch._database import Run
from hnetfast.hpsearch._grid import Options

CSV = "search_results.csv"
JOBS = ".jobs"  # hidden, so that nobody takes it for the folder of a run
_LOCK = ".search.lock"
_COMMANDS = ("commands.pickle", "commands.sh", "commands_wo_dirs.sh")
_RUN_FOLDER = re.compile(r"sim_\d{14}_\d+")


def new(out_dir: str, run_cwd: Path, exact: bool, may_exist: bool, force: bool) -> str:
    """Choose the output folder of a new search and make it.

    Args:
        out_dir: The option; relative to the folder in which runs are executed.
        run_cwd: That folder.
        exact: Whether it is the folder itself, not one with the time below it.
        may_exist: Whether it may exist; results in it are overwritten.
        force: Whether an earlier search in it is deleted without asking.

    Returns:
        The folder, as it is to be written in commands.

    Raises:
        FileExistsError: If it exists and nobody says that it may be overwritten.
    """
    shown = out_dir if exact else os.path.join(out_dir, time.strftime("search_%Y-%m-%d_%H-%M-%S"))
    folder = run_cwd / shown
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not folder.is_dir():
            raise FileExistsError(f"out_dir: {folder} is a file.")
        if not (may_exist or force or confirmed(f"{folder} exists. Delete the search in it?")):
            raise FileExistsError(
                f"out_dir: {folder} exists. Go on with the search in it (--resume), delete that search "
                "(--force), overwrite its results (--dont_force_new_dir), or choose another folder."
            )
        with lock(folder):
            _delete_search(folder, runs=not may_exist)
    folder.mkdir(parents=True, exist_ok=True)
    return shown


def new_stem(folder: Path) -> str:
    """Returns what the names of all runs of a new search begin with: the time, or later if that is taken."""
    seconds = time.time()
    while True:
        stem = time.strftime("sim_%Y%m%d%H%M%S", time.localtime(seconds))
        if not any(folder.glob(f"{stem}_*")):
            return stem
        seconds += 1


def _delete_search(folder: Path, runs: bool) -> None:
    """Delete what a search has written, and the folders of its runs, but nothing else that may be there."""
    for path in list(folder.iterdir()):
        if path.name in (CSV, *_COMMANDS) or path.name.startswith((_database.NAME, "study.db", ".study.db")):
            path.unlink()
        elif path.is_dir() and (path.name == JOBS or (runs and _RUN_FOLDER.fullmatch(path.name))):
            shutil.rmtree(path)


def existing(out_dir: str, run_cwd: Path) -> str:
    """Find the search to be resumed: in the output folder, or the last one below it.

    Args:
        out_dir: The option.
        run_cwd: The folder in which runs are executed.

    Returns:
        The folder, as it is written in commands.

    Raises:
        FileNotFoundError: If there is none.
    """
    if (run_cwd / out_dir / _database.NAME).is_file():
        return out_dir
    found = sorted((run_cwd / out_dir).glob(f"search_*/{_database.NAME}"))
    if not found:
        raise FileNotFoundError(
            f"out_dir: there is no search to be resumed in {run_cwd / out_dir} (no {_database.NAME}, nor in "
            "a folder search_* below it)."
        )
    return os.path.join(out_dir, found[-1].parent.name)


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Be the only search in a folder.

    Raises:
        InputError: A ``ValueError``, if another one is under way there.
    """
    with open(folder / _LOCK, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"out_dir: another search is under way in {folder}.") from error
        yield


def write_commands(folder: Path, script: str, out_arg: str, runs: Sequence[Run]) -> None:
    """Write the commands of all runs, for people and for the post-processing."""
    written = [full_options(run, out_arg) for run in runs]
    head = f"#!/bin/sh\n# The {len(runs)} commands of this search, in the order in which they are started."
    with_dirs = [_commands.text(script, options) for options in written]
    without = [_commands.text(script, run.options) for run in runs]
    write_atomically(folder / "commands.pickle", pickle.dumps(written, protocol=4))
    _write_text(folder / "commands.sh", "\n".join([head, "", *with_dirs, ""]))
    hint = "# Without output folders, which are in commands.sh."
    _write_text(folder / "commands_wo_dirs.sh", "\n".join([head, hint, *without, ""]))


def write_run_command(run_folder: Path, script: str, options: Options) -> None:
    """Write the command of a run into its output folder, if the run has made that."""
    if run_folder.is_dir():
        _write_text(run_folder / "hpsearch_command.sh", f"#!/bin/sh\n{_commands.text(script, options)}\n")


def full_options(run: Run, out_arg: str) -> Options:
    """Returns a run's options with its output folder."""
    return run.options | {out_arg: run.folder}


def _write_text(path: Path, text: str) -> None:
    write_atomically(path, text.encode("utf-8", "surrogateescape"))
