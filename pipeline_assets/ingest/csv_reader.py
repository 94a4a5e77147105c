"""Open a CSV file as records: its header, and the relation of what stands below."""

import csv
import io
import re
import uuid
from collections import Counter
from pathlib import Path

import duckdb

from pipeline_assets.ingest.content import HEAD_BYTES, Content
from pipeline_assets.ingest.physical_lines import header_record
from pipeline_assets.ingest.records import Records, SourceField, UnreadableFile
from pipeline_assets.ingest.sql import quoted
from pipeline_assets.ingest.text_reader import BOM, reader_options, uniform


def open_csv(con: duckdb.DuckDBPyConnection, path: Path, content: Content, delimiter: str, scratch: Path) -> Records:
    """Open a CSV file.

    Raises:
        UnreadableFile: The header cannot name the fields.
    """
    separator = delimiter.encode()
    if len(separator) != 1 or separator in b'"\r\n':
        raise ValueError(f"delimiter {delimiter!r}: give one ASCII character that is no quote and no line end")
    names = csv_header(content, delimiter)
    path, content = uniform(path, content, separator, scratch)
    blank = re.match(rb"[\r\n]*", content.head.removeprefix(BOM))
    skip = (blank[0] if blank else b"").count(content.terminator)
    rejects_id = uuid.uuid4().hex
    fields = tuple(SourceField(name, f"f{i}", "VARCHAR") for i, name in enumerate(names))
    columns = ", ".join(f"'{f.column}': 'VARCHAR'" for f in fields)
    sql = (
        f"SELECT row_number() OVER () + 1 AS _line, * FROM read_csv({quoted(str(path))}, auto_detect = false, "
        f"header = true, skip = {skip}, delim = {quoted(delimiter)}, quote = '\"', escape = '\"', "
        f"columns = {{{columns}}}, {reader_options(content, rejects_id)})"
    )
    return Records("csv", sql, fields, con, path, scratch, content=content, delimiter=delimiter, rejects_id=rejects_id)


def csv_header(content: Content, delimiter: str) -> tuple[str, ...]:
    """Names of a CSV file's fields.

    Raises:
        UnreadableFile: There is no header, or it cannot name the fields.
    """
    head = content.head.removeprefix(BOM)
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
