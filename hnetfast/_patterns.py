"""Names of modules and parameters, chosen by patterns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from hnetfast._errors import InputError, InputTypeError


def as_patterns(argument: str, patterns: Any, *, may_be_empty: bool = False) -> tuple[str, ...]:
    """Check patterns.

    Args:
        argument: Name of the argument.
        patterns: What was passed: a pattern or a sequence of them.
        may_be_empty: Whether there may be none.

    Raises:
        TypeError: It is something else.
        ValueError: There is none.
    """
    listed = (patterns,) if isinstance(patterns, str) else patterns
    wrong = (
        [patterns] if not isinstance(listed, (list, tuple)) else [p for p in listed if not isinstance(p, str)]
    )
    if wrong:
        raise InputTypeError(
            f"{argument}: expected names or patterns, got {wrong[0]!r:.80}; such as '*.q_proj'"
        )
    if not listed and not may_be_empty:
        raise InputError(f"{argument}: expected at least one name or pattern, got none")
    return tuple(listed)


def match(argument: str, patterns: Sequence[str], names: Iterable[str], what: str) -> list[str]:
    """Choose names by patterns.

    Args:
        argument: Name of the argument.
        patterns: The patterns.
        names: The names.
        what: What they name.

    Returns:
        The names that match, in their order.

    Raises:
        ValueError: A pattern matches none.
    """
    names = list(names)
    chosen: set[str] = set()
    for pattern in patterns:
        matching = {name for name in names if fnmatchcase(name, pattern)}
        if not matching:
            near = _near_misses(pattern, names)
            hint = f"did you mean {near}?" if near else f"there are {shortened([n for n in names if n])}"
            raise InputError(f"{argument}: {pattern!r} matches no {what}; {hint}")
        chosen |= matching
    return [name for name in names if name in chosen]


def _near_misses(pattern: str, names: Sequence[str]) -> str:
    if any(name.startswith(f"{pattern}.") for name in names):
        return repr(f"{pattern}.*")
    if any(name.endswith(f".{pattern}") for name in names):
        return repr(f"*.{pattern}")
    endings = [f"*.{name.rpartition('.')[2]}" for name in names if "." in name]
    candidates = list(dict.fromkeys([*endings, *names]))
    return " or ".join(map(repr, get_close_matches(pattern, candidates, n=3)))


def shortened(names: Sequence[str], limit: int = 8) -> str:
    """Names for a message.

    Args:
        names: All of them.
        limit: How many to tell.
    """
    listed = ", ".join(map(repr, names[:limit]))
    return listed if len(names) <= limit else f"{listed}, … ({len(names)} in all)"
