"""Finds the physical lines of a CSV file that a stray quote has damaged, so that it costs only its own line.

A quote that is opened and never closed swallows the lines below, up to the next stray quote or the end of the file. By
the rules of quoting that is one value; only its content is wrong. So the decision is made by evidence:

1. A line whose quotes are closed is taken as it is, whatever it holds. Text after a closing quote, or a carriage return
   outside quotes, damages that line.
2. A line that leaves a quote open begins a value of several lines, a block. The block is damaged if it is never closed
   (within `MAX_LINE_BYTES`), if text follows its closing quote, or if it does not have the header's number of fields.
3. Otherwise its lines are examined one by one. A line is *full* if it has the header's number of fields by itself, and
   these fit the types of the contract. The first and the last line are examined without the quote that opens or closes
   the block. The block is damaged if its first and last line are full, or if one of them is full and most of the lines
   between. A value in a column that is not text is damaged in any case if its first line is full: it would fit no such
   column.
4. If no column has a type, the block is doubtful if its first and last line are full, and nearly all lines between.
   Then it is weighed (`csv_likeness`): do its lines look like the records around the block, and how many values of
   several lines does the file have otherwise? Odds of twenty to one decide, either way. If they are lower, each line of
   the block becomes a dead letter: breaking up a value would make rows that nobody wrote, and keeping records together
   would lose them in silence. If a file has such values by the dozen, only those with at least three lines between are
   examined; if it has several in a single text column, they are not examined at all, because each would be doubtful.
5. A block whose first line is full is also damaged if its end is more likely the start of a value that begins with a
   line end, because otherwise the line below it would not be a record. If that line could be a record with an odd
   quote, all of the block is in doubt.
6. Otherwise it is a value with line ends, even if it quotes lines that look like records.

The first line of a damaged block is damaged; reading goes on with the next line as the start of a record. So a text of
several lines with a stray quote inside becomes as many dead letters as it has lines. Lines are read once, in a window
of at most `MAX_LINE_BYTES`; the end of a block is found once for all lines in it, so the work is linear.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, takewhile
from pathlib import Path

from pipeline_assets.ingest.files.content import Content, read_chunks
from pipeline_assets.ingest.files.formats.csv_fields import Field, Kind, Parsed, fields_of, parse
from pipeline_assets.ingest.files.formats.csv_likeness import (
    Counts,
    Fields,
    odds_of_counts,
    odds_of_delimiters,
    odds_of_looks,
    odds_of_quotes,
)
from pipeline_assets.ingest.files.formats.csv_lines import NEIGHBOURS, Line, Lines, Window
from pipeline_assets.ingest.files.formats.csv_prefix import NEARLY_ALL, Layout
from pipeline_assets.ingest.files.formats.physical_lines import MAX_LINE_BYTES, QUOTE
from pipeline_assets.ingest.files.limits import check_time

_LINES_LOOKED_AT = 100  # lines of a block between the first and the last
_SURE = 3.0  # log odds, twenty to one
# Doubtful values that make such values usual in a file; then only those with more lines between are examined.
_MANY = 50
_ENOUGH_OF_MANY = 3
_LINES_BETWEEN_LOOKS = 1_000  # lines between two looks at the clock

OPEN = "csv: quote: opened and not closed in its line"
DOUBT = (
    "csv: quote: a line of a value, or a record between two stray quotes: nothing tells which; correct the quotes, or "
    "declare types for the columns that are no text"
)
TEXT_AFTER = "csv: quote: text follows a closing quote"
MISSING, TOO_MANY = "csv: missing columns: expected {}, found {}", "csv: too many columns: expected {}, found {}"
NOT_UTF8 = "encoding: not UTF-8"
CARRIAGE_RETURN = "csv: line ends are mixed: a carriage return stands alone outside quotes"


@dataclass(frozen=True)
class Damage:
    """A damaged line: its number, its start, its bytes (only the first of a long line), their number, and the reason.

    Or a run of `lines` neighbouring lines, without text and reason.
    """

    line: int
    start: int
    text: bytes
    length: int
    reason: str
    lines: int = 1


class DamageFinder:
    """Reads the lines of one CSV file below its header.

    Attributes:
        has_weighed: Whether a value was doubtful. Then the decision depends on the whole file.
    """

    def __init__(self, separator: bytes, kinds: Sequence[Kind], *, is_strict: bool = False) -> None:
        """Keep what is known of all lines.

        Args:
            separator: The delimiter.
            kinds: What the header's fields have to be, in order.
            is_strict: Also find lines with too few or too many fields, or that are not UTF-8. DuckDB finds them, too,
                but takes 7 us and a kilobyte for each.
        """
        self._separator, self._kinds, self._is_strict = separator, kinds, is_strict
        self._has_types = any(kind.pattern is not None for kind in kinds)
        # How far the last search for the end of a value came, and the last line before it where another value begins.
        self._reached = self._reopened = 0
        self._last_doubted = self._records = self._values = self._doubtful = 0
        self._file: tuple[Path, Content, int] | None = None  # the file that a survey reads
        self._counts: Counts | None = None
        self.has_weighed = False
        self._header: Sequence[Field] = ()
        # Number of full lines between the first and the last line that make a value doubtful.
        self._enough = 0 if len(kinds) > 1 else 1

    def set_file(self, path: Path, content: Content, header_lines: int) -> None:
        """Set the file. Its values with line ends are counted if one of them is doubtful."""
        self._file = (path, content, header_lines)

    @property
    def columns(self) -> int:
        """Number of fields."""
        return len(self._kinds)

    def lines_of(self, chunks: Iterable[bytes], terminator: bytes) -> Lines:
        """Split bytes into lines, passing over good records in bulk."""
        typed = tuple(kind.pattern is not None for kind in self._kinds)
        return Lines(
            chunks,
            Layout(self._separator, terminator, typed, _LINES_LOOKED_AT, self._enough, self._is_strict),
        )

    def find(self, lines: Lines, *, first_line: int, start: int) -> Iterator[Damage]:
        """Yield the damaged ones among physical lines.

        Args:
            lines: The lines from the first below the header.
            first_line: Number of the first line.
            start: Where it starts.
        """
        window = Window(lines, first_line, start)
        while self._doubtful <= self._most and (line := window.pop()) is not None:
            if not line.line % _LINES_BETWEEN_LOOKS:
                check_time()
            self._records += 1
            if reason := self._reason(window, line):
                yield Damage(line.line, line.start, line.text, line.length, reason)

    def _reason(self, window: Window, line: Line) -> str | None:
        """Return what is wrong with a line that begins a record, and pass over the further lines of a good record."""
        own = line.text.rstrip(b"\r\n")
        if line.line <= self._last_doubted:
            return DOUBT if own or len(self._kinds) == 1 else None
        if QUOTE not in own:
            if b"\r" in own:
                return CARRIAGE_RETURN
            return self._refusal(own, own.count(self._separator)) if self._is_strict else None
        if line.length > MAX_LINE_BYTES:
            return f"line too long: {line.length} bytes, the limit is {MAX_LINE_BYTES}"
        parsed = parse(own, self._separator, inside=False)
        if parsed.state == "broken":
            return TEXT_AFTER
        if parsed.state == "closed":
            if b"\r" in own and _has_lone_carriage_return(own):
                return CARRIAGE_RETURN
            return self._refusal(own, parsed.delimiters) if self._is_strict else None
        block = self._block(window, line, own, parsed)
        reason = OPEN if block is None else self._block_damage(window, block)
        if block is not None and reason is None:
            self._values += 1
            window.drop_through(block.end)
        return reason

    def _refusal(self, own: bytes, delimiters: int) -> str | None:
        """Return why DuckDB would refuse a line whose quotes are closed; an empty line is not a record."""
        n = len(self._kinds)
        if delimiters + 1 < n:
            return MISSING.format(n, delimiters + 1) if own else None
        if delimiters + 1 > n and not own.endswith(self._separator * (delimiters + 1 - n)):
            return TOO_MANY.format(n, delimiters + 1)
        if not own.isascii():
            try:
                own.decode()
            except UnicodeDecodeError:
                return NOT_UTF8
        return None

    def _block(self, window: Window, line: Line, own: bytes, parsed: Parsed) -> "_Block | None":
        """Find the end of a value of several lines; None if it has no valid end, or too few or too many fields."""
        at, delimiters = line.line + 1, parsed.delimiters
        if self._reopened <= line.line < self._reached:
            at = self._reached  # an earlier line has searched: all lines up to there are inside quotes
        while (text := window.peek(at)) is not None:
            if QUOTE in text:
                found = parse(text.rstrip(b"\r\n"), self._separator, inside=True)
                delimiters += found.delimiters
                if found.state != "open":
                    break
                if found.quote >= 0:  # closed and opened again: the next value of several lines
                    self._reopened = at
            at += 1
        self._reached = at
        if text is None or found.state == "broken" or delimiters + 1 < len(self._kinds):
            return None
        surplus = delimiters + 1 - len(self._kinds)
        text = text.rstrip(b"\r\n")
        if not text.endswith(self._separator * surplus):  # spreadsheets write empty surplus fields
            return None
        without = text[: found.quote] + text[found.quote + 1 :]
        opening = own[: parsed.quote] + own[parsed.quote + 1 :]
        return _Block(at, parsed.delimiters, opening, text, without)

    def _block_damage(self, window: Window, block: "_Block") -> str | None:
        """Return what is wrong with a block that is closed and has the right fields, by the evidence of its lines."""
        first = self._is_full(block.first)
        if first and block.column < len(self._kinds) and self._kinds[block.column].pattern is not None:
            return OPEN
        if first and (reason := self._ends_where_another_begins(window, block)):
            return reason
        last = self._is_full(block.last) or self._is_full(block.last_without_quote)
        if not first and not last:
            return None
        until = min(block.end, window.next_line + _LINES_LOOKED_AT)
        between = [(window.peek(at) or b"").rstrip(b"\r\n") for at in range(window.next_line, until)]
        full = [line for line in between if self._is_full(line)]
        if self._has_types:
            return OPEN if (first and last) or 2 * len(full) > len(between) else None
        if not (first and last and len(full) >= max(self._enough, NEARLY_ALL * len(between))):
            return None
        return self._weigh(window, block, full)

    def _weigh(self, window: Window, block: "_Block", full: Sequence[bytes]) -> str | None:
        """Return what is wrong with a block in a file without types, if each of its lines could be a record."""
        if self._file is None:
            self._doubtful += 1
            return None
        self.has_weighed = True
        counts, n, k = self._survey(), len(self._kinds), block.column
        if counts.doubtful > self._most:
            self._enough = _ENOUGH_OF_MANY if n > 1 else MAX_LINE_BYTES
            window.require_full_lines(self._enough)
        if len(full) < self._enough or not (around := self._around(window, block)):
            return None
        last = block.last_without_quote if self._is_full(block.last_without_quote) else block.last
        lines: list[Fields] = [[*[None] * k, *self._record(block.first)[k:]]]
        lines += [self._record(text) for text in full]
        lines.append([*self._record(last)[: k + 1], *[None] * (n - k - 1)])
        n_lines = len(full) + 1
        odds = odds_of_counts(counts, n_lines, n) + odds_of_delimiters(n_lines, n)
        odds += odds_of_looks(lines, around, n) + odds_of_quotes(lines, [*around, self._header])
        if abs(odds) >= _SURE:
            return OPEN if odds > 0 else None
        self._last_doubted = block.end
        return DOUBT

    @property
    def _most(self) -> int:
        """Number of doubtful values above which such values are usual in a file.

        A single text column has no other values.
        """
        return _MANY if len(self._kinds) > 1 else 1

    def _survey(self) -> Counts:
        """Count the file's values of several lines, taking those whose lines prove no damage as good."""
        if self._counts is None and self._file is not None:
            path, content, header_lines = self._file
            other = DamageFinder(self._separator, self._kinds)
            lines = other.lines_of(read_chunks(path, content.compression), content.terminator)
            start, header = _pass_header(lines, header_lines)
            self._header = self._record(header)
            for _ in other.find(lines, first_line=header_lines + 1, start=start):
                pass
            records, values = lines.passed_records + other._records, lines.passed_values + other._values
            self._counts = Counts(records, values - other._doubtful, other._doubtful)
        return self._counts or Counts(0, 0, 0)

    def _record(self, text: bytes) -> list[Field]:
        return (fields_of(text, self._separator) or [])[: len(self._kinds)]

    def _around(self, window: Window, block: "_Block") -> list[Fields]:
        """Return records around a block, and those fields of its first and last line that its quotes do not touch."""
        n, k = len(self._kinds), block.column
        found: list[Fields] = [[*self._record(block.first)[:k], *[None] * (n - k)]] if k else []
        if k < n - 1 and self._is_full(block.last_without_quote):
            found.append([*[None] * (k + 1), *self._record(block.last_without_quote)[k + 1 :]])
        ahead = (window.peek(at) for at in range(block.end + 1, block.end + 1 + NEIGHBOURS))
        below = (text.rstrip(b"\r\n") for text in ahead if text is not None)
        records = takewhile(lambda text: fields_of(text, self._separator) is not None, below)
        above = (text.rstrip(b"\r\n") for text in window.above())
        return found + [self._record(text) for text in chain(above, records) if self._is_full(text)]

    def _ends_where_another_begins(self, window: Window, block: "_Block") -> str | None:
        """Return what is wrong with a block whose last quote may instead open a value that begins with a line end."""
        n, opening = len(self._kinds), parse(block.last, self._separator, inside=False)
        if opening.state != "open" or not block.last.endswith(QUOTE) or n == 1:
            return None
        at, until, below = block.end + 1, block.end + _LINES_LOOKED_AT, []
        while (text := window.peek(at)) is not None and at < until and self._stays_inside(text):
            below.append(text.rstrip(b"\r\n"))
            at += 1
        own = (text or b"").rstrip(b"\r\n")
        closing = parse(own, self._separator, inside=True)
        if closing.state != "closed" or opening.delimiters + closing.delimiters + 1 != n:
            return None
        if any(self._is_full(text) for text in below):
            return None
        kept, parsed = (self._reached, self._reopened), parse(own, self._separator, inside=False)
        is_open = parsed.state == "open"
        is_record = is_open and self._block(window, Line(at, 0, text or b"", 0), own, parsed) is not None
        self._reached, self._reopened = kept
        if is_record:
            return None
        if parsed.state != "closed" or not self._is_full(own) or any(below):
            return OPEN
        self._last_doubted = at  # either the value or a record with a stray quote
        return DOUBT

    def _stays_inside(self, text: bytes) -> bool:
        if QUOTE not in text:
            return True
        parsed = parse(text.rstrip(b"\r\n"), self._separator, inside=True)
        return parsed.state == "open" and parsed.quote < 0

    def _is_full(self, text: bytes) -> bool:
        n = len(self._kinds)
        if text.count(self._separator) < n - 1:
            return False
        fields = fields_of(text, self._separator)
        if fields is None or len(fields) < n or any(field.text.strip() for field in fields[n:]):
            return False
        return all(kind.fits(field.text) for field, kind in zip(fields, self._kinds, strict=False))


