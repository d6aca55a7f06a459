"""Memory of large results: reused, never while someone holds it, and given back on request."""

import copy
import gc
import io
import os
import pickle
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import hnetfast
from hnetfast.ops import chunked_mlp
from hnetfast.ops._library import EXTENSION_LOADED
from hnetfast.testing import random_network

pytestmark = pytest.mark.skipif(not EXTENSION_LOADED, reason="the extension is not built: there is no pool")

MEBI = 1 << 20
DEFAULT_LIMIT = 2 << 30


def network(megabytes=8, conditions=1):
    chunk_size = megabytes * MEBI // 4 // 8
    return random_network(
        [("chunk", 4), ("condition", 4)], conditions=conditions, chunks=8, chunk_size=chunk_size
    )


@pytest.fixture(autouse=True)
def _empty_pool():
    gc.collect()
    hnetfast.empty_cache()
    yield
    torch.ops.hnetfast.set_pool_limit(DEFAULT_LIMIT)


def pool_bytes():
    return torch.ops.hnetfast.pool_bytes()


def test_memory_comes_back_and_is_used_again():
    arguments = network().arguments
    out = chunked_mlp(*arguments)
    assert pool_bytes() == 0
    address = out.data_ptr()
    del out
    assert 8 * MEBI <= pool_bytes() <= 10 * MEBI
    out = chunked_mlp(*arguments)
    assert pool_bytes() == 0
    assert out.data_ptr() == address


def test_a_view_keeps_the_memory():
    out = chunked_mlp(*network().arguments)
    view = out[0, 5:7]
    value = view.clone()
    del out
    assert pool_bytes() == 0
    chunked_mlp(*network().arguments)
    assert torch.equal(view, value)


def test_storage_may_outlive_the_tensor():
    out = chunked_mlp(*network().arguments)
    expected = out.clone()
    storage = out.untyped_storage()
    del out
    chunked_mlp(*network().arguments)
    again = torch.empty(0).set_(storage, 0, expected.shape)
    assert torch.equal(again, expected)


def test_numpy_and_dlpack_keep_the_memory():
    out = chunked_mlp(*network().arguments)
    expected = out.clone()
    array, capsule = out.numpy(), torch.from_dlpack(out)
    del out
    chunked_mlp(*network().arguments)
    assert (array == expected.numpy()).all()
    assert torch.equal(capsule, expected)
    del array, capsule
    assert pool_bytes() > 0


def test_empty_cache_gives_back_what_is_free_only():
    kept, dropped = chunked_mlp(*network().arguments), chunked_mlp(*network().arguments)
    expected = kept.clone()
    del dropped
    assert pool_bytes() > 0
    hnetfast.empty_cache()
    assert pool_bytes() == 0
    assert torch.equal(kept, expected)


def test_limit():
    torch.ops.hnetfast.set_pool_limit(0)
    out = chunked_mlp(*network().arguments)
    del out
    assert pool_bytes() == 0
    torch.ops.hnetfast.set_pool_limit(20 * MEBI)
    results = [chunked_mlp(*network().arguments) for _ in range(4)]
    del results
    assert 0 < pool_bytes() <= 20 * MEBI
    torch.ops.hnetfast.set_pool_limit(0)
    assert pool_bytes() == 0
    with pytest.raises(ValueError, match="set_pool_limit: bytes is -1"):
        torch.ops.hnetfast.set_pool_limit(-1)


def test_a_small_result_does_not_take_a_large_buffer():
    del_me = chunked_mlp(*network(64).arguments)
    del del_me
    before = pool_bytes()
    small = chunked_mlp(*network(8).arguments)
    assert pool_bytes() == before
    assert small.numel() * 4 == 8 * MEBI


def test_resize():
    for size in (10, 4 * MEBI, 1):
        out = chunked_mlp(*network().arguments)
        first = out.flatten()[:10].clone()
        out.resize_(size)
        assert torch.equal(out[: min(size, 10)], first[: min(size, 10)])
        out.fill_(1)
        out.untyped_storage().resize_(0)
        del out
    assert chunked_mlp(*network().arguments).isfinite().all()


