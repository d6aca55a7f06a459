"""Fetching and unpacking of files."""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import tempfile
import urllib.request
import zlib
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path

from hnetfast._errors import InputError
from hnetfast._files import replacing


def fetch(urls: Sequence[str], path: Path, md5: str | None, source: str) -> None:
    """Fetch a file that is missing from the first place that has it.

    Args:
        urls: Where it may be.
        path: Where it is to be; folders are made.
        md5: Its check sum, if that is known.
        source: Where a person finds it, for the message.

    Raises:
        FileNotFoundError: If it is not to be had.
    """
    reasons = []
    for url in urls:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return download(url, path, md5)
        except OSError as error:
            reasons.append(f"{url}: {error}")
    raise FileNotFoundError(
        f"{path}: not found, and the download failed ({'; '.join(reasons)}). "
        f"Put the file there by hand: {source}"
    )


def download(url: str, path: str | Path, md5: str | None = None) -> None:
    """Fetch a file; it is there as a whole or not at all.

    Args:
        url: Where it is.
        path: Where it is to be.
        md5: Its check sum, if that is known.

    Raises:
        OSError: If it can't be fetched or written, or has another check sum.
    """
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with replacing(path) as file, urllib.request.urlopen(url, timeout=60) as source:
            while block := source.read(1 << 20):
                file.write(block)
                digest.update(block)
            expected = source.headers.get("Content-Length")
            if expected is not None and file.tell() != int(expected):
                raise OSError(f"{url}: the connection ended after {file.tell()} of {expected} bytes")
            if md5 is not None and digest.hexdigest() != md5:
                raise OSError(f"{url}: the file has not the check sum {md5}")
    except HTTPException as error:  # no answer of HTTP, or one that breaks off
        raise OSError(f"{url}: {error!r}") from error


def _refuse_outside(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo:
    if member.name.startswith(("/", os.sep)):  # which the filter would take for a name inside
        raise tarfile.AbsolutePathError(member)
    return tarfile.data_filter(member, path)


def extract_tar(archive: str | Path, folder: str | Path) -> None:
    """Extract an archive; each of its files is there as a whole or not at all.

    Args:
        archive: The archive, compressed or not.
        folder: Where its contents are to be. What is there already stays as it is.

    Raises:
        ValueError: If it is broken or has members that would lie outside of the folder.
    """
    folder = Path(folder)
    temporary = Path(tempfile.mkdtemp(prefix=".extracted.", dir=folder))
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(temporary, filter=_refuse_outside)
        for entry in temporary.iterdir():
            _move_missing(entry, folder / entry.name)
    except tarfile.FilterError as error:
        raise InputError(f"{archive}: is not extracted, one of its members is not safe: {error}") from error
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise InputError(f"{archive}: is no complete archive ({error}); fetch it again") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _move_missing(source: Path, target: Path) -> None:
    """Move a file or folder; of a folder that is there already, what that lacks."""
    try:
        if not target.exists():
            os.replace(source, target)
            return
    except OSError:
        if not target.exists():
            raise
        # Another process has extracted the same archive at the same time.
    if source.is_dir() and target.is_dir():
        for entry in source.iterdir():
            _move_missing(entry, target / entry.name)
