"""Checkpoints: saved with their scores, of which only the best are kept.

A folder holds, for each ``file_path`` "folder/net": the checkpoints "net_<train_iter>", ".net_meta" with the
time of the first one, and "score_list_net.txt" where it was asked for.

A checkpoint is written under a temporary name, and older ones are deleted once it is there: a process that is
killed leaves at least those that there were. Files are read with ``weights_only=True``: none can run code.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from numbers import Real
from typing import Any
from warnings import warn

import numpy as np
import torch
from torch import Tensor, nn
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from hnetfast._errors import InputError, InputIndexError, InputKeyError, InputTypeError
from hnetfast._files import replacing, write_atomically

__all__ = ["get_best_ckpt_path", "load_checkpoint", "make_ckpt_list", "save_checkpoint"]

# Entry of a checkpoint with what is known about itself.
_INTERNAL_KEY = "_ckpt_internal"

# No save takes longer than this.
_SECONDS_TO_WRITE = 3600


@dataclass(frozen=True)
class _Checkpoint:
    path: str
    score: Any
    timestamp: float
    permanent: bool

    @property
    def rank(self) -> tuple[float, float]:
        """Sorts by score, then by time; without a score, or with NaN, it comes first."""
        score = math.nan if self.score is None else float(self.score)
        return (-math.inf if math.isnan(score) else score, self.timestamp)


class _NumberType:
    """Stands for numpy's type of a number while a checkpoint is read; numpy's own trusts what files say."""

    def __init__(self, name: str, align: bool = False, copy: bool = True) -> None:
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


def _number(kind: _NumberType, content: bytes) -> np.generic:
    if kind.dtype.kind not in "biufcSU":
        raise ValueError(f"it holds a {kind.dtype}, which is neither number nor text")
    return np.frombuffer(content, kind.dtype, 1)[0]


# Accuracies and scores are often numbers of numpy.
_NUMPY_NUMBERS = [
    (_NumberType, "numpy.dtype"),
    (_number, "numpy._core.multiarray.scalar"),
    (_number, "numpy.core.multiarray.scalar"),
]


def save_checkpoint(
    ckpt_dict: Mapping[str, Any],
    file_path: str | os.PathLike[str],
    performance_score: float | Tensor | None,
    train_iter: int | None = None,
    max_ckpts_to_keep: int = 5,
    keep_cktp_every: float | None = 2,
    timestamp: float | None = None,
) -> None:
    """Save a checkpoint, then delete the worst of the older ones that are too many.

    Args:
        ckpt_dict: What to save; "state_dict" is required. Tensors, numbers, text, and lists and dictionaries
            of them. It is not changed.
        file_path: Folder and name, the same for all checkpoints of a network. The folder is made. Names of
            other networks in the same folder may begin likewise.
        performance_score: How good the network is, higher is better. None, or NaN, is the worst.
        train_iter: Ends the file's name. Without it, or with one of before, a checkpoint replaces another.
        max_ckpts_to_keep: How many to keep, this one included. Those that are kept permanently do not count.
        keep_cktp_every: In hours, counted from the first checkpoint: once in each such time the best of the
            checkpoints since the beginning of the time before is kept permanently. None is never.
        timestamp: Time of the checkpoint in seconds, for those of several networks that belong together. By
            default the present.

    Raises:
        InputError: A ``ValueError``, for an argument that is not accepted; it is named. No file was written.
        InputTypeError: A ``TypeError``, likewise, also for contents that are no such.
        OSError: If the file can't be written. All older checkpoints are there then.
    """
    folder, name = _folder_and_name(file_path)
    if not isinstance(ckpt_dict, Mapping):
        raise InputTypeError(f"ckpt_dict: expected a dictionary, got {type(ckpt_dict).__name__}")
    if "state_dict" not in ckpt_dict or _INTERNAL_KEY in ckpt_dict:
        raise InputError(
            f'ckpt_dict: expected an entry "state_dict" and none of the name "{_INTERNAL_KEY}", '
            f"got {list(ckpt_dict)}"
        )
    score = _plain_score(performance_score)
    if not isinstance(max_ckpts_to_keep, Real) or not max_ckpts_to_keep >= 1:
        raise InputError(f"max_ckpts_to_keep: expected a number of at least 1, got {max_ckpts_to_keep!r}")
    if keep_cktp_every is not None and not (isinstance(keep_cktp_every, Real) and keep_cktp_every > 0):
        raise InputError(f"keep_cktp_every: expected a number of hours or None, got {keep_cktp_every!r}")
    now: Any = time.time() if timestamp is None else timestamp
    if not isinstance(now, Real) or not math.isfinite(now):
        raise InputError(f"timestamp: expected a time in seconds or None, got {timestamp!r}")
    now = now.item() if isinstance(now, np.generic) else now
    path = os.path.join(folder, name + _ending(train_iter))

    os.makedirs(folder or ".", exist_ok=True)
    first = _time_of_first(folder, name, now)
    older = _saved_checkpoints(folder, name, but=path)
    new = _Checkpoint(path, score, now, False)
    keep = None
    if keep_cktp_every is not None:
        keep = _best_of_window([*older, new], now - first, first, 3600 * keep_cktp_every)

    _remove_abandoned(folder, name)
    _write(path, ckpt_dict, score, now, permanent=keep is new)
    if keep is new:
        print(f"This checkpoint is kept permanently: {path}")
    elif keep is not None:
        _write(keep.path, _read(keep.path), keep.score, keep.timestamp, permanent=True)
        print(f"A checkpoint is kept permanently from now on: {keep.path}")
    removable = [saved for saved in older if not saved.permanent and saved is not keep]
    removable.sort(key=lambda saved: saved.rank, reverse=True)
    for saved in removable[int(min(max_ckpts_to_keep - 1, len(removable))) :]:
        os.remove(saved.path)
        print(f"Checkpoint deleted: {saved.path}")
    print(f"Checkpoint saved: {path}")


def load_checkpoint(
    ckpt_path: str | os.PathLike[str],
    net: nn.Module,
    device: torch.device | str | int | None = None,
    ret_performance_score: bool = False,
) -> dict[str, Any] | tuple[dict[str, Any], Any]:
    """Load a checkpoint, and its state into a network.

    Args:
        ckpt_path: The file.
        net: The network that takes over the entry "state_dict".
        device: Where the tensors of the checkpoint go first, best where the network is. None is the CPU.
        ret_performance_score: Whether to return its score as well.

    Returns:
        The checkpoint; with ``ret_performance_score`` a tuple of the checkpoint and the score.

    Raises:
        FileNotFoundError: If there is no such file.
        InputError: A ``ValueError`` and ``RuntimeError``, if the file is broken, holds objects of other kinds
            than checkpoints do, or is of another network; the network is as before then. The newest other
            checkpoint of the same name is named.
        InputKeyError: A ``KeyError``, if the file is no checkpoint, or has no score.
    """
    if not hasattr(net, "load_state_dict"):
        raise InputTypeError(f"net: expected a torch.nn.Module, got {type(net).__name__}")
    try:
        checkpoint = _read(ckpt_path, device)
    except InputError as error:
        raise InputError(f"{error}. {_newest_other(ckpt_path)}") from error
    if not isinstance(checkpoint.get("state_dict"), Mapping):
        raise InputKeyError(
            f'{ckpt_path}: a checkpoint with an entry "state_dict" is expected, found {list(checkpoint)}. '
            f"{_newest_other(ckpt_path)}"
        )
    internal = checkpoint.pop(_INTERNAL_KEY, None)
    if ret_performance_score and not (isinstance(internal, Mapping) and "score" in internal):
        raise InputKeyError(f"{ckpt_path}: save_checkpoint did not write it, it has no score")
    _load_state(net, checkpoint["state_dict"], ckpt_path)
    return (checkpoint, internal["score"]) if ret_performance_score else checkpoint


def make_ckpt_list(file_path: str | os.PathLike[str]) -> None:
    """Write the list of all checkpoints with their scores, the best one first: "score_list_<name>.txt".

    Args:
        file_path: Folder and name, as given to :func:`save_checkpoint`.

    Raises:
        InputError: A ``ValueError``, if there is no such folder.
    """
    folder, name = _folder_and_name(file_path)
    if not os.path.isdir(folder or "."):
        raise InputError(f"file_path: there is no folder {folder!r}")
    saved = sorted(_saved_checkpoints(folder, name), key=lambda saved: saved.rank, reverse=True)
    lines = [
        f"{os.path.basename(entry.path)}, {math.nan if entry.score is None else float(entry.score):f}\n"
        for entry in saved
    ]
    write_atomically(_list_path(folder, name), "".join(lines).encode())


def get_best_ckpt_path(file_path: str | os.PathLike[str]) -> str:
    """Return the checkpoint with the highest score in the list that :func:`make_ckpt_list` wrote.

    Args:
        file_path: Folder and name, as given to :func:`save_checkpoint`.

    Returns:
        Its path.

    Raises:
        InputError: A ``ValueError``, if there is no list.
        InputIndexError: An ``IndexError``, if it is empty.
    """
    folder, name = _folder_and_name(file_path)
    path = _list_path(folder, name)
    if not os.path.isfile(path):
        raise InputError(f"file_path: there is no {path!r}; make_ckpt_list writes it")
    with open(path, encoding="utf-8") as file:
        best = file.readline().rpartition(", ")[0]
    if not best:
        raise InputIndexError(f"file_path: {path!r} lists no checkpoint")
    return os.path.join(folder, best)


def _folder_and_name(file_path: str | os.PathLike[str]) -> tuple[str, str]:
    try:
        folder, name = os.path.split(os.fspath(file_path))
    except TypeError:
        raise InputTypeError(f"file_path: expected a path, got {file_path!r}") from None
    if not name or not isinstance(name, str):
        raise InputError(f"file_path: expected a folder and the beginning of files' names, got {file_path!r}")
    return folder, name


def _list_path(folder: str, name: str) -> str:
    return os.path.join(folder, f"score_list_{name}.txt")


def _ending(train_iter: int | None) -> str:
    try:
        return "" if train_iter is None else f"_{int(train_iter)}"
    except (TypeError, ValueError, OverflowError):
        raise InputTypeError(f"train_iter: expected an integer or None, got {train_iter!r}") from None


def _plain_score(score: Any) -> Any:
    """Numbers of numpy become Python's, which are read with ``weights_only=True``."""
    if isinstance(score, np.generic | np.ndarray) and score.size == 1:
        score = score.item()
    if isinstance(score, Tensor) and score.numel() == 1 and not score.is_complex():
        return score.detach()
    if score is not None and not isinstance(score, Real):
        raise InputTypeError(f"performance_score: expected a number or None, got {score!r}")
    return score


