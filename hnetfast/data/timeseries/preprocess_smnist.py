"""Makes the file of :mod:`hnetfast.data.timeseries.smnist_data` out of the text files that are published.

Download https://github.com/edwin-de-jong/mnist-digits-stroke-sequence-data, extract its archive and run::

    python -m hnetfast.data.timeseries.preprocess_smnist --source FOLDER --data_path DATA_PATH
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hnetfast._errors import InputError
from hnetfast.data._text import read_text
from hnetfast.data.timeseries._recordings import MissingRecordingsError, recordings_path, write_recordings
from hnetfast.data.timeseries._strokes import FILE, NUM_DIGITS, PAGE, check_strokes

__all__ = ["main", "read_part"]


def read_part(folder: str | Path, part: str) -> dict[str, np.ndarray]:
    """Read the strokes of training or of test digits.

    Args:
        folder: The folder of ``trainimg-0-inputdata.txt``, ``trainimg-0-targetdata.txt`` and so on. Any
            number of digits may be there, from 0 on.
        part: "train" or "test".

    Returns:
        ``steps`` int16 ``[S, 4]``, those of all digits one after the other, ``lengths`` int32 ``[n]`` and
        ``labels`` uint8 ``[n]``.

    Raises:
        FileNotFoundError: If files are missing.
        ValueError: If one holds something else.
    """
    folder = Path(folder)
    pattern = re.compile(rf"{part}img-(\d+)-inputdata\.txt")
    found = [pattern.fullmatch(path.name) for path in folder.iterdir()] if folder.is_dir() else []
    numbers = {int(match[1]) for match in found if match}
    missing = next((i for i in range(max(numbers, default=0) + 1) if i not in numbers), None)
    if missing is not None:
        raise _missing(folder / f"{part}img-{missing}-inputdata.txt")
    steps, labels = [], np.zeros(len(numbers), dtype=np.uint8)
    for i in range(len(numbers)):
        path = folder / f"{part}img-{i}-inputdata.txt"
        steps.append(_read_rows(path, 4))
        labels[i] = _read_label(folder / f"{part}img-{i}-targetdata.txt")
        check_strokes(path, steps[-1], np.array([len(steps[-1])]), labels[i : i + 1])
    lengths = np.array([len(digit) for digit in steps], dtype=np.int32)
    return {"steps": np.concatenate(steps), "lengths": lengths, "labels": labels}


def main(argv: Sequence[str] | None = None) -> None:
    """Make the file.

    Args:
        argv: Arguments of the command line, by default those of this process.
    """
    parser = argparse.ArgumentParser(prog="preprocess_smnist", description="Makes the file of stroke MNIST.")
    parser.add_argument("--source", required=True, help="folder of trainimg-0-inputdata.txt and so on")
    parser.add_argument("--data_path", required=True, help="folder of all data sets, as given to SMNISTData")
    arguments = parser.parse_args(argv)
    source = Path(arguments.source)
    if (source / "sequences").is_dir():
        source /= "sequences"
    train, test = (read_part(source, part) for part in ("train", "test"))
    arrays = {name: np.concatenate([train[name], test[name]]) for name in train}
    path = recordings_path(arguments.data_path, FILE)
    write_recordings(path, {**arrays, "num_train": np.array(len(train["labels"]))})
    print(f"{path}: {len(train['labels'])} training and {len(test['labels'])} test digits")


def _read_rows(path: Path, num_columns: int) -> np.ndarray:
    try:
        numbers = np.array(read_text(path).split(), dtype=np.int16)
        return numbers.reshape(-1, num_columns)
    except FileNotFoundError:
        raise _missing(path) from None
    except (ValueError, OverflowError) as error:
        raise InputError(f"{path}: lines of {num_columns} small integers are expected ({error})") from None


def _read_label(path: Path) -> int:
    rows = _read_rows(path, NUM_DIGITS + 4)[:, :NUM_DIGITS]
    if len(rows) == 0 or not np.array_equal(np.sort(rows[0]), np.arange(NUM_DIGITS) == NUM_DIGITS - 1):
        raise InputError(f"{path}: lines that begin with a one-hot encoded digit are expected")
    return int(rows[0].argmax())


def _missing(path: Path) -> MissingRecordingsError:
    return MissingRecordingsError(f"{path}: not found. Download {PAGE} and extract its archive")


if __name__ == "__main__":
    main()
