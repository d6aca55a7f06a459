"""A lock for what all threads of a process share."""

from __future__ import annotations

import os
import threading


class ProcessLock:
    """A reentrant lock that is free in a process that was forked while another thread held it.

    That thread is not there in the new process, which would wait for ever: a worker of a ``DataLoader``.
    """

    def __init__(self) -> None:
        self._renew()
        if hasattr(os, "register_at_fork"):  # Windows does not fork
            os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()
