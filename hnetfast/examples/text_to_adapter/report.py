"""Collect runs of several seeds in one table.

Run it with ``python -m hnetfast.examples.text_to_adapter.report out/text_to_adapter``. With
``--page=docs/text_to_adapter.md`` the tables go between two lines of that page.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hnetfast._errors import InputError
from hnetfast.examples._pages import report_command
from hnetfast.examples.text_to_adapter._table import format_new_tasks, format_table

DEFAULT_FOLDER = Path("out") / "text_to_adapter"


def load_results(folder: Path) -> list[dict[str, Any]]:
    """Read what runs have stored in a folder.

    Args:
        folder: The folder.

    Returns:
        An entry a run, ordered by seed.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If a file is none of theirs, or runs had different settings.
    """
    results = [_load(path) for path in folder.glob("seed_*.json")]
    if not results:
        raise FileNotFoundError(f"{folder}: expected results of runs (seed_*.json), found none")
    if any(result["settings"] != results[0]["settings"] for result in results):
        raise InputError(f"{folder}: expected runs with the same settings, got different ones")
    return sorted(results, key=lambda result: result["seed"])


def _load(path: Path) -> dict[str, Any]:
    try:
        result = json.loads(path.read_bytes())
        format_table([result])
        format_new_tasks([result])
        known = isinstance(result["seed"], int) and isinstance(result["settings"], dict)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(f"{path}: expected the results of a run, got something else ({error!r})") from error
    if not known:
        raise InputError(f"{path}: expected the results of a run, with a seed and settings")
    return result


def _format_folder(folder: Path) -> str:
    results = load_results(folder)
    return f"{format_table(results)}\n\n{format_new_tasks(results)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Its options; those of the command line by default.

    Returns:
        Its exit status.
    """
    return report_command(
        "text_to_adapter",
        "What stored runs have reached, mean and standard deviation over seeds.",
        DEFAULT_FOLDER,
        _format_folder,
        arguments,
    )


if __name__ == "__main__":
    raise SystemExit(main())
