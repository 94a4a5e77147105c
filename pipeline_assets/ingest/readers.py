"""Open one landed file as a DuckDB relation of records.

Holds the formats (csv, jsonl, json, parquet, avro), and what their failures are called. Does not hold the account
after the scan (`records`), casting (`conform`) or anything of a table.

The flow of one file::

    content = read_content(path)
    with open_records(con, path, content, temp_dir=temp_dir) as records:
        con.execute(f"COPY ({conform_sql(records, shape, ...)}) TO ...")   # duckdb.Error -> file_failure(error)
        outcome = records.finish(con, n_rows)                              # rejects, line map; UnreadableFile

DuckDB reads CSV in parallel by guessing where records start; on a file with an unclosed quote its guesses disagree
(1.8 of 6 million rows came back, one reject). All text is therefore read in one thread, which is also what numbering
the records needs.
"""

import csv
import importlib.resources
import io
import re
import shutil
import uuid
from collections import Counter
from pathlib import Path
from typing import Literal

import duckdb

from pipeline_assets.ingest import avro, json_records
from pipeline_assets.ingest.content import HEAD_BYTES, Content, read_chunks, read_content
from pipeline_assets.ingest.physical_lines import MAX_LINE_BYTES, LineTooLong, header_record, write_uniform
from pipeline_assets.ingest.records import (
    Format,
    Outcome,
    Records,
    Reject,
    SourceField,
    UnreadableFile,
    errors_table,
    scans_table,
)
from pipeline_assets.ingest.sql import identifier, quoted

FORMATS: tuple[Format, ...] = ("csv", "jsonl", "json", "parquet", "avro")

_SUFFIXES: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".avro": "avro",
}
_COMPRESSION_SUFFIXES = (".gz", ".gzip", ".zst", ".zstd")

# Twice the longest line: the default of sixteen times would be 256 MiB for each file.
_BUFFER_BYTES = 2 * MAX_LINE_BYTES
_BOM = b"\xef\xbb\xbf"

__all__ = (
    "FORMATS",
    "Format",
    "Outcome",
    "Records",
    "Reject",
    "SourceField",
    "UnreadableFile",
    "csv_header",
    "file_failure",
    "load_avro",
    "open_records",
    "resolve_format",
)


def resolve_format(path: str, given: Format | Literal["auto"]) -> Format:
    """The format given or, for "auto", that of the suffix below a compression suffix.

    Raises:
        UnreadableFile: The suffix says nothing.
    """
    if given != "auto":
        return given
    name = path.lower()
    for suffix in _COMPRESSION_SUFFIXES:
        name = name.removesuffix(suffix)
    found = _SUFFIXES.get(Path(name).suffix)
    if found is None:
        raise UnreadableFile(f"file: no format known for the name {Path(path).name!r}; set the source's format")
    return found


def open_records(
    con: duckdb.DuckDBPyConnection,
    path: Path,
    content: Content,
    *,
    format: Format | Literal["auto"] = "auto",  # noqa: A002  the word of the field, and of the source's defs.yaml
    delimiter: str = ",",
    temp_dir: Path,
) -> Records:
    """Open a landed file as records.

    Args:
        con: Connection with `SET TimeZone = 'UTC'`; temporary tables for rejects are made on it.
        path: The file.
        content: What `read_content` found of it.
        format: csv, jsonl, json, parquet, avro, or "auto" to go by the name.
        delimiter: One character between the fields of a CSV file.
        temp_dir: An existing directory for copies, where a format cannot be read from a stream.

    Raises:
        UnreadableFile: The file can be told to be unreadable before any record is read.
    """
    if content.failure is not None:
        raise UnreadableFile(content.failure)
    resolved = resolve_format(path.name, format)
    scratch = temp_dir / uuid.uuid4().hex
    scratch.mkdir()
    try:
        if resolved == "csv":
            return _open_csv(con, path, content, delimiter, scratch)
        if resolved in ("jsonl", "json"):
            return _open_json(con, path, content, resolved, scratch)
        return _open_binary(con, path, content, resolved, scratch)
    except BaseException as error:
        shutil.rmtree(scratch, ignore_errors=True)
        if isinstance(error, duckdb.Error):
            raise UnreadableFile(file_failure(error)) from error
        raise


