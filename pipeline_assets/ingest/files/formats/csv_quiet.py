"""Finds damaged lines of a CSV file in bulk, as long as it has no quote: 27 million of them in seconds.

A file without quotes whose lines are mostly broken is not a file of records but a page, a log or a bomb. A file with
quotes is examined line by line (`csv_damage`).
"""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import polars as pl

from pipeline_assets.ingest.files import limits
from pipeline_assets.ingest.files.content import Content, read_chunks
from pipeline_assets.ingest.files.formats.csv_damage import MISSING, TOO_MANY, Damage, DamageFinder
from pipeline_assets.ingest.files.formats.physical_lines import MAX_LINE_BYTES, QUOTE, bytes_series, positions


def find_all_damage(
    path: Path, content: Content, separator: bytes, finder: DamageFinder, header_lines: int
) -> Iterator[Damage]:
    """Yield damaged lines, those with too few or too many fields included; if there are many, runs of neighbours.

    Args:
        path: The file.
        content: What is known of its bytes.
        separator: The delimiter.
        finder: Examines lines from the first quote on; strict.
        header_lines: Physical lines up to the end of the header.
    """
    finder.set_file(path, content, header_lines)
    line, start, left, number = 1, 0, header_lines, 0
    chunks, rest = read_chunks(path, content.compression), b""
    for chunk in chunks:
        data = rest + chunk
        until = data.rfind(content.terminator) + 1
        block, rest = data[:until], data[until:]
        while left and block:  # the header, which may have quotes
            length = block.find(content.terminator) + 1
            block, left = block[length:], left - 1
            line, start = line + 1, start + length
        if QUOTE in block or not _is_plain(block, content) or len(rest) > MAX_LINE_BYTES:
            lines = finder.lines_of(chain([block + rest], chunks), content.terminator)
            for _ in range(left):
                _, length = next(lines, (b"", 0))
                line, start = line + 1, start + length
            yield from finder.find(lines, first_line=line, start=start)
            return
        if block:
            for found in _damage(block, content, separator, finder.columns, line, start, number):
                number += found.lines
                yield found
            line, start = line + block.count(content.terminator), start + len(block)
    if rest and not left:
        yield from finder.find(finder.lines_of([rest], content.terminator), first_line=line, start=start)


def _is_plain(block: bytes, content: Content) -> bool:
    """Tell whether no byte needs examination: neither a carriage return within a line nor text that is not UTF-8."""
    try:
        return (content.uniform_line_ends or b"\r" not in block) and (block.isascii() or bool(block.decode()))
    except UnicodeDecodeError:
        return False


def _damage(
    block: bytes, content: Content, separator: bytes, n: int, line: int, start: int, number: int
) -> Iterator[Damage]:
    limits.check_time()
    values = bytes_series(block)
    ends = positions(values, content.terminator).cast(pl.Int64) + 1
    starts = pl.concat([pl.Series([0], dtype=pl.Int64), ends.head(-1)])
    before = positions(values, separator).cast(pl.Int64).search_sorted(ends, side="left").cast(pl.Int64)
    fields = before - before.shift(1, fill_value=0) + 1
    blank = len(content.terminator) + int(content.crlf > 0 and content.terminator == b"\n")
    is_bad = (fields < n) & (ends - starts > blank) if n > 1 else fields < n
    for at in (fields > n).arg_true():
        surplus = separator * (fields[at] - n)
        if not block[starts[at] : ends[at]].rstrip(b"\r\n").endswith(surplus):
            is_bad[at] = True
    bad = is_bad.arg_true().cast(pl.Int64)
    single = max(limits.MAX_DEAD_LETTERS - number, 0)
    for at in bad.head(single):
        reason = (MISSING if fields[at] < n else TOO_MANY).format(n, fields[at])
        text = block[starts[at] : ends[at]]
        yield Damage(line + at, start + starts[at], text, len(text), reason)
    more = bad.slice(single)
    firsts = (more - more.shift(1) != 1).fill_null(value=True).arg_true()
    lasts = pl.concat([firsts.slice(1), pl.Series([len(more)], dtype=firsts.dtype)]) - 1
    for first, last in zip(more.gather(firsts), more.gather(lasts) if len(more) else [], strict=True):
        yield Damage(line + first, start + starts[first], b"", ends[last] - starts[first], "", last - first + 1)
