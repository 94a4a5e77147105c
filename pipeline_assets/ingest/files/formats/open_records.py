"""Opens one landed file as a DuckDB relation of records.

Holds the formats (csv, jsonl, json, parquet, avro) and the texts of their failures. `records` accounts for the scan,
`ingest.conform` casts values; nothing here knows a table.

The flow of one file::

    content = read_content(path)
    with open_records(con, path, content, temp_dir=temp_dir) as records:
        con.execute(f"COPY ({conform_sql(records, shape, ...)}) TO ...")   # duckdb.Error -> file_failure(error)
        outcome = records.finish(con, n_rows)      # rejects, line map; None: scan again; UnreadableFile
"""

import re
import shutil
import uuid
from pathlib import Path
from typing import Literal

import duckdb

from pipeline_assets.contracts.base import RawShape
from pipeline_assets.ingest.conform import json_records
from pipeline_assets.ingest.conform.fields import SourceField
from pipeline_assets.ingest.files.content import HEAD_BYTES, Content, read_chunks, read_content
from pipeline_assets.ingest.files.formats import json_documents
from pipeline_assets.ingest.files.formats.avro_reader import load_avro, open_avro
from pipeline_assets.ingest.files.formats.csv_reader import open_csv
from pipeline_assets.ingest.files.formats.parquet_reader import open_parquet
from pipeline_assets.ingest.files.formats.physical_lines import MAX_LINE_BYTES
from pipeline_assets.ingest.files.formats.records import Format, Outcome, Records, Reject, UnreadableFile
from pipeline_assets.ingest.files.formats.text_reader import BOM, reader_options, safe_path, uniform
from pipeline_assets.lake import faults
from pipeline_assets.sql import quote_text

_SUFFIXES: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".tab": "csv",
    ".txt": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".avro": "avro",
}
_COMPRESSION_SUFFIXES = (".gz", ".gzip", ".zst", ".zstd")

__all__ = (
    "Format",
    "Outcome",
    "Records",
    "Reject",
    "SourceField",
    "UnreadableFile",
    "file_failure",
    "load_avro",
    "open_records",
    "resolve_format",
)


def resolve_format(path: str, given: Format | Literal["auto"]) -> Format:
    """Return the given format or, for "auto", that of the suffix before a compression suffix.

    Raises:
        UnreadableFile: The suffix names no format.
    """
    if given != "auto":
        return given
    found = _SUFFIXES.get(_suffix(path))
    if found is None:
        raise UnreadableFile(f"file: no format known for the name {Path(path).name!r}; set the source's format")
    return found


def _delimiter(path: Path, content: Content, given: Format | Literal["auto"], delimiter: str) -> str:
    """Return the delimiter: a tab in files named `.tsv` or `.tab`, unless their first line has commas only."""
    first = content.head.lstrip(b"\r\n").split(b"\n", 1)[0]
    is_named = given == "auto" and _suffix(path.name) in (".tsv", ".tab")
    return "\t" if is_named and delimiter == "," and (b"\t" in first or b"," not in first) else delimiter


def _suffix(path: str) -> str:
    name = path.lower()
    for suffix in _COMPRESSION_SUFFIXES:
        name = name.removesuffix(suffix)
    return Path(name).suffix


def open_records(
    con: duckdb.DuckDBPyConnection,
    path: Path,
    content: Content,
    *,
    format: Format | Literal["auto"] = "auto",  # noqa: A002  the word of the field, and of the source's defs.yaml
    delimiter: str = ",",
    temp_dir: Path,
    careful: bool = False,
    shape: RawShape | None = None,
) -> Records:
    """Open a landed file as records.

    Args:
        con: Connection with `SET TimeZone = 'UTC'`; temporary tables for rejects are made on it.
        path: The file.
        content: What `read_content` found in it.
        format: csv, jsonl, json, parquet, avro, or "auto" to go by the name.
        delimiter: One character between the fields of a CSV file; with "auto", a file named .tsv still has tabs.
        temp_dir: An existing directory for copies, for formats that cannot be read from a stream.
        careful: Decode Parquet and Avro without DuckDB, which has failed at a value of this file. Slower.
        shape: The contract's columns, which distinguish a stray quote in a CSV file from a value with line ends.

    Raises:
        UnreadableFile: The file is known to be unreadable before any record is read.
    """
    if content.failure is not None:
        raise UnreadableFile(content.failure)
    resolved = resolve_format(path.name, format)
    scratch = temp_dir / uuid.uuid4().hex
    scratch.mkdir()
    try:
        if resolved == "csv":
            return open_csv(con, path, content, _delimiter(path, content, format, delimiter), scratch, shape)
        if resolved in ("jsonl", "json"):
            return _open_json(con, path, content, resolved, scratch)
        return _open_binary(con, path, content, resolved, scratch, careful)
    except BaseException as error:
        shutil.rmtree(scratch, ignore_errors=True)
        if faults.is_of_bytes(error):
            raise UnreadableFile(file_failure(error)) from error
        raise


