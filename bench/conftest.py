"""Options, collection of the rows, and the tables at the end of ``pytest bench/``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench.chunked_memory import measure_peaks
from bench.ensembles import EnsembleCase
from bench.ensembles import measure_peaks as measure_ensemble_peaks
from bench.results import Results, describe_environment, format_text
from bench.structured import CASES as STRUCTURED_CASES
from bench.structured import measure_peaks as measure_structured_peaks
from bench.timing import MODES

_RESULTS = pytest.StashKey[Results]()
_REQUESTS = pytest.StashKey[list]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("hnetfast benchmarks")
    group.addoption("--all-rows", action="store_true", help="measure every row of the table, at B = 1 and 10")
    group.addoption("--with-compile", action="store_true", help="measure torch.compile(hypnettorch) as well")
    group.addoption("--no-memory", action="store_true", help="leave out peak memory")
    group.addoption("--seconds", type=float, default=1.0, help="time for each measurement (default: 1)")
    group.addoption("--threads", type=int, default=2, help="threads of torch (default: 2)")
    group.addoption("--bench-device", default="cpu", help="where to run (default: cpu)")
    group.addoption("--store", type=Path, help="write what is measured to this JSON file")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    # pytest-benchmark's own table has a line a test and no ratios; `-v` shows it.
    if config.option.verbose <= 0:
        config.option.benchmark_quiet = True


@pytest.fixture(scope="session")
def results(request: pytest.FixtureRequest) -> Results:
    """Where the rows of this session go."""
    config = request.config
    torch.set_num_threads(config.option.threads)
    found = Results(describe_environment(config.option.bench_device))
    config.stash[_RESULTS] = found
    config.stash[_REQUESTS] = []
    return found


@pytest.fixture(scope="session")
def peak_requests(results: Results, request: pytest.FixtureRequest) -> list:
    """Pairs of a case and a number of conditions, the peak memory of which is measured at the end."""
    return request.config.stash[_REQUESTS]


def _add_peaks(config: pytest.Config, results: Results) -> None:
    requests = config.stash[_REQUESTS]
    if config.option.no_memory or config.option.bench_device != "cpu" or not requests:
        return
    names = ("hnetfast", "hypnettorch") if results.environment["hypnettorch"] else ("hnetfast",)
    peaks = {name: measure_peaks(name, requests) for name in names}
    forward_rows = [row for row in results.rows if row["mode"] == MODES[0]]
    for row, (case, count) in zip(forward_rows, requests, strict=True):
        row["peak_bytes"] = {
            name: found[case.name, count] for name, found in peaks.items() if (case.name, count) in found
        }


def _add_ensemble_peaks(config: pytest.Config, results: Results) -> None:
    if config.option.no_memory or config.option.bench_device != "cpu" or not results.ensembles:
        return
    fields = ("network", "sets", "batch", "mode")
    cases = [EnsembleCase(*(row[field] for field in fields)) for row in results.ensembles]
    for name in ("hnetfast", "loop"):
        peaks = measure_ensemble_peaks(name, cases)
        for row, case in zip(results.ensembles, cases, strict=True):
            if case.name in peaks:
                row.setdefault("peak_bytes", {})[name] = peaks[case.name]


def _add_structured_peaks(config: pytest.Config, results: Results) -> None:
    if config.option.no_memory or config.option.bench_device != "cpu" or not results.structured:
        return
    rows = [row for row in results.structured if row["mode"] == MODES[0]]
    cases = {case.name: case for case in STRUCTURED_CASES}
    requests = [(cases[row["case"]], row["conditions"]) for row in rows]
    peaks = measure_structured_peaks("hnetfast", requests)
    for row in rows:
        name = f"{row['case']}:{row['conditions']}"
        if name in peaks:
            row["peak_bytes"] = {"hnetfast": peaks[name]}


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Measure peak memory, when nothing else runs, and store the results."""
    found = session.config.stash.get(_RESULTS, None)
    if found is None:
        return
    _add_peaks(session.config, found)
    _add_ensemble_peaks(session.config, found)
    _add_structured_peaks(session.config, found)
    if session.config.option.store and not found.is_empty:
        found.save(session.config.option.store)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the tables."""
    found = config.stash.get(_RESULTS, None)
    if found is None:
        return
    terminalreporter.section("weight generation")
    terminalreporter.write_line(format_text(found))
    if config.option.store and not found.is_empty:
        terminalreporter.write_line(f"\nStored in {config.option.store}")
