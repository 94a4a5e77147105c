"""Finds where the records of a text file start: the physical line of each, from a second pass over the bytes.

Holds quote-aware scanning of line ends, and the copy with uniform line ends that DuckDB can read. Fields are parsed in
`csv_fields`, formats are opened in `open_records`.

DuckDB's CSV reader gives no line for the rows it accepts, counts records (not lines) for those it rejects, and stops
with an error at mixed line ends. This module serves only the files that need it: those with rejects, blank lines, line
ends inside quotes, or mixed line ends.
"""

import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa

from pipeline_assets.ingest.files.content import Content, read_chunks

QUOTE = b'"'
MAX_LINE_BYTES = 16 * 1024 * 1024
"""A longer line is a dead letter; DuckDB's reader needs a bound for its buffers."""


class LineTooLong(Exception):  # noqa: N818  the dead letter's own word
    """A line does not fit in memory."""


@dataclass(frozen=True)
class RecordStarts:
    """Start of every record that is not blank, the header included.

    Attributes:
        offsets: Byte offset in the decompressed file, ascending (UInt64).
        lines: Physical line, 1-based (UInt64).
        open_quote: True if the file ends inside a quoted field.
    """

    offsets: pl.Series
    lines: pl.Series
    open_quote: bool


def line_starts(path: Path, content: Content) -> RecordStarts:
    """Find the start of every physical line; blank lines count, because a line reader yields them too."""
    found = _Found(keep_blank=True)
    _scan_by_parity(read_chunks(path, content.compression), b"", content.terminator, found)
    return found.result(content)


def record_starts(path: Path, content: Content, delimiter: str, *, keep_blank: bool = False) -> RecordStarts | None:
    """Find the start of every record of a CSV file; None where it cannot be found.

    Quotes are counted in bulk if each stands at the edge of a field. A file with quotes elsewhere (6" PLATE) is read
    line by line instead, as DuckDB reads it: a quote opens a field only at its start, spaces aside.

    Args:
        path: The file.
        content: What is known of its bytes.
        delimiter: The field delimiter, one byte.
        keep_blank: True if blank lines are records: in a file with a single column.
    """
    separator, terminator = delimiter.encode(), content.terminator
    found = _Found(keep_blank)
    if _scan_by_parity(read_chunks(path, content.compression), separator, terminator, found):
        return found.result(content)
    found = _Found(keep_blank)
    if _scan_by_line(read_chunks(path, content.compression), separator, terminator, found):
        return found.result(content)
    return None


class _Found:
    """Collects the ends of records, chunk by chunk, as starts and lines."""

    def __init__(self, keep_blank: bool) -> None:
        self._keep_blank = keep_blank
        self._offsets: list[pl.Series] = []
        self._lines: list[pl.Series] = []
        self._start, self._line = 0, 1
        self.open_quote = False

    def add(self, ends: pl.Series, lines_after: pl.Series, crlf_ends: pl.Series) -> None:
        """Add records by the offset of their line end, the line that follows, and whether a CR stands before it."""
        if ends.is_empty():
            return
        starts = pl.concat([pl.Series([self._start], dtype=pl.UInt64), ends.head(-1) + 1])
        lines = pl.concat([pl.Series([self._line], dtype=pl.UInt64), lines_after.head(-1)])
        self._start, self._line = ends[-1] + 1, lines_after[-1]
        if not self._keep_blank:
            full = ends - starts > crlf_ends.cast(pl.UInt64)
            starts, lines = starts.filter(full), lines.filter(full)
        self._offsets.append(starts)
        self._lines.append(lines)

    def result(self, content: Content) -> RecordStarts:
        if self._start < content.text_bytes:  # the last record has no line end
            self._offsets.append(pl.Series([self._start], dtype=pl.UInt64))
            self._lines.append(pl.Series([self._line], dtype=pl.UInt64))
        empty = pl.Series([], dtype=pl.UInt64)
        offsets = pl.concat([empty, *self._offsets])
        return RecordStarts(offsets, pl.concat([empty, *self._lines]), self.open_quote)


def bytes_series(chunk: bytes) -> pl.Series:
    """Return bytes as numbers, without a copy."""
    array = pa.Array.from_buffers(pa.uint8(), len(chunk), [None, pa.py_buffer(chunk)])
    series = pl.from_arrow(array)
    if not isinstance(series, pl.Series):
        raise TypeError(f"expected a series, got {type(series)}")
    return series


def positions(series: pl.Series, byte: bytes) -> pl.Series:
    """Return the places of a byte."""
    return (series == byte[0]).arg_true().cast(pl.UInt64)


def _scan_by_parity(chunks: Iterable[bytes], separator: bytes, terminator: bytes, found: _Found) -> bool:
    """Find records by the parity of quotes; False if a quote stands where only parsing can interpret it.

    Without a separator, quotes have no meaning and every line is a record.
    """
    base, inside, line, last = 0, False, 1, terminator
    edges = [separator, b"\r", b"\n", QUOTE] if separator else []
    for chunk in chunks:
        values = bytes_series(chunk)
        ends = positions(values, terminator)
        before = pl.concat([pl.Series([last[0]], dtype=pl.UInt8), values.head(-1)])
        lines_after = pl.int_range(line + 1, line + 1 + len(ends), dtype=pl.UInt64, eager=True)
        line += len(ends)
        is_record = None
        if separator and QUOTE in chunk:
            quotes = positions(values, QUOTE)
            opening = before.gather(quotes.gather_every(2, offset=int(inside)))
            allowed = pl.Series([edge[0] for edge in edges], dtype=pl.UInt8)
            if not opening.is_in(allowed.implode()).all():
                return False
            parity = quotes.search_sorted(ends, side="left") + int(inside) if len(ends) else ends
            is_record = parity % 2 == 0
            inside ^= bool(len(quotes) % 2)
        elif inside:
            is_record = pl.zeros(len(ends), dtype=pl.UInt8, eager=True) == 1
        if is_record is not None:
            ends, lines_after = ends.filter(is_record), lines_after.filter(is_record)
        found.add(ends + base, lines_after, before.gather(ends) == 13)
        base += len(chunk)
        last = chunk[-1:]
    found.open_quote = inside
    return True