def file_failure(error: Exception) -> str:
    """A dead letter's reason for a file during whose scan DuckDB raised `error`; one line, without paths.

    Re-raises errors that say nothing of the file: out of memory, disk full, interrupted.
    """
    if isinstance(error, UnreadableFile):
        return error.reason
    environment = (
        duckdb.OutOfMemoryException,
        duckdb.InterruptException,
        duckdb.InternalException,
        duckdb.FatalException,
    )
    if not isinstance(error, duckdb.Error) or isinstance(error, environment):
        raise error
    text = re.sub(r"""(in )?(file )?["']/[^"']*["'],?""", "", str(error)).strip()
    first = re.sub(r"^[A-Z][A-Za-z ]*Error: ", "", text.splitlines()[0]) if text else type(error).__name__
    first = re.sub(r"  +", " ", first).strip()
    if "state machine reached an invalid state" in text:
        return "csv: line ends are mixed: a carriage return stands alone outside quotes"
    if "Malformed JSON" in text:
        return f"json: malformed: {first.partition('Malformed JSON')[2].strip(' ,') or first}"
    return f"file: {first}"


def _safe_path(path: Path, scratch: Path) -> Path:
    """The path, or a link to it where its name holds characters that DuckDB takes for a glob."""
    if not any(c in str(path) for c in "*?[]{}\\"):
        return path
    link = scratch / "link"
    link.symlink_to(path.resolve())
    return link


def _uniform(path: Path, content: Content, separator: bytes, scratch: Path) -> tuple[Path, Content]:
    """The file itself or, where its line ends are mixed, a copy that DuckDB can read with the same physical lines."""
    if content.uniform_line_ends:
        return _safe_path(path, scratch), content
    target = scratch / "uniform"
    try:
        write_uniform(path, content, target, separator)
    except LineTooLong as error:
        raise UnreadableFile(f"line too long: {error}") from error
    return target, read_content(target)


def _open_csv(con: duckdb.DuckDBPyConnection, path: Path, content: Content, delimiter: str, scratch: Path) -> Records:
    separator = delimiter.encode()
    if len(separator) != 1 or separator in b'"\r\n':
        raise ValueError(f"delimiter {delimiter!r}: give one ASCII character that is no quote and no line end")
    names = csv_header(content, delimiter)
    path, content = _uniform(path, content, separator, scratch)
    blank = re.match(rb"[\r\n]*", content.head.removeprefix(_BOM))
    skip = (blank[0] if blank else b"").count(content.terminator)
    rejects_id = uuid.uuid4().hex
    fields = tuple(SourceField(name, f"f{i}", "VARCHAR") for i, name in enumerate(names))
    columns = ", ".join(f"'{f.column}': 'VARCHAR'" for f in fields)
    sql = (
        f"SELECT row_number() OVER () + 1 AS _line, * FROM read_csv({quoted(str(path))}, auto_detect = false, "
        f"header = true, skip = {skip}, delim = {quoted(delimiter)}, quote = '\"', escape = '\"', "
        f"columns = {{{columns}}}, {_reader_options(content, rejects_id)})"
    )
    return Records("csv", sql, fields, con, path, scratch, content=content, delimiter=delimiter, rejects_id=rejects_id)


def _reader_options(content: Content, rejects_id: str | None) -> str:
    """Options of every read of text. Strict mode: without it, surplus columns vanish without a reject."""
    rejects = "ignore_errors = true"
    if rejects_id:
        tables = f"rejects_table = '{errors_table(rejects_id)}', rejects_scan = '{scans_table(rejects_id)}'"
        rejects = f"store_rejects = true, {tables}"
    return (
        f"compression = '{content.compression or 'none'}', strict_mode = true, null_padding = false, parallel = false, "
        f"max_line_size = {MAX_LINE_BYTES}, buffer_size = {_BUFFER_BYTES}, {rejects}"
    )


def csv_header(content: Content, delimiter: str) -> tuple[str, ...]:
    """Names of a CSV file's fields.

    Raises:
        UnreadableFile: There is no header, or it cannot name the fields.
    """
    head = content.head.removeprefix(_BOM)
    record = header_record(head, delimiter.encode(), content.terminator)
    if not record:
        long = record is None and content.text_bytes > HEAD_BYTES
        raise UnreadableFile(f"header: longer than {HEAD_BYTES} bytes" if long else "header: missing")
    if b"\0" in record:
        raise UnreadableFile("encoding: NUL bytes in the header; is the file UTF-16? Only UTF-8 is read")
    try:
        text = record.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UnreadableFile(f"encoding: the header is not UTF-8 ({error.reason})") from error
    try:
        names = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True))
    except csv.Error as error:
        raise UnreadableFile(f"header: {error}") from error
    names = [name.strip() for name in names]
    if twice := sorted(name for name, count in Counter(names).items() if count > 1):
        raise UnreadableFile(f"header: {', '.join(map(repr, twice))} is there more than once")
    return tuple(names)


