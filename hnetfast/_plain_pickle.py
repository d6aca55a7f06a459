"""Pickles of plain values, read without running what they hold.

The published files of CIFAR are such, and what runs and searches of hyperparameters write down.
"""

from __future__ import annotations

import pickle
from argparse import Namespace
from collections.abc import Container
from pathlib import Path
from typing import Any

import numpy as np

from hnetfast._errors import InputError


class _Dtype:
    """Stands for numpy's type of a number while a pickle is read."""

    def __init__(self, name: str | bytes, align: int = 0, copy: int = 1) -> None:
        self.dtype = np.dtype(name.decode("ascii") if isinstance(name, bytes) else name)
        if self.dtype.kind not in "biufc":
            raise pickle.UnpicklingError(f"it holds an array of {self.dtype.kind!r}, which are no numbers")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order: Any = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """Stands for an array of numpy while a pickle is read.

    Numpy's own classes trust what a pickle says of the memory of an array, so they are not called.
    """

    array: np.ndarray

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, by_columns, content = state
        self.array = np.frombuffer(content, kind.dtype).reshape(shape, order="F" if by_columns else "C")


class _Options:
    """Stands for an ``argparse.Namespace`` while a pickle is read, which may set attributes of its class."""


class _PlainUnpickler(pickle.Unpickler):
    """Builds arrays of numbers, bytes, text, numbers, lists and dictionaries; refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy", "ndarray"):
            return _Array
        if (module, name) == ("numpy", "dtype"):
            return _Dtype
        # Pickles may set attributes of what they get: of a function that is thrown away.
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return lambda *arguments: _new_array(*arguments)
        if (module, name) == ("_codecs", "encode"):
            return lambda *arguments: _encode_bytes(*arguments)
        raise pickle.UnpicklingError(f"it refers to {module}.{name}")


# What a pickle that is broken makes Python raise.
_BROKEN = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)


def read_plain_pickle(path: Path, names: Container[str] | None = None) -> dict[str, Any]:
    """Read a dictionary of plain values.

    Args:
        path: The file. Text that Python 2 wrote is read as UTF-8.
        names: Which entries to return, by default all.

    Returns:
        The dictionary, whose keys and lists of names are text. Arrays are not to be written to.

    Raises:
        ValueError: If the file is broken, refers to anything else, or holds something else.
    """
    try:
        content = _load(path, _PlainUnpickler)
        if isinstance(content, dict):
            entries = ((_text(key), value) for key, value in content.items())
            return {key: _value(value) for key, value in entries if names is None or key in names}
    except _BROKEN as error:
        reason = str(error) or type(error).__name__
        raise InputError(
            f"{path}: a file of arrays, lists and text is expected, and nothing else is read from it; "
            f"found another or a broken one ({reason})"
        ) from error
    raise InputError(f"{path}: a dictionary is expected, found {type(content).__name__}")


def read_plain_list(path: Path) -> list[Any]:
    """Read a list of plain values.

    Args:
        path: The file.

    Returns:
        The list.

    Raises:
        ValueError: If the file is broken, refers to anything else, or holds something else.
    """
    try:
        content = _load(path, _PlainUnpickler)
    except _BROKEN as error:
        raise InputError(_refusal(path, "a list of plain values", error)) from error
    if not isinstance(content, list):
        raise InputError(f"{path}: a list is expected, found {type(content).__name__}")
    return content


def read_pickled_namespace(path: Path) -> Namespace:
    """Read what ``parse_args`` returned, as :func:`hnetfast.utils.sim_utils.setup_environment` keeps it.

    Args:
        path: The file.

    Returns:
        The options, whose values are numbers, text, None, and lists, tuples, sets and dictionaries of such.

    Raises:
        ValueError: If the file is broken, refers to anything else, or holds something else.
    """
    try:
        content = _load(path, _NamespaceUnpickler)
        if isinstance(content, _Options):
            return Namespace(**{_name(key): _plain(value) for key, value in vars(content).items()})
    except _BROKEN as error:
        raise InputError(_refusal(path, "a namespace of plain values", error)) from error
    raise InputError(f"{path}: an argparse.Namespace is expected, found {type(content).__name__}")


class _NamespaceUnpickler(_PlainUnpickler):
    """Builds a namespace, too."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("argparse", "Namespace"):
            return type("Options", (_Options,), {})  # whatever the pickle sets of it is thrown away
        return super().find_class(module, name)


def _load(path: Path, unpickler: type[_PlainUnpickler]) -> Any:
    with open(path, "rb") as file:
        return unpickler(file, encoding="bytes").load()


def _refusal(path: Path, expected: str, error: Exception) -> str:
    reason = str(error) or type(error).__name__
    return f"{path}: {expected} is expected, and nothing else is read from it; found another ({reason})"


def _name(key: Any) -> str:
    if not isinstance(key, str):
        raise pickle.UnpicklingError(f"it holds an option called {key!r}")
    return key


def _plain(value: Any) -> Any:
    if isinstance(value, _Array):
        return value.array
    if isinstance(value, list | tuple | set | frozenset):
        return type(value)(_plain(entry) for entry in value)
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return value
    raise pickle.UnpicklingError(f"it holds a {type(value).__name__}")


def _value(value: Any) -> Any:
    if isinstance(value, list):
        return [_text(entry) for entry in value]
    return value.array if isinstance(value, _Array) else value


def _text(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _new_array(kind: type, shape: tuple[int, ...], typecode: bytes) -> _Array:
    if kind is not _Array:
        raise pickle.UnpicklingError("it holds an array of another kind")
    return _Array()


def _encode_bytes(text: str, encoding: str) -> bytes:
    """Python 3 writes bytes like this for readers in Python 2."""
    if encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError(f"it holds text in the encoding {encoding!r}")
    return text.encode("latin1")
