"""A progress bar of runs whose log goes to the terminal too."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from hnetfast._progress import progress_bar


@contextmanager
def logged_progress(total: int, label: str, logger: logging.Logger) -> Iterator[Callable[[], object]]:
    """Show a progress bar at a terminal; the log goes on above it.

    Args:
        total: Number of steps.
        label: What is being done.
        logger: What writes the log.

    Yields:
        A function to be called after each step.
    """
    show = sys.stderr.isatty()
    with progress_bar(total, label, show) as advance, ExitStack() as stack:
        for handler in logger.handlers if show else ():
            if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stdout:
                stack.callback(handler.setStream, handler.setStream(_AboveBar()))
        yield advance


class _AboveBar:
    """Writes to the standard output where there may be a progress bar."""

    def write(self, text: str) -> None:
        try:
            from tqdm import tqdm
        except ImportError:
            sys.stdout.write(text)
        else:
            tqdm.write(text, end="")

    def flush(self) -> None:
        sys.stdout.flush()
