"""List the results of all runs of a search, which may have ended before they had.

"postprocessing_results.csv" has a row for each run with a summary, the best one first. Beside it are the
lists of finished, unfinished and missing runs, as pickles. Files of an earlier call are renamed::

    python -m hnetfast.hpsearch.hpsearch_postprocessing out/my_search --grid_module=my_config

``--performance_criteria`` moves finished runs that do not meet it to the folder "TO_BE_DELETED", for the user
to delete.
"""

from __future__ import annotations

import csv
import io
import math
import os
import pickle
import shlex
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from warnings import warn

from hnetfast._errors import InputError
from hnetfast._files import write_atomically
from hnetfast._plain_pickle import read_plain_list
from hnetfast.hpsearch import _runs, hpsearch

__all__ = ["run"]

_PREFIX = "postprocessing_"


@dataclass
class _Run:
    """A run with a summary.

    Attributes:
        folder: Its output folder.
        options: Its options, with the output folder.
        results: Its summary.
    """

    folder: Path
    options: dict[str, Any]
    results: Mapping[str, Any]

    @property
    def finished(self) -> bool:
        return _runs.has_finished(self.results, self.folder)

    @property
    def row(self) -> dict[str, Any]:
        return self.options | {key: _runs.value_of(self.results, key, self.folder) for key in self.results}

    @property
    def job(self) -> dict[str, Any]:
        return self.options | dict(self.results)

    def sort_key(self) -> tuple[bool, float]:
        """Best first, and last what is no number."""
        score = _runs.score_of(self.results, self.folder)
        return (
            (True, 0.0) if math.isnan(score) else (False, score if hpsearch._PERFORMANCE_SORT_ASC else -score)
        )


def run(argv: Sequence[str] | None = None) -> None:
    """Run the script.

    Args:
        argv: The command line, by default that of the program.

    Raises:
        InputError: A ``ValueError``, for an option or a file that is not accepted.
        FileNotFoundError: If the folder is missing, or its list of commands.
    """
    args = _parser().parse_args(argv)
    meets = getattr(_runs.read_config_module(args.grid_module), "_PERFORMANCE_EVAL_HANDLE", None)
    if args.performance_criteria is not None and meets is None:
        raise InputError(
            f"performance_criteria: {args.grid_module} has no _PERFORMANCE_EVAL_HANDLE to evaluate them"
        )
    search_dir = Path(args.run_cwd, args.out_dir)
    if not search_dir.is_dir():
        raise FileNotFoundError(f"out_dir: there is no folder {search_dir}")
    if not (search_dir / "commands.pickle").is_file():
        raise FileNotFoundError(f"out_dir: {search_dir} is no folder of a search, it has no commands.pickle")
    commands = read_plain_list(search_dir / "commands.pickle")
    if not all(isinstance(command, dict) for command in commands):
        raise InputError(f"{search_dir / 'commands.pickle'}: expected a list of dictionaries, found others")

    runs, missing = _collect(search_dir, args.out_dir, commands)
    finished = [run for run in runs if run.finished]
    unfinished = [run for run in runs if not run.finished]
    print(f"{len(finished)} runs have finished.")
    print(f"{len(unfinished)} runs have not finished.")
    print(f"{len(missing)} runs have not started, or left no summary.")

    files = {
        "finished_jobs.pickle": pickle.dumps([run.job for run in finished]),
        "unfinished_jobs.pickle": pickle.dumps([run.job for run in unfinished]),
        "missing_jobs.pickle": pickle.dumps(missing),
        "results.csv": _as_csv([run.row for run in sorted(runs, key=_Run.sort_key)]),
    }
    now = time.strftime("%Y-%m-%d_%H-%M-%S")
    for name, content in files.items():
        path = search_dir / f"{_PREFIX}{name}"
        if path.exists():
            os.replace(path, _free(path.with_name(f"{path.stem}_{now}{path.suffix}")))
        write_atomically(path, content)
    if args.performance_criteria is not None:
        _move(
            _failing(finished, cast("Any", meets), args.performance_criteria),
            search_dir / _runs.TO_BE_DELETED,
        )


