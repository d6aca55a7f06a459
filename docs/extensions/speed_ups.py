"""The directive ``speed-ups``: what ``bench/results/`` says about hypnettorch, drawn when the page is built.

Figures are SVG within the page. Text and lines have the colours of the theme, light or dark.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from statistics import geometric_mean
from typing import TYPE_CHECKING, Any

from docutils import nodes
from docutils.parsers.rst import directives
from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from sphinx.util.docutils import SphinxDirective

from bench.results import RESULTS, Results
from bench.tables import Row, Table, all_tables, speed_up

if TYPE_CHECKING:
    from sphinx.application import Sphinx

# Colours that the figure is drawn with, and those of the theme that take their place.
_TEXT, _GRID = "#010203", "#040506"
_OF_THEME = {_TEXT: "var(--color-foreground-primary)", _GRID: "var(--color-background-border)"}
_BAR, _DOT = "#4aa564", "#2f6fb5"
_TICKS = (0.5, 1, 2, 5, 10, 20, 50, 100)


def compared(rows: Sequence[Row]) -> list[Row]:
    """The rows that have a time of hypnettorch too."""
    return [row for row in rows if not row.get("tiny") and "hypnettorch" in row.get("ms", {})]


def newest_rows(tables: Sequence[Table], all_results: Sequence[Results]) -> list[tuple[Table, list[Row]]]:
    """For each table that compares with hypnettorch the rows of its newest results."""
    found = []
    for table in tables:
        candidates = [(r.environment["date"], compared(r.rows.get(table.key, []))) for r in all_results]
        candidates = [entry for entry in candidates if entry[1]]
        if candidates:
            found.append((table, max(candidates, key=lambda entry: entry[0])[1]))
    return found


def by_case(table: Table, rows: Sequence[Row]) -> dict[str, list[float]]:
    """The speed-ups by what the first column says, behind the name of the group if there are several."""
    ratios: dict[str, list[float]] = {}
    for title, some in table.groups(rows).items():
        for row in some:
            first = next(iter(table.columns.values()))(row)
            label = f"{title.split(', ')[0]}, {first}" if table.group else first
            ratios.setdefault(label, []).append(speed_up(row) or 0.0)
    return ratios


def draw(ratios: Mapping[str, Sequence[float]], title: str) -> str:
    """Draw a line for each entry: a bar to the geometric mean, and a dot for each of its speed-ups.

    Args:
        ratios: Speed-ups by what stands in front of the line.
        title: What is said to those who cannot see the figure.

    Returns:
        The figure as SVG.
    """
    colors = {"text.color": _TEXT, "axes.edgecolor": _TEXT, "xtick.color": _TEXT, "ytick.color": _TEXT}
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": title, "font.size": 10, **colors}):
        figure = Figure(figsize=(7.6, 0.27 * len(ratios) + 0.5), layout="constrained")
        figure.patch.set_visible(False)
        axes = figure.subplots()
        axes.patch.set_visible(False)
        for y, values in enumerate(ratios.values()):
            mean = geometric_mean(values)
            axes.barh(y, mean - 1, 0.62, left=1, color=_BAR, alpha=0.55, zorder=2)
            axes.plot(values, [y] * len(values), "o", color=_DOT, markersize=3, alpha=0.8, zorder=3)
            axes.text(max(*values, mean) * 1.08, y, f"{mean:.1f}×", va="center", fontsize=9, zorder=4)
        axes.set_xscale("log")
        largest = max(map(max, ratios.values()))
        axes.set_xlim(min(0.9, 0.9 * min(map(min, ratios.values()))), 1.35 * largest)
        axes.set_xticks([t for t in _TICKS if axes.get_xlim()[0] <= t <= largest])
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}×")
        axes.minorticks_off()
        axes.axvline(1, color=_TEXT, linewidth=1, zorder=1)
        axes.grid(axis="x", color=_GRID, zorder=0)
        axes.set_yticks(range(len(ratios)), list(ratios))
        axes.set_ylim(len(ratios) - 0.5, -0.5)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        svg = io.StringIO()
        FigureCanvasSVG(figure).print_svg(svg, metadata={"Date": None})
    text = svg.getvalue()
    for color, of_theme in _OF_THEME.items():
        text = text.replace(color, of_theme)
    return text[text.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{title}"', 1)


class SpeedUps(SphinxDirective):
    """One figure for all benchmarks, or with ``:rows:`` one for each."""

    option_spec = {"rows": directives.flag}

    def run(self) -> list[nodes.Node]:
        """Draw."""
        paths = sorted(RESULTS.glob("*.json"))
        for path in paths:
            self.env.note_dependency(str(path))
        tables = newest_rows(all_tables(), [Results.load(path) for path in paths])
        if "rows" not in self.options:
            found = {table.title: [speed_up(row) or 0.0 for row in rows] for table, rows in tables}
            return [self._figure(draw(found, "Speed-up over hypnettorch, by benchmark"))]
        shown: list[nodes.Node] = []
        for table, rows in tables:
            shown.append(nodes.rubric(table.title, table.title))
            title = f"Speed-up over hypnettorch: {table.title}"
            shown.append(self._figure(draw(by_case(table, rows), title)))
        return shown

    def _figure(self, svg: str) -> nodes.Node:
        return nodes.raw("", f'<figure class="speed-ups">{svg}</figure>', format="html")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("speed-ups", SpeedUps)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
