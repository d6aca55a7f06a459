"""What a run of the benchmarks measured: rows, where they come from, their file and their text tables."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import hnetfast
from bench.timing import MODES
from hnetfast.examples._speed import geometric_mean

FORMAT = 1
RESULTS = Path(__file__).resolve().parent / "results"
_MODE_LABELS = {MODES[0]: "forward", MODES[1]: "fwd+bwd", MODES[2]: "fwd+bwd, targets"}


def _run_git(*arguments: str) -> str:
    command = ["git", *arguments]
    try:
        return subprocess.run(
            command, cwd=RESULTS.parent, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def describe_environment(device: str) -> dict:
    """Where and with what the figures are measured."""
    environment = {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _run_git("rev-parse", "--short=12", "HEAD"),
        "uncommitted_changes": bool(_run_git("status", "--porcelain", "--untracked-files=no")),
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else _cpu_name(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "hypnettorch": _version("hypnettorch"),
        "hnetfast": hnetfast.__version__,
        "backends": str(hnetfast.backends()),
    }
    if device.startswith("cuda"):
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        environment["driver"] = subprocess.run(query, capture_output=True, text=True).stdout.strip()
    return environment


class Results:
    """Collects what is measured.

    Attributes:
        environment: See :func:`describe_environment`.
        rows: See ``Comparison.row``; forward rows may have ``peak_bytes`` by contender.
        calls: Times of a call on a tiny network, in microseconds: ``mode`` and ``us`` by contender.
        matrix_gflops: Rate of a large float32 matrix product.
    """

    def __init__(self, environment: dict) -> None:
        self.environment = environment
        self.rows: list[dict] = []
        self.calls: list[dict] = []
        self.matrix_gflops: float | None = None

    def save(self, path: Path) -> None:
        """Write everything as JSON; the file appears complete or not at all."""
        content = {"format": FORMAT, "environment": self.environment, "matrix_gflops": self.matrix_gflops}
        content |= {"calls": self.calls, "rows": self.rows}
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(content, indent=1) + "\n")
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read what :meth:`save` wrote.

        Raises:
            ValueError: The file is of another format.
        """
        content = json.loads(path.read_text())
        if content.get("format") != FORMAT:
            raise ValueError(f"{path} has format {content.get('format')!r}, expected {FORMAT}")
        results = cls(content["environment"])
        results.rows, results.calls = content["rows"], content["calls"]
        results.matrix_gflops = content["matrix_gflops"]
        return results


def speed_up(row: dict, other: str = "hypnettorch") -> float | None:
    """How many times as long ``other`` takes, or ``None`` where it did not take part."""
    return row["ms"][other] / row["ms"]["hnetfast"] if other in row["ms"] else None


def floor_share(row: dict) -> float | None:
    """Time of the floor over the time taken, for forward rows."""
    return row["floor_ms"] / row["ms"]["hnetfast"] if row["floor_ms"] else None


