"""The performance summary that a run writes: lines of a keyword and its values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from hnetfast._errors import InputError

# Every notation that float() reads. A sign that follows a letter or digit is none: 1-2 are two numbers. A
# point at the end belongs to the sentence.
_NUMBER = re.compile(
    r"(?:(?<![\w.])[+-])?(?:(?:\d*\.\d+|\d+)(?:\.?[eE][+-]?\d+)?|(?<!\w)(?:nan|inf(?:inity)?)(?!\w))",
    re.ASCII | re.IGNORECASE,
)


class SummaryError(InputError):
    """A run's summary is missing or can't be used.

    Attributes:
        values: What could be read of it.
    """

    def __init__(self, message: str, values: dict[str, list[str]] | None = None) -> None:
        super().__init__(message)
        self.values = values or {}


def read_summary(path: Path, keywords: Sequence[str]) -> dict[str, list[str]]:
    """Read a summary file.

    Args:
        path: The file. A line is a keyword, a blank or colon, and numbers; lines may be in any order.
        keywords: The keywords that are to be there.

    Returns:
        Keyword to a list of one text: the number as it is written; where there are several or none, all of
        them with commas, in quotes.

    Raises:
        SummaryError: A ``ValueError``, if there is no such file, it is no text, or a keyword is missing.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise SummaryError(f"there is no summary file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SummaryError(f"the summary file {path} can't be read as text ({error})") from error
    values, missing = {}, []
    for keyword in keywords:
        start = re.compile(rf"\s*{re.escape(keyword)}(?:[\s:=]|$)")
        found = (line[match.end() :] for line in lines if (match := start.match(line)))
        line = next(found, None)
        if line is None:
            missing.append(keyword)
            continue
        numbers = _NUMBER.findall(line)
        values[keyword] = [numbers[0] if len(numbers) == 1 else f'"{",".join(numbers)}"']
    if missing:
        raise SummaryError(f"the summary file {path} has no line for {', '.join(map(repr, missing))}", values)
    return values
