"""What the benchmarks measure with: contenders in turns, agreement, rates of the machine, rows of a table."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bench.environment import describe_environment
from bench.memory import measure_peaks
from bench.results import Results
from bench.tables import Table
from hnetfast._comparison import Call, time_in_turns

_LARGE = 10_000_000  # elements of a result that takes so long that a larger product can take turns with it


def check(found: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float, what: str) -> None:
    """Compare what two contenders computed.

    Raises:
        AssertionError: Tensors differ by more than a share ``tolerance`` of their norm.
    """
    for i, (actual, wanted) in enumerate(zip(found, expected, strict=True)):
        error = relative_error(actual, wanted)
        if not error <= tolerance:
            raise AssertionError(f"{what}: tensor {i} differs by {error:.1e} of its norm")


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """The norm of the difference of two tensors over that of the second; the shapes have to be equal."""
    if actual.shape != expected.shape:
        return math.inf
    # Piece by piece: the differences of all values would take as much memory as the result.
    pieces = zip(actual.flatten().split(1 << 24), expected.flatten().split(1 << 24), strict=True)
    difference = math.hypot(*((a - e).norm().item() for a, e in pieces))
    return difference / max(expected.norm().item(), 1e-30)


def median_ms(durations: Sequence[float]) -> float:
    """The median of durations in seconds, in milliseconds."""
    return 1e3 * statistics.median(durations)


class Rate:
    """A call that takes turns with the contenders and tells what the machine can do.

    Attributes:
        call: What is timed.
    """

    def __init__(self, call: Call, amount: float) -> None:
        self.call, self._amount = call, amount

    def per_second(self, durations: Sequence[float]) -> float:
        """The rate, from the durations of the call in seconds."""
        return self._amount / statistics.median(durations)


def copy_rate(elements: int, device: str) -> Rate:
    """Bytes read and written a second; few elements are copied within the caches, as a small result is."""
    elements = max(elements, 1 << 18)
    source, target = torch.ones(elements, device=device), torch.empty(elements, device=device)
    return Rate(lambda: target.copy_(source), 8 * elements)


def fill_rate(elements: int, device: str) -> Rate:
    """Bytes written a second, in filling a warm buffer."""
    buffer = torch.empty(elements, device=device)
    return Rate(buffer.zero_, 4 * elements)


def matrix_rate(device: str, elements: int = 0) -> Rate:
    """Operations a second in a float32 product, a larger one beside results of many elements."""
    size = 2048 if elements > _LARGE else 1024
    factor, product = torch.randn(2, size, size, device=device)
    return Rate(lambda: torch.mm(factor, factor, out=product), 2 * size**3)


class Clock:
    """Replays durations to pytest-benchmark, whose own table then shows those of the turns."""

    def __init__(self) -> None:
        self._readings: list[float] = []

    def __call__(self) -> float:
        """The next reading: those before and after each duration."""
        return self._readings.pop(0)

    def replay(self, benchmark, durations: Sequence[float]) -> None:
        """Make ``benchmark`` report these durations, in seconds."""
        self._readings = [reading for duration in durations for reading in (0.0, duration)]
        benchmark.pedantic(lambda: None, rounds=len(durations))


@dataclass
class Session:
    """One run of pytest: what it has measured, and the peak memory that it measures at the end.

    Attributes:
        config: The options.
        results: The rows so far.
        tables: Their tables, by key.
        peaks: For each table the rows, contenders and arguments for ``Table.peak``.
    """

    config: pytest.Config
    results: Results
    tables: dict[str, Table] = field(default_factory=dict)
    peaks: dict[str, list[tuple[dict, str, Sequence]]] = field(default_factory=dict)

    @classmethod
    def start(cls, config: pytest.Config) -> Session:
        """A session without rows."""
        torch.set_num_threads(config.option.threads)
        return cls(config, Results(describe_environment(config.option.bench_device)))

    def finish(self) -> None:
        """Measure peak memory, when nothing else runs, and store the results."""
        for key, requests in self.peaks.items():
            measured = measure_peaks(self.tables[key].peak, [arguments for _, _, arguments in requests])
            for (row, contender, _), size in zip(requests, measured, strict=True):
                if size is not None:
                    row.setdefault("peak_bytes", {})[contender] = size
        store: Path | None = self.config.option.store
        if store and self.results.rows:
            self.results.save(store)


class Bench:
    """What a benchmark is given.

    Attributes:
        device: Where to run.
        with_compile: Whether compiled contenders take part.
        with_memory: Whether peak memory is measured.
    """

    def __init__(self, session: Session, clock: Clock, benchmark) -> None:
        option = session.config.option
        self.device: str = option.bench_device
        self.with_compile: bool = option.with_compile
        self.with_memory: bool = not option.no_memory and option.bench_device == "cpu"
        self._seconds: float = option.seconds
        self._session, self._clock, self._benchmark = session, clock, benchmark

    def time(self, calls: Mapping[str, Callable[[], object]], **options) -> dict[str, list[float]]:
        """Time contenders in turns, see :func:`time_in_turns`; pytest-benchmark shows those of hnetfast.

        Args:
            calls: What to time, by name, "hnetfast" among them.
            options: Keyword arguments of ``time_in_turns``.

        Returns:
            The durations of each call in seconds, by name.
        """
        durations = time_in_turns(calls, self._seconds, device=self.device, **options)
        self._clock.replay(self._benchmark, durations["hnetfast"])
        return durations

    def rates(self, *rates: Rate) -> list[float]:
        """Measure what the machine can do, in turns, apart from the contenders."""
        calls = {str(i): rate.call for i, rate in enumerate(rates)}
        found = time_in_turns(calls, self._seconds / 4, minimum=5, maximum=30, device=self.device)
        return [rate.per_second(durations) for rate, durations in zip(rates, found.values(), strict=True)]

    def add(
        self,
        table: Table,
        durations: Mapping[str, Sequence[float]] | None = None,
        peaks: Mapping[str, Sequence] | None = None,
        **fields,
    ) -> dict:
        """Add a row.

        Args:
            table: The table.
            durations: In seconds by contender, as :meth:`time` returns them.
            peaks: By contender, arguments of ``table.peak``, which is called in a child process at the end.
            fields: The other entries of the row.

        Returns:
            The row.
        """
        row = dict(fields)
        if durations:
            row["rounds"] = len(durations["hnetfast"])
            row["ms"] = {name: median_ms(found) for name, found in durations.items()}
        session = self._session
        session.tables[table.key] = table
        session.results.rows.setdefault(table.key, []).append(row)
        for contender, arguments in peaks.items() if peaks and self.with_memory else ():
            session.peaks.setdefault(table.key, []).append((row, contender, arguments))
        return row
