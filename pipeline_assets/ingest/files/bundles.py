"""Many small text files are read as one: a step that costs 10 ms for each file then costs 10 ms for a thousand files.

The bytes of small files of one day, format and header are put behind each other, and read by the one reader of all
files. The line that a record starts on gives the record its file. A bundle gives no row unless its counts are proved: a
record may have run across the end of a file, or may have been refused where quotes decide what a record is. Such a
bundle is halved, down to single files. So the outcome of a file never depends on its neighbours.

Nothing is committed here.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import accumulate
from pathlib import Path
from uuid import uuid4

import duckdb
import pyarrow as pa

from pipeline_assets.contracts.base import RawColumn, RawShape
from pipeline_assets.ingest.batch.bronze_table import dead_letters_sql, rows_sql
from pipeline_assets.ingest.batch.dead_letter_buffer import DeadLetterBuffer
from pipeline_assets.ingest.conform.conform import conform_sql, match_fields
from pipeline_assets.ingest.files.content import HEAD_BYTES, Content, read_content
from pipeline_assets.ingest.files.formats.open_records import UnreadableFile, open_records, resolve_format
from pipeline_assets.ingest.files.formats.records import Outcome
from pipeline_assets.ingest.files.plan import Delivery, extracted_at, identity
from pipeline_assets.ingest.files.read_file import FileReader, Landed, rejects_table
from pipeline_assets.ingest.files.unread import Cause, cause_of
from pipeline_assets.lake import DataFile, StorageError, Table, faults
from pipeline_assets.sql import quote_text

_MOST_BYTES = HEAD_BYTES // 4  # of a file: a larger file deserves its own pass
_BUNDLE_BYTES, _BUNDLE_FILES = 16 * 1024 * 1024, 1_000
_HELD_BYTES = 4 * _BUNDLE_BYTES  # of all bundles that are being filled
_SMALL_PARQUET_BYTES, _MANY_PARQUET = 1024 * 1024, 16
_ROWS, _FILES, _LINES = "landing_bundle", "landing_bundle_files", "landing_bundle_lines"
_NO_TIME = datetime(1970, 1, 1, tzinfo=UTC)
_WHITESPACE = b" \t\r\n"


@dataclass(frozen=True)
class _Layout:
    """What files must have in common to be read as one.

    Attributes:
        day: Their partition.
        suffix: Of their names, without that of a compression: it tells the reader the format.
        head: What stands before the first: a CSV header with its line end, or the bracket of a JSON array.
        between: What stands between two of them.
        tail: What stands after the last.
        line_end: How their lines end; empty for JSON documents, whose records are counted instead of lines.
        is_by_line: Whether each line is a record, whatever it and its neighbours contain.
    """

    day: date
    suffix: str
    head: bytes = b""
    between: bytes = b""
    tail: bytes = b""
    line_end: bytes = b""
    is_by_line: bool = False


@dataclass(frozen=True)
class _Member:
    """A file of a bundle: its records as bytes, and its number of lines (in JSON documents, of records)."""

    delivery: Delivery
    text: bytes
    lines: int


class _NotProvedError(Exception):
    """The bundle gives no rows: its files have to be read in smaller bundles."""


def read_all(
    reader: FileReader, deliveries: Iterable[Delivery], shape: RawShape
) -> Iterator[tuple[Delivery, Landed | Cause | None]]:
    """Read files, the small ones together; yield them in another order.

    Args:
        reader: How the files of the source are read.
        deliveries: The files, in order.
        shape: The contract's columns, with those that schema evolution has added to the table.

    Yields:
        Each file with its outcome, as `FileReader.read` gives it. Of files that were read as one, the first has all the
        Parquet files.
    """
    added: dict[str, RawColumn] = {}
    for group in _grouped(reader, deliveries):
        found = (
            [(group, reader.read(group, shape.extended(added.values())))]
            if isinstance(group, Delivery)
            else _read(reader, *group, shape.extended(added.values()))
        )
        for delivery, landed in found:
            yield delivery, landed
            added |= {column.name: column for column in (landed.added if isinstance(landed, Landed) else ())}


def compact(con: duckdb.DuckDBPyConnection, bronze: Table, files: Iterable[DataFile]) -> list[DataFile]:
    """Rewrite the small ones of written files as one file for each day, where there are many.

    Each file costs the table's log and its readers time, for ever.
    """
    kept: list[DataFile] = []
    days: dict[str | None, list[DataFile]] = {}
    for file in files:
        is_small = file.size_bytes < _SMALL_PARQUET_BYTES
        (days.setdefault(file.partition_values["_partition_date"], []) if is_small else kept).append(file)
    for day, small in days.items():
        if len(small) <= _MANY_PARQUET:
            kept += small
            continue
        names = ", ".join(quote_text(f"{bronze.uri}/{file.path}") for file in small)
        rows = f"SELECT * FROM read_parquet([{names}], union_by_name = true, hive_partitioning = false)"
        try:
            kept += bronze.write(con, rows, partition_values={"_partition_date": day})
        except duckdb.OutOfMemoryException:  # of 1,500 columns, for example: one by one the files fit
            kept += small
            continue
        except BaseException:
            bronze.delete_uncommitted(kept)
            raise
        bronze.delete_uncommitted(small)
    return kept


def _grouped(reader: FileReader, deliveries: Iterable[Delivery]) -> Iterator[Delivery | tuple[_Layout, list[_Member]]]:
    """Put files together that can be read as one; yield the others alone."""
    filling: dict[_Layout, list[_Member]] = {}
    sizes: Counter[_Layout] = Counter()
    for delivery in deliveries:
        found = _member(reader, delivery)
        if found is None:
            yield delivery
            continue
        layout, member = found
        filling.setdefault(layout, []).append(member)
        sizes[layout] += len(member.text)
        full = [layout] if len(filling[layout]) == _BUNDLE_FILES or sizes[layout] >= _BUNDLE_BYTES else []
        for key in list(filling) if sizes.total() >= _HELD_BYTES else full:
            del sizes[key]
            yield key, filling.pop(key)
    yield from filling.items()


def _member(reader: FileReader, delivery: Delivery) -> tuple[_Layout, _Member] | None:
    """Read a small text file into memory; give None for a file that has to be read alone."""
    name = Path(delivery.file.path)
    if delivery.file.size_bytes > _MOST_BYTES:
        return None
    try:
        kind = resolve_format(name.name, reader.format)
        content = read_content(reader.root / name, reader.max_unpacked_bytes)
    except (UnreadableFile, OSError):
        return None  # read alone, the file gets a reason
    is_planned = identity(delivery.file, content, by_day=reader.by_day) == delivery.content_id
    if content.text_bytes > _MOST_BYTES or content.failure or not is_planned:
        return None
    suffixes = [suffix for suffix in name.suffixes if suffix.lower() not in (".gz", ".gzip", ".zst", ".zstd")]
    suffix = suffixes[-1].lower() if suffixes else ""
    if kind == "json":
        return _json(delivery, content, suffix)
    return _text(delivery, content, suffix, has_header=kind == "csv") if kind in ("csv", "jsonl") else None


def _text(delivery: Delivery, content: Content, suffix: str, *, has_header: bool) -> tuple[_Layout, _Member] | None:
    """Give a file of lines: plain UTF-8 with one kind of line end, and a header without quotes on the first line."""
    text = content.head
    if content.terminator != b"\n" or not content.uniform_line_ends or text.startswith(b"\xef\xbb\xbf"):
        return None
    line_end = b"\r\n" if content.crlf else b"\n"
    if content.ends_open:
        text += line_end
    header = text[: text.index(b"\n") + 1] if has_header else b""
    body = text[len(header) :]
    if has_header and (not header.strip() or b'"' in header or b"\0" in header):
        return None
    if not has_header and not body.strip():
        return None
    is_by_line = not has_header or b'"' not in body
    layout = _Layout(delivery.file.date, suffix, head=header, line_end=line_end, is_by_line=is_by_line)
    return layout, _Member(delivery, body, body.count(b"\n"))


def _json(delivery: Delivery, content: Content, suffix: str) -> tuple[_Layout, _Member] | None:
    """Give a file of one JSON object or of one array; it is complete, so that it cannot run into its neighbour."""
    text = content.head.strip(_WHITESPACE)
    try:
        parsed = json.loads(text.decode())
    except (ValueError, RecursionError):
        return None
    if isinstance(parsed, list) and parsed:
        layout = _Layout(delivery.file.date, suffix, head=b"[", between=b",\n", tail=b"]")
        return layout, _Member(delivery, text[1:-1], len(parsed))
    if isinstance(parsed, dict):
        return _Layout(delivery.file.date, suffix, between=b"\n"), _Member(delivery, text, 1)
    return None


def _read(
    reader: FileReader, layout: _Layout, members: Sequence[_Member], shape: RawShape
) -> list[tuple[Delivery, Landed | Cause | None]]:
    """Read files as one, or as two halves if that proves nothing."""
    if len(members) == 1:
        delivery = members[0].delivery
        return [(delivery, reader.read(delivery, shape))]
    try:
        return _read_as_one(reader, layout, members, shape)
    except (StorageError, OSError) as error:  # the lake's, or of the folder for copies: no file is to blame
        return [(member.delivery, cause_of(error)) for member in members]
    except (_NotProvedError, duckdb.OutOfMemoryException):
        for member in members:
            reader.forget(member.delivery, [])
        half = len(members) // 2
        first = _read(reader, layout, members[:half], shape)
        added = [column for _, landed in first if isinstance(landed, Landed) for column in landed.added]
        return first + _read(reader, layout, members[half:], shape.extended(added))
    finally:
        for name in (_ROWS, _FILES):
            reader.con.execute(f"DROP TABLE IF EXISTS {name}")


def _read_as_one(
    reader: FileReader, layout: _Layout, members: Sequence[_Member], shape: RawShape
) -> list[tuple[Delivery, Landed | Cause | None]]:
    starts = _starts(layout, members)
    outcome, added = _load(reader, layout, members, shape)
    _prove(outcome, layout, members, starts)
    _tell_files(reader.con, layout, members, starts)
    source = _with_files(reader.con, outcome)
    con = reader.con
    reader.batch.buffer.insert(dead_letters_sql(source, layout.day))
    refused = _tell_rejects(con, reader.batch.buffer, layout, outcome)
    partition = {"_partition_date": layout.day.isoformat()}
    files = reader.bronze.write(con, rows_sql(source), partition_values=partition)
    counts = {
        file: (rows, misfits)
        for file, rows, misfits in con.execute(
            f"SELECT r._source.file, count(*), count(r._reason) FROM {source} GROUP BY ALL"
        ).fetchall()
    }
    if outcome.line_map is not None:
        con.unregister(_LINES)
    found: list[tuple[Delivery, Landed | Cause | None]] = []
    for member in members:
        path = member.delivery.file.path
        rows, misfits = counts.get(path, (0, 0))
        dead = misfits + refused.get(path, 0)
        landed = Landed([] if found else files, rows - misfits, dead, rows - misfits + dead, () if found else added)
        found.append((member.delivery, landed))
    return found


def _starts(layout: _Layout, members: Sequence[_Member]) -> list[int]:
    """Give the line of the bundle on which each file's records begin."""
    return list(accumulate((member.lines for member in members[:-1]), initial=2 if _has_header(layout) else 1))