def _open_json(con: duckdb.DuckDBPyConnection, path: Path, content: Content, kind: Format, scratch: Path) -> Records:
    if not content.head.removeprefix(_BOM).strip() and content.text_bytes <= HEAD_BYTES:
        raise UnreadableFile("file: empty")
    rejects_id = None
    if kind == "jsonl":
        path, content = _uniform(path, content, b"", scratch)
        rejects_id = uuid.uuid4().hex
        source, lines = _line_reader(path, content, rejects_id), _line_reader(path, content, None)
    else:
        path, content = _json_document(path, content, scratch)
        layout = "array" if content.head.lstrip().startswith(b"[") else "unstructured"
        source = lines = (
            f"(SELECT json::VARCHAR AS _text FROM read_json_objects({quoted(str(path))}, format = '{layout}', "
            f"compression = '{content.compression or 'uncompressed'}', maximum_object_size = {MAX_LINE_BYTES}))"
        )
    keys = json_records.keys(con, lines)
    if len(keys.names) > json_records.MAX_FIELDS:
        raise UnreadableFile(f"json: {len(keys.names)} different fields, more than {json_records.MAX_FIELDS}")
    fields = tuple(SourceField(name, f"f{i}", "JSON") for i, name in enumerate(keys.names))
    sql = json_records.sql(source, keys)
    return Records(
        kind, sql, fields, con, path, scratch, has_problems=True, content=content, rejects_id=rejects_id, lines=lines
    )


def _line_reader(path: Path, content: Content, rejects_id: str | None) -> str:
    """A one-column CSV without quotes reads lines; U+001F cannot stand in JSON, so no JSON is ever split."""
    return (
        f"read_csv({quoted(str(path))}, auto_detect = false, header = false, delim = '\x1f', quote = '', escape = '', "
        f"columns = {{'_text': 'VARCHAR'}}, {_reader_options(content, rejects_id)})"
    )


def _json_document(path: Path, content: Content, scratch: Path) -> tuple[Path, Content]:
    """The file, or a copy without a byte order mark, which DuckDB's JSON reader refuses."""
    if not content.head.startswith(_BOM):
        return _safe_path(path, scratch), content
    target = scratch / "plain"
    with target.open("wb") as file:
        for i, chunk in enumerate(read_chunks(path, content.compression)):
            file.write(chunk.removeprefix(_BOM) if i == 0 else chunk)
    return target, read_content(target)


def _open_binary(con: duckdb.DuckDBPyConnection, path: Path, content: Content, kind: Format, scratch: Path) -> Records:
    if content.compression is None:
        path = _safe_path(path, scratch)
    else:
        target = scratch / "plain"
        with target.open("wb") as file:
            file.writelines(read_chunks(path, content.compression))
        path = target
    expected_rows = None
    if kind == "parquet":
        if not content.head.startswith(b"PAR1"):
            raise UnreadableFile("file: not a Parquet file (no magic bytes)")
        options = "binary_as_string = true, hive_partitioning = false, file_row_number = true"
        source, ordinal = f"read_parquet({quoted(str(path))}, {options})", "file_row_number + 1"
    else:
        try:
            expected_rows = avro.count_records(path)
        except avro.AvroError as error:
            raise UnreadableFile(f"file: {error}") from error
        load_avro(con)
        source, ordinal = f"read_avro({quoted(str(path))})", "row_number() OVER ()"
    described = con.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()
    names = [(row[0], row[1]) for row in described if not (kind == "parquet" and row[0] == "file_row_number")]
    fields = tuple(SourceField(name, f"f{i}", dtype) for i, (name, dtype) in enumerate(names))
    selected = "".join(f", {identifier(f.name)} AS {f.column}" for f in fields)
    sql = f"SELECT {ordinal} AS _line{selected} FROM {source}"
    return Records(kind, sql, fields, con, path, scratch, expected_rows=expected_rows)


def load_avro(con: duckdb.DuckDBPyConnection) -> None:
    """Load the extension from its wheel: nothing is downloaded at run time."""
    wheel = importlib.resources.files("duckdb_extension_avro")
    extension = wheel.joinpath(f"extensions/v{duckdb.__version__}/avro.duckdb_extension")
    con.execute(f"LOAD {quoted(str(extension))}")
