"""Finding the modules and parameters that patterns name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from hnetfast._errors import InputError, InputTypeError
from hnetfast.mnets._module.parameters import shortened


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
    if not isinstance(listed, (list, tuple)) or not all(isinstance(pattern, str) for pattern in listed):
        raise InputTypeError(f"{argument}: expected names or patterns like '*.q_proj', got {patterns!r:.80}")
    if not listed and not may_be_empty:
        raise InputError(f"{argument}: expected at least one name or pattern, got none")
    return tuple(listed)


def find_modules(
    argument: str,
    patterns: Sequence[str],
    module: nn.Module,
    accepts: Callable[[nn.Module], bool],
    accepted: str,
) -> list[tuple[str, nn.Module]]:
    """Find the modules that patterns name.

    Args:
        argument: Name of the argument.
        patterns: The patterns.
        module: Where to look.
        accepts: Whether a module can be adapted.
        accepted: Which can, for a message.

    Returns:
        Names and modules, in the order of the network.

    Raises:
        ValueError: A pattern names none.
        TypeError: It names one that can't be adapted.
    """
    modules = dict(module.named_modules())
    matching = match(argument, patterns, modules, "module")
    for name in matching:
        found = modules[name]
        parent = modules.get(name.rpartition(".")[0])
        if isinstance(parent, nn.MultiheadAttention):
            raise InputTypeError(
                f"{argument}: {name!r} is never called, the MultiheadAttention that holds it computes with "
                "its weight; adapt the parameter by Residual or Scale"
            )
        if not accepts(found):
            raise InputTypeError(
                f"{argument}: {name!r} is a {type(found).__name__}, expected {accepted}; "
                "make the pattern narrower"
            )
    return [(name, modules[name]) for name in matching]


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
    if any(name.endswith(f".{pattern}") for name in names):
        return repr(f"*.{pattern}")
    endings = [f"*.{name.rpartition('.')[2]}" for name in names if "." in name]
    candidates = list(dict.fromkeys([*endings, *names]))
    return " or ".join(map(repr, get_close_matches(pattern, candidates, n=3)))
