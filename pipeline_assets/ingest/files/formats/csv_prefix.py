"""Proves in bulk that the first records of a piece of a CSV file are good, so that they are not examined one by one.

A file of 1.4 million values with line ends took 45 CPU seconds line by line, and takes 1.5 in bulk. Records that are
proved here are good by the rules of `csv_damage`; records without proof may be good all the same, and are examined
there. The proof:

1. Each quote stands at the edge of a field or beside its double, so counting quotes tells which bytes they enclose.
2. Outside quotes no carriage return stands alone.
3. Each record of several lines has the header's number of fields, and too few of its lines have as many delimiters as a
   record to pass for records. Nor may its end be the beginning of a value that begins with a line end.
"""

from dataclasses import dataclass

import polars as pl

from pipeline_assets.ingest.files.formats.physical_lines import QUOTE, bytes_series, positions

NEARLY_ALL = 0.9
"""Share of a value's lines that must be full for doubt, if no field has a type: all of fewer than ten lines."""


@dataclass(frozen=True)
class Prefix:
    """Good records at the start of a piece: their physical lines, bytes and number, and how many have several lines."""

    lines: int
    size: int
    records: int = 0
    values: int = 0


@dataclass(frozen=True)
class Layout:
    """How a file is written.

    Attributes:
        separator: The delimiter.
        terminator: The byte that ends a line.
        typed: For each field, whether its type is other than text.
        lines_looked_at: Lines of a value, between its first and its last, that are examined, as in `csv_damage`.
        enough_without_types: Number of full lines that make a value doubtful if no field has a type.
        is_strict: Whether each record must have the header's number of fields and be UTF-8.
    """

    separator: bytes
    terminator: bytes
    typed: tuple[bool, ...]
    lines_looked_at: int
    enough_without_types: int
    is_strict: bool = False


def good_prefix(data: bytes, layout: Layout) -> Prefix:
    """Find how much of a piece is proved good.

    Args:
        data: A piece that begins with a record.
        layout: How the file is written.
    """
    values = bytes_series(data)
    ends = positions(values, layout.terminator)
    if ends.is_empty():
        return Prefix(0, 0)
    quotes = positions(values, QUOTE)
    is_record = quotes.search_sorted(ends, side="left") % 2 == 0
    last_lines = is_record.arg_true().cast(pl.Int64)
    record_ends = ends.filter(is_record)
    bad_quotes = _bad_quotes(values, quotes, layout)
    bad = [
        *bad_quotes,
        *_lone_carriage_returns(values, quotes, layout),
        *_last_at_edge(data, quotes, bad_quotes, layout),
    ]
    n = int(record_ends.search_sorted(min(bad), side="left")) if bad else len(record_ends)
    n = min([n, *_doubtful_records(values, quotes, ends, last_lines, layout)])
    if not n:
        return Prefix(0, 0)
    number = int((last_lines.head(n).diff() > 1).sum()) + int(last_lines[0] > 0)
    found = Prefix(last_lines[n - 1] + 1, record_ends[n - 1] + 1, n, number)
    return Prefix(0, 0) if layout.is_strict and not _is_utf8(data[: found.size]) else found


def _is_utf8(data: bytes) -> bool:
    try:
        return data.isascii() or bool(data.decode())
    except UnicodeDecodeError:
        return False


def _bad_quotes(values: pl.Series, quotes: pl.Series, layout: Layout) -> list[int]:
    """Find the first quotes that do not stand at the edge of a field."""
    outside = pl.Series([layout.terminator[0]], dtype=pl.UInt8)
    around = pl.concat([outside, values, pl.Series([0], dtype=pl.UInt8)])  # the byte after a piece is not known
    opening, closing = quotes.gather_every(2), quotes.gather_every(2, offset=1)
    found = []
    for places, byte, edges in (
        (opening, around.gather(opening), layout.separator + layout.terminator + QUOTE),
        (closing, around.gather(closing + 2), layout.separator + layout.terminator + QUOTE + b"\r"),
    ):
        bad = places.filter(~byte.is_in(pl.Series(list(edges), dtype=pl.UInt8).implode()))
        found += bad.head(1).to_list()
    return found


