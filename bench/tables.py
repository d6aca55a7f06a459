"""Tables of the benchmarks: how one is declared, what its cells are made of, and its plain text.

Each ``bench/test_bench_<op>.py`` declares its own as ``TABLE``; nothing else knows one of them.
"""

from __future__ import annotations

import importlib
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = dict
Rows = Sequence[Row]
Cell = Callable[[Row], str]
SMALL_BYTES = 16e6  # below, pages that memory is counted in weigh too much


@dataclass(frozen=True)
class Plot:
    """A figure: its title in texts, the beginning of its file's name, and what draws it."""

    title: str
    stem: str
    draw: Callable[[Rows], Figure]


def _no_facts(rows: Rows) -> list[str]:
    return []


@dataclass(frozen=True)
class Table:
    """What a benchmark measures, and how it is shown.

    Attributes:
        key: Name of the rows in files of results.
        title: Heading.
        intro: What is measured, for the documentation. That of a table in groups stands in the page's head.
        columns: Functions from a row to the text of a cell, by heading.
        place: Where it stands: tables are in ascending order.
        facts: Sentences that sum the rows up.
        readme: What stands above the facts in the README; without it, the table has no part in it.
        group: Heading of the part of the table that a row belongs to, ``None`` for a row that stands in facts
            only.
        summary: Lines of a second table that sums the rows up, its headings first.
        plots: Figures of the documentation; the first is shown in the README, too.
        peak: Returns the peak memory of one call in bytes, of this process; see ``Bench.add``.
    """

    key: str
    title: str
    intro: str
    columns: Mapping[str, Cell]
    place: int
    facts: Callable[[Rows], list[str]] = _no_facts
    readme: Callable[[Rows], str] | None = None
    group: Callable[[Row], str | None] | None = None
    summary: Callable[[Rows], list[list[str]]] | None = None
    plots: Sequence[Plot] = ()
    peak: Callable[..., int] | None = None

    def cells(self, rows: Rows) -> list[list[str]]:
        """The texts of all cells, line by line, the headings first."""
        return [[*self.columns], *([cell(row) for cell in self.columns.values()] for row in rows)]

    def groups(self, rows: Rows) -> dict[str, list[Row]]:
        """The rows by the heading of their part, in their order."""
        found: dict[str, list[Row]] = {}
        for row in rows:
            title = self.group(row) if self.group else self.title
            if title is not None:
                found.setdefault(title, []).append(row)
        return found


def all_tables() -> list[Table]:
    """The tables of all files with benchmarks and those of a GPU, in their order."""
    paths = Path(__file__).parent.glob("test_bench_*.py")
    found = [importlib.import_module(f"bench.{path.stem}").TABLE for path in paths]
    return sorted((*found, *importlib.import_module("bench.gpu_tables").TABLES), key=lambda t: t.place)


def field(name: str) -> Cell:
    """A cell with an entry of the row."""
    return lambda row: str(row[name])


_MODE_LABELS = {"forward+backward": "fwd+bwd", "forward+backward, target tensors": "fwd+bwd, targets"}


def mode_label(row: Row) -> str:
    """A cell with the mode."""
    return _MODE_LABELS.get(row["mode"], row["mode"])


def number(value: float | None, digits: int = 3, digits_from_10: int = 1) -> str:
    """The text of a number, a dash for ``None``."""
    return "–" if value is None else f"{value:.{digits if value < 10 else digits_from_10}f}"


def times(*names: str, digits: int = 3, digits_from_10: int = 1) -> dict[str, Cell]:
    """Columns with the milliseconds of contenders."""
    return {name: lambda row, n=name: number(row["ms"].get(n), digits, digits_from_10) for name in names}


def speed_up(row: Row, other: str = "hypnettorch") -> float | None:
    """How many times as long ``other`` takes, or ``None`` where it did not take part."""
    return row["ms"][other] / row["ms"]["hnetfast"] if other in row["ms"] else None


def speed_ups(rows: Rows, other: str = "hypnettorch") -> list[float]:
    """The speed-ups over ``other`` where it took part."""
    return known(speed_up(row, other) for row in rows)


def known(values: Iterable[float | None]) -> list[float]:
    """The values that are not ``None``."""
    return [value for value in values if value is not None]


def times_as_fast(other: str = "hypnettorch", digits: int = 2, unit: str = "") -> Cell:
    """A cell with the speed-up over a contender."""

    def cell(row: Row) -> str:
        ratio = speed_up(row, other)
        return "–" if ratio is None else f"{ratio:.{digits}f}{unit}"

    return cell


def floor_share(row: Row) -> float | None:
    """Time of the floor over the time taken, where the floor is known."""
    return row["floor_ms"] / row["ms"]["hnetfast"] if row.get("floor_ms") else None


def percent_of_floor(row: Row) -> str:
    """A cell with the share of the floor."""
    share = floor_share(row)
    return "" if share is None else f"{100 * share:.0f} %"


def over(what: str, ratios: Sequence[float], digits: int = 2) -> list[str]:
    """A fact about speed-ups, none where there are none."""
    if not ratios:
        return []
    mean, least = statistics.geometric_mean(ratios), min(ratios)
    return [f"{what}: geometric mean {mean:.{digits}f}×, slowest {least:.{digits}f}×"]


def _align(cells: Sequence[Sequence[str]]) -> list[str]:
    columns = []
    for column in zip(*cells, strict=True):
        width = max(map(len, column))
        words = any(text[:1].isalpha() for text in column[1:])
        columns.append([text.ljust(width) if words else text.rjust(width) for text in column])
    return ["  ".join(line).rstrip() for line in zip(*columns, strict=True)]


def format_text(table: Table, rows: Rows) -> str:
    """A table as plain text, as ``pytest bench/`` prints it; times are in ms."""
    lines: list[str] = []
    groups = table.groups(rows)
    for title, some in groups.items():
        lines += ["", f"{title}; times in ms", *_align(table.cells(some))]
        if table.summary and len(groups) > 1:
            lines += ["", *_align(table.summary(some))]
    if table.summary and groups:
        lines += ["", table.title, *_align(table.summary(rows))]
    for row in rows:
        where = ", ".join(str(value) for value in row.values() if isinstance(value, (str, int)))
        lines += [f"Left out, {name}: {why} ({where})" for name, why in row.get("left_out", {}).items()]
    return "\n".join([*lines, "", *table.facts(rows)])


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; its first line are the headings."""
    header, *body = lines
    aligned = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, aligned, *body))
