"""What a run of the benchmarks measured: rows, where they come from, their file and their text tables."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
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
        ensembles: Times of networks with many sets of weights: an ``EnsembleCase`` and ``ms`` by contender;
            some have ``peak_bytes`` by contender.
        rnns: Times of recurrent networks: ``network``, ``mode`` and ``ms`` by contender.
        structured: Times of structured hypernetworks: ``case``, ``conditions``, ``mode`` and ``ms`` by
            contender; forward rows have ``floor_ms`` and may have ``peak_bytes`` by contender.
        local_convs: Times of locally connected layers: ``layer``, ``batch``, ``mode`` and ``ms`` by
            contender; forward rows have ``floor_ms``, some have ``peak_share``, peak memory over what inputs,
            results and gradients take.
        regularisers: Times of the output regulariser: ``case``, ``tasks`` and ``ms`` by contender; some have
            ``peak_bytes``, ``errors`` by contender, and ``growth``, their time over that of 5 tasks.
        fishers: Times of EWC's Fisher information: ``network``, ``samples`` and ``ms`` by contender.
        samplers: Times of Markov chains: ``sampler``, ``states`` and ``ms`` by contender.
        trainings: Times of the continual-learning example: ``what``, ``threads`` and ``ms`` by contender.
        data: Times of data handlers: ``what``, ``case`` and ``ms`` by contender; or their memory: ``bytes``
            by contender and ``image_bytes``, those of one copy of the images.
        tiles: Times of variants of the GPU kernels, see ``bench.tiles``: ``field``, ``precision``,
            ``network``, ``conditions``, ``present`` and ``ms`` by the field's value.
        parts: How the parts of ``tests/gpu_first.sh`` ended: ``part``, ``status``, ``output`` and, of those
            that ran, ``seconds`` and ``limit``.
    """

    def __init__(self, environment: dict) -> None:
        self.environment = environment
        self.rows: list[dict] = []
        self.calls: list[dict] = []
        self.ensembles: list[dict] = []
        self.rnns: list[dict] = []
        self.structured: list[dict] = []
        self.local_convs: list[dict] = []
        self.regularisers: list[dict] = []
        self.fishers: list[dict] = []
        self.samplers: list[dict] = []
        self.trainings: list[dict] = []
        self.data: list[dict] = []
        self.tiles: list[dict] = []
        self.parts: list[dict] = []

    @property
    def is_empty(self) -> bool:
        """Whether nothing has been measured."""
        lists = (self.rows, self.calls, self.ensembles, self.rnns, self.structured)
        lists += (self.local_convs, self.regularisers, self.fishers, self.samplers)
        lists += (self.trainings, self.data, self.tiles, self.parts)
        return not any(lists)

    def save(self, path: Path) -> None:
        """Write everything as JSON; the file appears complete or not at all."""
        content = {
            "format": FORMAT,
            "environment": self.environment,
            "calls": self.calls,
            "ensembles": self.ensembles,
            "rnns": self.rnns,
            "structured": self.structured,
            "local_convs": self.local_convs,
            "regularisers": self.regularisers,
            "fishers": self.fishers,
            "samplers": self.samplers,
            "trainings": self.trainings,
            "data": self.data,
            "tiles": self.tiles,
            "parts": self.parts,
            "rows": self.rows,
        }
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
        results.ensembles, results.rnns = content.get("ensembles", []), content.get("rnns", [])
        results.structured = content.get("structured", [])
        results.local_convs = content.get("local_convs", [])
        results.regularisers = content.get("regularisers", [])
        results.fishers = content.get("fishers", [])
        results.samplers = content.get("samplers", [])
        results.trainings = content.get("trainings", [])
        results.data = content.get("data", [])
        results.tiles, results.parts = content.get("tiles", []), content.get("parts", [])
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


_SMALL_BYTES = 16e6


def _values(items: Iterable[float | None]) -> list[float]:
    return [item for item in items if item is not None]


SUMMARY_COLUMNS = (
    "geometric means over rows",
    "rows",
    "× hypnettorch",
    "slowest row",
    "× compiled",
    "× own reference",
    "of floor",
    "highest peak memory",
)


