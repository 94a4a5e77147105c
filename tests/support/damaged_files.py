"""Good files of every format, and damage as it happens: bytes flipped, cut, quotes and line ends inserted."""

import io
import json
import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from tests.support.avro_files import container, data, long, record

RECORDS = 12
COLUMNS = ("key", "crc", "amount", "day", "note")


@dataclass(frozen=True)
class Damaged:
    """A file and what is known of it without any reader.

    Attributes:
        name: File name; its suffix tells the format.
        content: The bytes.
        records: Records that it holds whatever its damage, where that is certain.
        keys: Keys of records that are untouched and stand alone, so that they must land.
    """

    name: str
    content: bytes
    records: int | None = None
    keys: frozenset[str] = field(default_factory=frozenset)


def make(seed: int) -> Damaged:
    """The file of a seed: one in ten is undamaged."""
    chance = random.Random(seed)
    kind = chance.choice(("csv", "jsonl", "json", "parquet", "avro"))
    return _MAKERS[kind](seed, chance)


def _rows(seed: int) -> list[tuple[str, int, float, str, str]]:
    keys = [f"k{seed:06}x{row:02}" for row in range(RECORDS)]
    return [
        (k, zlib.crc32(k.encode()), row + 0.25, f"2026-01-{row + 1:02}", f"note {row}") for row, k in enumerate(keys)
    ]


def _csv(seed: int, chance: random.Random) -> Damaged:
    header = list(COLUMNS)
    if chance.random() < 0.1:
        header[chance.randrange(1, 5)] = chance.choice(("Renamed", "_line", "crc32", "x y", "größe"))
    lines = [",".join(header).encode()] + [",".join(map(str, row)).encode() for row in _rows(seed)]
    good = set(lines[1:])
    _damage_lines(lines, chance, (b'"', b"\n", b"\r\n", b",", b"\0", b"\xff", b"\t", b"'"))
    content = b"\n".join(lines) + (b"\n" if chance.random() < 0.5 else b"")
    # The header must be whole for a line to be good, and so must the line: what stands between line ends as it was.
    is_plain = b"\0" not in lines[0] and content.startswith(b"key,")
    physical = [line.removesuffix(b"\r") for line in content.split(b"\n")]
    keys = {line.split(b",")[0].decode() for line in physical if line in good} if is_plain else set()
    whole = header == list(COLUMNS) and physical[0] == ",".join(COLUMNS).encode()
    records = (
        sum(bool(line) for line in physical) - 1 if whole and b'"' not in content and b"\r" not in content else None
    )
    return Damaged(f"{seed:06}.csv", content, records, frozenset(keys) if whole else frozenset())


def _jsonl(seed: int, chance: random.Random) -> Damaged:
    lines = [_object(row, chance).encode() for row in _rows(seed)]
    good = {json.dumps(dict(zip(COLUMNS, row, strict=True))).encode(): row[0] for row in _rows(seed)}
    _damage_lines(
        lines, chance, (b'"', b"\n", b"{", b",", b"\\u0000", b"\\ud800", b"\xff", b"NaN", b"1e999", b"[", b"\\")
    )
    content = b"\n".join(lines)
    physical = content.split(b"\n")
    keys = frozenset(good[line] for line in physical if line in good)
    filled = sum(bool(line.strip(b" \t\r\n")) for line in physical)
    return Damaged(f"{seed:06}.jsonl", content, filled if b"\r" not in content else None, keys)


def _json(seed: int, chance: random.Random) -> Damaged:
    text = ("[" + ",\n".join(_object(row, chance) for row in _rows(seed)) + "]").encode()
    if chance.random() < 0.8:
        text = _flipped(text, chance)
    try:
        parsed = json.loads(text.decode())
    except (ValueError, RecursionError):
        parsed = None
    return Damaged(f"{seed:06}.json", text, len(parsed) if isinstance(parsed, list) and b"\0" not in text else None)


def _object(row: tuple[str, int, float, str, str], chance: random.Random) -> str:
    value = dict(zip(COLUMNS, row, strict=True))
    if chance.random() < 0.02:
        value["amount"] = chance.choice(([1.5], {"x": None}, "x", 10**400, True))
    if chance.random() < 0.02:
        value["more"] = chance.choice((float("nan"), "\ud83d\ude00", [[]], {"a\0": 1}))
    return json.dumps(value)