def file_failure(error: BaseException) -> str:
    """Return a dead letter's reason for a file during whose scan DuckDB raised `error`; one line, without paths.

    Raises the error again if it does not concern the file: out of memory, disk full, interrupted.
    """
    if isinstance(error, UnreadableFile):
        return error.reason
    if not faults.is_of_bytes(error):
        raise error
    text = re.sub(r"""(in )?(file )?["']/[^"']*["'],?""", "", str(error)).strip()
    first = re.sub(r"^[A-Z][A-Za-z ]*Error: ", "", text.splitlines()[0]) if text else type(error).__name__
    first = re.sub(r"  +", " ", first).strip()
    if "state machine reached an invalid state" in text:
        return "csv: line ends are mixed: a carriage return stands alone outside quotes"
    if "Malformed JSON" in text:
        return f"json: malformed: {first.partition('Malformed JSON')[2].strip(' ,') or first}"
    return f"file: {first}"


def _open_json(con: duckdb.DuckDBPyConnection, path: Path, content: Content, kind: Format, scratch: Path) -> Records:
    if not content.head.removeprefix(BOM).strip() and content.text_bytes <= HEAD_BYTES:
        raise UnreadableFile("file: empty")
    if kind == "jsonl":
        path, content = uniform(path, content, b"", scratch)
        return _open_lines(con, path, content, kind, scratch)
    path, content = _json_document(path, content, scratch)
    layout = "array" if content.head.lstrip().startswith(b"[") else "unstructured"
    if layout == "array" and content.last_visible != b"]":  # cut after a comma, it is complete to DuckDB
        raise UnreadableFile("json: malformed: the array has no end; was the file cut?")
    source = (
        f"(SELECT json::VARCHAR AS _text FROM read_json_objects({quote_text(str(path))}, format = '{layout}', "
        f"hive_partitioning = false, compression = '{content.compression or 'uncompressed'}', "
        f"maximum_object_size = {MAX_LINE_BYTES}))"
    )
    try:
        keys = json_records.keys(con, source)
    except duckdb.InvalidInputException:
        elements = scratch / "elements"
        if layout != "array" or not json_documents.write_elements(read_chunks(path, content.compression), elements):
            raise
        return _open_lines(con, elements, read_content(elements), "jsonl", scratch)
    sql, fields = json_records.sql(source, keys), _json_fields(keys)
    return Records(kind, sql, fields, con, path, scratch, has_problems=True, content=content, lines=source)


def _open_lines(con: duckdb.DuckDBPyConnection, path: Path, content: Content, kind: Format, scratch: Path) -> Records:
    """Open JSON with one record per line."""
    rejects_id = uuid.uuid4().hex
    source, lines = _line_reader(path, content, rejects_id), _line_reader(path, content, None)
    keys = json_records.keys(con, lines)
    sql, fields = json_records.sql(source, keys), _json_fields(keys)
    return Records(
        kind, sql, fields, con, path, scratch, has_problems=True, content=content, rejects_id=rejects_id, lines=lines
    )


def _json_fields(keys: json_records.Keys) -> tuple[SourceField, ...]:
    if len(keys.names) > json_records.MAX_FIELDS:
        raise UnreadableFile(f"json: {len(keys.names)} different fields, more than {json_records.MAX_FIELDS}")
    return keys.fields


def _line_reader(path: Path, content: Content, rejects_id: str | None) -> str:
    """Return a reader of lines: a one-column CSV without quotes. JSON cannot hold U+001F, so no JSON is ever split."""
    return (
        f"read_csv({quote_text(str(path))}, auto_detect = false, header = false, "
        f"delim = '\x1f', quote = '', escape = '', "
        f"columns = {{'_text': 'VARCHAR'}}, {reader_options(content, rejects_id)})"
    )


def _json_document(path: Path, content: Content, scratch: Path) -> tuple[Path, Content]:
    """Return the file, or a copy without a byte order mark, which DuckDB's JSON reader refuses."""
    if not content.head.startswith(BOM):
        return safe_path(path, scratch), content
    target = scratch / "plain"
    with target.open("wb") as file:
        for i, chunk in enumerate(read_chunks(path, content.compression)):
            file.write(chunk.removeprefix(BOM) if i == 0 else chunk)
    return target, read_content(target)


def _open_binary(
    con: duckdb.DuckDBPyConnection, path: Path, content: Content, kind: Format, scratch: Path, careful: bool
) -> Records:
    if content.compression is None:
        path = safe_path(path, scratch)
    else:
        target = scratch / "plain"
        with target.open("wb") as file:
            file.writelines(read_chunks(path, content.compression))
        path = target
    if kind == "parquet":
        return open_parquet(con, path, content, scratch, careful=careful)
    return open_avro(con, path, scratch, careful=careful)
