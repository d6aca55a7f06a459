"""Collect runs: the published figures and ours in one table.

Run it with ``python -m hnetfast.examples.posterior_replay.report out/posterior_replay``. With
``--page=docs/posterior_replay.md`` the table goes between two lines of that page.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hnetfast._errors import InputError
from hnetfast.examples._pages import report_command
from hnetfast.examples.posterior_replay import gmm, regression, split_mnist
from hnetfast.examples.posterior_replay._experiment import DEFAULT_FOLDER, format_table, summarize

_KEYS = {"experiment", "method", "title", "published", "criterion", "note", "settings", "runs"}
_ORDER = [*gmm.METHODS, *regression.METHODS, *split_mnist.SETTINGS]  # of methods, by their first place


def load_results(folder: Path) -> list[dict[str, Any]]:
    """Read what the experiments have stored in a folder.

    Args:
        folder: The folder.

    Returns:
        An entry a method, ordered by experiment, then as the experiment lists its methods.

    Raises:
        FileNotFoundError: If there are none.
        ValueError: If a file is none of theirs.
    """
    results = [_load(path) for path in sorted(folder.glob("*.json"))]
    if not results:
        raise FileNotFoundError(f"{folder}: expected results of experiments (*.json), found none")
    return sorted(results, key=_place)


def _place(result: Mapping[str, Any]) -> tuple[str, int]:
    name = result["method"]
    return result["experiment"], _ORDER.index(name) if name in _ORDER else len(_ORDER)


def _load(path: Path) -> dict[str, Any]:
    try:
        result = json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path}: expected JSON, got something else ({error})") from error
    known = isinstance(result, dict) and result.keys() >= _KEYS
    if not known or not isinstance(result["experiment"], str):
        raise InputError(f"{path}: expected the results of a method, with {', '.join(sorted(_KEYS))}")
    try:
        figures = summarize(result)
        finite = all(math.isfinite(mean) for mean, _ in figures.values())
        format_table([result])
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: expected runs with the figures that its method is compared by, got others ({error!r})"
        ) from error
    if not finite:
        raise InputError(f"{path}: expected finite figures, got others")
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Its options; those of the command line by default.

    Returns:
        Its exit status.
    """
    return report_command(
        "posterior_replay",
        "Published figures and those of stored runs in one table.",
        DEFAULT_FOLDER,
        lambda folder: format_table(load_results(folder)),
        arguments,
    )


if __name__ == "__main__":
    raise SystemExit(main())