def test_copies_through_copy_pickle_and_save():
    out = chunked_mlp(*network().arguments)
    file = io.BytesIO()
    torch.save(out, file)
    file.seek(0)
    copies = [copy.deepcopy(out), pickle.loads(pickle.dumps(out)), torch.load(file)]
    expected = out.clone()
    del out
    chunked_mlp(*network().arguments).fill_(torch.nan)
    for other in copies:
        assert torch.equal(other, expected)


def test_shared_memory():
    out = chunked_mlp(*network().arguments)
    expected = out.clone()
    out.share_memory_()
    assert out.is_shared()
    assert pool_bytes() > 0  # what it was before it moved
    chunked_mlp(*network().arguments).fill_(torch.nan)
    assert torch.equal(out, expected)


def test_set_data_and_inference_tensors():
    with torch.inference_mode():
        out = chunked_mlp(*network().arguments)
    parameter = torch.nn.Parameter(torch.zeros(1))
    parameter.data = out.clone()
    del out
    assert pool_bytes() > 0


def test_threads_generate_and_drop():
    """Each keeps one result for a while; buffers wander between the threads."""
    errors = []
    own = [network(2), network(4), network(2)]
    expected = [chunked_mlp(*n.arguments) for n in own]

    def work(i):
        kept = None
        for _ in range(15):
            out = chunked_mlp(*own[i].arguments)
            if not torch.equal(out, expected[i]) or (kept is not None and not torch.equal(kept, expected[i])):
                errors.append(i)
            if kept is not None:
                kept.fill_(torch.nan)
            kept = out

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(own))]
    cleaner = threading.Thread(target=lambda: [hnetfast.empty_cache() for _ in range(50)])
    for thread in (*threads, cleaner):
        thread.start()
    for thread in (*threads, cleaner):
        thread.join()
    assert not errors


def test_a_result_may_die_in_another_thread():
    box = [chunked_mlp(*network().arguments)]
    thread = threading.Thread(target=box.clear)
    thread.start()
    thread.join()
    assert pool_bytes() > 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_generates_too():
    """Like a worker of a DataLoader: one thread, with the parent's pool as it was."""
    script = """
import os, sys, torch
from hnetfast.ops import chunked_mlp
from hnetfast.testing import random_network
torch.manual_seed(0)
arguments = random_network([("chunk", 4), ("condition", 4)], chunks=8, chunk_size=300_000).arguments
expected = chunked_mlp(*arguments)
chunked_mlp(*arguments)
pid = os.fork()
if pid == 0:
    torch.set_num_threads(1)
    right = all(torch.equal(chunked_mlp(*arguments), expected) for _ in range(3))
    torch.ops.hnetfast.empty_cache()
    os._exit(0 if right else 3)
chunked_mlp(*arguments).fill_(0)
_, status = os.waitpid(pid, 0)
sys.exit(os.waitstatus_to_exitcode(status))
"""
    child = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=100, check=False
    )
    assert child.returncode == 0, child.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="needs LD_PRELOAD")
def test_a_forked_process_does_not_wait_for_a_thread_that_is_not_there(tmp_path):
    """The lock is held at the moment of the fork, by a thread that sleeps before it unlocks."""
    compiler = next((c for c in (os.environ.get("CXX", ""), "g++", "c++") if shutil.which(c)), None)
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    source, library = Path(__file__).with_name("slow_unlock.cpp"), tmp_path / "slow_unlock.so"
    command = [compiler, "-shared", "-fPIC", "-D_GNU_SOURCE", str(source), "-o", str(library), "-ldl"]
    subprocess.run(command, check=True)
    script = """
import ctypes, os, signal, sys, threading, time
import torch
import hnetfast.ops

unlocking = ctypes.CDLL(None)

def hold():
    unlocking.hold_next_lock(500_000)
    torch.ops.hnetfast.pool_bytes()

thread = threading.Thread(target=hold)
thread.start()
while not unlocking.is_holding():
    time.sleep(0.001)
child = os.fork()
if child == 0:
    signal.alarm(5)  # ends a child that hangs
    torch.ops.hnetfast.pool_bytes()
    os._exit(0)
thread.join()
sys.exit(abs(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
"""
    preloaded = " ".join(filter(None, (os.environ.get("LD_PRELOAD"), str(library))))
    environment = {**os.environ, "LD_PRELOAD": preloaded}
    child = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert child.returncode == 0, child.stderr
