"""Files of the IDX format, in which MNIST and its relatives are published."""

from __future__ import annotations

import gzip
import io
import math
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hnetfast._errors import InputError
from hnetfast.data._files import fetch

_BYTES = 8  # the code of the type of the numbers


def find_idx_files(dataset: str, folders: Sequence[Path], names: Sequence[str]) -> list[Path]:
    """Return where files are, compressed or not; missing ones are downloaded.

    Args:
        dataset: Name of the data set in torchvision, "MNIST" or "FashionMNIST".
        folders: Where to look; the first is where they are downloaded to.
        names: Names of the files, ending in ``.gz``.

    Returns:
        The files.

    Raises:
        FileNotFoundError: If one is missing and can't be downloaded.
    """
    found = []
    for name in names:
        candidates = [folder / form for folder in folders for form in (name, name.removesuffix(".gz"))]
        path = next((candidate for candidate in candidates if candidate.is_file()), folders[0] / name)
        if not path.exists():
            _download(dataset, name, path)
        found.append(path)
    return found


def _download(dataset: str, name: str, path: Path) -> None:
    from torchvision import datasets

    source = getattr(datasets, dataset)
    check_sums = dict(source.resources)
    urls = [mirror + name for mirror in source.mirrors]
    fetch(urls, path, check_sums.get(name), f"{dataset} is published at {urls[0].rsplit('/', 1)[0]}/")


def read_idx_dataset(files: Sequence[Path], num_classes: int) -> dict[str, np.ndarray]:
    """Read images and classes, for training and for testing.

    Args:
        files: Images and classes for training, then for testing.
        num_classes: Number of classes.

    Returns:
        ``images``, bytes ``[N, H, W, 1]``; ``labels``, bytes ``[N]``; ``num_train``, how many of them are for
        training, the first ones.

    Raises:
        ValueError: If a file is broken or has other classes, or files don't belong together.
    """
    images, labels = [read_idx(path, 3) for path in files[::2]], [read_idx(path, 1) for path in files[1::2]]
    for i, found in enumerate(images):
        if len(found) != len(labels[i]) or found.shape[1:] != images[0].shape[1:]:
            raise InputError(
                f"{files[2 * i]}: {len(labels[i])} images of {list(images[0].shape[1:])} pixels are "
                f"expected, as many as classes in {Path(files[2 * i + 1]).name}, found {list(found.shape)}"
            )
        largest = labels[i].max(initial=0)
        if largest >= num_classes:
            raise InputError(
                f"{files[2 * i + 1]}: classes from 0 to {num_classes - 1} are expected, found {largest}"
            )
    return {
        "images": np.concatenate(images)[..., None],
        "labels": np.concatenate(labels),
        "num_train": np.array(len(labels[0])),
    }


def read_idx(path: Path, num_dims: int) -> np.ndarray:
    """Read a file of bytes.

    Args:
        path: The file, compressed if its name ends in ``.gz``.
        num_dims: Number of dimensions: 1 for classes, 3 for images.

    Returns:
        Bytes of the shape that the file tells.

    Raises:
        ValueError: If it is broken or something else.
    """
    head, content = 4 * (1 + num_dims), path.read_bytes()
    try:
        if path.suffix == ".gz":
            content = _decompress(content, head)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}: is no complete file of gzip ({error}); fetch it again") from error
    expected = bytes([0, 0, _BYTES, num_dims])
    if len(content) < head or content[:4] != expected:
        raise InputError(
            f"{path}: a file of IDX that begins with {expected.hex()} is expected, "
            f"found {content[:4].hex() or 'nothing'}; fetch it again"
        )
    shape = _shape(content[:head])
    if len(content) != head + math.prod(shape):
        raise InputError(
            f"{path}: {math.prod(shape)} bytes of the shape {shape} are expected, "
            f"found {len(content) - head}; fetch it again"
        )
    return np.frombuffer(content, np.uint8, offset=head).reshape(shape)


def _shape(head: bytes) -> list[int]:
    return [int(size) for size in np.frombuffer(head, ">u4", offset=4)]


def _decompress(content: bytes, head: int) -> bytes:
    """Decompress a file, but not much more than it says it holds: a small one may become a huge one."""
    with gzip.open(io.BytesIO(content)) as file:
        start = file.read(head)
        most = 1032 * len(content)  # there is no better compression
        return start + file.read(min(math.prod(_shape(start)), most) + 1 if len(start) == head else 0)
