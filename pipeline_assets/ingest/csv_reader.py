"""Open a CSV file as records: its header, and the relation of what stands below."""

import csv
import io
import re
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb
import polars as pl

from pipeline_assets.contracts.base import RawShape
from pipeline_assets.ingest.conform import match_fields
from pipeline_assets.ingest.content import HEAD_BYTES, Content, read_content
from pipeline_assets.ingest.csv_damage import TEXT, Damage, Kind, find_damage, kind_of, write_without
from pipeline_assets.ingest.physical_lines import header_record
from pipeline_assets.ingest.records import Outcome, Records, Reject, SourceField, UnreadableFile, raw_text
from pipeline_assets.ingest.sql import quoted
from pipeline_assets.ingest.text_reader import BOM, reader_options, uniform


def open_csv(
    con: duckdb.DuckDBPyConnection,
    path: Path,
    content: Content,
    delimiter: str,
    scratch: Path,
    shape: RawShape | None = None,
) -> Records:
    """Open a CSV file.

    Args:
        con: As of `open_records`.
        path: The file.
        content: What is known of its bytes.
        delimiter: One ASCII character.
        scratch: Directory for copies.
        shape: The contract's columns: their types tell a stray quote from a value with line ends (`csv_damage`).

    Raises:
        UnreadableFile: The header cannot name the fields.
    """
    separator = delimiter.encode()
    if len(separator) != 1 or separator in b'"\r\n':
        raise ValueError(f"delimiter {delimiter!r}: give one ASCII character that is no quote and no line end")
    names = csv_header(content, delimiter)
    fields = tuple(SourceField(name, f"f{i}", "VARCHAR") for i, name in enumerate(names))
    records = CsvRecords("csv", "", fields, con, path, scratch, content=content, delimiter=delimiter)
    records.kinds = _kinds(fields, shape)
    if content.uniform_line_ends or not records.mend():
        records.read(*uniform(path, content, separator, scratch))
    return records


def _kinds(fields: Sequence[SourceField], shape: RawShape | None) -> list[Kind]:
    if shape is None:
        return [TEXT] * len(fields)
    columns = {column.name: column for column in shape.columns}
    fed = {
        field.column: columns[name]
        for name, found in match_fields(fields, shape).matched.items()
        for field in found
        if name in columns
    }
    found = (fed.get(field.column) for field in fields)
    return [kind_of(column.dtype, required=column.required) if column else TEXT for column in found]


@dataclass
class CsvRecords(Records):
    """The records of a CSV file. Damaged lines are found only if the first scan does not account for each line.

    Attributes:
        kinds: What each field has to be.
    """

    kinds: Sequence[Kind] = ()
    _damage: list[Damage] | None = None

    def read(self, path: Path, content: Content) -> None:
        """Read from a file, of which each line begins a record or is part of one."""
        self._drop_rejects()
        self.path, self.content, self.rejects_id, self._starts = path, content, uuid.uuid4().hex, None
        blank = re.match(rb"[\r\n]*", content.head.removeprefix(BOM))
        skip = (blank[0] if blank else b"").count(content.terminator)
        columns = ", ".join(f"'{f.column}': 'VARCHAR'" for f in self.fields)
        self.sql = (
            f"SELECT row_number() OVER () + 1 AS _line, * FROM read_csv({quoted(str(path))}, auto_detect = false, "
            f"header = true, skip = {skip}, delim = {quoted(self.delimiter)}, quote = '\"', escape = '\"', "
            f"columns = {{{columns}}}, {reader_options(content, self.rejects_id)})"
        )

    def mend(self) -> bool:
        """Look for damaged lines; if there are any, read from a copy without them."""
        if self.content is None:
            return False
        separator = self.delimiter.encode()
        below = header_lines(self.content, separator)
        self._damage = list(find_damage(self.path, self.content, separator, self.kinds, below))
        if not self._damage:
            return False
        copy = self.scratch / "mended"
        write_without(self.path, self.content, copy, [(d.start, d.length, b"") for d in self._damage])
        self.read(*uniform(copy, read_content(copy), separator, self.scratch))
        return True

    def finish(self, con: duckdb.DuckDBPyConnection, n_rows: int) -> Outcome | None:
        """Account for a scan, as `Records.finish`; the damaged lines are among the rejects."""
        if self._damage is None and not self.is_clean(con, n_rows) and self.mend():
            return None
        outcome = super().finish(con, n_rows)
        if outcome is None or not self._damage:
            return outcome
        removed = pl.Series([damage.line for damage in self._damage], dtype=pl.Int64)
        before = removed - pl.int_range(0, len(removed), dtype=pl.Int64, eager=True)

        def line_in_file(lines: pl.Series) -> pl.Series:
            return lines + before.search_sorted(lines, side="right").cast(pl.Int64)

        line_map = outcome.line_map
        ordinals = pl.int_range(2, n_rows + 2, dtype=pl.Int64, eager=True)
        lines = ordinals if line_map is None else pl.Series(line_map["line"])
        known = [reject.line for reject in outcome.rejects]
        mapped = line_in_file(pl.Series(known, dtype=pl.Int64)).to_list()
        rejects = [replace(reject, line=line) for reject, line in zip(outcome.rejects, mapped, strict=True)]
        rejects += [Reject(d.line, d.reason, raw_text(d.text)) for d in self._damage]
        found = pl.DataFrame([ordinals.alias("ordinal"), line_in_file(lines).alias("line")])
        return Outcome(sorted(rejects, key=lambda reject: reject.line or 0), found.to_arrow())


def header_lines(content: Content, separator: bytes) -> int:
    """Number of physical lines down to the end of the header, blank ones before it included."""
    head = content.head.removeprefix(BOM)
    blank = re.match(rb"[\r\n]*", head)
    above = blank[0] if blank else b""
    record = header_record(head, separator, content.terminator) or b""
    return above.count(content.terminator) + record.count(content.terminator) + 1


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
