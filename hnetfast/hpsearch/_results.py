"""The CSV file with the results of a search, as hypnettorch writes it, and how each run ended.

hypnettorch has pandas read the file, add a row, sort and write it, for each run that ends: what was written
as 1 is 1.0 once the column had a fraction or a gap. Here all rows are written at once, with what that leaves.
"""

from __future__ import annotations

import csv
import io
import math
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hnetfast._errors import InputError
from hnetfast._files import write_atomically

# Columns that hypnettorch has not; they come last.
STATE, REASON, SECONDS, LOG, LOG_END = EXTRA_COLUMNS = (
    "hpsearch_state",
    "hpsearch_reason",
    "hpsearch_seconds",
    "hpsearch_log",
    "hpsearch_log_end",
)
FINISHED = "finished"

_MISSING = object()
# What pandas reads as a gap.
_GAPS = {"", "NA", "N/A", "n/a", "NaN", "nan", "None", "NULL", "null", "<NA>", "-nan", "-NaN", "#N/A"}


@dataclass(frozen=True)
class Row:
    """A run that has ended.

    Attributes:
        values: Its options, with the output folder, and what its summary holds.
        state: How it ended; "finished" if well.
        more: The extra columns but for the state.
    """

    values: Mapping[str, Any]
    state: str
    more: Mapping[str, Any] = field(default_factory=dict)


def make_row(
    options: Mapping[str, Any], summary: Mapping[str, Any], state: str, more: Mapping[str, Any]
) -> Row:
    """Returns the row of a run; a summary's lists of one value are that value."""
    flat = {key: _only(value) for key, value in summary.items()}
    return Row({**options, **flat}, state, more)


def _only(value: Any) -> Any:
    return value[0] if isinstance(value, list | tuple) and len(value) == 1 else value


def to_csv(rows: Sequence[Row], key: str, ascending: bool) -> str:
    """Write results as text.

    Args:
        rows: The runs, in the order in which they ended.
        key: The column to sort by.
        ascending: Whether low values come first.

    Returns:
        The text: first the runs that ended well, the best on top, then the others.
    """
    good = [row for row in rows if row.state == FINISHED]
    bad = [row for row in rows if row.state != FINISHED]
    columns = sorted({column for row in rows for column in row.values})
    written = [_column([row.values.get(column, _MISSING) for row in good]) for column in columns]
    lines = [[*cells, *_extra(row)] for cells, row in zip(zip(*written, strict=True), good, strict=True)]
    ranks = [_number(row.values.get(key)) for row in good]
    best_first = sorted(range(len(good)), key=lambda i: _rank(ranks[i], ascending))
    lines = [lines[i] for i in best_first]
    lines += [[*(_text(row.values.get(column, _MISSING)) for column in columns), *_extra(row)] for row in bad]
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=";", lineterminator="\n")
    writer.writerow([*columns, *EXTRA_COLUMNS])
    writer.writerows(lines)
    return buffer.getvalue()


def write_csv(path: Path, rows: Sequence[Row], key: str, ascending: bool) -> None:
    """Write the results into a file, in one step; where that fails, it raises OSError and changes nothing."""
    write_atomically(path, to_csv(rows, key, ascending).encode("utf-8", "surrogateescape"))


def read_csv(path: Path) -> list[dict[str, str]]:
    """Read the results of a search, hypnettorch's too.

    Args:
        path: The file.

    Returns:
        A dictionary of column to text for each row.

    Raises:
        InputError: A ``ValueError``, if it is no such file.
    """
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            rows = list(csv.DictReader(file, delimiter=";", strict=True))
    except csv.Error as error:
        raise InputError(f"{path}: a CSV file with semicolons is expected ({error})") from error
    if any(None in row or None in row.values() for row in rows):
        raise InputError(f"{path}: a CSV file with semicolons is expected, found rows of different lengths")
    return rows


def _extra(row: Row) -> list[str]:
    return [row.state, *(_text(row.more.get(column, _MISSING)) for column in EXTRA_COLUMNS[1:])]


def _rank(value: float | None, ascending: bool) -> tuple[bool, float]:
    if value is None or math.isnan(value):
        return True, 0.0
    return False, value if ascending else -value


def _column(values: Sequence[Any]) -> list[str]:
    """Write the values of one column, as they would be after having been read and written again and again."""
    texts = [_text(value) for value in values]
    numbers = [_number(value) for value in values]
    # From the first value on that is neither a number nor a gap, the column is text.
    is_text = [number is None and text not in _GAPS for number, text in zip(numbers, texts, strict=True)]
    end = is_text.index(True) if True in is_text else len(values)
    if end == len(values) and values and (values[-1] is None or isinstance(values[-1], str)):
        end -= 1  # the last row has not been read again yet
    whole = all(_is_whole(text) for text in texts[:end])
    for i in range(end):
        if numbers[i] is None:
            texts[i] = ""
        else:
            texts[i] = str(int(texts[i])) if whole else repr(numbers[i])
    return texts


def _is_whole(text: str) -> bool:
    digits = text[1:] if text[:1] in "+-" else text
    return digits.isascii() and digits.isdigit()


def _number(value: Any) -> float | None:
    """Returns the number that a value is or that its text is; None for flags and other text."""
    if isinstance(value, bool) or value is None or value is _MISSING:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return None if "_" in str(value) else number


def _text(value: Any) -> str:
    if value is None or value is _MISSING:
        return ""
    if isinstance(value, str):
        return value
    return repr(value) if isinstance(value, float) else str(value)


def finite_number(value: Any) -> float | None:
    """Returns the number that a summary's value is; None if it is none, or NaN or infinite."""
    number = _number(_only(value))
    return number if number is not None and math.isfinite(number) else None


def one_line(log_end: str, limit: int = 1000) -> str:
    """Returns the end of a log as one line of text for a cell of a table."""
    lines: Iterable[str] = (" ".join(line.split()) for line in log_end.splitlines())
    joined = " | ".join(line for line in lines if line)
    return "".join(c if c.isprintable() else "?" for c in joined[-limit:])


class ResultsFile:
    """The CSV file while a search runs.

    It is written anew now and then, so that all that is written grows with the number of runs and no faster.

    Args:
        path: The file.
        key: The column to sort by.
        ascending: Whether low values come first.
    """

    _SHARE = (
        16  # it is written once a sixteenth of the rows are new, or a sixteenth of the time is left for it
    )

    def __init__(self, path: Path, key: str, ascending: bool) -> None:
        self.path = path
        self._key, self._ascending = key, ascending
        self._rows: list[Row] = []
        self._written = 0
        self._seconds = 0.0
        self._last = -math.inf
        self._failed = False

    def add(self, row: Row) -> None:
        """Add a run that has ended."""
        self._rows.append(row)

    def write_if_due(self) -> None:
        """Write the file if there is enough to write."""
        new = len(self._rows) - self._written
        rested = time.monotonic() - self._last > self._SHARE * self._seconds
        if new and (rested or (new * self._SHARE >= len(self._rows) and not self._failed)):
            self.write()

    def write(self) -> None:
        """Write the file; where that fails, say so once and keep what is there."""
        start = time.monotonic()
        try:
            write_csv(self.path, self._rows, self._key, self._ascending)
        except OSError as error:
            if not self._failed:
                print(
                    f"{self.path} can't be written ({error}). Nothing is lost: it is tried again, and "
                    "--resume writes it from the search's database.",
                    file=sys.stderr,
                )
            self._failed = True
            self._seconds = max(1.0, time.monotonic() - start)
        else:
            self._failed = False
            self._written = len(self._rows)
            self._seconds = time.monotonic() - start
        self._last = time.monotonic()
