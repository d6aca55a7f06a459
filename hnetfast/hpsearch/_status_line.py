"""One line that tells how far a search is."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass


@dataclass
class Counts:
    """How many runs there are of each kind.

    Attributes:
        total: All of them.
        good: Those that ended well.
        failed: Those that ended otherwise.
        running: Those that were submitted and have not ended.
        best: The best performance, with its keyword and run, for people.
    """

    total: int
    good: int = 0
    failed: int = 0
    running: int = 0
    best: str = ""


class StatusLine:
    """Shows it on standard error: a line that changes at a terminal, else a new one now and then."""

    def __init__(self) -> None:
        self._changes = sys.stderr.isatty()
        self._interval = 0.2 if self._changes else 60.0
        self._shown = time.monotonic() if not self._changes else 0.0
        self._start = time.monotonic()
        self._earlier: int | None = None  # runs that had ended before
        self._width = 0

    def show(self, counts: Counts, last: bool = False) -> None:
        """Show the line, if it is time.

        Args:
            counts: What it shows.
            last: Whether this is the end of the search.
        """
        done = counts.good + counts.failed
        if self._earlier is None:
            self._earlier = done
        now = time.monotonic()
        if now - self._shown < self._interval and not last:
            return
        self._shown = now
        parts = [f"{done}/{counts.total} done", f"{counts.running} running", f"{counts.failed} failed"]
        if counts.best:
            parts.append(f"best {counts.best}")
        if done > self._earlier and not last:
            seconds = (now - self._start) / (done - self._earlier) * (counts.total - done)
            parts.append(f"{_duration(seconds)} left")
        text = ", ".join(parts)
        if self._changes:
            print(f"\r{text:<{self._width}}", end="\n" if last else "", file=sys.stderr, flush=True)
            self._width = len(text)
        else:
            print(text, file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
