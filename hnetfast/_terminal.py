"""Questions to the person at the terminal."""

from __future__ import annotations

import os
import select
import sys

# Seconds that somebody at a terminal has to answer; runs may have been started unattended.
_SECONDS_TO_ANSWER = 30


def confirmed(question: str) -> bool:
    """Ask for a yes. Without a terminal, only what stands ready at the standard input counts.

    Args:
        question: What is asked at a terminal.

    Returns:
        Whether the answer is "y".
    """
    try:
        seconds = _SECONDS_TO_ANSWER if sys.stdin.isatty() else 0
        if seconds:
            print(f"{question} [y/n]", flush=True)
        ready = select.select([sys.stdin], [], [], seconds)[0]
        return bool(ready) and os.read(sys.stdin.fileno(), 1024).split(b"\n")[0].strip() == b"y"
    except (AttributeError, OSError, TypeError, ValueError):  # there is no standard input to ask at
        return False
