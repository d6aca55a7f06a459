"""What the runs of a search left in their folders: their options and their results."""

from __future__ import annotations

import json
import math
import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any
from warnings import warn

from hnetfast._errors import InputError, InputKeyError, UnsupportedError
from hnetfast._plain_pickle import read_pickled_namespace
from hnetfast.hpsearch import _config_module, hpsearch

# Where runs are moved that somebody may delete.
TO_BE_DELETED = "TO_BE_DELETED"


def read_config_module(name: str) -> ModuleType:
    """Read a configuration module: what follows is about its searches.

    Args:
        name: The module's name.

    Returns:
        The module.

    Raises:
        InputError: A ``ValueError``, if there is no such module, or an attribute is missing or not accepted.
    """
    module = _config_module.import_config(name)
    hpsearch._read_config(module)
    return module


def import_path(module: ModuleType) -> str:
    """Find the folder that has to be on the import path for a module.

    Args:
        module: The module.

    Returns:
        The folder; the current one, if the module is no file.
    """
    file = getattr(module, "__file__", None)
    if file is None:
        return os.getcwd()
    depth = module.__name__.count(".") + hasattr(module, "__path__")
    return str(Path(file).absolute().parents[depth])


def has_options(folder: Path) -> bool:
    """Tell whether a folder holds the options of a run.

    Args:
        folder: The folder.

    Returns:
        Whether :func:`read_options` finds a file there.
    """
    return any((folder / name).is_file() for name in ("config.pickle", "config.json"))


def read_options(folder: Path) -> Namespace:
    """Read the options of a run, from "config.pickle" or, where that is missing or refused, "config.json".

    Args:
        folder: The run's output folder.

    Returns:
        The options.

    Raises:
        UnsupportedError: A ``NotImplementedError``, if there is neither file.
        InputError: A ``ValueError``, if the file holds anything but options with plain values.
    """
    pickled, as_json = folder / "config.pickle", folder / "config.json"
    if pickled.is_file():
        try:
            return read_pickled_namespace(pickled)
        except InputError as error:
            if not as_json.is_file():
                raise
            warn(f"{error}. The options are read from {as_json} instead.", stacklevel=3)
    if not as_json.is_file():
        raise UnsupportedError(f"{folder}: a run's folder is expected, found no config.pickle or config.json")
    try:
        options = json.loads(as_json.read_bytes())
    except ValueError as error:
        raise InputError(f"{as_json}: the options of a run are expected, found no JSON ({error})") from error
    if not isinstance(options, dict):
        raise InputError(f"{as_json}: the options of a run are expected, found {type(options).__name__}")
    return Namespace(**options)


def run_folders(search_dir: Path) -> list[Path]:
    """List the folders in which there may be runs of a search.

    Args:
        search_dir: The search's output folder.

    Returns:
        Its subfolders, sorted by name, without hidden ones and those to be deleted.

    Raises:
        FileNotFoundError: If there is no such folder.
        NotADirectoryError: If it is a file.
    """
    return sorted(
        folder
        for folder in search_dir.iterdir()
        if folder.is_dir() and not folder.name.startswith(".") and folder.name != TO_BE_DELETED
    )


def read_results(folder: Path, index: int, summary_fn: str | None = None) -> Mapping[str, Any] | None:
    """Read the summary of a run with the reader of the configuration module.

    Args:
        folder: The run's output folder.
        index: The run's number, for the reader's messages.
        summary_fn: Name of the summary file, if it is not that of the configuration module.

    Returns:
        The summary, keyword to list of values; None if the reader fails or finds nothing.

    Raises:
        InputError: A ``ValueError``, if no configuration module has been read.
    """
    reader = hpsearch._SUMMARY_PARSER_HANDLE
    if reader is None:
        raise InputError("grid_module: the configuration module is to be read before summaries are")
    more = {} if summary_fn is None else {"summary_fn": summary_fn}
    try:
        return reader(str(folder), index, **more)
    except Exception:  # a reader of the user's, which may raise anything where a file is missing or cut off
        return None


def value_of(results: Mapping[str, Any], key: str, folder: Path) -> Any:
    """Look up an entry of a run's summary.

    Args:
        results: The summary.
        key: The entry's keyword.
        folder: The run's output folder, for messages.

    Returns:
        The value, the first one where there are several.

    Raises:
        InputKeyError: A ``KeyError``, if the summary has no such entry.
    """
    if key not in results:
        raise InputKeyError(f"{folder}: the summary has no {key!r}, it has {', '.join(map(str, results))}")
    value = results[key]
    return value[0] if isinstance(value, list | tuple) and value else value


def number_of(results: Mapping[str, Any], key: str, folder: Path) -> float:
    """Look up an entry of a run's summary that is a number.

    Args:
        results: The summary.
        key: The entry's keyword.
        folder: The run's output folder, for messages.

    Returns:
        The number, which may be NaN.

    Raises:
        InputKeyError: A ``KeyError``, if the summary has no such entry.
        InputError: A ``ValueError``, if the entry is no number.
    """
    value = value_of(results, key, folder)
    try:
        return float(value)
    except (TypeError, ValueError):
        raise InputError(
            f"{folder}: the summary's {key!r} is expected to be a number, is {value!r}"
        ) from None


def score_of(results: Mapping[str, Any], folder: Path) -> float:
    """Look up the performance of a run.

    Args:
        results: The run's summary.
        folder: The run's output folder, for messages.

    Returns:
        The performance, NaN if it is no number.

    Raises:
        InputKeyError: A ``KeyError``, if the summary has no such entry.
    """
    try:
        return number_of(results, hpsearch._PERFORMANCE_KEY, folder)
    except InputKeyError:
        raise
    except InputError:
        return math.nan


def has_finished(results: Mapping[str, Any], folder: Path) -> bool:
    """Tell whether a run came to its end.

    Args:
        results: The run's summary, with the keyword "finished".
        folder: The run's output folder, for messages.

    Returns:
        Whether "finished" is 1.

    Raises:
        InputKeyError: A ``KeyError``, if the summary does not say.
        InputError: A ``ValueError``, if what it says is no number.
    """
    return number_of(results, "finished", folder) == 1
