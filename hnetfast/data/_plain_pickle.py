"""Pickles of plain values, read without running what they hold. The published files of CIFAR are such."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from hnetfast._errors import InputError

_RECONSTRUCT = np.zeros(0).__reduce__()[0]  # of arrays; numpy has moved it from module to module


class _PlainUnpickler(pickle.Unpickler):
    """Builds arrays of numpy, bytes, text, numbers, lists and dictionaries; refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return _numeric_dtype
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return _empty_array
        if (module, name) == ("_codecs", "encode"):
            return _encode_bytes
        raise pickle.UnpicklingError(f"it refers to {module}.{name}")


def read_plain_pickle(path: Path) -> dict[str, Any]:
    """Read a dictionary of plain values.

    Args:
        path: The file. Text that Python 2 wrote is read as UTF-8.

    Returns:
        The dictionary, whose keys and lists of names are text.

    Raises:
        ValueError: If the file is broken, refers to anything else, or holds something else.
    """
    try:
        with open(path, "rb") as file:
            content = _PlainUnpickler(file, encoding="bytes").load()
    except (pickle.UnpicklingError, EOFError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path}: a file of arrays, lists and text is expected, and nothing else is read from it; found "
            f"another or a broken one ({error}). Fetch it again"
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: a dictionary is expected, found {type(content).__name__}")
    return {
        _text(key): [_text(entry) for entry in value] if isinstance(value, list) else value
        for key, value in content.items()
    }


def _text(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _numeric_dtype(*arguments: Any) -> np.dtype:
    dtype = np.dtype(*arguments)
    if dtype.hasobject:
        raise pickle.UnpicklingError("it holds an array of objects")
    return dtype


def _empty_array(kind: type, shape: tuple[int, ...], typecode: bytes) -> np.ndarray:
    if kind is not np.ndarray or shape != (0,):
        raise pickle.UnpicklingError("it holds an array of another kind")
    return _RECONSTRUCT(np.ndarray, (0,), b"b")


def _encode_bytes(text: str, encoding: str) -> bytes:
    """Python 3 writes bytes like this for readers in Python 2."""
    if encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError(f"it holds text in the encoding {encoding!r}")
    return text.encode("latin1")
