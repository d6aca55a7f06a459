"""Makes the file of :mod:`hnetfast.data.timeseries.audioset_data` out of AudioSet's records.

Download the features from https://research.google.com/audioset/download.html, extract them, and run::

    python -m hnetfast.data.timeseries.preprocess_audioset --source FOLDER --data_path DATA_PATH

TensorFlow is not needed. Clips are taken that have one label only and ten time steps. Of their classes the
100 with the most clips are kept, and of each at most 800 clips for training and 200 more for testing, drawn
at random. With ``--ontology``, classes that others belong to or that the ontology restricts are left out;
with ``--quality``, classes whose labels are right less often.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hnetfast._errors import InputError
from hnetfast.data._arguments import check_count
from hnetfast.data._text import read_text
from hnetfast.data.timeseries._recordings import MissingRecordingsError, recordings_path, write_recordings
from hnetfast.data.timeseries._tfrecord import parse_sequence_example, read_records
from hnetfast.data.timeseries.audioset_data import FILE, NUM_CLASSES, PAGE

__all__ = ["choose_clips", "main", "read_clips"]

NUM_STEPS, NUM_FEATURES = 10, 128


def read_clips(folder: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Read all clips that have one label and ten time steps.

    Args:
        folder: Folder of files ``*.tfrecord``, in folders of their own or not.

    Returns:
        Embeddings uint8 ``[n, 10 * 128]`` and labels, integers ``[n]``.

    Raises:
        FileNotFoundError: If there are none.
        ValueError: If a file is truncated, corrupt or of another kind.
    """
    paths = sorted(Path(folder).rglob("*.tfrecord"))
    if not paths:
        raise MissingRecordingsError(f"{folder}: no files *.tfrecord. Download the features from {PAGE}")
    clips = [clip for path in paths for clip in _clips_of(path)]
    labels = np.array([label for _, label in clips], dtype=np.int64)
    inputs = np.frombuffer(b"".join(steps for steps, _ in clips), dtype=np.uint8)
    return inputs.reshape(len(clips), NUM_STEPS * NUM_FEATURES), labels


