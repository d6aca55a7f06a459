"""Data handlers: what is measured of them, on made files of the real sizes, and their memory.

``python -m bench.data "FOLDER:hnetfast:permuted MNIST, 100 tasks"`` prints what handlers add to the memory of
a process, in bytes.
"""

from __future__ import annotations

import gzip
import importlib
import pickle
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.memory import measure_in_child, peak_bytes, print_peak
from hnetfast.examples._speed import import_hypnettorch

Call = Callable[[], Any]


def module(library: str, name: str):
    """A module below ``data`` of a library, None where hypnettorch is not installed."""
    if library == "hypnettorch":
        return import_hypnettorch(f"data.{name}")
    return importlib.import_module(f"hnetfast.data.{name}")


def write_files(folder: Path) -> None:
    """Write MNIST and CIFAR files of the published sizes, with made images that compress as real ones do."""
    rand = np.random.RandomState(0)
    mnist = folder / "MNIST"
    mnist.mkdir(parents=True)
    for name, count in (("train", 60000), ("t10k", 10000)):
        images = np.zeros((count, 28, 28), dtype=np.uint8)
        images[:, 4:24, 4:24] = rand.randint(0, 256, (count, 20, 20)) * (rand.rand(count, 20, 20) < 0.35)
        labels = rand.randint(0, 10, count).astype(np.uint8)
        for kind, magic, values in (("labels-idx1", 2049, labels), ("images-idx3", 2051, images)):
            head = b"".join(number.to_bytes(4, "big") for number in (magic, *values.shape))
            with gzip.open(mnist / f"{name}-{kind}-ubyte.gz", "wb", compresslevel=6) as file:
                file.write(head + values.tobytes())
    cifar10, cifar100 = folder / "cifar-10-batches-py", folder / "cifar-100-python"
    batches = {cifar10 / f"data_batch_{i + 1}": (10, 10000) for i in range(5)}
    batches |= {
        cifar10 / "test_batch": (10, 10000),
        cifar100 / "train": (100, 50000),
        cifar100 / "test": (100, 10000),
    }
    for path, (classes, count) in batches.items():
        path.parent.mkdir(exist_ok=True)
        key = b"labels" if classes == 10 else b"fine_labels"
        labels, images = rand.randint(0, classes, count), rand.randint(0, 256, (count, 3072)).astype(np.uint8)
        path.write_bytes(_python2_pickle(key, labels, images))
    names = [f"class {i}" for i in range(100)]
    meta10 = {"num_vis": 3072, "label_names": names[:10], "num_cases_per_batch": 10000}
    (cifar10 / "batches.meta").write_bytes(pickle.dumps(meta10, protocol=2))
    meta100 = {"fine_label_names": names, "coarse_label_names": names[:20]}
    (cifar100 / "meta").write_bytes(pickle.dumps(meta100, protocol=2))


def _python2_pickle(key: bytes, labels: np.ndarray, images: np.ndarray) -> bytes:
    """What ``pickle.dumps({key: labels, "data": images}, 2)`` of Python 2 wrote, as the published files are.

    Python 3 writes bytes as text for this protocol, which takes much longer to read.
    """

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    def number(value: int) -> bytes:
        return b"J" + value.to_bytes(4, "little", signed=True)

    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
    dtype = b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R"
    dtype += b"(K\x03" + text(b"|") + b"NNN" + number(-1) + number(-1) + b"K\x00tb"
    shape = b"".join(number(size) for size in images.shape) + b"\x86"
    content = b"T" + images.nbytes.to_bytes(4, "little") + images.tobytes()
    array += b"(K\x01" + shape + dtype + b"\x89" + content + b"tb"
    listed = b"](" + b"".join(b"K" + bytes([label]) for label in labels.tolist()) + b"e"
    return b"\x80\x02}" + text(key) + listed + b"s" + text(b"data") + array + b"s."


def _mnist(library: str, folder: str, **options: Any):
    return module(library, "mnist_data").MNISTData(folder, **options)


def _cifar(library: str, folder: str, **options: Any):
    return module(library, "cifar10_data").CIFAR10Data(folder, **options)


def _permuted(library: str, folder: str, tasks: int):
    permutations = [np.random.RandomState(i).permutation(32 * 32) for i in range(tasks)]
    handlers = module(library, "special.permuted_mnist").PermutedMNISTList(
        permutations, folder, padding=2, show_perm_change_msg=False
    )
    return handlers[-1] if tasks == 1 else handlers


def _split_mnist(library: str, folder: str):
    return module(library, "special.split_mnist").get_split_mnist_handlers(folder)


def _split_cifar(library: str, folder: str):
    return module(library, "special.split_cifar").get_split_cifar_handlers(folder)