def _has_header(layout: _Layout) -> bool:
    return bool(layout.line_end and layout.head)


def _load(
    reader: FileReader, layout: _Layout, members: Sequence[_Member], shape: RawShape
) -> tuple[Outcome, tuple[RawColumn, ...]]:
    """Read the bundle into a temporary table, as a file without a name."""
    path = reader.temp_dir / f"{uuid4().hex}{layout.suffix}"
    path.write_bytes(layout.head + layout.between.join(member.text for member in members) + layout.tail)
    try:
        with open_records(
            reader.con,
            path,
            read_content(path),
            format=reader.format,
            delimiter=reader.delimiter,
            temp_dir=reader.temp_dir,
            shape=shape,
        ) as records:
            matching = match_fields(records.fields, shape, schema_evolution=reader.schema_evolution)
            if matching.missing and records.format == "csv":
                raise _NotProvedError  # otherwise each header would be a dead letter of its own
            select = conform_sql(
                records,
                shape,
                file="",
                partition_date=layout.day,
                batch_id="",
                extracted_at=_NO_TIME,
                schema_evolution=reader.schema_evolution,
            )
            reader.con.execute(
                f"CREATE OR REPLACE TEMP TABLE {_ROWS} AS SELECT * EXCLUDE (_partition_date) FROM ({select})"
            )
            (rows,) = reader.con.execute(f"SELECT count(*) FROM {_ROWS}").fetchone() or (0,)
            if not layout.line_end and rows != sum(member.lines for member in members):
                raise _NotProvedError
            outcome = records.finish(reader.con, rows)
            if outcome is None:
                raise _NotProvedError
            return outcome, matching.added
    except (UnreadableFile, duckdb.Error) as error:
        if faults.ends_all_work(error) or faults.is_of_memory(error):
            raise
        raise _NotProvedError from error
    finally:
        path.unlink()


