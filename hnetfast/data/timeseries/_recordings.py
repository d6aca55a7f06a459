"""Files of recordings: arrays that the scripts ``preprocess_…`` make out of what is downloaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hnetfast._errors import InputError
from hnetfast._files import replacing
from hnetfast.data._cache import shared

_SCRIPTS = "python -m hnetfast.data.timeseries."


class MissingRecordingsError(FileNotFoundError, InputError):
    """There is no file of recordings."""


def recordings_path(data_path: str | Path, name: str) -> Path:
    """Return where a file of recordings is.

    Args:
        data_path: The folder of all data sets.
        name: The file's name below its folder ``sequential``.
    """
    return Path(data_path) / "sequential" / name


def read_recordings(path: Path, kinds: Mapping[str, str], script: str, page: str) -> dict[str, np.ndarray]:
    """Read arrays; nothing is unpickled.

    Args:
        path: The file.
        kinds: Names of the arrays to read, and the types they may have, characters as in ``dtype.kind``.
        script: Name of the module that makes the file.
        page: Where the recordings come from.

    Returns:
        The arrays by name.

    Raises:
        FileNotFoundError: If there is no such file; the message says how to make it.
        ValueError: If it is broken, or lacks arrays.
    """
    make = f"Make it by `{_SCRIPTS}{script}` out of what {page} offers"
    if not path.is_file():
        pickled = path.with_suffix(".pickle")
        reason = f"; {pickled.name} is there, but pickles are not read" if pickled.exists() else ""
        raise MissingRecordingsError(f"{path}: not found{reason}. {make}")
    found = load_arrays(path, kinds, make)
    for name, kind in kinds.items():
        if name not in found or found[name].dtype.kind not in kind:
            has = f"one of {found[name].dtype}" if name in found else "none"
            raise InputError(
                f"{path}: an array {name} of type {' or '.join(kind)} is expected, has {has}. {make}"
            )
    return found


def load_arrays(path: Path, names: Iterable[str], advice: str) -> dict[str, np.ndarray]:
    """Read those arrays of a file that are there; nothing is unpickled.

    Args:
        path: The file.
        names: Names of the arrays.
        advice: What to do where the file is broken, a sentence that ends the message.

    Raises:
        ValueError: If it is broken.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in names if name in file.files}
    except Exception as error:  # numpy, zipfile and zlib raise whatever a broken file leads them to
        raise InputError(f"{path}: no complete file of arrays ({error}). {advice}") from error


def shared_array(path: Path, name: str, kind: str, script: str, page: str) -> np.ndarray:
    """Read the one large array of a file; handlers that live at the same time share it.

    Args:
        path: The file.
        name: The array's name.
        kind: Letters of the kinds of dtype that are accepted.
        script: Name of the module that makes the file.
        page: Where the recordings come from.

    Returns:
        The array, which nobody may change.

    Raises:
        FileNotFoundError: If there is no such file; the message says how to make it.
        ValueError: If it is broken, or lacks the array.
    """
    load = partial(_read_array, path, name, kind, script, page)
    return shared([path], load) if path.is_file() else load()


def write_recordings(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays, all of them or nothing.

    Args:
        path: The file; its folder is made if it is not there.
        arrays: The arrays by name.

    Raises:
        OSError: If it can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        named: dict[str, Any] = {**arrays}
        np.savez(file, **named)


def check_parts(path: Path, num_steps: int, lengths: np.ndarray, at_least: int = 1) -> None:
    """Check that lengths of sequences fit the steps they are made of.

    Args:
        path: The file that they come from.
        num_steps: Number of steps of all sequences together.
        lengths: Length of each sequence, integers ``[n]``.
        at_least: The smallest length.

    Raises:
        ValueError: If not.
    """
    # None longer than all together, so that the sum can't overflow.
    out_of_range = np.any((lengths < at_least) | (lengths > num_steps))
    if lengths.ndim != 1 or out_of_range or lengths.sum() != num_steps:
        raise InputError(
            f"{path}: lengths of at least {at_least} that sum up to {num_steps} steps are expected, "
            f"found {len(lengths)} lengths with the sum {lengths.sum()}"
        )


def _read_array(path: Path, name: str, kind: str, script: str, page: str) -> np.ndarray:
    return read_recordings(path, {name: kind}, script, page)[name]
