"""Benchmark `memory`: the peak memory of an ingest beside the memory limit, for one large file of each format."""

import gzip
import json
import os
import sys
from collections.abc import Callable, Iterator
from datetime import date
from itertools import islice
from pathlib import Path

import pandera.polars as pa
import polars as pl
import pyarrow
from pyarrow import parquet

from benchmarks import measure
from benchmarks.report import Result, Target
from pipeline_assets.ingest.files import ingest as landing
from pipeline_assets.ingest.files.ingest import LandingSource
from pipeline_assets.ingest.files.path_pattern import PathPattern
from pipeline_assets.lake import Lake

_DAY = date(2026, 1, 5)
_LIMIT_MB = 1_000
_MOST = 1.3
_NOTE = "a note of some length, with commas; no two of which are alike"
_DAMAGED = 500_000
_BATCH_ROWS = 50_000


class Orders(pa.DataFrameModel):
    """An order."""

    order_id: pl.Int64
    customer: pl.String
    amount: pl.Float64
    ordered_at: pl.Datetime
    note: pl.String = pa.Field(nullable=True)


def _csv(at: int) -> str:
    note = f'"{_NOTE}, {at * 7919 % 1_000_003}"'
    return f"{at},customer {at % 99_991},{at % 9_973}.{at % 100:02d},2026-01-05 {at % 24:02d}:{at % 60:02d}:00,{note}\n"


def _json(at: int) -> str:
    record = f'"order_id": {at}, "customer": "customer {at % 99_991}", "amount": {at % 9_973}.{at % 90 + 10}'
    note = f"{_NOTE}, {at * 7919 % 1_000_003}"
    return f'{{{record}, "ordered_at": "2026-01-05 {at % 24:02d}:{at % 60:02d}:00", "note": "{note}"}}\n'


def _lines(line: Callable[[int], str], megabytes: float, *, header: str = "") -> Iterator[bytes]:
    """Yields chunks of lines, in all as many megabytes."""
    yield header.encode()
    size, at = 0, 0
    while size < megabytes * 1e6:
        chunk = "".join(map(line, range(at, at + _BATCH_ROWS))).encode()
        yield chunk
        size, at = size + len(chunk), at + _BATCH_ROWS


def _damaged(good: Callable[[int], str], bad: Callable[[int], str], number: int, header: str = "") -> Iterator[bytes]:
    """Yields chunks of lines, of which every second is damaged."""
    yield header.encode()
    lines = ((bad if at % 2 else good)(at) for at in range(2 * number))
    while chunk := "".join(islice(lines, _BATCH_ROWS)):
        yield chunk.encode()


_HEADER = "order_id,customer,amount,ordered_at,note\n"


def _write(path: Path, chunks: Iterator[bytes]) -> None:
    with path.open("wb") as file:
        file.writelines(chunks)


def _write_gzip(path: Path, chunks: Iterator[bytes]) -> None:
    with gzip.open(path, "wb", 1) as file:
        file.writelines(chunks)


def _write_parquet(path: Path, megabytes: float) -> None:
    """Writes rows whose notes do not compress, so that the file is as large as they are."""
    schema = pyarrow.schema({"order_id": "int64", "customer": "string", "amount": "double", "note": "string"})
    schema = schema.append(pyarrow.field("ordered_at", pyarrow.timestamp("us")))
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        size = at = 0
        while size < megabytes * 1e6:
            rows = range(at, at + _BATCH_ROWS)
            noise = os.urandom(_BATCH_ROWS * 64).hex()
            columns = {
                "order_id": list(rows),
                "customer": [f"customer {row % 99_991}" for row in rows],
                "amount": [row / 7 for row in rows],
                "note": [noise[128 * row : 128 * row + 128] for row in range(_BATCH_ROWS)],
                "ordered_at": [1_767_571_200_000_000 + row for row in rows],
            }
            writer.write_table(pyarrow.table(columns, schema), row_group_size=1_000_000)
            size, at = size + _BATCH_ROWS * (64 + 20), at + _BATCH_ROWS


def _write_avro(path: Path, megabytes: float) -> None:
    """Writes records that Python decodes, because one field is a union of two types."""
    fields = [
        {"name": "order_id", "type": ["long", "string"]},
        *({"name": name, "type": "string"} for name in ("customer", "amount", "ordered_at", "note")),
    ]
    schema = json.dumps({"type": "record", "name": "order", "fields": fields}).encode()
    sync = b"0123456789abcdef"
    with path.open("wb") as file:
        file.write(b"Obj\x01" + _long(1) + _text("avro.schema") + _long(len(schema)) + schema + _long(0) + sync)
        size = at = 0
        while size < megabytes * 1e6:
            records = []
            for row in range(at, at + 1_000):
                texts = (f"customer {row % 99_991}", f"{row % 9_973}.5", "2026-01-05 10:00:00", f"{_NOTE} {row}")
                records.append(_long(0) + _long(row) + b"".join(map(_text, texts)))
            data = b"".join(records)
            file.write(_long(len(records)) + _long(len(data)) + data + sync)
            size, at = size + len(data), at + 1_000