def _parser() -> ArgumentParser:
    parser = ArgumentParser(description="List the results of all runs of a search.")
    parser.add_argument("out_dir", help="Output folder of the search.")
    parser.add_argument(
        "--performance_criteria",
        type=float,
        help='Move finished runs that do not meet this to "TO_BE_DELETED". What it means, the configuration '
        "module says. Default: None.",
    )
    parser.add_argument(
        "--grid_module",
        default=hpsearch._DEFAULT_GRID,
        help="Name of the configuration module; its grid and conditions are not used. Default: %(default)s.",
    )
    parser.add_argument(
        "--run_cwd",
        default=".",
        help='Folder in which the runs were executed, as given to the search. Default: "%(default)s".',
    )
    return parser


def _collect(search_dir: Path, shown: str, commands: list[dict]) -> tuple[list[_Run], list[dict]]:
    """Find the run of each command, and finished ones of no command; return runs and commands without one."""
    folders = {folder.name: folder for folder in _runs.run_folders(search_dir)}
    found: list[Path | None] = [folders.pop(_folder_name(command), None) for command in commands]
    options = {folder: _runs.read_options(folder) for folder in folders.values() if _runs.has_options(folder)}
    for index, command in enumerate(commands):  # folders may have been renamed
        if found[index] is None:
            same = next((folder for folder in options if _matches(options[folder], command)), None)
            if same is not None:
                found[index] = same
                del options[same]

    runs: list[_Run] = []
    missing: list[dict] = []
    for index, (command, folder) in enumerate(zip(commands, found, strict=True)):
        results = None if folder is None else _runs.read_results(folder, index)
        if folder is None or results is None:
            lacks = "folder" if folder is None else "summary that can be read"
            warn(f"Command {index} ({_folder_name(command)}) has no {lacks}.", stacklevel=3)
            missing.append(command)
        else:
            runs.append(
                _Run(folder, command | {hpsearch._OUT_ARG: os.path.join(shown, folder.name)}, results)
            )

    names = list(dict.fromkeys(name for command in commands for name in command))
    for index, (folder, values) in enumerate(options.items(), start=len(commands)):
        results = _runs.read_results(folder, index)
        if results is not None and _runs.has_finished(results, folder):
            known = {name: getattr(values, name) for name in names if hasattr(values, name)}
            runs.append(_Run(folder, known | {hpsearch._OUT_ARG: os.path.join(shown, folder.name)}, results))
    return runs, missing


def _folder_name(command: dict) -> str:
    return os.path.basename(os.path.normpath(str(command.get(hpsearch._OUT_ARG, ""))))


def _matches(options: Namespace, command: dict) -> bool:
    """Tell whether a run had the options of a command."""
    return all(
        hasattr(options, name) and _same(getattr(options, name), value)
        for name, value in command.items()
        if name != hpsearch._OUT_ARG
    )


def _same(value: Any, given: Any) -> bool:
    if isinstance(value, bool) or isinstance(given, bool):
        return value is given
    try:
        words = shlex.split(str(given))
        text = words[0] if len(words) == 1 else str(given)
        return text == str(value) or float(text) == value
    except ValueError:
        return False


def _as_csv(rows: list[dict[str, Any]]) -> bytes:
    file = io.StringIO()
    columns = sorted({str(name) for row in rows for name in row})
    writer = csv.DictWriter(file, columns, delimiter=";", lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def _free(path: Path) -> Path:
    number, free = 1, path
    while os.path.lexists(free):
        number += 1
        free = path.with_name(f"{path.stem}_{number}{path.suffix}")
    return free


def _failing(runs: Iterable[_Run], meets: Callable[[Any, float], Any], criteria: float) -> list[_Run]:
    """Find the runs that do not meet the criteria."""
    failing = []
    for one in runs:
        try:
            answer = meets(one.results, criteria)
        except Exception as error:  # a function of the user's, which may raise anything
            answer, reason = None, f" ({type(error).__name__}: {error})"
        else:
            reason = f" (the answer was {answer!r})"
        if answer is None:
            warn(f"{one.folder} stays, since the criteria could not be evaluated{reason}.", stacklevel=3)
        elif not answer:
            failing.append(one)
    return failing


def _move(runs: Iterable[_Run], target: Path) -> None:
    """Move folders to be deleted. Links are left where they are, and none is followed."""
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise InputError(f"{target}: expected a folder, found a link or a file; nothing has been moved")
    for one in runs:
        if one.folder.is_symlink():
            warn(f"{one.folder} stays, since it is a link.", stacklevel=3)
            continue
        target.mkdir(exist_ok=True)
        os.rename(one.folder, _free(target / one.folder.name))
        print(f"To be deleted: {one.folder}")


if __name__ == "__main__":
    run()
