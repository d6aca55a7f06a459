"""Images that lie in files, and the text files that tell what they show."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hnetfast._errors import InputError
from hnetfast.data._text import read_text

if TYPE_CHECKING:
    from PIL.Image import Image


class BrokenImageError(InputError, OSError):
    """A file holds no image, or only a part of one."""


def load_image(path: str) -> Image:
    """Read an image.

    Args:
        path: Its file.

    Returns:
        The image, with three channels.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no image, or a part of it is missing.
    """
    from PIL import Image

    try:
        with open(path, "rb") as file, Image.open(file) as image:
            return image.convert("RGB")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: there is no such image") from None
    except Exception as error:  # PIL raises whatever a broken file leads it to
        raise BrokenImageError(f"{path}: is no image, or an incomplete one ({error})") from error


def require_paths(paths: Iterable[str | Path], source: str) -> None:
    """Refuse to go on without certain files or folders.

    Args:
        paths: Those that are needed.
        source: Where to get them, a sentence that ends the message.

    Raises:
        FileNotFoundError: If some are not there; names all of those.
    """
    missing = [str(path) for path in paths if not os.path.exists(path)]
    if missing:
        raise FileNotFoundError(f"{', '.join(missing)}: not found. {source}")


def file_names(paths: list[str]) -> np.ndarray:
    """Return names of files as an array, the inputs of a handler.

    Args:
        paths: The names, ``n`` of them.

    Returns:
        ``numpy.char.chararray`` ``[n, 1]``.
    """
    return np.array(paths, dtype=None if paths else "<U1").reshape(-1, 1).view(np.char.chararray)


def read_table(path: str | Path) -> tuple[list[str], list[str], np.ndarray]:
    """Read a table from a text file: number of rows, names of columns, then a name and integers in each row.

    Args:
        path: The file.

    Returns:
        The names of the columns, those of the rows, and the integers, int64 ``[rows, columns]``.

    Raises:
        ValueError: If a line is something else; names it.
    """
    lines = read_lines(path)
    columns = lines[1].split() if len(lines) > 1 else []
    if not columns or lines[0] != str(len(lines) - 2):
        raise InputError(
            f"{path}, line 1: the number of the rows that follow line 2 is expected, which is "
            f"{max(len(lines) - 2, 0)}, found {''.join(lines[:1])!r}"
        )
    return columns, *_names_and_numbers(path, lines[2:], len(columns), 3)


def read_numbers(path: str | Path) -> tuple[list[str], np.ndarray]:
    """Read a text file whose lines are a name and an integer.

    Args:
        path: The file.

    Returns:
        The names, ``n`` of them, and the integers, int64 ``[n]``.

    Raises:
        ValueError: If a line is something else; names it.
    """
    names, numbers = _names_and_numbers(path, read_lines(path), 1, 1)
    return names, numbers[:, 0]


def read_pairs(path: str | Path) -> dict[str, str]:
    """Read a text file whose lines are a key and a text.

    Args:
        path: The file.

    Returns:
        The texts by their keys, in the order of the file.

    Raises:
        ValueError: If a line is something else, or a key comes twice; names it.
    """
    pairs: dict[str, str] = {}
    for number, line in enumerate(read_lines(path), 1):
        fields = line.split(None, 1)
        if len(fields) != 2:
            raise InputError(f"{path}, line {number}: a key and a text are expected, found {line!r}")
        if fields[0] in pairs:
            raise InputError(f"{path}, line {number}: {fields[0]!r} comes a second time")
        pairs[fields[0]] = fields[1]
    return pairs


def read_lines(path: str | Path) -> list[str]:
    """Return the lines of a text file, stripped, without empty ones at its end.

    Args:
        path: The file.

    Raises:
        ValueError: If it is no text.
    """
    lines = [line.strip() for line in read_text(path).splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def rows_of(path: str | Path, names: list[str], known: list[str], source: str, first: int = 1) -> np.ndarray:
    """Return in which row of a file each of the names that another file lists stands.

    Args:
        path: The file.
        names: The names of its rows, all different.
        known: Those to look up, ``n`` different ones. Every row must be one of them.
        source: The file that lists these, for messages.
        first: The line of the first row.

    Returns:
        Integers ``[n]``.

    Raises:
        ValueError: If a name has no row, or a row another name; names the line.
    """
    if names == known:
        return np.arange(len(names))
    places = {name: place for place, name in enumerate(known)}
    rows = np.full(len(known), -1)
    for row, name in enumerate(names):
        if name not in places:
            raise InputError(f"{path}, line {first + row}: {name} is not in {source}")
        rows[places[name]] = row
    if (rows < 0).any():
        raise InputError(f"{path}: {known[int(rows.argmin())]}, which is in {source}, has no line")
    return rows


def first_of_each_class(classes: np.ndarray, number: int) -> np.ndarray:
    """Choose the first samples of every class.

    Args:
        classes: The class of each sample, integers ``[n]``.
        number: How many of each.

    Returns:
        Whether a sample is one of them, bool ``[n]``.

    Raises:
        ValueError: If a class has fewer samples.
    """
    values, starts, counts = np.unique(np.sort(classes), return_index=True, return_counts=True)
    if len(counts) and counts.min() < number:
        raise InputError(
            f"num_val_per_class: expected at most the number of training samples of each class, "
            f"got {number}, class {values[counts.argmin()]} has {counts.min()}"
        )
    chosen = np.empty(len(classes), dtype=bool)
    chosen[np.argsort(classes, kind="stable")] = np.arange(len(classes)) - np.repeat(starts, counts) < number
    return chosen


def _names_and_numbers(
    path: str | Path, lines: list[str], num_values: int, first: int
) -> tuple[list[str], np.ndarray]:
    """Take lines of a name and integers apart; ``first`` is the number of the first line."""
    if not lines:
        return [], np.empty((0, num_values), dtype=np.int64)
    # No list for each line is kept: hundreds of thousands would make Python's garbage collector busy.
    rests = [line.split(None, 1)[-1] if line else "" for line in lines]
    try:
        values = np.loadtxt(rests, dtype=np.int64, ndmin=2, comments=None)
    except ValueError:
        values = None
    if values is None or values.shape != (len(lines), num_values):
        raise _wrong_line(path, lines, num_values, first)
    names = [line.split(None, 1)[0] for line in lines]
    if len(set(names)) < len(names):
        seen: set[str] = set()
        for number, name in enumerate(names, first):
            if name in seen:
                raise InputError(f"{path}, line {number}: {name} comes a second time")
            seen.add(name)
    return names, values


def _wrong_line(path: str | Path, lines: list[str], num_values: int, first: int) -> InputError:
    for number, line in enumerate(lines, first):
        fields = line.split()
        if len(fields) != num_values + 1 or not all(_is_integer(field) for field in fields[1:]):
            return InputError(
                f"{path}, line {number}: a name and {num_values} integers are expected, found {line!r}"
            )
    return InputError(f"{path}: lines of a name and {num_values} integers are expected")


def _is_integer(text: str) -> bool:
    return text.lstrip("+-").isdigit()
