"""Locks of the package are free in a process that is forked while another thread holds them."""

import multiprocessing
import re
import threading
from pathlib import Path

import pytest

import hnetfast
from hnetfast import compat
from hnetfast.data import _cache, _samples


def test_there_are_no_other_locks():
    """Those of Python stay locked in the new process; cached_property holds one before Python 3.12."""
    kinds = r"\b(R?Lock|Condition|\w*Semaphore|Barrier|Queue)\(|cached_property"
    found = [
        f"{path.name}: {line.strip()}"
        for path in Path(hnetfast.__file__).parent.rglob("*.py")
        if path.name != "_locks.py"
        for line in path.read_text().splitlines()
        if re.search(kinds, line) and "ProcessLock(" not in line
    ]
    assert not found


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
@pytest.mark.parametrize("lock", [_samples._CONVERTING, _cache._lock, compat._lock])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_lock_that_another_thread_holds_is_free_in_a_forked_process(lock):
    held, release = threading.Event(), threading.Event()

    def hold():
        with lock:
            held.set()
            release.wait()

    def take():
        with lock:
            pass

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    process = multiprocessing.get_context("fork").Process(target=take)
    process.start()
    process.join(10)
    code = process.exitcode
    process.kill()
    release.set()
    thread.join()
    assert code == 0