def summary_cells(rows: Sequence[dict]) -> list[list[str]]:
    """Texts of a table with the columns ``SUMMARY_COLUMNS``, a line for each mode, Gaussian or not.

    Peak memory is in units of what is allowed (see :func:`allowed_bytes`), for results that are large against
    the pages that it is counted in.
    """
    lines: list[list[str]] = []
    for mode in MODES:
        for gaussian in (False, True):
            chosen = [r for r in rows if r["mode"] == mode and r["group"].startswith("Gaussian") == gaussian]
            if not chosen:
                continue
            ratios = {
                name: _values(speed_up(row, name) for row in chosen)
                for name in ("hypnettorch", "compiled", "reference")
            }
            means = {name: f"{geometric_mean(r):.2f}×" if r else "" for name, r in ratios.items()}
            slowest = f"{min(ratios['hypnettorch']):.2f}×" if ratios["hypnettorch"] else ""
            shares = _values(floor_share(row) for row in chosen)
            peaks = [
                row["peak_bytes"]["hnetfast"] / allowed_bytes(row)
                for row in chosen
                if "hnetfast" in row.get("peak_bytes", {}) and allowed_bytes(row) > _SMALL_BYTES
            ]
            lines.append(
                [
                    mode + ", Gaussian" * gaussian,
                    str(len(chosen)),
                    means["hypnettorch"],
                    slowest,
                    means["compiled"],
                    means["reference"],
                    f"{100 * geometric_mean(shares):.0f} %" if shares else "",
                    f"{max(peaks):.2f} of allowed" if peaks else "",
                ]
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


ENSEMBLE_COLUMNS = (
    "network",
    "sets",
    "batch",
    "mode",
    *("hnetfast", "loop", "vmap", "hypnettorch"),
    "× hypnettorch",
    "× better of loop and vmap",
    "peak memory, × loop",
)


def _over_better(row: dict) -> float:
    return min(row["ms"]["loop"], row["ms"]["vmap"]) / row["ms"]["hnetfast"]


def ensemble_cells(rows: Sequence[dict]) -> list[list[str]]:
    """Texts of a table with the columns ``ENSEMBLE_COLUMNS``; times in ms."""
    lines = []
    for row in rows:
        times = [row["ms"].get(name) for name in ENSEMBLE_COLUMNS[4:8]]
        ratio, peak = speed_up(row), row.get("peak_bytes", {})
        lines.append(
            [
                row["network"],
                str(row["sets"]),
                str(row["batch"]),
                _MODE_LABELS[row["mode"]],
                *(
                    "–" if value is None else f"{value:.3f}" if value < 10 else f"{value:.1f}"
                    for value in times
                ),
                "–" if ratio is None else f"{ratio:.2f}",
                f"{_over_better(row):.2f}",
                f"{peak['hnetfast'] / peak['loop']:.2f}" if "loop" in peak else "",
            ]
        )
    return lines


RNN_COLUMNS = ("network", "mode", "hnetfast", "hypnettorch", "torch.nn", "× hypnettorch")


def rnn_cells(rows: Sequence[dict]) -> list[list[str]]:
    """Texts of a table with the columns ``RNN_COLUMNS``; times in ms."""
    lines = []
    for row in rows:
        times = [row["ms"].get(name) for name in RNN_COLUMNS[2:5]]
        ratio = speed_up(row)
        cells = ("–" if value is None else f"{value:.2f}" for value in times)
        lines.append(
            [row["network"], _MODE_LABELS[row["mode"]], *cells, "–" if ratio is None else f"{ratio:.2f}"]
        )
    return lines


def ensemble_facts(rows: Sequence[dict]) -> list[str]:
    """Sentences that sum the table up."""
    ratios = _values(speed_up(row) for row in rows)
    slowest = min(rows, key=_over_better)
    lines = []
    if ratios:
        lines.append(
            f"Over hypnettorch's loop: geometric mean {geometric_mean(ratios):.2f}×, "
            f"slowest {min(ratios):.2f}×"
        )
    overall = geometric_mean([_over_better(row) for row in rows])
    where = f"{slowest['network']}, {slowest['sets']} sets, batch {slowest['batch']}, {slowest['mode']}"
    lines.append(
        f"Over the better of loop and vmap: geometric mean {overall:.2f}×, "
        f"slowest {_over_better(slowest):.2f}× ({where})"
    )
    return lines


STRUCTURED_COLUMNS = (
    "hypernetwork",
    "B",
    "mode",
    "hnetfast",
    "hypnettorch",
    "× hypnettorch",
    "of floor",
    "peak memory, × output",
)


def structured_cells(rows: Sequence[dict]) -> list[list[str]]:
    """Texts of a table with the columns ``STRUCTURED_COLUMNS``; times in ms."""
    lines = []
    for row in rows:
        times = [row["ms"].get(name) for name in STRUCTURED_COLUMNS[3:5]]
        ratio, floor, peak = speed_up(row), row.get("floor_ms"), row.get("peak_bytes", {})
        size = 4 * row["num_outputs"] * row["conditions"]
        lines.append(
            [
                row["case"],
                str(row["conditions"]),
                _MODE_LABELS[row["mode"]],
                *("–" if v is None else f"{v:.3f}" if v < 10 else f"{v:.1f}" for v in times),
                "–" if ratio is None else f"{ratio:.2f}",
                f"{100 * floor / row['ms']['hnetfast']:.0f} %" if floor else "",
                f"{peak['hnetfast'] / size:.2f}" if "hnetfast" in peak and size > _SMALL_BYTES else "",
            ]
        )
    return lines


def structured_facts(rows: Sequence[dict]) -> list[str]:
    """Sentences that sum the table up."""
    ratios = _values(speed_up(row) for row in rows)
    shares = [row["floor_ms"] / row["ms"]["hnetfast"] for row in rows if row.get("floor_ms")]
    lines = []
    if ratios:
        lines.append(
            f"Structured hypernetworks over hypnettorch: geometric mean {geometric_mean(ratios):.2f}×, "
            f"slowest {min(ratios):.2f}×"
        )
    if shares:
        lines.append(f"Share of the floor, forward: geometric mean {100 * geometric_mean(shares):.0f} %")
    return lines


LOCAL_CONV_COLUMNS = (
    "layer",
    "batch",
    "mode",
    *("hnetfast", "hypnettorch", "einsum", "compiled"),
    "× hypnettorch",
    "× einsum",
    "of floor",
    "peak memory, × needed",
)


def local_conv_cells(rows: Sequence[dict]) -> list[list[str]]:
    """Texts of a table with the columns ``LOCAL_CONV_COLUMNS``; times in ms."""
    lines = []
    for row in rows:
        times = [row["ms"].get(name) for name in LOCAL_CONV_COLUMNS[3:7]]
        ratios = [speed_up(row), speed_up(row, "einsum")]
        floor = row.get("floor_ms")
        lines.append(
            [
                row["layer"],
                str(row["batch"]),
                _MODE_LABELS[row["mode"]],
                *("–" if v is None else f"{v:.3f}" if v < 10 else f"{v:.1f}" for v in times),
                *("–" if ratio is None else f"{ratio:.2f}" for ratio in ratios),
                f"{100 * floor / row['ms']['hnetfast']:.0f} %" if floor else "",
                f"{row['peak_share']:.2f}" if "peak_share" in row else "",
            ]
        )
    return lines


def local_conv_facts(rows: Sequence[dict]) -> list[str]:
    """Sentences that sum the table up."""
    lines = []
    for other, title in (
        ("hypnettorch", "hypnettorch's layer"),
        ("einsum", "unfold and einsum"),
        ("compiled", "the same compiled"),
    ):
        ratios = _values(speed_up(row, other) for row in rows)
        if ratios:
            lines.append(
                f"Locally connected layers over {title}: geometric mean {geometric_mean(ratios):.2f}×, "
                f"slowest {min(ratios):.2f}×"
            )
    shares = [
        row["floor_ms"] / row["ms"]["hnetfast"] for row in rows if "floor_ms" in row and row["batch"] == 32
    ]
    if shares:
        lines.append(
            f"Locally connected layers, forward, batch 32: {100 * min(shares):.0f} to "
            f"{100 * max(shares):.0f} % of the floor, geometric mean {100 * geometric_mean(shares):.0f} %"
        )
    peaks = _values(row.get("peak_share") for row in rows)
    if peaks:
        lines.append(
            f"Locally connected layers: peak memory over images, weights, results and gradients "
            f"{min(peaks):.2f} to {max(peaks):.2f}×"
        )
    return lines


REGULARISER_COLUMNS = (
    "hypernetwork",
    "tasks",
    "hnetfast",
    "direct",
    "hypnettorch",
    "× hypnettorch",
    "peak MB",
    "error",
    "error of direct",
)


def regulariser_cells(rows: Sequence[dict]) -> list[list[str]]:
    """Texts of a table with the columns ``REGULARISER_COLUMNS``; times in ms."""
    lines = []
    for row in rows:
        times = [row["ms"].get(name) for name in REGULARISER_COLUMNS[2:5]]
        ratio, errors = speed_up(row), row.get("errors", {})
        lines.append(
            [
                row["case"],
                str(row["tasks"]),
                *("–" if v is None else f"{v:.2f}" if v < 10 else f"{v:.1f}" for v in times),
                "–" if ratio is None else f"{ratio:.1f}",
                f"{row['peak_bytes'] / 1e6:.1f}" if "peak_bytes" in row else "",
                *(f"{errors[name]:.1e}" if name in errors else "" for name in ("hnetfast", "direct")),
            ]
        )
    return lines


def regulariser_facts(rows: Sequence[dict]) -> list[str]:
    """Sentences that sum the table up."""
    lines = []
    ratios = _values(speed_up(row) for row in rows)
    if ratios:
        lines.append(
            f"Output regulariser over hypnettorch's: geometric mean {geometric_mean(ratios):.1f}×, "
            f"slowest {min(ratios):.1f}×"
        )
    lines += [
        f"{row['case']}: {row['tasks']} tasks take {row['growth']:.2f} times as long as 5"
        for row in rows
        if "growth" in row
    ]
    return lines


FISHER_COLUMNS = ("network", "samples", "hnetfast", "hypnettorch", "× hypnettorch")
SAMPLER_COLUMNS = ("sampler", "states", "hnetfast", "hypnettorch", "× hypnettorch")
TRAINING_COLUMNS = ("what", "threads", "hnetfast", "hypnettorch", "× hypnettorch")


def fisher_cells(rows: Sequence[dict]) -> list[list[str]]:
    """Texts of a table with the columns ``FISHER_COLUMNS``; times in ms."""
    return _timed_cells(rows, FISHER_COLUMNS)


def sampler_cells(rows: Sequence[dict]) -> list[list[str]]:
    """Texts of a table with the columns ``SAMPLER_COLUMNS``; times in ms."""
    return _timed_cells(rows, SAMPLER_COLUMNS)


def training_cells(rows: Sequence[dict]) -> list[list[str]]:
    """Texts of a table with the columns ``TRAINING_COLUMNS``; times in ms."""
    return _timed_cells(rows, TRAINING_COLUMNS)


def _timed_cells(rows: Sequence[dict], columns: Sequence[str]) -> list[list[str]]:
    lines = []
    for row in rows:
        times = [row["ms"].get(name) for name in columns[2:4]]
        ratio = speed_up(row)
        lines.append(
            [
                row[columns[0]],
                str(row[columns[1]]),
                *("–" if v is None else f"{v:.1f}" for v in times),
                "–" if ratio is None else f"{ratio:.2f}",
            ]
        )
    return lines


DATA_COLUMNS = ("what", "case", "hnetfast", "hypnettorch", "× hypnettorch")


def data_cells(rows: Sequence[dict]) -> list[list[str]]:
    """Texts of a table with the columns ``DATA_COLUMNS``; times in ms, memory in MB."""
    lines = []
    for row in rows:
        values = {key: value / 1e6 for key, value in row["bytes"].items()} if "bytes" in row else row["ms"]
        found = [values.get(name) for name in DATA_COLUMNS[2:4]]
        lines.append(
            [
                row["what"] + (", MB" if "bytes" in row else ""),
                row["case"],
                *("–" if v is None else f"{v:.2f}" if v < 10 else f"{v:.1f}" for v in found),
                "–" if None in found else f"{found[1] / found[0]:.1f}",
            ]
        )
    return lines


def data_facts(rows: Sequence[dict]) -> list[str]:
    """Sentences that sum the table up."""
    lines = []
    for what in dict.fromkeys(row["what"] for row in rows if "ms" in row):
        ratios = {row["case"]: speed_up(row) for row in rows if row["what"] == what}
        if None not in ratios.values():
            slowest = min(ratios, key=ratios.get)
            lines.append(
                f"Data handlers, {what}: geometric mean {geometric_mean(list(ratios.values())):.1f}×, "
                f"least {ratios[slowest]:.1f}× ({slowest})"
            )
    lines += [
        f"Memory of {row['case']}: one copy of the images ({row['image_bytes'] / 1e6:.0f} MB) and "
        f"{(row['bytes']['hnetfast'] - row['image_bytes']) / 1e6:.0f} MB"
        for row in rows
        if "bytes" in row
    ]
    return lines


def _align(cells: Sequence[Sequence[str]], left: Sequence[int]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            text.ljust(width) if i in left else text.rjust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]


TILE_COLUMNS = ("choice", "precision", "network", "B", "ms by value (* the one in use)")


def tile_cells(rows: Sequence[dict]) -> list[list[str]]:
    """Texts of a table with the columns ``TILE_COLUMNS``."""
    lines = []
    for row in rows:
        times = (f"{v}{'*' * (int(v) == row['present'])}: {ms:.3f}" for v, ms in row["ms"].items())
        if row["ms"]:
            where = [row["network"], str(row["conditions"])]
            lines.append([row["field"], row["precision"], *where, ", ".join(times)])
    return lines


PART_COLUMNS = ("part", "result", "seconds", "limit")


def part_cells(rows: Sequence[dict]) -> list[list[str]]:
    """Texts of a table with the columns ``PART_COLUMNS``."""
    return [[str(row.get(key, "")) for key in ("part", "status", "seconds", "limit")] for row in rows]


def format_text(results: Results) -> str:
    """Every table as plain text, as ``pytest bench/`` prints it."""
    lines: list[str] = []
    for title, rows in groups(results.rows).items():
        lines += ["", f"{title}; times in ms", *_align([COLUMNS, *table_cells(rows)], left=(0, 2)), ""]
        lines += _align([SUMMARY_COLUMNS, *summary_cells(rows)], left=(0,))
        for row in rows:
            where = f"{row['layers'] or 'none'}, B = {row['conditions']}, {row['mode']}"
            lines += [
                f"{name} is left out of {where}: {reason}"
                for name, reason in row["left_out"].items()
                if name != "compiled"
            ]
    if len(groups(results.rows)) > 1:
        lines += ["", "All tables", *_align([SUMMARY_COLUMNS, *summary_cells(results.rows)], left=(0,))]
    lines += ["", *facts(results)]
    if results.ensembles:
        cells = [ENSEMBLE_COLUMNS, *ensemble_cells(results.ensembles)]
        lines += ["", "Many sets of weights; times in ms", *_align(cells, left=(0, 3)), ""]
        lines += ensemble_facts(results.ensembles)
    if results.rnns:
        lines += ["", "Recurrent networks; times in ms"]
        lines += _align([RNN_COLUMNS, *rnn_cells(results.rnns)], left=(0, 1))
    if results.structured:
        lines += ["", "Structured hypernetworks; times in ms"]
        lines += _align([STRUCTURED_COLUMNS, *structured_cells(results.structured)], left=(0, 2))
        lines += ["", *structured_facts(results.structured)]
    if results.local_convs:
        lines += ["", "Locally connected layers; times in ms"]
        lines += _align([LOCAL_CONV_COLUMNS, *local_conv_cells(results.local_convs)], left=(0, 2))
        lines += ["", *local_conv_facts(results.local_convs)]
    if results.regularisers:
        lines += ["", "Output regulariser, forward and backward; times in ms"]
        lines += _align([REGULARISER_COLUMNS, *regulariser_cells(results.regularisers)], left=(0,))
        lines += ["", *regulariser_facts(results.regularisers)]
    if results.fishers:
        lines += ["", "Fisher information for EWC; times in ms"]
        lines += _align([FISHER_COLUMNS, *fisher_cells(results.fishers)], left=(0,))
    if results.samplers:
        lines += ["", "Markov chains; times in ms"]
        lines += _align([SAMPLER_COLUMNS, *sampler_cells(results.samplers)], left=(0,))
    if results.trainings:
        lines += ["", "Continual-learning example; times in ms"]
        lines += _align([TRAINING_COLUMNS, *training_cells(results.trainings)], left=(0,))
    if results.data:
        lines += ["", "Data handlers; times in ms"]
        lines += _align([DATA_COLUMNS, *data_cells(results.data)], left=(0, 1))
        lines += ["", *data_facts(results.data)]
    return "\n".join(lines)


def facts(results: Results) -> list[str]:
    """Sentences on the time of a call on a tiny network, and on the machine."""
    lines = [
        f"A call on a tiny network (4 target tensors), {call['mode']}: "
        + ", ".join(f"{name} {value:.0f} µs" for name, value in call["us"].items())
        for call in results.calls
    ]
    if results.rows:
        matrix = statistics.median(row["matrix_gflops"] for row in results.rows)
        largest = max(results.rows, key=lambda row: row["num_outputs"] * row["conditions"])
        fill = 4e-6 * largest["num_outputs"] * largest["conditions"] / largest["fill_ms"]
        lines.append(
            f"Measured in turns with the rest: {matrix:.0f} GFLOP/s in a large float32 product, "
            f"{fill:.0f} GB/s in filling a warm buffer of the largest result's size"
        )
    return lines
