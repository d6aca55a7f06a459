"""Collect runs: the published figures and ours in one table.

Run it with ``python -m hnetfast.examples.posterior_replay.report out/posterior_replay --output table.md``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hnetfast._errors import InputError
from hnetfast._files import write_atomically
from hnetfast.examples.posterior_replay._experiment import DEFAULT_FOLDER, format_table

_KEYS = {"experiment", "method", "title", "published", "criterion", "settings", "runs"}


def load_results(folder: Path) -> list[dict[str, Any]]:
    """Read what the experiments have stored in a folder.

    Args:
        folder: The folder.

    Returns:
        An entry a method, ordered by experiment, then as they are listed there.

    Raises:
        FileNotFoundError: If there are none.
        ValueError: If a file is none of theirs.
    """
    results = []
    for path in sorted(folder.glob("*.json")):
        try:
            result = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise InputError(f"{path}: expected JSON, got {error}") from error
        if not isinstance(result, dict) or not set(result) >= _KEYS or not result["runs"]:
            raise InputError(f"{path}: expected the results of a method, with {', '.join(sorted(_KEYS))}")
        results.append(result)
    if not results:
        raise FileNotFoundError(f"{folder}: expected results of experiments (*.json), found none")
    return results


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        arguments: Its options instead of those on the command line.
    """
    parser = argparse.ArgumentParser(
        prog="python -m hnetfast.examples.posterior_replay.report",
        description="Published figures and those of stored runs in one table.",
    )
    parser.add_argument("folder", type=Path, nargs="?", default=DEFAULT_FOLDER, help="where the runs are")
    parser.add_argument("--output", type=Path, help="a file for the table, which is printed otherwise")
    config = parser.parse_args(arguments)
    table = format_table(load_results(config.folder))
    if config.output is None:
        print(table)
    else:
        write_atomically(config.output, (table + "\n").encode())


if __name__ == "__main__":
    main(sys.argv[1:])
