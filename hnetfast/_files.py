"""Writing files so that they are there as a whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file under a temporary name, which becomes its own when the block ends without an error.

    Args:
        path: Where it is to be.

    Yields:
        The file, open for writing bytes. ``name`` is its temporary name, ".<name>.<8 characters>.part", which
        stays if the process is killed.

    Raises:
        OSError: If the folder can't be written.
    """
    path = Path(path)
    if not path.parent.exists():
        raise FileNotFoundError(f"{path}: there is no folder {path.parent}")
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    try:
        with open(temporary, "wb") as file:
            yield file
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)  # mkstemp makes it private
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write a file under a temporary name, then rename it.

    Args:
        path: Where it is to be.
        content: What it is to hold.

    Raises:
        OSError: If the folder can't be written.
    """
    with replacing(path) as file:
        file.write(content)