def _prove(outcome: Outcome, layout: _Layout, members: Sequence[_Member], starts: Sequence[int]) -> None:
    """Prove that the bundle's records are those of its files: a line tells its file, and at each file one begins.

    Without a line map, each line is a record. With one, quotes may hold line ends, and a quote that a file leaves open
    would swallow the first line of the next file. A record that is refused there may be refused because of a quote of
    another file. A record that is weighed against the other records of its file would be weighed against those of other
    files.
    """
    if outcome.more or outcome.is_weighed or (outcome.rejects and not layout.is_by_line):
        raise _NotProvedError
    lines = set() if outcome.line_map is None else set(outcome.line_map["line"].to_pylist())
    if None in lines or any(reject.line is None for reject in outcome.rejects):
        raise _NotProvedError
    if lines and not layout.is_by_line:
        firsts = {start for start, member in zip(starts, members, strict=True) if member.lines}
        if not firsts <= lines:
            raise _NotProvedError


def _tell_files(
    con: duckdb.DuckDBPyConnection, layout: _Layout, members: Sequence[_Member], starts: Sequence[int]
) -> None:
    """Make the table of files that hold records: where each begins, and what its rows say about it."""
    own_start = 2 if _has_header(layout) else 1
    facts = [
        (start, start - own_start, delivery.file.path, delivery.content_id, extracted_at(delivery.file))
        for start, member in zip(starts, members, strict=True)
        if member.lines and (delivery := member.delivery)
    ]
    kinds = {"start": pa.int64(), "before": pa.int64(), "file": pa.string(), "content_id": pa.string()}
    schema = pa.schema({**kinds, "at": pa.timestamp("us", "UTC")})
    rows = pa.Table.from_pylist([dict(zip(schema.names, fact, strict=True)) for fact in facts], schema)
    con.register("landing_bundle_facts", rows)
    con.execute(f"CREATE OR REPLACE TEMP TABLE {_FILES} AS SELECT * FROM landing_bundle_facts")
    con.unregister("landing_bundle_facts")