def _last_at_edge(data: bytes, quotes: pl.Series, bad: list[int], layout: Layout) -> list[int]:
    """Find the last good quote if it ends a record at the edge of a field: it may instead open a value there."""
    known = int(quotes.search_sorted(min(bad), side="left")) if bad else len(quotes)
    if not known or known % 2:
        return []
    at = quotes[known - 1]
    after = data[at + 1 : at + 3]
    ends_line = after[:1] == layout.terminator or not after.strip(b"\r\n")
    edges = (layout.separator, layout.terminator, b" ")
    return [at] if ends_line and data[max(at - 1, 0) : at] in edges else []


def _lone_carriage_returns(values: pl.Series, quotes: pl.Series, layout: Layout) -> list[int]:
    """Find the first carriage return that stands alone outside quotes."""
    if layout.terminator == b"\r":
        return []
    returns = positions(values, b"\r")
    after = pl.concat([values, pl.Series([0], dtype=pl.UInt8)]).gather(returns + 1)
    lone = returns.filter(after != layout.terminator[0])
    return lone.filter(quotes.search_sorted(lone, side="left") % 2 == 0).head(1).to_list() if len(lone) else []


def _doubtful_records(
    values: pl.Series, quotes: pl.Series, ends: pl.Series, last_lines: pl.Series, layout: Layout
) -> list[int]:
    """Return the number of the first record, from 0, that is not proved good; single lines count only if strict."""
    first_lines = (last_lines.shift(1) + 1).fill_null(0)
    numbers = (last_lines >= first_lines if layout.is_strict else last_lines > first_lines).arg_true()
    if numbers.is_empty():
        return []
    first, last = first_lines.gather(numbers), last_lines.gather(numbers)
    separators = positions(values, layout.separator)
    # Running numbers of delimiters at the start of each line, and at the end of the last.
    before = pl.concat([pl.Series([0], dtype=pl.Int64), separators.search_sorted(ends, side="left").cast(pl.Int64)])
    counted = (quotes.search_sorted(separators, side="left") % 2 == 0).cast(pl.Int64).cum_sum()
    before_outside = pl.concat([pl.Series([0], dtype=pl.Int64), counted]).gather(before)
    n = len(layout.typed)
    full = (before.diff().drop_nulls() >= n - 1).cast(pl.Int64)
    full_before = pl.concat([pl.Series([0], dtype=pl.Int64), full.cum_sum()])
    column = before_outside.gather(first + 1) - before_outside.gather(first)
    between = (last - first - 1).clip(upper_bound=layout.lines_looked_at)
    records = pl.DataFrame(
        {
            "is_block": last > first,
            "first": full.gather(first) == 1,
            "last": full.gather(last) == 1,
            "full": full_before.gather(last) - full_before.gather(first + 1),
            "between": between,
            "is_typed": pl.Series(layout.typed).gather(column.clip(upper_bound=n - 1)),
            "before_blank": _before_blank(values, ends.gather(last), layout),
            "delimiters": before_outside.gather(last + 1) - before_outside.gather(first),
        }
    )
    c = pl.col
    if any(layout.typed):
        most = (c("first") | c("last")) & (2 * c("full") > c("between"))
        doubt = (c("first") & (c("last") | c("is_typed"))) | most
    else:
        nearly_all = (c("full") >= layout.enough_without_types) & (c("full") >= NEARLY_ALL * c("between"))
        doubt = c("first") & c("last") & nearly_all
    doubt |= c("first") & c("before_blank") & (n > 1)
    doubt &= c("is_block")
    doubtful = records.select((doubt | (c("delimiters") != n - 1)).arg_true()).to_series()
    return numbers.gather(doubtful.head(1)).to_list()


def _before_blank(values: pl.Series, ends: pl.Series, layout: Layout) -> pl.Series:
    """Mark the records that end with a quote above a blank line, or above a line whose first field is only a quote."""
    unknown = pl.Series([10, 10], dtype=pl.UInt8)  # the bytes around a piece
    around = pl.concat([unknown, values, unknown])
    before, last, next_, after = (around.gather(ends + offset) for offset in (0, 1, 3, 4))
    if layout.terminator == b"\n":
        last = before.zip_with(last == 13, last)
    blank = pl.Series([10, 13], dtype=pl.UInt8).implode()
    alone = (next_ == QUOTE[0]) & ((after == layout.separator[0]) | after.is_in(blank))
    return (last == QUOTE[0]) & (next_.is_in(blank) | alone)