def choose_clips(
    labels: np.ndarray, num_classes: int, train_per_class: int, test_per_class: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Choose classes, and clips of each.

    Args:
        labels: The label of every clip, integers ``[n]``.
        num_classes: How many classes to keep: those with the most clips.
        train_per_class: How many clips of each are for training, at most.
        test_per_class: How many of the remaining ones are for testing, at most.
        seed: Seed of the order in which they are taken.

    Returns:
        Which clips are for training and for testing, integers ``[m]`` and ``[k]``, and the kept labels in
        ascending order.

    Raises:
        ValueError: If there are fewer classes.
    """
    found, counts = np.unique(labels, return_counts=True)
    if len(found) < num_classes:
        raise InputError(
            f"num_classes: expected at most {len(found)}, those that clips have, got {num_classes}"
        )
    kept = np.sort(found[np.argsort(-counts, kind="stable")[:num_classes]])
    random = np.random.RandomState(seed)
    train, test = [], []
    for label in kept:
        rows = np.flatnonzero(labels == label)
        order = np.arange(len(rows))
        random.shuffle(order)
        train.append(rows[order[:train_per_class]])
        test.append(rows[order[train_per_class : train_per_class + test_per_class]])
    return np.concatenate(train), np.concatenate(test), kept


def main(argv: Sequence[str] | None = None) -> None:
    """Make the file.

    Args:
        argv: Arguments of the command line, by default those of this process.
    """
    parser = argparse.ArgumentParser(prog="preprocess_audioset", description="Makes the file of AudioSet.")
    parser.add_argument(
        "--source", required=True, help="folder of files *.tfrecord, e.g. audioset_v1_embeddings"
    )
    parser.add_argument(
        "--data_path", required=True, help="folder of all data sets, as given to AudiosetData"
    )
    parser.add_argument("--labels", help="class_labels_indices.csv, needed with --ontology and --quality")
    parser.add_argument("--ontology", help="ontology.json")
    parser.add_argument(
        "--quality", help="text file with a class and a percentage, e.g. 'Speech 100%%', a line"
    )
    parser.add_argument("--min_quality", type=int, default=70, help="percentage that a class must have")
    parser.add_argument("--num_classes", type=int, default=NUM_CLASSES)
    parser.add_argument("--train_per_class", type=int, default=800)
    parser.add_argument("--test_per_class", type=int, default=200)
    parser.add_argument("--seed", type=int, default=42)
    arguments = parser.parse_args(argv)
    check_count("num_classes", arguments.num_classes, 1, NUM_CLASSES)
    for name in ("train_per_class", "test_per_class"):
        check_count(name, getattr(arguments, name), 1)
    allowed = _allowed_labels(arguments)
    inputs, labels = read_clips(arguments.source)
    if allowed is not None:
        keep = np.isin(labels, allowed)
        inputs, labels = inputs[keep], labels[keep]
    train, test, kept = choose_clips(
        labels, arguments.num_classes, arguments.train_per_class, arguments.test_per_class, arguments.seed
    )
    rows = np.concatenate([train, test])
    path = recordings_path(arguments.data_path, FILE)
    write_recordings(
        path,
        {
            "inputs": inputs[rows],
            "num_steps": np.array(NUM_STEPS),
            "labels": np.searchsorted(kept, labels[rows]),
            "source_labels": kept,
            "train_inds": np.arange(len(train)),
            "test_inds": np.arange(len(train), len(rows)),
        },
    )
    print(f"{path}: {len(train)} training and {len(test)} test clips of {len(kept)} classes")


def _clips_of(path: Path) -> Iterator[tuple[bytes, int]]:
    for i, record in enumerate(read_records(path)):
        try:
            context, steps = parse_sequence_example(record)
        except (InputError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: record {i} is no SequenceExample ({error})") from error
        labels, features = context.get("labels", []), steps.get("audio_embedding")
        if features is None or not all(isinstance(label, int) for label in labels):
            raise InputError(f"{path}: record {i} has no audio_embedding, or labels that are no integers")
        embedding = b"".join(part for step in features for part in step if isinstance(part, bytes))
        if len(embedding) != NUM_FEATURES * len(features):
            raise InputError(f"{path}: {NUM_FEATURES} bytes a time step are expected in record {i}")
        if len(labels) == 1 and len(features) == NUM_STEPS:
            yield embedding, labels[0]


def _allowed_labels(arguments: Any) -> list[int] | None:
    """Return the labels that ontology and quality allow, None if all are."""
    if arguments.ontology is None and arguments.quality is None:
        return None
    if arguments.labels is None:
        raise InputError("labels: class_labels_indices.csv is needed with --ontology and --quality, got none")
    text = _text(arguments.labels)
    try:
        rows = list(csv.DictReader(io.StringIO(text)))
        index_of = {row["display_name"]: int(row["index"]) for row in rows}
    except (csv.Error, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{arguments.labels}: columns index and display_name are expected ({error})"
        ) from error
    names = set(index_of)
    if arguments.ontology is not None:
        text = _text(arguments.ontology)
        try:
            entries = json.loads(text)
            names -= {entry["name"] for entry in entries if entry["child_ids"] or entry["restrictions"]}
        except (KeyError, RecursionError, TypeError, ValueError) as error:
            raise InputError(f"{arguments.ontology}: AudioSet's ontology is expected ({error})") from error
    if arguments.quality is not None:
        names &= _good_names(arguments.quality, arguments.min_quality)
    return [index_of[name] for name in names]


def _good_names(path: str, min_quality: int) -> set[str]:
    names = set()
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        name, _, quality = line.strip().rpartition(" ")
        if not quality.endswith("%") or not quality[:-1].isdecimal():
            raise InputError(f"{path}, line {number}: a class and a percentage are expected")
        if int(quality[:-1]) >= min_quality:
            names.add(name.strip())
    return names


def _text(path: str) -> str:
    try:
        return read_text(path)
    except FileNotFoundError:
        raise MissingRecordingsError(f"{path}: not found. Download it from {PAGE}") from None


if __name__ == "__main__":
    main()
