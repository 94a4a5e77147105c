"""Avro container files written byte by byte from the specification, independent of any reader or writer."""

import json
import zlib
from collections.abc import Iterable

SYNC = b"0123456789abcdef"


def long(value: int) -> bytes:
    value = ((value << 1) ^ (value >> 63)) & (2**64 - 1)
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def data(value: bytes) -> bytes:
    return long(len(value)) + value


def container(schema: object, records: Iterable[bytes], *, codec: str = "null", per_block: int = 1000) -> bytes:
    """A file of records that are encoded already."""
    out = b"Obj\x01" + long(2) + data(b"avro.schema") + data(json.dumps(schema).encode())
    out += data(b"avro.codec") + data(codec.encode()) + long(0) + SYNC
    rows = list(records)
    for start in range(0, len(rows), per_block):
        part = rows[start : start + per_block]
        block = b"".join(part)
        if codec == "deflate":
            packer = zlib.compressobj(wbits=-15)
            block = packer.compress(block) + packer.flush()
        out += long(len(part)) + data(block) + SYNC
    return out


def record(*fields: tuple[str, object]) -> dict[str, object]:
    return {"type": "record", "name": "row", "fields": [{"name": name, "type": kind} for name, kind in fields]}