def _long(value: int) -> bytes:
    value, out = value << 1, bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _text(value: str) -> bytes:
    return _long(len(value.encode())) + value.encode()


def _cut_csv(at: int) -> str:
    return f'{at},customer {at % 99_991},"12.50,2026-01-05 10:00:00,{_NOTE}\n' if at % 4 == 1 else f"{at},cut off\n"


def _cut_json(at: int) -> str:
    return _json(at)[:-20] + "\n"


FILES: dict[str, tuple[str, Callable[[Path, float], None]]] = {
    "CSV, 2 GB": ("a.csv", lambda path, scale: _write(path, _lines(_csv, 2000 * scale, header=_HEADER))),
    "CSV in gzip, 1 GB unpacked": (
        "a.csv.gz",
        lambda path, scale: _write_gzip(path, _lines(_csv, 1000 * scale, header=_HEADER)),
    ),
    "CSV, 500,000 damaged lines": (
        "a.csv",
        lambda path, scale: _write(path, _damaged(_csv, _cut_csv, int(_DAMAGED * scale), _HEADER)),
    ),
    "JSON Lines, 1 GB": ("a.jsonl", lambda path, scale: _write(path, _lines(_json, 1000 * scale))),
    "JSON Lines, 500,000 damaged": (
        "a.jsonl",
        lambda path, scale: _write(path, _damaged(_json, _cut_json, int(_DAMAGED * scale))),
    ),
    "Parquet, 1 GB": ("a.parquet", lambda path, scale: _write_parquet(path, 1000 * scale)),
    "Avro decoded in Python, 100 MB": ("a.avro", lambda path, scale: _write_avro(path, 100 * scale)),
}


def run(folder: Path, scale: float = 1) -> Result:
    """Ingests one file after the other, each in a process of its own.

    Args:
        folder: For the files; each is deleted when it was read.
        scale: Share of the sizes to make.
    """
    found: dict[str, dict[str, float]] = {}
    for number, (title, (name, write)) in enumerate(FILES.items()):
        found[title] = _measured(folder / str(number), name, write, scale)
    worst = max(found, key=lambda title: found[title]["peak_mb"])
    return Result(
        "memory",
        f"peak memory of an ingest at a memory limit of {_LIMIT_MB} MB",
        ["", "MB on disk", "peak MB", "of the limit", "CPU s", "rows", "dead letters"],
        [
            [
                title,
                facts["file_mb"],
                facts["peak_mb"],
                facts["peak_mb"] / _LIMIT_MB,
                facts["cpu_seconds"],
                f"{facts['rows']:,}",
                f"{facts['dead_letters']:,}",
            ]
            for title, facts in found.items()
        ],
        [Target(f"peak memory / limit, {worst}", found[worst]["peak_mb"] / _LIMIT_MB, _MOST)],
        ["Resident memory at its highest (VmHWM), the interpreter and all libraries included; MB of 1,000,000 bytes."],
        {"files": found},
    )


def _measured(folder: Path, name: str, write: Callable[[Path, float], None], scale: float) -> dict[str, float]:
    path = folder / "landing" / "orders" / _DAY.isoformat() / name
    path.parent.mkdir(parents=True)
    write(path, scale)
    facts = folder / "facts.json"
    usage = measure.run([sys.executable, "-m", "benchmarks.memory", str(folder), str(facts)], {})
    size = path.stat().st_size
    path.unlink()
    return {**json.loads(facts.read_text()), "file_mb": size / 1e6, "cpu_seconds": usage.cpu_seconds}


def _ingest(folder: Path) -> dict[str, float]:
    """Reads the files of one folder; gives the counts, and the highest resident memory of this process."""
    lake = Lake(str(folder / "lake"))
    source = LandingSource("bench__orders", PathPattern.parse("orders/{date}/*"), Orders)
    with lake.connect(memory_limit=f"{_LIMIT_MB}MB") as con:
        before = _megabytes("VmRSS")
        report = landing.ingest(lake, con, source, folder / "landing", _DAY, _DAY, settle_seconds=0)
    counts = report.total
    return {
        "before_mb": before,
        "peak_mb": _megabytes("VmHWM"),
        "rows": counts.rows,
        "dead_letters": counts.dead_letters,
    }


def _megabytes(what: str) -> float:
    """Resident memory of this process."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[what].split()[0]) * 1024 / 1e6


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(_ingest(Path(sys.argv[1]))))
