"""Small files with the layouts of published data sets, written anew for a test."""

import gzip
import pickle
from pathlib import Path

import numpy as np


def blobs(count, classes, channels=3, side=32, seed=0):
    """Images ``[N, side, side, channels]``, bytes, and their classes ``[N]``, which all occur."""
    rand = np.random.RandomState(seed)
    labels = rand.permutation(np.arange(count) % classes)
    images = (
        rand.randint(0, 256, (count, side, side, channels)) // 2 + 12 * (labels % 10)[:, None, None, None]
    )
    return images.astype(np.uint8), labels


def write_idx(path, values):
    """Write bytes as a file of IDX, compressed if it is called ``.gz``."""
    content = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    content += np.ascontiguousarray(values, np.uint8).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)


def write_mnist(folder, sizes=(60, 30), suffix=".gz"):
    """Write the four files of MNIST or Fashion-MNIST into a folder."""
    for name, size, seed in zip(("train", "t10k"), sizes, (1, 2), strict=True):
        images, labels = blobs(size, 10, channels=1, side=28, seed=seed)
        write_idx(Path(folder) / f"{name}-images-idx3-ubyte{suffix}", images[..., 0])
        write_idx(Path(folder) / f"{name}-labels-idx1-ubyte{suffix}", labels)


def write_cifar(root, classes, sizes=(50, 20), protocol=2):
    """Write CIFAR-10 or CIFAR-100, by the number of classes, into its folder below ``root``."""
    ten = classes == 10
    folder = Path(root) / ("cifar-10-batches-py" if ten else "cifar-100-python")
    folder.mkdir(parents=True)
    parts = [blobs(size, classes, seed=seed) for size, seed in zip(sizes, (3, 4), strict=True)]
    images, labels = map(np.concatenate, zip(*parts, strict=True))
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    names = [f"data_batch_{i + 1}" for i in range(5)] if ten else ["train"]
    rows = [*np.split(np.arange(sizes[0]), len(names)), np.arange(sizes[0], sum(sizes))]
    for name, some in zip([*names, "test_batch" if ten else "test"], rows, strict=True):
        content = {b"labels" if ten else b"fine_labels": labels[some].tolist(), b"data": planes[some]}
        (folder / name).write_bytes(pickle.dumps(content, protocol))
    things = [f"thing {i}" for i in range(classes)]
    if ten:
        meta = {"num_cases_per_batch": sizes[0] // 5, "label_names": things, "num_vis": 3072}
    else:
        meta = {"fine_label_names": things, "coarse_label_names": things[::5]}
    (folder / ("batches.meta" if ten else "meta")).write_bytes(pickle.dumps(meta, protocol))


def write_svhn(folder, sizes):
    """Write the files of SVHN, as many images as ``sizes`` tells for "train", "test" and "extra"."""
    from scipy.io import savemat

    Path(folder).mkdir(parents=True)
    for seed, (part, size) in enumerate(sizes.items()):
        images, labels = blobs(size, 10, seed=seed)
        content = {"X": images.transpose(1, 2, 3, 0), "y": np.where(labels == 0, 10, labels)[:, None]}
        savemat(Path(folder) / f"{part}_32x32.mat", content)