def _tell_rejects(
    con: duckdb.DuckDBPyConnection, buffer: DeadLetterBuffer, layout: _Layout, outcome: Outcome
) -> dict[str, int]:
    """Make dead letters of the records that the reader refused; give their number by file."""
    if not outcome.rejects:
        return {}
    con.register("landing_rejects", rejects_table(outcome.rejects))
    placed = f"landing_rejects AS r ASOF JOIN {_FILES} AS f ON r.line >= f.start"
    buffer.insert(
        f"SELECT DATE '{layout.day}', f.content_id, f.at, "
        f"struct_pack(file := f.file, line := r.line - f.before), r.reason, r.raw, 1, NULL FROM {placed}"
    )
    found = con.execute(f"SELECT f.file, count(*) FROM {placed} GROUP BY ALL").fetchall()
    con.unregister("landing_rejects")
    return dict(found)


def _with_files(con: duckdb.DuckDBPyConnection, outcome: Outcome) -> str:
    """Give the relation of the rows, as `r`, with the file that each comes from."""
    rows = f"SELECT *, _source.line AS _at FROM {_ROWS}"
    if outcome.line_map is not None:
        con.register(_LINES, outcome.line_map)
        rows = f"SELECT t.*, l.line AS _at FROM {_ROWS} AS t JOIN {_LINES} AS l ON l.ordinal = t._source.line"
    return (
        f"(SELECT t.* EXCLUDE (_at) REPLACE (f.content_id AS _batch_id, f.at AS _extracted_at, "
        f"struct_pack(file := f.file, line := t._at - f.before) AS _source) "
        f"FROM ({rows}) AS t ASOF JOIN {_FILES} AS f ON t._at >= f.start) AS r"
    )
