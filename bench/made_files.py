"""MNIST and CIFAR files of the published sizes, with made images that compress as real ones do."""

from __future__ import annotations

import gzip
import pickle
from pathlib import Path

import numpy as np


def write_files(folder: Path) -> None:
    """Write the files below a folder, where the data handlers look for them."""
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