def _time_of_first(folder: str, name: str, timestamp: float) -> float:
    """Returns the time of the first checkpoint; this one is the first if there is no other."""
    path = os.path.join(folder, f".{name}_meta")
    try:
        with open(path, encoding="utf-8") as file:
            return float(json.load(file)["init_ts"])
    except FileNotFoundError:
        write_atomically(path, json.dumps({"init_ts": timestamp}).encode())
        return timestamp
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: the time of the first checkpoint is expected; delete the file") from error


def _best_of_window(
    checkpoints: list[_Checkpoint], elapsed: float, first: float, window: float
) -> _Checkpoint | None:
    """Returns the checkpoint to keep from now on; none if there is one from the last window or this one."""
    n_windows = elapsed // window
    if n_windows < 1:
        return None
    start = first + (n_windows - 1) * window
    recent = [saved for saved in checkpoints if saved.timestamp >= start]
    if any(saved.permanent for saved in recent):
        return None
    return max(recent, key=lambda saved: saved.rank, default=None)


def _saved_checkpoints(
    folder: str, name: str, but: str | None = None, warn_of_others: bool = True
) -> list[_Checkpoint]:
    """Finds the checkpoints of that name, but for one; only the headers of the files are read."""
    own = re.compile(re.escape(name) + r"(_-?\d+)?")
    found = []
    for entry in sorted(os.listdir(folder or ".")):
        path = os.path.join(folder, entry)
        if not own.fullmatch(entry) or path == but:
            continue
        try:
            found.append(_read_header(path))
        except (FileNotFoundError, IsADirectoryError):  # another process may delete some
            continue
        except InputError as error:
            if warn_of_others:
                warn(f"{error}. It is left alone.", stacklevel=3)
    return found


