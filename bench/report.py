"""``python -m bench.report``: turn ``bench/results/*.json`` into the tables of README and docs, and plots."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bench.results import RESULTS, Results
from bench.tables import Table, all_tables, markdown

ROOT = RESULTS.parent.parent
START, END = "<!-- bench:start -->", "<!-- bench:end -->"


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _environment_line(results: Results) -> str:
    env = results.environment
    text = (
        f"{env['device']}, {env['threads']} threads, torch {env['torch']}, hypnettorch {env['hypnettorch']}"
    )
    if "driver" in env:
        text += f", driver {env['driver']}, triton {env['triton']}"
    changed = " with uncommitted changes" if env["uncommitted_changes"] else ""
    return f"{text}; commit {env['commit']}{changed}, {env['date']}"


def _join(parts: Sequence[str]) -> str:
    return "\n\n".join(part for part in parts if part)


def readme_section(tables: Sequence[Table], all_results: Sequence[tuple[str, Results]]) -> str:
    """What the README says: of each table the newest results, those of a CPU where there are some."""
    parts: list[str] = []
    for table in tables:
        found = [entry for entry in all_results if entry[1].rows.get(table.key)]
        if table.readme is None or not found:
            continue
        on_cpu = [entry for entry in found if "driver" not in entry[1].environment]
        name, newest = max(on_cpu or found, key=lambda entry: entry[1].environment["date"])
        rows = newest.rows[table.key]
        parts.append(table.readme(rows))
        parts.append(markdown(table.summary(rows)) if table.summary else "")
        parts.append(_bullets(table.facts(rows)))
        parts.append(_environment_line(newest) + ".")
        for plot in table.plots[:1]:
            parts.append(f"![{plot.title} over hypnettorch](docs/img/{plot.stem}-{name}.png)")
            parts.append("All rows: [docs/benchmarks.md](docs/benchmarks.md).")
    return _join(parts)


def docs_page(tables: Sequence[Table], all_results: Sequence[tuple[str, Results]]) -> str:
    """A page with every row of every file of results."""
    head = ["Times are medians in milliseconds, contenders timed in turns within one process."]
    head += [table.intro for table in tables if table.group]
    parts = [
        "# Benchmarks\n\nWritten by `python -m bench.report` from `bench/results/`; do not edit.",
        " ".join(head),
    ]
    for name, results in all_results:
        parts.append(f"## {_environment_line(results)}")
        for table in tables:
            rows = results.rows.get(table.key)
            if rows:
                parts += _docs_of_table(table, rows, name)
    return _join(parts) + "\n"


def _docs_of_table(table: Table, rows: list[dict], name: str) -> list[str]:
    parts = [] if table.group else [f"### {table.title}", table.intro]
    parts.append(markdown(table.summary(rows)) if table.summary else "")
    parts.append(_bullets(table.facts(rows)))
    parts += [f"![{plot.title}](img/{plot.stem}-{name}.png)" for plot in table.plots]
    for title, some in table.groups(rows).items():
        parts += [f"### {title}" if table.group else "", markdown(table.cells(some))]
    return parts


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)
    temporary = path.with_suffix(".tmp")
    figure.savefig(temporary, format="png", dpi=130, facecolor="white")
    temporary.replace(path)


def replace_section(text: str, section: str) -> str:
    """Put ``section`` between the markers of a Markdown text.

    Raises:
        ValueError: The text does not have each marker once, in order.
    """
    pattern = re.compile(re.escape(START) + ".*?" + re.escape(END), re.DOTALL)
    if text.count(START) != 1 or text.count(END) != 1 or not pattern.search(text):
        raise ValueError(f"the text needs {START} and, after it, {END}, once each")
    return pattern.sub(lambda _: f"{START}\n{section}\n{END}", text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write everything; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the stored results")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of README.md and docs/")
    options = parser.parse_args(arguments)
    paths = sorted(options.results.glob("*.json"))
    if not paths:
        parser.error(f"no results in {options.results}; python -m bench.run makes them")
    tables, all_results = all_tables(), [(path.stem, Results.load(path)) for path in paths]
    docs, readme = options.root / "docs", options.root / "README.md"
    for name, results in all_results:
        for table in tables:
            rows = results.rows.get(table.key)
            for plot in table.plots if rows else ():
                _save(plot.draw(rows), docs / "img" / f"{plot.stem}-{name}.png")
    (docs / "benchmarks.md").write_text(docs_page(tables, all_results))
    readme.write_text(replace_section(readme.read_text(), readme_section(tables, all_results)))
    print(f"Wrote {readme}, {docs / 'benchmarks.md'} and the plots in {docs / 'img'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
