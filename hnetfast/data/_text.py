"""Text files that users fetch or write."""

from __future__ import annotations

from pathlib import Path

from hnetfast._errors import InputError


def read_text(path: str | Path) -> str:
    """Return what is in a text file.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it is no text in UTF-8; names it.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: text in UTF-8 is expected ({error})") from None
