"""The records of one opened file: what to select, and after the scan the account of what the reader refused.

Holds rejects with their raw text, physical lines, and the proof that no record went missing. `open_records` opens the
formats.
"""

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import duckdb
import polars as pl
import pyarrow as pa

from pipeline_assets.ingest.conform import json_records
from pipeline_assets.ingest.conform.fields import SourceField
from pipeline_assets.ingest.files.content import Content
from pipeline_assets.ingest.files.formats.physical_lines import (
    MAX_LINE_BYTES,
    RecordStarts,
    line_starts,
    read_ranges,
    record_starts,
)

Format = Literal["csv", "jsonl", "json", "parquet", "avro"]

_LONG_RAW_CHARACTERS = 10_000  # DuckDB cuts csv_line here


class UnreadableFile(Exception):  # noqa: N818  it names a state of the file, as its dead letter does
    """A file is kept as one dead letter, without any row; `reason` is that dead letter's reason."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ContradictoryFile(UnreadableFile):
    """What came out of a file contradicts what the file declares; reading it again the same way proves nothing."""


@dataclass(frozen=True)
class Reject:
    """A record that the reader refused: physical line (None if unknown), reason, raw text."""

    line: int | None
    reason: str
    raw: str


@dataclass(frozen=True)
class Outcome:
    """The result of a finished scan.

    Attributes:
        rejects: Records that the reader refused.
        line_map: None if `_line` of the scan is right; else an Arrow table (ordinal BIGINT: `_line` as scanned, line
            BIGINT: the physical line, null if it cannot be proved).
        more: Number of further records that the reader refused and `rejects` does not hold.
        is_weighed: Whether the interpretation of some records depends on all others that were read.
    """

    rejects: list[Reject]
    line_map: pa.Table | None
    more: int = 0
    is_weighed: bool = False


@dataclass
class Records:
    """One file as records. Use it as a context manager: leaving drops temporary tables and files.

    Attributes:
        format: The format that it was read as.
        sql: A SELECT with `_line` BIGINT, one column for each of `fields`, and for JSON `_text` and `_problem`.
        fields: The source's fields, in order.
        con: The connection that holds the temporary tables of rejects.
        has_problems: True if `sql` has `_problem` VARCHAR (why the text is not a record, or null) and `_text` VARCHAR.
        path: The file that is read, or a copy of it.
        content: What is known of the bytes of `path`; None for binary formats.
        delimiter: Delimiter of a CSV file.
        rejects_id: Names the temporary table of rejects; None for formats without rejects.
        scratch: Directory for copies and links, deleted in the end.
        expected_rows: Rows that must come out, if the file declares them.
        lines: For JSON Lines, a relation of all lines that can be read.
    """

    format: Format
    sql: str
    fields: tuple[SourceField, ...]
    con: duckdb.DuckDBPyConnection
    path: Path
    scratch: Path
    has_problems: bool = False
    content: Content | None = None
    delimiter: str = ""
    rejects_id: str | None = None
    expected_rows: int | None = None
    lines: str = ""
    _starts: RecordStarts | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Delete the temporary files and tables of this file."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        self._drop_rejects()

    def _drop_rejects(self) -> None:
        if self.rejects_id is not None:
            self.con.execute(f"DROP TABLE IF EXISTS {errors_table(self.rejects_id)}")
            self.con.execute(f"DROP TABLE IF EXISTS {scans_table(self.rejects_id)}")

    def is_clean(self, con: duckdb.DuckDBPyConnection, n_rows: int) -> bool:
        """Tell whether there are as many lines as records: no reject, no blank line, no line end in quotes, no loss."""
        header = 1 if self.format == "csv" else 0
        return self.content is not None and (
            self.content.physical_lines == n_rows + header and not self._reject_rows(con)
        )

    def finish(self, con: duckdb.DuckDBPyConnection, n_rows: int) -> Outcome | None:
        """Account for a scan: call it after each scan, with the number of rows that came out.

        Returns:
            The account; None if the file has to be scanned again, because `sql` has changed.

        Raises:
            UnreadableFile: Fewer records came out than the file holds, so some would be lost in silence.
        """
        if self.expected_rows is not None and n_rows != self.expected_rows:
            raise UnreadableFile(
                f"file: {n_rows} records could be read of {self.expected_rows} that its blocks declare"
            )
        if self.content is None or (self.rejects_id is None and self.format != "csv"):
            return Outcome([], None)
        header = 1 if self.format == "csv" else 0
        rejected = self._reject_rows(con)
        if not rejected and self.content.physical_lines == n_rows + header:
            return Outcome([], None)  # as many lines as records: no blank line, no line end in quotes, no loss
        starts = self._record_starts()
        if self.format == "jsonl":
            scanned = self._scanned_lines(con, n_rows, len(rejected))
            line_map = _line_map(starts, rejected, scanned, header) if rejected else None
        else:
            known, found = (0 if starts is None else len(starts.offsets) - header), n_rows + len(rejected)
            if found < known:
                raise UnreadableFile(f"csv: quotes: only {found} of {known} records can be read")
            line_map = _line_map(starts, rejected, n_rows, header)
        placed = _placed(rejected, starts, self.content.text_bytes)
        raws = self._raws(placed)
        return Outcome(
            [Reject(row.line, self._reason(row), raw) for row, raw in zip(placed, raws, strict=True)], line_map
        )

    def _scanned_lines(self, con: duckdb.DuckDBPyConnection, n_rows: int, n_rejects: int) -> int:
        """Return the number of lines that the line reader yields, blank ones included."""
        counts = con.execute(
            f"SELECT count(*), count(*) FILTER ({json_records.NOT_BLANK}) FROM {self.lines}"
        ).fetchone()
        scanned, filled = counts or (0, 0)
        if filled != n_rows or (self.content is not None and scanned + n_rejects < self.content.physical_lines):
            raise UnreadableFile(f"jsonl: {n_rows} records came out of {filled} lines that can be read")
        return int(scanned)

    def _record_starts(self) -> RecordStarts | None:
        if self._starts is None and self.content is not None:
            if self.format == "csv":
                single = len(self.fields) == 1
                self._starts = record_starts(self.path, self.content, self.delimiter, keep_blank=single)
            else:
                self._starts = line_starts(self.path, self.content)
        return self._starts

    def _reject_rows(self, con: duckdb.DuckDBPyConnection) -> "list[_RejectRow]":
        if self.rejects_id is None:
            return []
        rows = con.execute(
            f"""
            SELECT DISTINCT ON (line_byte_position) line_byte_position, error_type, error_message, csv_line
            FROM {errors_table(self.rejects_id)}
            ORDER BY line_byte_position, error_type = 'LINE SIZE OVER MAXIMUM' DESC,
                     error_type = 'INVALID ENCODING' DESC, byte_position"""
        ).fetchall()
        return [_RejectRow.of(*row) for row in rows]

    def _raws(self, rows: "Sequence[_RejectRow]") -> list[str]:
        """Return raw texts: as DuckDB kept them, or read again where it lost bytes (not UTF-8) or cut them (long)."""
        raws = {row.offset: row.text for row in rows}
        again = [row for row in rows if row.offset is not None and row.is_lossy]
        ends = [*(row.offset for row in again[1:]), None]
        ranges = []
        for row, end in zip(again, ends, strict=False):  # without rows, one end is left over
            start = row.offset or 0
            length = _LONG_RAW_CHARACTERS if row.length is None or row.length > MAX_LINE_BYTES else row.length
            ranges.append((start, length if end is None else min(length, end - start)))

        def keep(start: int, data: bytes) -> None:
            raws[start] = raw_text(data)

        if ranges and self.content is not None:
            read_ranges(self.path, self.content, ranges, keep)
        return [raws[row.offset] for row in rows]

    def _reason(self, row: "_RejectRow") -> str:
        if row.error_type in ("MISSING COLUMNS", "TOO MANY COLUMNS") and self.format == "csv":
            counts = re.search(r"Columns: (\d+) Found: (\d+)", row.message)
            found = f"expected {counts[1]}, found {counts[2]}" if counts else row.message
            return f"csv: {row.error_type.lower()}: {found}"
        if row.error_type == "INVALID ENCODING":
            return "encoding: not UTF-8"
        if row.error_type == "LINE SIZE OVER MAXIMUM":
            return f"line too long: {row.length or 'unknown number of'} bytes, the limit is {MAX_LINE_BYTES}"
        if row.error_type == "UNQUOTED VALUE":
            return "csv: quote: a quoted value is not closed, or text follows its closing quote"
        if row.error_type == "TOO MANY COLUMNS":
            return "json: malformed: a control character (U+001F) in the line"
        return f"{self.format}: {row.error_type.lower()}: {row.message}"


def raw_text(data: bytes) -> str:
    """Return the raw text of a record, without its line end; only the start of a very long one."""
    if len(data) >= MAX_LINE_BYTES:
        data = data[:_LONG_RAW_CHARACTERS]
    return data.decode("utf-8", "backslashreplace").rstrip("\r\n")


def _line_map(starts: RecordStarts | None, rejected: "Sequence[_RejectRow]", n_rows: int, header: int) -> pa.Table:
    ordinals = pl.int_range(header + 1, header + 1 + n_rows, dtype=pl.Int64, eager=True).alias("ordinal")
    lines = _accepted_lines(starts, rejected, n_rows, header).alias("line")
    return pl.DataFrame([ordinals, lines]).to_arrow()


def _accepted_lines(
    starts: RecordStarts | None, rejected: "Sequence[_RejectRow]", n_rows: int, header: int
) -> pl.Series:
    """Return the lines of all records but the header and the rejects, if they are as many as the rows that came out."""
    unknown = pl.Series([None], dtype=pl.Int64).new_from_index(0, n_rows)
    if starts is None or any(row.offset is None for row in rejected):
        return unknown
    offsets = pl.Series([row.offset for row in rejected], dtype=pl.UInt64)
    refused = starts.offsets.is_in(offsets.implode())
    lines = starts.lines.filter(~refused)[header:].cast(pl.Int64)
    return lines if refused.sum() == len(rejected) and len(lines) == n_rows else unknown


def _placed(rows: "list[_RejectRow]", starts: RecordStarts | None, text_bytes: int) -> "list[_RejectRow]":
    """Add lines and lengths to the rejects; in bulk, because a file may have as many rejects as lines."""
    if starts is None or any(row.offset is None for row in rows):
        return rows
    offsets = pl.Series([row.offset for row in rows], dtype=pl.UInt64)
    at = starts.offsets.search_sorted(offsets, side="left").to_list() if rows else []
    known, lines = len(starts.offsets), starts.lines
    found = []
    for row, i, own, line, end in zip(
        rows,
        at,
        starts.offsets.gather([min(i, known - 1) for i in at]).to_list(),
        lines.gather([min(i, known - 1) for i in at]).to_list(),
        starts.offsets.gather([min(i + 1, known - 1) for i in at]).to_list(),
        strict=True,
    ):
        if own != row.offset:
            found.append(row)  # no record starts there: a line would be a guess
        else:
            length = (end if i + 1 < known else text_bytes) - own
            found.append(replace(row, line=line, length=length))
    return found


@dataclass(frozen=True)
class _RejectRow:
    """A row of DuckDB's reject table.

    `offset` is the start of the record's own text, `length` reaches to the next one.
    """

    offset: int | None
    error_type: str
    message: str
    text: str
    line: int | None = None
    length: int | None = None

    @classmethod
    def of(cls, position: int | None, error_type: str, message: str, text: str | None) -> Self:
        text = text or ""
        own = text.lstrip("\r\n")
        # the position is 1-based, and may belong to a blank line before, or to the LF of the CRLF before
        offset = None if position is None else position - 1 + len(text) - len(own)
        return cls(offset, error_type, message, own.rstrip("\r\n"))

    @property
    def is_cut(self) -> bool:
        return len(self.text) >= _LONG_RAW_CHARACTERS - 2

    @property
    def is_lossy(self) -> bool:
        return self.is_cut or self.error_type == "INVALID ENCODING"


def scans_table(rejects_id: str | None) -> str:
    """Name the temporary table in which DuckDB records the scans of a file."""
    return f"scans_{rejects_id}"


def errors_table(rejects_id: str | None) -> str:
    """Name the temporary table that holds a file's rejects."""
    return f"rejects_{rejects_id}"
