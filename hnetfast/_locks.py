"""A lock for what the threads of a process share."""

from __future__ import annotations

import os
import threading
from weakref import WeakSet


class ProcessLock:
    """A reentrant lock that is free in a process that was forked while another thread held it.

    That thread is not there in the new process, which would wait for ever: a worker of a ``DataLoader``. A
    copy is another lock, which is free.
    """

    _all: WeakSet[ProcessLock] = WeakSet()

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._all.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[type[ProcessLock], tuple[()]]:
        return ProcessLock, ()

    @classmethod
    def _free_all(cls) -> None:
        for lock in list(cls._all):
            lock._lock = threading.RLock()


if hasattr(os, "register_at_fork"):  # Windows does not fork
    os.register_at_fork(after_in_child=ProcessLock._free_all)
