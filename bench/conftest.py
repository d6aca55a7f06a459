"""Options, what the benchmarks are given, and the tables at the end of ``pytest bench/``."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.harness import Bench, Clock, Session
from bench.tables import format_text

_SESSION = pytest.StashKey[Session]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("hnetfast benchmarks")
    group.addoption("--all-rows", action="store_true", help="measure every row of the table, at B = 1 and 10")
    group.addoption("--with-compile", action="store_true", help="measure torch.compile(hypnettorch) as well")
    group.addoption("--no-memory", action="store_true", help="leave out peak memory")
    group.addoption("--seconds", type=float, default=1.0, help="time for each measurement (default: 1)")
    group.addoption("--threads", type=int, default=2, help="threads of torch (default: 2)")
    group.addoption("--bench-device", default="cpu", help="where to run (default: cpu)")
    group.addoption("--store", type=Path, help="write what is measured to this JSON file")


@pytest.fixture(scope="session")
def session(pytestconfig: pytest.Config) -> Session:
    """Where the rows go."""
    return pytestconfig.stash.setdefault(_SESSION, Session.start(pytestconfig))


@pytest.fixture
def clock(request: pytest.FixtureRequest) -> Clock:
    """What ``benchmark`` reads durations from."""
    clock = Clock()
    request.applymarker(pytest.mark.benchmark(timer=clock, group=request.module.TABLE.title))
    return clock


@pytest.fixture
def bench(session: Session, clock: Clock, benchmark) -> Bench:
    """What to measure with."""
    return Bench(session, clock, benchmark)


def pytest_sessionfinish(session: pytest.Session) -> None:
    found = session.config.stash.get(_SESSION, None)
    if found is not None:
        found.finish()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    found = config.stash.get(_SESSION, None)
    if found is None:
        return
    for key, table in sorted(found.tables.items(), key=lambda item: item[1].place):
        terminalreporter.section(table.title)
        terminalreporter.write_line(format_text(table, found.results.rows[key]))
    if config.option.store and found.results.rows:
        terminalreporter.write_line(f"\nStored in {config.option.store}")
