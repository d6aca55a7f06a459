"""The figures of stored runs in one table.

Run it with ``python -m hnetfast.examples.image_fields.report out/image_fields``. With
``--page=docs/image_fields.md`` the table goes between two lines of that page.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hnetfast._errors import InputError
from hnetfast.examples._pages import report_command

DEFAULT_FOLDER = Path("out") / "image_fields"
_KEYS = {"dataset", "seed", "settings", "methods", "step"}


def load_results(folder: Path) -> list[dict[str, Any]]:
    """Read what runs have stored in a folder.

    Args:
        folder: The folder.

    Returns:
        An entry a run, ordered by data set and seed.

    Raises:
        FileNotFoundError: If there are none.
        ValueError: If a file is none of theirs.
    """
    results = []
    for path in folder.glob("*.json"):
        try:
            result = json.loads(path.read_bytes())
        except ValueError as error:
            raise InputError(f"{path}: expected JSON, got something else ({error})") from error
        if not isinstance(result, dict) or result.keys() != _KEYS:
            raise InputError(f"{path}: expected the results of a run, with {', '.join(sorted(_KEYS))}")
        results.append(result)
    if not results:
        raise FileNotFoundError(f"{folder}: expected results of runs (*.json), found none")
    return sorted(results, key=lambda result: (result["dataset"], result["seed"]))


def format_table(results: Sequence[Mapping[str, Any]]) -> str:
    """A table in Markdown: how close each method comes to the images, mean and standard deviation over seeds.

    Args:
        results: What runs have stored.

    Raises:
        ValueError: If runs on the same images have other settings or methods.
    """
    lines = [
        "| images | method | train, dB | held out, dB | parameters | seeds | steps |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    by_dataset: dict[str, list[Mapping[str, Any]]] = {}
    for result in results:
        by_dataset.setdefault(result["dataset"], []).append(result)
    for name, runs in by_dataset.items():
        if any(_key(run) != _key(runs[0]) for run in runs):
            raise InputError(f"results: expected runs on {name} with the same settings, got others")
        head = name
        for method in runs[0]["methods"]:
            rows = [run["methods"][method] for run in runs]
            figures = [_spread([row[key] for row in rows]) for key in ("train", "held_out")]
            cells = head, method, *figures, f"{rows[0]['parameters']:,}", len(runs), rows[0]["steps"] or "–"
            lines.append(f"| {' | '.join(map(str, cells))} |")
            head = ""
    return "\n".join(lines)


def _key(run: Mapping[str, Any]) -> tuple[Any, list[str]]:
    """What runs whose figures are averaged have in common."""
    return run["settings"], [*run["methods"]]


def _spread(values: Sequence[float]) -> str:
    mean, spread = statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{mean:.1f} ± {spread:.1f}" if spread >= 0.05 else f"{mean:.1f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Its options; those of the command line by default.

    Returns:
        Its exit status.
    """
    return report_command(
        "image_fields",
        "Stored runs in one table.",
        DEFAULT_FOLDER,
        lambda folder: format_table(load_results(folder)),
        arguments,
    )


if __name__ == "__main__":
    raise SystemExit(main())