def _parquet(seed: int, chance: random.Random) -> Damaged:
    columns = list(zip(*_rows(seed), strict=True))
    arrays = {name: pa.array(values) for name, values in zip(COLUMNS, columns, strict=True)}
    if chance.random() < 0.3:
        arrays["amount"] = chance.choice((
            pa.array([*range(RECORDS)], pa.timestamp("ns", "UTC")), pa.array([b"\xff"] * RECORDS),
            pa.array([[1.5, float("nan")]] * RECORDS), pa.array(["x"] * RECORDS),
            pa.array([2**40] * RECORDS, pa.uint64()),
        ))  # fmt: skip
    if chance.random() < 0.1:
        arrays[chance.choice(("file_row_number", "Note", "renamed"))] = arrays.pop("note")
    out = io.BytesIO()
    pq.write_table(
        pa.table(arrays), out, compression=chance.choice(("none", "snappy", "zstd")),
        use_dictionary=chance.random() < 0.5, row_group_size=chance.choice((5, 1000)),
        use_deprecated_int96_timestamps=chance.random() < 0.2,
    )  # fmt: skip
    content = out.getvalue()
    if chance.random() < 0.8:
        return Damaged(f"{seed:06}.parquet", _flipped(content, chance))
    return Damaged(f"{seed:06}.parquet", content, RECORDS)


def _avro(seed: int, chance: random.Random) -> Damaged:
    cents = {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}
    exact = chance.random() < 0.5
    note = chance.choice(("string", ["null", "string"], ["string", "long"]))
    schema = record(
        ("key", "string"), ("crc", "long"), ("amount", cents if exact else "double"), ("day", "string"), ("note", note)
    )
    branch = {"string": b""}.get(note if isinstance(note, str) else "", long(1) if "null" in note else long(0))
    rows = [
        data(key.encode()) + long(crc)
        + (data(int(amount * 100).to_bytes(3, "big", signed=True)) if exact else struct.pack("<d", amount))
        + data(day.encode()) + branch + data(text.encode())
        for key, crc, amount, day, text in _rows(seed)
    ]  # fmt: skip
    content = container(schema, rows, codec=chance.choice(("null", "deflate")), per_block=chance.choice((4, 100)))
    if chance.random() < 0.8:
        return Damaged(f"{seed:06}.avro", _flipped(content, chance))
    return Damaged(f"{seed:06}.avro", content, RECORDS)


def _damage_lines(lines: list[bytes], chance: random.Random, inserted: tuple[bytes, ...]) -> None:
    """Damages some lines, seldom the first; nine files in ten have one at least."""
    for _ in range(chance.choice((0, 1, 1, 1, 2, 3))):
        at = chance.randrange(1, len(lines)) if chance.random() < 0.9 else 0
        line, place = lines[at], chance.randrange(len(lines[at]) + 1)
        lines[at] = {
            0: lambda line=line, place=place: line[:place],
            1: lambda line=line, place=place: line[:place] + chance.choice(inserted) + line[place:],
            2: lambda line=line, place=place: line[:place] + bytes([chance.randrange(256)]) + line[place + 1 :],
        }[chance.choice((0, 1, 1, 1, 2))]()


def _flipped(content: bytes, chance: random.Random) -> bytes:
    """Bytes flipped, set, replaced, cut out, doubled, or the end cut off."""
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 5))):
        at = chance.randrange(len(changed))
        what = chance.randrange(6)
        if what == 0:
            changed[at] ^= 1 << chance.randrange(8)
        elif what == 1:
            changed[at] = chance.choice((0, 1, 127, 128, 255))
        elif what == 2:
            changed[at : at + 4] = bytes(chance.randrange(256) for _ in range(4))
        elif what == 3:
            del changed[at : at + chance.randrange(1, 9)]
        elif what == 4:
            changed[at:at] = changed[at : at + 8]
        elif chance.random() < 0.3:
            del changed[max(at, 1) :]
    return bytes(changed) or b"x"


_MAKERS: dict[str, Callable[[int, random.Random], Damaged]] = {
    "csv": _csv,
    "jsonl": _jsonl,
    "json": _json,
    "parquet": _parquet,
    "avro": _avro,
}
