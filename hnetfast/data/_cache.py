"""Arrays that take long to read are kept: in memory while somebody uses them, and in a file.

The file is an ``.npz`` beside the sources, uncompressed and without pickles, with a key that tells their
content. It is written as a whole, so processes that build it at once do not meet half of one; one that
is truncated, has another key or is of another format is replaced. Where it can't be written, there is none.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import numpy as np

from hnetfast._files import replacing
from hnetfast._locks import ProcessLock

_FORMAT = "hnetfast 1"
_KEY = "key"

Shared = TypeVar("Shared")

_alive: WeakValueDictionary[tuple, object] = WeakValueDictionary()
_lock = ProcessLock()


def shared(sources: Sequence[Path], load: partial[Shared]) -> Shared:
    """Return what was loaded from files and is still in use, or load it.

    Args:
        sources: The files; one that was replaced, or has another size or time of change, counts as another.
        load: A call that loads an object that holds their content, which nobody may change; with other
            keyword arguments, of plain values, it counts as another.

    Returns:
        The object.
    """
    states = [(os.path.realpath(path), os.stat(path)) for path in sources]
    key = (
        load.func,
        *load.keywords.items(),
        *((path, s.st_ino, s.st_size, s.st_mtime_ns) for path, s in states),
    )
    with _lock:  # so that threads load it once
        found: Any = _alive.get(key)
        if found is None:
            found = _alive[key] = load()
    return found


def content_key(sources: Sequence[Path]) -> str:
    """Return a text that tells the content of compressed files.

    Args:
        sources: The files, of gzip, whose last eight bytes are the check sum and the size of the content.

    Returns:
        Names, sizes and check sums.
    """
    parts = [_FORMAT]
    for path in sources:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - 8, 0))
            parts.append(f"{path.name} {size} {file.read().hex()}")
    return "; ".join(parts)


def kept_arrays(path: Path, key: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return arrays from a file, which is made if it is not there or not the right one.

    Args:
        path: The file.
        key: What it must have been made from.
        make: Returns the arrays, of numbers, by name.

    Returns:
        The arrays by name.
    """
    found = _read(path, key)
    if found is None:
        found = make()
        try:
            with replacing(path) as file:
                named: dict[str, Any] = {_KEY: np.array(key), **found}
                np.savez(file, **named)
        except OSError:
            pass  # a folder that can't be written, or a full disk
    return found


def _read(path: Path, key: str) -> dict[str, np.ndarray] | None:
    """Return the arrays in a file, None if there are none of this key."""
    try:
        with open(path, "rb") as content, np.load(content, allow_pickle=False) as file:
            if _KEY not in file.files or file[_KEY].dtype.kind != "U" or str(file[_KEY]) != key:
                return None
            return {name: file[name] for name in file.files if name != _KEY}
    except Exception:  # zipfile and numpy raise a dozen kinds, depending on which byte is wrong
        return None