def _read_header(path: str) -> _Checkpoint:
    internal: Any = _read(path, mmap=True).get(_INTERNAL_KEY)
    try:
        score = internal["score"]
        # A copy: that of a tensor would refer to the mapped file.
        score = score.clone() if isinstance(score, Tensor) else score
        float(internal["ts"]), math.nan if score is None else float(score)
        return _Checkpoint(path, score, internal["ts"], bool(internal["permanent"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: save_checkpoint did not write it, it has no score") from error


def _read(
    path: str | os.PathLike[str], device: torch.device | str | int | None = None, mmap: bool = False
) -> dict[str, Any]:
    """Reads a file; with ``mmap`` no contents of tensors, until somebody looks at them."""
    device = torch.device("cpu" if device is None else device)
    mmap = mmap and zipfile.is_zipfile(path)  # others are as torch wrote them before version 1.6
    try:
        with safe_globals(_NUMPY_NUMBERS):
            checkpoint = torch.load(path, map_location=device, weights_only=True, mmap=mmap)
    except (OSError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if device.type != "cpu":
            _read(path, mmap=True)
            raise  # it is not the file's fault
        foreign = _foreign_objects(path)
        if foreign:
            raise InputTypeError(
                f"{path}: holds objects that may run code when they are read, and is not read: "
                f"{', '.join(foreign)} (torch.serialization.add_safe_globals allows some)"
            ) from error
        reason = (str(error) or type(error).__name__).splitlines()[0].split(". ")[0]
        raise InputError(f"{path}: is no complete checkpoint ({reason})") from error
    if not isinstance(checkpoint, dict):
        raise InputError(f"{path}: a checkpoint is expected, found {type(checkpoint).__name__}")
    return checkpoint


def _foreign_objects(path: str | os.PathLike[str]) -> list[str]:
    try:
        with safe_globals(_NUMPY_NUMBERS):
            return get_unsafe_globals_in_checkpoint(path)
    except Exception:  # a broken file
        return []


def _write(path: str, content: Mapping[str, Any], score: Any, timestamp: float, permanent: bool) -> None:
    internal = {"permanent": permanent, "score": score, "ts": timestamp}
    with replacing(path) as file:
        torch.save({**content, _INTERNAL_KEY: internal}, file)
        file.flush()
        os.fsync(file.fileno())  # older ones are deleted next
        try:
            _read(file.name, mmap=True)
        except InputError as error:
            foreign = ", ".join(_foreign_objects(file.name)) or "what can't be read again"
            raise InputTypeError(
                "ckpt_dict: expected tensors, numbers, text, lists and dictionaries (arrays of numpy may be "
                f"converted by torch.from_numpy), got {foreign}"
            ) from error


def _remove_abandoned(folder: str, name: str) -> None:
    """Removes what processes that were killed have left; younger files may be written at this moment."""
    temporary = re.compile(rf"\.{re.escape(name)}(_-?\d+)?\.\w{{8}}\.part")
    for entry in os.scandir(folder or "."):
        if not temporary.fullmatch(entry.name):
            continue
        with suppress(FileNotFoundError):  # another process may finish or remove it
            if time.time() - entry.stat().st_mtime > _SECONDS_TO_WRITE:
                os.remove(entry.path)


def _newest_other(path: str | os.PathLike[str]) -> str:
    """Says which other checkpoint there is."""
    path = os.fspath(path)
    folder, name = os.path.split(path)
    own = re.sub(r"_-?\d+$", "", name)
    others = _saved_checkpoints(folder, own, but=path, warn_of_others=False)
    if not others:
        return "There is no other checkpoint of that name"
    return f"The newest of the others is {max(others, key=lambda saved: saved.timestamp).path}"


def _load_state(net: nn.Module, state: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    own = net.state_dict()
    before = None
    if _shapes(own) != _shapes(state):  # torch copies what fits before it refuses the rest
        before = {name: value.clone() if isinstance(value, Tensor) else value for name, value in own.items()}
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        if before is not None:
            net.load_state_dict(before)
        raise InputError(f"{path}: the checkpoint is of another network. {error}") from error


def _shapes(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: getattr(value, "shape", None) for name, value in state.items()}