@dataclass(frozen=True)
class _Block:
    """A value of several lines.

    Attributes:
        end: Its last line.
        column: Number of its field, from 0.
        first: Text of the line that opens it, without the quote.
        last: Text of the line that closes it.
        last_without_quote: The same without the quote.
    """

    end: int
    column: int
    first: bytes
    last: bytes
    last_without_quote: bytes


def _has_lone_carriage_return(own: bytes) -> bool:
    return b"\r" in re.sub(rb'"(?:[^"]|"")*"', b"", own)


def find_damage(path: Path, content: Content, finder: DamageFinder, header_lines: int) -> Iterator[Damage]:
    """Yield the damaged lines of a file.

    Args:
        path: The file.
        content: What is known of its bytes.
        finder: Examines the lines.
        header_lines: Physical lines up to the end of the header, blank ones before it included.
    """
    finder.set_file(path, content, header_lines)
    lines = finder.lines_of(read_chunks(path, content.compression), content.terminator)
    start, _ = _pass_header(lines, header_lines)
    yield from finder.find(lines, first_line=header_lines + 1, start=start)


def _pass_header(lines: Lines, header_lines: int) -> tuple[int, bytes]:
    """Return where the first line below the header starts, and the last line of the header."""
    passed = [next(lines, (b"", 0)) for _ in range(header_lines)]
    return sum(length for _, length in passed), passed[-1][0].rstrip(b"\r\n") if passed else b""