# Building a handler, or several. hypnettorch finds the dump that it left beside the files.
BUILDS = {
    "MNIST": _mnist,
    "CIFAR-10": _cifar,
    "split MNIST": _split_mnist,
    "split CIFAR-10/100": _split_cifar,
}
# Handlers for tensors of 128 images: how to build one, and the mode.
TENSORS = {
    "CIFAR-10, augmentation and cutout": (
        lambda library, folder: _cifar(library, folder, use_data_augmentation=True, use_cutout=True),
        "train",
    ),
    "CIFAR-10, normalised": (
        lambda library, folder: _cifar(library, folder, use_data_augmentation=True),
        "inference",
    ),
    "MNIST, augmentation": (
        lambda library, folder: _mnist(library, folder, use_torch_augmentation=True),
        "train",
    ),
    "permuted MNIST, padded": (lambda library, folder: _permuted(library, folder, 1), "train"),
}
# Handlers whose batches become tensors.
BATCHES = {
    "MNIST": (lambda library, folder: _mnist(library, folder, use_one_hot=True), "train"),
    "CIFAR-10": (lambda library, folder: _cifar(library, folder, use_one_hot=True), "train"),
    "CIFAR-10, augmentation": (
        lambda library, folder: _cifar(library, folder, use_one_hot=True, use_data_augmentation=True),
        "train",
    ),
}
BATCH_SIZES = (32, 256)
# Made sequences, 10,000 of them.
SEQUENCES: dict[str, Callable[[str], Any]] = {
    "copy task": lambda library: module(library, "timeseries.copy_data").CopyTask(
        5, 20, num_train=9000, num_test=1000, rseed=1
    ),
    "recurrent teacher": lambda library: module(library, "timeseries.rnd_rec_teacher").RndRecTeacher(
        num_train=9000, num_test=1000, rseed=1
    ),
    "cognitive task 0": lambda library: module(
        library, "timeseries.cognitive_tasks.cognitive_data"
    ).CognitiveTasks(task_id=0, num_train=8000, num_val=1000, num_test=1000, rstate=np.random.RandomState(1)),
}
# Handlers that share their images, and how many bytes one copy of these takes.
SHARED = {
    "permuted MNIST, 100 tasks": (lambda library, folder: _permuted(library, folder, 100), 70000 * 784),
    "split MNIST": (_split_mnist, 70000 * 784),
}


def tensors_call(library: str, folder: str, case: str, count: int = 128) -> Call:
    """Return what turns ``count`` images into a tensor."""
    build, mode = TENSORS[case]
    handler = build(library, folder)
    inputs = handler.next_train_batch(count)[0]
    return lambda: handler.input_to_torch_tensor(inputs, "cpu", mode=mode)


def batches_call(library: str, folder: str, case: str, size: int) -> Call:
    """Return what takes the next batch and makes tensors of it."""
    build, mode = BATCHES[case]
    handler = build(library, folder)

    def call():
        inputs, outputs = handler.next_train_batch(size)
        return (
            handler.input_to_torch_tensor(inputs, "cpu", mode=mode),
            handler.output_to_torch_tensor(outputs, "cpu", mode=mode),
        )

    return call


def seed() -> None:
    """Put all generators into one state."""
    np.random.seed(0)
    torch.manual_seed(0)


def same(ours: Any, theirs: Any) -> bool:
    """Whether two results are equal: tensors, lists of them, or handlers."""
    if isinstance(theirs, torch.Tensor):
        return torch.equal(ours, theirs)
    if isinstance(theirs, (list, tuple)):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    parts = [name for name in ("train", "test") if getattr(theirs, f"num_{name}_samples")]
    return all(
        np.array_equal(getattr(ours, name)()[:100], getattr(theirs, name)()[:100])
        for part in parts
        for name in (f"get_{part}_inputs", f"get_{part}_outputs")
    )


def measure_memory(folder: Path, libraries: Sequence[str]) -> dict[str, int]:
    """Measure what handlers that share images add to the memory of a process.

    Args:
        folder: Where the files are.
        libraries: Which libraries.

    Returns:
        Bytes at the peak by ``folder:library:case``; empty where the system does not report it.
    """
    return measure_in_child(
        "bench.data", [f"{folder}:{library}:{case}" for library in libraries for case in SHARED]
    )


def main(names: Sequence[str]) -> None:
    """Measure in this process; see the head of the module."""
    for name in names:
        folder, library, case = name.rsplit(":", 2)
        build, _ = SHARED[case]
        build(library, folder)  # modules are loaded now, and caches written
        print_peak(name, peak_bytes(lambda: build(library, folder)))  # noqa: B023  called at once


if __name__ == "__main__":
    main(sys.argv[1:])
