"""The command of a run: as a list of words for the operating system, and as text for a shell."""

from __future__ import annotations

import re
import shlex
from typing import Any

from hnetfast.hpsearch._grid import Options

# Text that means the same to a shell as to shlex: plain characters, and quotes in which nothing is expanded.
_QUOTED_ALREADY = re.compile(r"""(?:[\w@%+=:,./^-]|'[^']*'|"[^"$`\\!]*")*""", re.ASCII)


def words(script: str, options: Options, interpreter: str = "python3") -> tuple[str, ...]:
    """Returns the words of a run's command.

    Args:
        script: The script; options that it is always given may follow.
        options: Option to value. True is a flag that is given, False one that is not.
        interpreter: The program that executes the script.

    Returns:
        Program and arguments.
    """
    found = [interpreter, *_script_words(script)]
    for option, value in options.items():
        if value is True:
            found.append(f"--{option}")
        elif value is not False:
            found.append(f"--{option}={_meaning(value)}")
    return tuple(found)


def text(script: str, options: Options, interpreter: str = "python3") -> str:
    """Returns a run's command as one types it into a shell, where it has the words of :func:`words`."""
    found = [interpreter, *(shlex.quote(word) for word in _script_words(script))]
    for option, value in options.items():
        if value is True:
            found.append(shlex.quote(f"--{option}"))
        elif value is not False:
            found.append(f"{shlex.quote(f'--{option}')}={_as_typed(value)}")
    return " ".join(found)


def _script_words(script: str) -> list[str]:
    return shlex.split(script) or [script]


def _meaning(value: Any) -> str:
    """Returns a value without the quotes that grids have around text with blanks: '"a b"' is a b."""
    written = str(value)
    try:
        (word,) = shlex.split(written)
    except ValueError:  # several words, none, or a quote without its partner
        return written
    return word


def _as_typed(value: Any) -> str:
    written = str(value)
    meaning = _meaning(value)
    if _QUOTED_ALREADY.fullmatch(written) and (written == meaning or {"'", '"'} & set(written)):
        return written
    return shlex.quote(meaning)
