"""Options of runs that examples have in common, and runs that go on with the options of their beginning."""

from __future__ import annotations

import argparse
import json
import os
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hnetfast._checks import check_integer

_UNSET = object()


@dataclass(frozen=True)
class Start:
    """How a run begins: options that are no part of the experiment.

    Attributes:
        resume: Whether to go on with the run in ``out_dir``.
        force: Whether an existing ``out_dir`` is deleted without a question.
        checkpoint_every: Seconds between checkpoints in the middle of a task.
        notes: What the user should know about how options were understood.
    """

    resume: bool
    force: bool
    checkpoint_every: float
    notes: tuple[str, ...]

    @classmethod
    def take_from(cls, config: Namespace, notes: Iterable[str]) -> Start:
        """Take these options out of all that were parsed.

        Args:
            config: The options, which are changed.
            notes: What the user should know.
        """
        options = {name: vars(config).pop(name) for name in ("resume", "force", "checkpoint_every")}
        return cls(**options, notes=tuple(notes))


def integer_from(minimum: int) -> Callable[[str], int]:
    """What parses an option that is an integer.

    Args:
        minimum: The smallest that is accepted.
    """

    def parse(text: str) -> int:
        try:
            return check_integer("", int(text), minimum)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"expected an integer of at least {minimum}, got {text!r}"
            ) from None

    return parse


def check_matplotlib() -> None:
    """Miss it before the training, not after.

    Raises:
        ImportError: It is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"pictures need {error.name} (pip install 'hnetfast[examples]'); --no_pictures draws none",
            name=error.name,
        ) from error


def add_run_options(group: argparse._ArgumentGroup) -> None:
    """Add the options of :class:`Start`.

    Args:
        group: Where to add them.
    """
    group.add_argument(
        "--resume",
        action="store_true",
        help="Go on with the run in --out_dir, which was stopped or killed, with its options; begin it if "
        "there is none.",
    )
    group.add_argument(
        "--force", action="store_true", help="Delete an existing --out_dir without a question."
    )
    group.add_argument(
        "--checkpoint_every",
        type=float,
        default=10,
        metavar="SECONDS",
        help="Time between checkpoints in the middle of a task, from which --resume goes on; there is one "
        "after each task as well. Default: %(default)s.",
    )


def parse_given(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None
) -> tuple[Namespace, dict[str, Any]]:
    """Parse a command line, and find out which of the options stand in it.

    Args:
        parser: The parser.
        arguments: The arguments; those of the process by default.

    Returns:
        All options, and those that were given.

    Raises:
        SystemExit: For arguments that are not accepted, and for ``--help``.
    """
    config = parser.parse_args(arguments)
    unset = Namespace(**dict.fromkeys(vars(config), _UNSET))
    values = vars(parser.parse_args(arguments, unset))
    return config, {name: value for name, value in values.items() if value is not _UNSET}


def take_stored_options(
    parser: argparse.ArgumentParser,
    config: Namespace,
    given: dict[str, Any],
    may_change: Sequence[str],
    may_be_none: Sequence[str] = (),
) -> list[str]:
    """Replace the options by those of the run that is to go on, if there is one.

    Args:
        parser: The parser.
        config: All options, which are changed.
        given: Those that stand in the command line; all of the run's count as given afterwards.
        may_change: Which of them may differ from those of the run.
        may_be_none: Which may be None.

    Returns:
        What the user should know.

    Raises:
        SystemExit: If ``--out_dir`` is missing, or the options of the run are or differ.
    """
    if "out_dir" not in given:
        parser.error("argument --resume: --out_dir of the run that is to go on is needed as well")
    path = Path(config.out_dir, "config.json")
    if path.is_file():
        _take_from_file(parser, config, given, path, may_change, may_be_none)
        given.update(vars(config))
        return []
    if os.path.isdir(os.path.join(config.out_dir, "checkpoints")):
        parser.error(f"argument --resume: {path}, the options of the run, is missing")
    return [f"There is no run in {config.out_dir} yet: it starts from the beginning."]


def _take_from_file(
    parser: argparse.ArgumentParser,
    config: Namespace,
    given: dict[str, Any],
    path: Path,
    may_change: Sequence[str],
    may_be_none: Sequence[str],
) -> None:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(stored, dict):
            raise ValueError("an object is expected")
    except ValueError as error:
        parser.error(f"argument --resume: {path} does not hold the options of a run ({error})")
    kinds: dict[str, Any] = {
        action.dest: action.type or (str if action.nargs != 0 else bool) for action in parser._actions
    }
    for name, value in stored.items():
        kind = kinds.get(name)
        fits = isinstance(value, (int, float) if kind is float else kind or ()) or (
            name in may_be_none and value is None
        )
        if not fits or (isinstance(value, bool) and kind is not bool):
            parser.error(
                f"argument --resume: {path} holds {name}: {value!r}, which is no option of this script"
            )
        if name in given and given[name] != value:
            if name not in may_change:
                parser.error(
                    f"argument --{name}: the run in {config.out_dir} was started with {value!r}, got "
                    f"{given[name]!r}"
                )
            continue
        setattr(config, name, value)