def allowed_bytes(row: dict) -> int:
    """What a forward may take at its peak: the result and as much again as the largest hidden layer."""
    widest = max((int(width) for width in row["layers"].split(",") if width), default=0)
    num_chunks = -(-row["num_outputs"] // row["chunk_size"])
    return 4 * row["conditions"] * (row["num_outputs"] + num_chunks * widest)


def _values(items: Iterable[float | None]) -> list[float]:
    return [item for item in items if item is not None]


def summarise(rows: Sequence[dict]) -> list[tuple[str, str]]:
    """Geometric means and extremes, as pairs of a description and a figure."""
    lines: list[tuple[str, str]] = []
    for mode in MODES:
        for gaussian in (False, True):
            chosen = [r for r in rows if r["mode"] == mode and r["group"].startswith("Gaussian") == gaussian]
            label = f"{mode}{', Gaussian' if gaussian else ''}"
            for other in ("hypnettorch", "compiled", "reference"):
                ratios = _values(speed_up(row, other) for row in chosen)
                if ratios:
                    who = {"compiled": "torch.compile(hypnettorch)", "reference": "own reference"}.get(
                        other, other
                    )
                    figure = f"{geometric_mean(ratios):.2f}× (slowest {min(ratios):.2f}×, {len(ratios)} rows)"
                    lines.append((f"{label}: against {who}, geometric mean", figure))
    shares = _values(floor_share(row) for row in rows)
    if shares:
        figure = f"{100 * geometric_mean(shares):.0f} % (lowest {100 * min(shares):.0f} %)"
        lines.append(("forward: share of the floor, geometric mean", figure))
    peaks = [row for row in rows if "hnetfast" in row.get("peak_bytes", {})]
    if peaks:
        ratios = [row["peak_bytes"]["hnetfast"] / allowed_bytes(row) for row in peaks]
        lines.append(
            ("forward: peak memory over result + largest hidden layer, highest", f"{max(ratios):.2f}")
        )
    return lines


_HEADER = ("hidden layers", "B", "mode", "hnetfast", "reference", "hypnettorch", "compiled")


def _cells(row: dict) -> list[str]:
    times = [row["ms"].get(name) for name in _HEADER[3:]]
    ratio, share = speed_up(row), floor_share(row)
    peak = row.get("peak_bytes", {})
    memory = " / ".join(f"{peak[n] / 1e6:.1f}" for n in ("hnetfast", "hypnettorch") if n in peak)
    return [
        row["layers"] or "none",
        str(row["conditions"]),
        _MODE_LABELS[row["mode"]],
        *("–" if value is None else f"{value:.3f}" if value < 10 else f"{value:.1f}" for value in times),
        "–" if ratio is None else f"{ratio:.2f}×",
        "" if share is None else f"{100 * share:.0f} %",
        memory,
    ]


COLUMNS = (*_HEADER, "speed-up", "of floor", "peak MB, ours / hypnettorch")


def groups(rows: Sequence[dict]) -> dict[str, list[dict]]:
    """The rows by generated network and problem, in their order."""
    found: dict[str, list[dict]] = {}
    for row in rows:
        title = f"{row['group']}, {row['num_outputs']:,} weights ({row['tasks']})"
        found.setdefault(title, []).append(row)
    return found


def table_cells(rows: Sequence[dict]) -> list[list[str]]:
    """Texts of a table with the columns ``COLUMNS``; times in ms."""
    return [_cells(row) for row in rows]


def format_text(results: Results) -> str:
    """Every table as plain text, as ``pytest bench/`` prints it."""
    lines: list[str] = []
    for title, rows in groups(results.rows).items():
        cells = [list(COLUMNS), *table_cells(rows)]
        widths = [max(len(line[i]) for line in cells) for i in range(len(COLUMNS))]
        lines += ["", f"{title}; times in ms"]
        for line in cells:
            texts = [
                text.ljust(w) if i in (0, 2) else text.rjust(w)
                for i, (text, w) in enumerate(zip(line, widths, strict=True))
            ]
            lines.append("  ".join(texts).rstrip())
        lines += [f"  {label}: {figure}" for label, figure in summarise(rows)]
        for row in rows:
            for name, reason in row["left_out"].items():
                if name != "compiled":
                    lines.append(
                        f"  {name} left out of {row['layers'] or 'none'}, B={row['conditions']}: {reason}"
                    )
    for call in results.calls:
        times = ", ".join(f"{name} {value:.1f} µs" for name, value in call["us"].items())
        lines += ["", f"A call on a tiny network, {call['mode']}: {times}"]
    if len(groups(results.rows)) > 1:
        lines += ["", "All rows", *(f"  {label}: {figure}" for label, figure in summarise(results.rows))]
    if results.matrix_gflops:
        lines.append(f"  measured float32 matrix rate: {results.matrix_gflops:.0f} GFLOP/s")
    return "\n".join(lines)
