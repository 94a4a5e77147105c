"""Count the records that an Avro container file declares.

DuckDB's Avro reader stops without an error at the end of a truncated file and at a damaged block: half of a file came
back as if it were whole. The container declares the records of each block, so a walk over its blocks (by seeks,
without decoding) tells how many rows must come out.

Format: Apache Avro 1.11 specification, "Object Container Files".
"""

from pathlib import Path
from typing import BinaryIO

_MAGIC = b"Obj\x01"
_SYNC_BYTES = 16
_MAX_HEADER_BYTES = 64 * 1024 * 1024


class AvroError(Exception):
    """A file that is not a whole Avro container."""


def count_records(path: Path) -> int:
    """Number of records that the blocks of an Avro container declare.

    Raises:
        AvroError: The file is no Avro container, is truncated, or a block does not end with the sync marker.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise AvroError("not an Avro container file (no magic bytes)")
        _skip_metadata(file)
        sync = _read(file, _SYNC_BYTES)
        records = 0
        while file.tell() < size:
            count, length = _long(file), _long(file)
            if count < 0 or length < 0:
                raise AvroError(f"corrupt Avro block before byte {file.tell()}")
            if file.tell() + length + _SYNC_BYTES > size:
                raise AvroError("truncated Avro file")
            file.seek(length, 1)
            if _read(file, _SYNC_BYTES) != sync:
                raise AvroError(f"corrupt Avro block: no sync marker before byte {file.tell()}")
            records += count
    return records


def _read(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise AvroError("truncated Avro file")
    return data


def _long(file: BinaryIO) -> int:
    """A zig-zag variable-length integer."""
    value = 0
    for shift in range(0, 70, 7):
        byte = _read(file, 1)[0]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1)
    raise AvroError("corrupt Avro file: an integer of more than 64 bits")


def _skip_metadata(file: BinaryIO) -> None:
    while (count := _long(file)) != 0:
        if count < 0:  # a negative count is followed by the block's size
            count = -count
            _long(file)
        for _ in range(2 * count):
            length = _long(file)
            if not 0 <= length <= _MAX_HEADER_BYTES:
                raise AvroError("corrupt Avro header")
            _read(file, length)
