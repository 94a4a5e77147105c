"""Reads Avro container files block by block: header, codec, and the records that each block declares.

DuckDB's Avro reader stops without an error at the end of a truncated file and at a damaged block: half of a file came
back as if it were complete. The container declares the records of each block, so a walk over its blocks (by seeks,
without decoding) tells how many rows must come out. `avro_values` knows what the bytes of a block mean.

Format: Apache Avro 1.12 specification, "Object Container Files".
"""

import bz2
import json
import lzma
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

Schema = str | list[Any] | dict[str, Any]

MAX_BLOCK_BYTES = 128 * 1024 * 1024
"""Limit of an unpacked block that is decoded here. Writers cut blocks at 16 KiB to 1 MiB."""

_MAGIC = b"Obj\x01"
_SYNC_BYTES = 16
_MAX_HEADER_BYTES = 64 * 1024 * 1024


class AvroError(Exception):
    """A file is not a complete Avro container."""


@dataclass(frozen=True)
class Container:
    """A complete container file.

    Attributes:
        schema: The schema that its writer declared.
        codec: How its blocks are packed.
        start: Where the first block begins.
        records: Number of records that its blocks declare.
    """

    schema: Schema
    codec: str
    start: int
    records: int


def count_records(path: Path) -> int:
    """Return the number of records that the blocks of an Avro container declare.

    Raises:
        AvroError: The file is not an Avro container, is truncated, or a block does not end with the sync marker.
    """
    return _walk(path)[2]


def read_container(path: Path) -> Container:
    """Read the header of an Avro container, and walk over its blocks.

    Raises:
        AvroError: As `count_records`, or the header has no schema.
    """
    metadata, start, records = _walk(path)
    try:
        schema = json.loads(metadata[b"avro.schema"])
        codec = metadata.get(b"avro.codec", b"null").decode()
    except (KeyError, ValueError, RecursionError) as error:
        raise AvroError("corrupt Avro header: no schema can be read") from error
    return Container(schema, codec, start, records)


def blocks(path: Path, container: Container) -> Iterator[tuple[int, bytes]]:
    """Yield the number of records and the unpacked bytes of each block.

    Raises:
        AvroError: A block cannot be unpacked, or is longer than `MAX_BLOCK_BYTES`.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(container.start)
        while file.tell() < size:
            count, length = _long(file), _long(file)
            if length > MAX_BLOCK_BYTES:
                raise AvroError(f"an Avro block of more than {MAX_BLOCK_BYTES} bytes")
            data = _unpacked(container.codec, _read(file, length))
            if len(data) > MAX_BLOCK_BYTES:
                raise AvroError(f"an Avro block of more than {MAX_BLOCK_BYTES} bytes when unpacked")
            yield count, data
            file.seek(_SYNC_BYTES, 1)


def _unpacked(codec: str, data: bytes) -> bytes:
    """Unpack the bytes of a block; return at most one byte more than `MAX_BLOCK_BYTES`."""
    most = MAX_BLOCK_BYTES + 1
    try:
        if codec == "null":
            return data
        if codec == "deflate":
            return zlib.decompressobj(wbits=-15).decompress(data, most)
        if codec == "snappy":
            return _unsnapped(data)
        if codec in ("zstandard", "zstd"):
            with pa.CompressedInputStream(pa.BufferReader(data), "zstd") as stream:
                return bytes(stream.read(most))
        if codec == "bzip2":
            return bz2.BZ2Decompressor().decompress(data, most)
        if codec == "xz":
            return lzma.LZMADecompressor().decompress(data, most)
    except (zlib.error, lzma.LZMAError, OSError, EOFError, pa.ArrowException) as error:
        raise AvroError(f"corrupt Avro block: it cannot be unpacked ({codec})") from error
    raise AvroError(f"Avro codec {codec!r} is not known; write null, deflate, snappy, zstandard, bzip2 or xz")


def _unsnapped(data: bytes) -> bytes:
    """Unpack Snappy, whose preamble holds the size; Avro appends the CRC-32 of the unpacked bytes."""
    size = shift = 0
    for byte in data[:5]:
        size |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    if size > MAX_BLOCK_BYTES:
        raise AvroError(f"an Avro block of more than {MAX_BLOCK_BYTES} bytes when unpacked")
    unpacked = bytes(pa.Codec("snappy").decompress(data[:-4], decompressed_size=size, asbytes=True))
    if zlib.crc32(unpacked) != int.from_bytes(data[-4:], "big"):
        raise AvroError("corrupt Avro block: its checksum is wrong")
    return unpacked


def _walk(path: Path) -> tuple[dict[bytes, bytes], int, int]:
    """Return the metadata, the place of the first block, and the number of records."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise AvroError("not an Avro container file (no magic bytes)")
        metadata = _metadata(file)
        sync = _read(file, _SYNC_BYTES)
        start, records = file.tell(), 0
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
    return metadata, start, records


def _read(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise AvroError("truncated Avro file")
    return data


def _long(file: BinaryIO) -> int:
    """Read a zig-zag variable-length integer."""
    value = 0
    for shift in range(0, 70, 7):
        byte = _read(file, 1)[0]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1)
    raise AvroError("corrupt Avro file: an integer of more than 64 bits")


def _metadata(file: BinaryIO) -> dict[bytes, bytes]:
    found = {}
    while (count := _long(file)) != 0:
        if count < 0:  # a negative count is followed by the block's size
            count = -count
            _long(file)
        for _ in range(count):
            key = _bytes(file)
            found[key] = _bytes(file)
    return found


def _bytes(file: BinaryIO) -> bytes:
    length = _long(file)
    if not 0 <= length <= _MAX_HEADER_BYTES:
        raise AvroError("corrupt Avro header")
    return _read(file, length)
