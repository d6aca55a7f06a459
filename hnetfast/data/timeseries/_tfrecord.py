"""Reading TensorFlow's files of records without TensorFlow.

A record is its length, eight bytes, a check sum of these, the bytes and a check sum of them:
https://www.tensorflow.org/tutorials/load_data/tfrecord. Those of AudioSet are messages ``SequenceExample``,
see ``tensorflow/core/example/example.proto``, in the wire format of protocol buffers:
https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from hnetfast._errors import InputError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def read_records(path: str | Path) -> list[bytes]:
    """Return the records of a file, after their check sums were found to be right.

    Args:
        path: The file.

    Raises:
        ValueError: If it is truncated or corrupt.
    """
    content = Path(path).read_bytes()
    lengths, records, sums = [], [], []
    position = 0
    while position < len(content):
        header = content[position : position + 12]
        length = int.from_bytes(header[:8], "little")
        end = position + 16 + length
        if len(header) < 12 or end > len(content):
            raise InputError(f"{path}: record {len(records)} is truncated; fetch the file again")
        lengths.append(header[:8])
        records.append(content[position + 12 : end - 4])
        sums.append((header[8:], content[end - 4 : end]))
        position = end
    for parts, which in ((lengths, 0), (records, 1)):
        expected = np.frombuffer(b"".join(pair[which] for pair in sums), dtype="<u4")
        wrong = np.flatnonzero(masked_crc32c(parts) != expected)
        if len(wrong):
            raise InputError(f"{path}: the check sum of record {wrong[0]} is wrong; fetch the file again")
    return records


def parse_sequence_example(record: bytes) -> tuple[dict[str, list], dict[str, list[list]]]:
    """Parse a record.

    Args:
        record: The message.

    Returns:
        The features of the whole sequence, and for others the feature of each time step. A feature is a list
        of bytes, floats or integers.

    Raises:
        ValueError: If it is no such message.
    """
    context, steps = {}, {}
    for number, value in _fields(record):
        for _, entry in _fields(value) if number in (1, 2) else ():
            pair = dict(_fields(entry))
            name, content = pair.get(1), pair.get(2)
            if not isinstance(name, bytes) or not isinstance(content, bytes):
                raise InputError("a feature with a name is expected")
            if number == 1:
                context[name.decode()] = _feature(content)
            else:
                steps[name.decode()] = [_feature(step) for _, step in _fields(content)]
    return context, steps


def masked_crc32c(parts: Sequence[bytes]) -> np.ndarray:
    """Return the check sum of each of several byte strings.

    Args:
        parts: The byte strings.

    Returns:
        uint32 ``[n]``: CRC-32C, rotated and shifted as records have it.
    """
    crc = np.empty(len(parts), dtype=np.uint32)
    sizes = np.array([len(part).bit_length() for part in parts], dtype=np.int64)
    for size in np.unique(sizes):  # similar lengths together, so that padding is never longer than they are
        chosen = np.flatnonzero(sizes == size)
        crc[chosen] = _crc32c([parts[int(i)] for i in chosen])
    return (crc >> np.uint32(15) | crc << np.uint32(17)) + np.uint32(0xA282EAD8)


def _crc32c(parts: Sequence[bytes]) -> np.ndarray:
    lengths = np.array([len(part) for part in parts], dtype=np.int64)
    width = int(lengths.max(initial=0))
    # All at once, column by column, aligned at the right end: a sum begins where its bytes do.
    padded = np.zeros((len(parts), width), dtype=np.uint8)
    for row, part in zip(padded, parts, strict=True):
        row[width - len(part) :] = np.frombuffer(part, dtype=np.uint8)
    crc = np.full(len(parts), 0xFFFFFFFF, dtype=np.uint32)
    for left, column in zip(range(width, 0, -1), np.ascontiguousarray(padded.T), strict=True):
        crc[lengths == left] = 0xFFFFFFFF
        crc = _crc32c_table()[(crc ^ column) & 0xFF] ^ (crc >> np.uint32(8))
    crc[lengths == 0] = 0xFFFFFFFF
    return ~crc


@cache
def _crc32c_table() -> np.ndarray:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> np.uint32(1)) ^ (table & np.uint32(1)) * np.uint32(0x82F63B78)
    return table


def _fields(message: int | bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield number and value of each field of a message: an integer, or bytes."""
    if isinstance(message, int):
        raise InputError("a message is expected, found an integer")
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        kind = key & 7
        if kind == _VARINT:
            value, position = _varint(message, position)
        else:
            if kind == _BYTES:
                length, position = _varint(message, position)
            elif kind in (_FIXED64, _FIXED32):
                length = 8 if kind == _FIXED64 else 4
            else:
                raise InputError(f"a field of type {kind} is not known")
            value = message[position : position + length]
            if len(value) < length:
                raise InputError("a field is truncated")
            position += length
        yield key >> 3, value


def _varint(message: bytes, position: int) -> tuple[int, int]:
    """Return an integer of variable length and the position after it."""
    value = shift = 0
    while shift < 70:
        if position >= len(message):
            raise InputError("an integer is truncated")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise InputError("an integer is too long")


def _feature(message: int | bytes) -> list:
    values: list = []
    for kind, entries in _fields(message):
        for _, entry in _fields(entries):
            if kind == 3 and isinstance(entry, int):
                values.append(_signed(entry))
            elif kind == 3 and isinstance(entry, bytes):
                position = 0
                while position < len(entry):
                    value, position = _varint(entry, position)
                    values.append(_signed(value))
            elif kind == 2 and isinstance(entry, bytes) and len(entry) % 4 == 0:
                values += np.frombuffer(entry, dtype="<f4").tolist()
            elif kind == 1 and isinstance(entry, bytes):
                values.append(entry)
            else:
                raise InputError("bytes, floats or integers are expected")
    return values


def _signed(value: int) -> int:
    value &= (1 << 64) - 1  # as protocol buffers do with more bits
    return value - (1 << 64) if value >= 1 << 63 else value
