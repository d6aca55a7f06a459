"""Imports that are put off until they are needed, in programs that have set their seeds by then."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Leave Python's generator as it was: scikit-learn imports rich where that is installed, which draws."""
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)
