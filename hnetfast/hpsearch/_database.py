"""What a search knows of its runs, in one SQLite file that survives the search at any moment."""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from hnetfast._errors import InputError

NAME = "search.db"

# States of a run that has not ended. The others are how it ended, see _search.
PLANNED, SUBMITTING, RUNNING = "planned", "submitting", "running"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS search (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS runs (
    number INTEGER PRIMARY KEY,
    options TEXT NOT NULL,
    folder TEXT NOT NULL,
    state TEXT NOT NULL,
    handle TEXT,
    started REAL,
    ended REAL,
    reason TEXT NOT NULL DEFAULT '',
    log_end TEXT NOT NULL DEFAULT '',
    summary TEXT NOT NULL DEFAULT '{}',
    trial INTEGER,
    verdict TEXT
);
CREATE INDEX IF NOT EXISTS by_state ON runs (state);
"""
_COLUMNS = (
    "number", "options", "folder", "state", "handle", "started", "ended", "reason", "log_end", "summary",
    "trial", "verdict",
)  # fmt: skip
_AS_JSON = ("options", "summary")
_T = TypeVar("_T")


@dataclass
class Run:
    """A run of the search.

    Attributes:
        number: Counted from 1, in the order in which runs are started.
        options: Its options, without the output folder.
        folder: The output folder that it is given, as written on the command line.
        state: What became of it.
        handle: The executor's handle.
        started: When it was submitted, in seconds since 1970.
        ended: When its end was noticed.
        reason: How it ended, for people.
        log_end: The end of its log.
        summary: What its summary holds.
        trial: Number of its trial in optuna's study.
        verdict: Why the search has ended it, if it has: a state that takes the place of "killed".
    """

    number: int
    options: dict[str, Any]
    folder: str
    state: str = PLANNED
    handle: str | None = None
    started: float | None = None
    ended: float | None = None
    reason: str = ""
    log_end: str = ""
    summary: dict[str, Any] = field(default_factory=dict)
    trial: int | None = None
    verdict: str | None = None


class Database:
    """The runs of one search.

    Args:
        path: The file.
        create: Whether it may be new.

    Raises:
        InputError: A ``ValueError``, if it is no database of a search.
        FileNotFoundError: If it is missing and must not be.
    """

    def __init__(self, path: Path, create: bool = False) -> None:
        if not create and not path.is_file():
            raise FileNotFoundError(f"out_dir: there is no search to be resumed in {path.parent}")
        self._path = path
        self._told = False
        try:
            self._connection = sqlite3.connect(path, timeout=60, isolation_level=None)
            # A write-ahead log need not wait for the disk each time. With the file to itself it also works on
            # network file systems, where processes can't share the memory that it would need otherwise.
            self._connection.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=NORMAL")
            self._connection.executescript(_SCHEMA)
        except sqlite3.DatabaseError as error:
            raise InputError(f"{path}: expected the database of a search ({error})") from error

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def facts(self) -> dict[str, Any]:
        """Returns what was stored of the search itself."""
        rows = self._connection.execute("SELECT name, value FROM search")
        return {name: json.loads(value) for name, value in rows}

    def plan(self, runs: Iterable[Run], facts: Mapping[str, Any]) -> None:
        """Add runs, and what there is to know of the search, at once."""
        rows = [self._row(run) for run in runs]
        told = [(name, json.dumps(value)) for name, value in facts.items()]

        def write(connection: sqlite3.Connection) -> None:
            connection.executemany("INSERT OR REPLACE INTO search VALUES (?, ?)", told)
            marks = ", ".join("?" * len(_COLUMNS))
            connection.executemany(f"INSERT INTO runs ({', '.join(_COLUMNS)}) VALUES ({marks})", rows)

        self._transact(write)

    def update(self, run: Run) -> None:
        """Store what has changed of a run. Where the disk is full, this waits until it is not."""
        changes = ", ".join(f"{column} = ?" for column in _COLUMNS)
        row = (*self._row(run), run.number)
        self._transact(
            lambda connection: connection.execute(f"UPDATE runs SET {changes} WHERE number = ?", row)
        )

    def runs(self, *states: str) -> list[Run]:
        """Returns the runs in any of some states, by default all, in the order of their numbers."""
        where = f"WHERE state IN ({', '.join('?' * len(states))})" if states else ""
        query = f"SELECT {', '.join(_COLUMNS)} FROM runs {where} ORDER BY number"
        return [self._run(row) for row in self._connection.execute(query, states)]

    def _transact(self, action: Callable[[sqlite3.Connection], _T]) -> _T:
        while True:
            try:
                with self._connection:
                    self._connection.execute("BEGIN IMMEDIATE")
                    return action(self._connection)
            except sqlite3.OperationalError as error:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                if not any(word in str(error) for word in ("full", "disk I/O", "locked")):
                    raise
                if not self._told:
                    print(
                        f"{self._path}: {error}; the search waits until it can write there.", file=sys.stderr
                    )
                self._told = True
                time.sleep(1.0)

    @staticmethod
    def _row(run: Run) -> tuple[Any, ...]:
        return tuple(
            json.dumps(getattr(run, column)) if column in _AS_JSON else getattr(run, column)
            for column in _COLUMNS
        )

    @staticmethod
    def _run(row: tuple[Any, ...]) -> Run:
        values = dict(zip(_COLUMNS, row, strict=True))
        return Run(**values | {column: json.loads(values[column]) for column in _AS_JSON})
