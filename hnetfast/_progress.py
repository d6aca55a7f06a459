"""A progress bar: tqdm's where that is installed, else one line on standard error."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

__all__ = ["progress_bar"]


@contextlib.contextmanager
def progress_bar(total: int, label: str, show: bool = True) -> Iterator[Callable[[], object]]:
    """Show how much of some work is done.

    Args:
        total: Number of steps.
        label: What is being done.
        show: Whether anything is shown.

    Yields:
        A function to be called after each step, from any thread.
    """
    if not show:
        yield lambda: None
        return
    try:
        from tqdm import tqdm
    except ImportError:
        line = _Line(total, label)
        yield line.advance
        line.end()
        return
    with tqdm(total=total, desc=label) as bar:
        yield bar.update


class _Line:
    def __init__(self, total: int, label: str) -> None:
        self._total, self._label, self._done = total, label, 0
        self._start, self._shown = time.monotonic(), 0.0

    def advance(self) -> None:
        self._done += 1
        now = time.monotonic()
        if now - self._shown > 0.2:
            self._shown = now
            self._write()

    def _write(self) -> None:
        seconds = time.monotonic() - self._start
        left = seconds / max(self._done, 1) * (self._total - self._done)
        text = f"{self._label}: {self._done}/{self._total}, {seconds:.0f} s, {left:.0f} s left"
        print(f"\r{text:<60}", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        self._write()
        print(file=sys.stderr)