def _scan_by_line(chunks: Iterable[bytes], separator: bytes, terminator: bytes, found: _Found) -> bool:
    """Find records by reading each line that has a quote; False at a line that is too long to hold."""
    offset, line, inside = 0, 1, False
    ends: list[int] = []
    after: list[int] = []
    crlf: list[bool] = []
    for text in _lines(chunks, terminator):
        if len(text) > MAX_LINE_BYTES:
            return False
        offset += len(text)
        line += 1
        if inside or QUOTE in text:
            inside = _inside_after(text.removesuffix(terminator), separator, inside)
        if not inside and text.endswith(terminator):
            ends.append(offset - 1)
            after.append(line)
            crlf.append(text.endswith(b"\r\n"))
    found.add(pl.Series(ends, dtype=pl.UInt64), pl.Series(after, dtype=pl.UInt64), pl.Series(crlf, dtype=pl.Boolean))
    found.open_quote = inside
    return True


def _lines(chunks: Iterable[bytes], terminator: bytes) -> Iterator[bytes]:
    """Split chunks at a terminator, which is kept; a line over the limit is yielded as soon as it exceeds the limit."""
    rest = b""
    for chunk in chunks:
        parts = (rest + chunk).split(terminator)
        rest = parts.pop()
        for part in parts:
            yield part + terminator
        if len(rest) > MAX_LINE_BYTES:
            yield rest
            return
    if rest:
        yield rest


def _inside_after(text: bytes, separator: bytes, inside: bool) -> bool:
    """Tell whether a line that starts inside (or outside) quotes ends inside quotes."""
    at = 0
    while True:
        if not inside:
            while text[at : at + 1] == b" ":
                at += 1
            if text[at : at + 1] == QUOTE:
                inside, at = True, at + 1
                continue
        else:
            close = text.find(QUOTE, at)
            if close < 0:
                return True
            if text[close + 1 : close + 2] == QUOTE:
                at = close + 2
                continue
            inside, at = False, close + 1
        at = text.find(separator, at) + 1
        if at == 0:
            return False


def header_record(head: bytes, separator: bytes, terminator: bytes) -> bytes | None:
    """Return the first record that is not blank, without its line end; None if `head` does not hold all of it."""
    record, inside = b"", False
    for text in _lines([head], terminator):
        if not record and not text.strip(b"\r\n"):
            continue
        record += text
        inside = _inside_after(text.removesuffix(terminator), separator, inside)
        if not inside:
            return record.rstrip(b"\r\n")
    return None if inside else record.rstrip(b"\r\n")


def write_uniform(path: Path, content: Content, target: Path, separator: bytes) -> None:
    """Copy a file with CRLF made LF outside quotes; physical lines stay the same.

    JSON Lines (no separator) have no such quotes. A lone carriage return becomes a tab, which JSON allows and forbids
    in the same places: allowed between tokens, forbidden within a string.

    Raises:
        LineTooLong: A CSV line does not fit in memory.
    """
    chunks = read_chunks(path, content.compression)
    with target.open("wb") as file:
        file.writelines(_uniform_csv(chunks, separator) if separator else _uniform_lines(chunks))


def _uniform_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        data = rest + chunk
        rest = b"\r" if data.endswith(b"\r") else b""  # its line feed may come with the next chunk
        yield data.removesuffix(rest).replace(b"\r\n", b"\n").replace(b"\r", b"\t")


def _uniform_csv(chunks: Iterable[bytes], separator: bytes) -> Iterator[bytes]:
    inside = False
    for text in _lines(chunks, b"\n"):
        if len(text) > MAX_LINE_BYTES:
            raise LineTooLong(f"more than {MAX_LINE_BYTES} bytes, in a file with mixed line ends")
        if inside or QUOTE in text:
            inside = _inside_after(text.rstrip(b"\r\n"), separator, inside)
        yield text[:-2] + b"\n" if not inside and text.endswith(b"\r\n") else text


def read_ranges(
    path: Path, content: Content, ranges: Iterable[tuple[int, int]], visit: Callable[[int, bytes], None]
) -> None:
    """Read byte ranges of the decompressed file in one pass.

    Args:
        path: The file.
        content: What is known of its bytes.
        ranges: (start, length), ascending and apart.
        visit: Called with each range's start and bytes.
    """
    wanted = iter(ranges)
    current = next(wanted, None)
    buffer, base = io.BytesIO(), 0
    for chunk in read_chunks(path, content.compression):
        while current is not None and current[0] < base + len(chunk):
            start, length = current
            have = buffer.tell()
            at = start + have - base
            buffer.write(chunk[at : at + length - have])
            if buffer.tell() < length:
                break
            visit(start, buffer.getvalue())
            buffer = io.BytesIO()
            current = next(wanted, None)
        if current is None:
            return
        base += len(chunk)
    if current is not None:
        visit(current[0], buffer.getvalue())
