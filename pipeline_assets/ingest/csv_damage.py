"""Find the physical lines of a CSV file that a stray quote has damaged, so that it costs its own line and no other.

A quote that is opened and never closed swallows the lines below, up to the next stray quote or the end of the file. By
the rules of quoting that is one value; nothing is wrong with it but its content. So this is decided by evidence:

1. A line whose quotes are closed is what it is, whatever it holds. Text after a closing quote, or a carriage return
   outside quotes, damages that line.
2. A line that leaves a quote open begins a value of several lines, a block. The block is damaged if it is never closed
   (within `MAX_LINE_BYTES`), if text follows its closing quote, or if it does not have the header's number of fields.
3. Else its lines are looked at, one by one. A line is *full* if alone it has the header's number of fields, and these
   fit the types of the contract; of the first and the last line without the quote that opens or closes the block. The
   block is damaged if first and last line are full, or one of them and most of the lines between. Where no column has
   a type, both and nearly all of at least three lines between have to be, and these have to look like the records
   around the block (`csv_likeness`): a poem has a comma in each line, too. A value in a column that is no text is
   damaged in any case if its first line is full: it would fit nothing.
4. A block whose first line is full is damaged, too, if its end is the beginning of a value of blank lines: only so is
   what stands below them a record.
5. Else it is a value with line ends, also where it quotes lines that look like records.

Of a damaged block the first line is damaged; reading goes on with the next as the start of a record. A text of several
lines with a stray quote inside so becomes as many dead letters as it has lines. Lines are read once, in a window of at
most `MAX_LINE_BYTES`; where a block ends is found once for all lines in it, so the work is linear.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, takewhile
from pathlib import Path
from typing import Literal

from pipeline_assets.ingest.casts import normal
from pipeline_assets.ingest.content import Content, read_chunks
from pipeline_assets.ingest.csv_likeness import Fields, are_like
from pipeline_assets.ingest.csv_lines import Line, Lines, Window
from pipeline_assets.ingest.csv_prefix import Layout
from pipeline_assets.ingest.limits import check_time
from pipeline_assets.ingest.physical_lines import MAX_LINE_BYTES, QUOTE

_LINES_LOOKED_AT = 100  # of a block, between the first and the last
_ENOUGH_WITHOUT_TYPES, _NEARLY_ALL = 3, 0.9  # all of less than ten
_NEIGHBOURS = 10  # records below a block that tell what records look like
_LINES_BETWEEN_LOOKS = 1_000  # at the clock

_NUMBER = rb"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*"
_DATE = rb"\s*\d{4}-\d\d-\d\d([ T].*)?\s*"
_BOOLEAN = rb"(?i)\s*(true|false|t|f|0|1)\s*"
_PATTERNS: dict[str, bytes] = {
    "BOOLEAN": _BOOLEAN,
    **dict.fromkeys(("DATE", "TIMESTAMP"), _DATE),
    **dict.fromkeys(("DECIMAL", "DOUBLE", "FLOAT", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT"), _NUMBER),
}

OPEN = "csv: quote: opened and not closed in its line"
TEXT_AFTER = "csv: quote: text follows a closing quote"
MISSING, TOO_MANY = "csv: missing columns: expected {}, found {}", "csv: too many columns: expected {}, found {}"
NOT_UTF8 = "encoding: not UTF-8"
CARRIAGE_RETURN = "csv: line ends are mixed: a carriage return stands alone outside quotes"


@dataclass(frozen=True)
class Damage:
    """A damaged line: its number, where it starts, its bytes (of a long one the first), their number, what is wrong.

    Or a run of `lines` neighbours, without text and reason.
    """

    line: int
    start: int
    text: bytes
    length: int
    reason: str
    lines: int = 1


@dataclass(frozen=True)
class Kind:
    """What a field has to be: a pattern of its text, None for any text; and whether it has to be there."""

    pattern: re.Pattern[bytes] | None
    required: bool


TEXT = Kind(None, False)


def kind_of(dtype: str, *, required: bool) -> Kind:
    """Give the kind of a column of a contract, by its DuckDB type."""
    pattern = _PATTERNS.get(re.split(r"[( ]", normal(dtype))[0])
    return Kind(re.compile(pattern) if pattern else None, required)


@dataclass(frozen=True)
class _Parsed:
    """A line as read from its start, outside or inside quotes.

    Attributes:
        state: `closed` at its end; `open`: a quote is; `broken`: text follows a closing quote.
        delimiters: How many end a field in it.
        quote: Where the last quote is that opened, or of a line that starts inside, the first that closed; -1: none.
    """

    state: Literal["closed", "open", "broken"]
    delimiters: int
    quote: int


def _after_spaces(text: bytes, at: int) -> int:
    while text[at : at + 1] == b" ":
        at += 1
    return at


def _closing(text: bytes, at: int) -> int:
    """Where the quote is that closes a value, looking from a place in it; -1 if none does."""
    close = text.find(QUOTE, at)
    while close >= 0 and text[close + 1 : close + 2] == QUOTE:
        close = text.find(QUOTE, close + 2)
    return close


def _parse(text: bytes, separator: bytes, *, inside: bool) -> _Parsed:
    at = delimiters = 0
    quote, starts_inside = -1, inside
    while True:
        if not inside:
            at = _after_spaces(text, at)
            if text[at : at + 1] == QUOTE:
                inside, at = True, at + 1
                quote = quote if starts_inside else at - 1
        if inside:
            close = _closing(text, at)
            if close < 0:
                return _Parsed("open", delimiters, quote)
            quote = close if starts_inside and quote < 0 else quote
            inside, at = False, _after_spaces(text, close + 1)
            if at < len(text) and text[at : at + 1] != separator:
                return _Parsed("broken", delimiters, quote)
        at = text.find(separator, at) + 1
        if at == 0:
            return _Parsed("closed", delimiters, quote)
        delimiters += 1


def _fields(text: bytes, separator: bytes) -> list[bytes] | None:
    """Split a line at its delimiters; None if its quotes are not closed in it."""
    fields, at = [], 0
    while True:
        start, at = at, _after_spaces(text, at)
        if text[at : at + 1] == QUOTE:
            close = _closing(text, at + 1)
            end = _after_spaces(text, close + 1)
            if close < 0 or (end < len(text) and text[end : end + 1] != separator):
                return None
            fields.append(text[at + 1 : close].replace(QUOTE * 2, QUOTE))
        else:
            end = text.find(separator, at)
            end = len(text) if end < 0 else end
            fields.append(text[start:end])
        if end >= len(text):
            return fields
        at = end + 1


class DamageFinder:
    """Reads the lines of one CSV file below its header."""

    def __init__(self, separator: bytes, kinds: Sequence[Kind], *, is_strict: bool = False) -> None:
        """Takes what is known of all lines.

        Args:
            separator: The delimiter.
            kinds: What the header's fields have to be, in order.
            is_strict: Also find lines with too few or too many fields, or that are no UTF-8. DuckDB finds them, too,
                but takes 7 us and a kilobyte for each.
        """
        self._separator, self._kinds, self._is_strict = separator, kinds, is_strict
        self._has_types = any(kind.pattern is not None for kind in kinds)
        # Where the last look for the end of a value came to, and the last line before where another value begins.
        self._reached = self._reopened = 0

    @property
    def columns(self) -> int:
        """Number of fields."""
        return len(self._kinds)

    def lines_of(self, chunks: Iterable[bytes], terminator: bytes) -> Lines:
        """Splits bytes, of which good records need no look, into lines."""
        typed = tuple(kind.pattern is not None for kind in self._kinds)
        return Lines(
            chunks,
            Layout(self._separator, terminator, typed, _LINES_LOOKED_AT, _ENOUGH_WITHOUT_TYPES, self._is_strict),
        )

    def find(self, lines: Lines, *, first_line: int, start: int) -> Iterator[Damage]:
        """Yields the damaged ones of physical lines.

        Args:
            lines: The lines from the first below the header.
            first_line: Number of the first.
            start: Where it starts.
        """
        window = Window(lines, first_line, start)
        while (line := window.pop()) is not None:
            if not line.line % _LINES_BETWEEN_LOOKS:
                check_time()
            if reason := self._reason(window, line):
                yield Damage(line.line, line.start, line.text, line.length, reason)

    def _reason(self, window: Window, line: Line) -> str | None:
        """What is wrong with a line that a record begins on; passes the further lines of a good record."""
        own = line.text.rstrip(b"\r\n")
        if QUOTE not in own:
            if b"\r" in own:
                return CARRIAGE_RETURN
            return self._refusal(own, own.count(self._separator)) if self._is_strict else None
        if line.length > MAX_LINE_BYTES:
            return f"line too long: {line.length} bytes, the limit is {MAX_LINE_BYTES}"
        parsed = _parse(own, self._separator, inside=False)
        if parsed.state == "broken":
            return TEXT_AFTER
        if parsed.state == "closed":
            if b"\r" in own and _has_lone_carriage_return(own):
                return CARRIAGE_RETURN
            return self._refusal(own, parsed.delimiters) if self._is_strict else None
        block = self._block(window, line, own, parsed)
        if block is None or not self._is_value(window, block):
            return OPEN
        window.drop_through(block.end)
        return None

    def _refusal(self, own: bytes, delimiters: int) -> str | None:
        """Why DuckDB would refuse a line whose quotes are closed; an empty one is no record."""
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

    def _block(self, window: Window, line: Line, own: bytes, parsed: _Parsed) -> "_Block | None":
        """Finds the end of a value of several lines; None if it has no good one, or the fields are too few or many."""
        at, delimiters = line.line + 1, parsed.delimiters
        if self._reopened <= line.line < self._reached:
            at = self._reached  # a line before this one has looked: all lines up to there are inside
        while (text := window.peek(at)) is not None:
            if QUOTE in text:
                found = _parse(text.rstrip(b"\r\n"), self._separator, inside=True)
                delimiters += found.delimiters
                if found.state != "open":
                    break
                if found.quote >= 0:  # closed, and opened again: the next value of several lines
                    self._reopened = at
            at += 1
        self._reached = at
        if text is None or found.state == "broken" or delimiters + 1 < len(self._kinds):
            return None
        surplus = delimiters + 1 - len(self._kinds)
        text = text.rstrip(b"\r\n")
        if not text.endswith(self._separator * surplus):  # empty ones are what spreadsheets write
            return None
        without = text[: found.quote] + text[found.quote + 1 :]
        opening = own[: parsed.quote] + own[parsed.quote + 1 :]
        return _Block(at, parsed.delimiters, opening, text, without)

    def _is_value(self, window: Window, block: "_Block") -> bool:
        """Whether a block that is closed and has the right fields is a value, by the evidence of its lines."""
        first = self._is_full(block.first)
        if first and block.column < len(self._kinds) and self._kinds[block.column].pattern is not None:
            return False
        if first and self._begins_blank_value(window, block):
            return False
        last = self._is_full(block.last) or self._is_full(block.last_without_quote)
        if not first and not last:
            return True
        until = min(block.end, window.next_line + _LINES_LOOKED_AT)
        between = [(window.peek(at) or b"").rstrip(b"\r\n") for at in range(window.next_line, until)]
        full = sum(self._is_full(line) for line in between)
        if self._has_types:
            return not ((first and last) or 2 * full > len(between))
        # In a single column of text every line is full, which says nothing.
        nearly_all = full >= max(_ENOUGH_WITHOUT_TYPES, _NEARLY_ALL * len(between))
        if not (first and last and nearly_all and len(self._kinds) > 1):
            return True
        lines = [self._record(line) for line in between if self._is_full(line)]
        return not are_like(lines, self._around(window, block), len(self._kinds))

    def _record(self, text: bytes) -> list[bytes]:
        return (_fields(text, self._separator) or [])[: len(self._kinds)]

    def _around(self, window: Window, block: "_Block") -> list[Fields]:
        """Records around a block, and those fields of its first and last line that its quotes leave alone."""
        n, k = len(self._kinds), block.column
        found: list[Fields] = [[*self._record(block.first)[:k], *[None] * (n - k)]]
        if self._is_full(block.last_without_quote):
            found.append([*[None] * (k + 1), *self._record(block.last_without_quote)[k + 1 :]])
        below = ((window.peek(at) or b"").rstrip(b"\r\n") for at in range(block.end + 1, block.end + 1 + _NEIGHBOURS))
        records = takewhile(lambda text: _fields(text, self._separator) is not None, below)
        whole = filter(self._is_full, chain([window.before.rstrip(b"\r\n")], records))
        return found + [self._record(text) for text in whole]

    def _begins_blank_value(self, window: Window, block: "_Block") -> bool:
        """Whether the quote that ends a block rather opens a value of blank lines, closed by the quote below them."""
        opening = _parse(block.last, self._separator, inside=False)
        if opening.state != "open" or not block.last.endswith(QUOTE) or len(self._kinds) == 1:
            return False
        at, until = block.end + 1, block.end + _LINES_LOOKED_AT
        while (text := window.peek(at)) is not None and at < until and not text.strip(b"\r\n"):
            at += 1
        own = (text or b"").rstrip(b"\r\n")
        if own != QUOTE and not own.startswith(QUOTE + self._separator):
            return False
        closing = _parse(own, self._separator, inside=True)
        if closing.state != "closed" or opening.delimiters + closing.delimiters + 1 != len(self._kinds):
            return False
        kept, parsed = (self._reached, self._reopened), _parse(own, self._separator, inside=False)
        is_open = parsed.state == "open"
        is_record = is_open and self._block(window, Line(at, 0, text or b"", 0), own, parsed) is not None
        self._reached, self._reopened = kept
        return not is_record and (is_open or parsed.state == "broken")

    def _is_full(self, text: bytes) -> bool:
        n = len(self._kinds)
        if text.count(self._separator) < n - 1:
            return False
        fields = _fields(text, self._separator)
        if fields is None or len(fields) < n or any(field.strip() for field in fields[n:]):
            return False
        return all(self._fits(field, kind) for field, kind in zip(fields, self._kinds, strict=False))

    @staticmethod
    def _fits(field: bytes, kind: Kind) -> bool:
        if not field.strip():
            return not kind.required
        return kind.pattern is None or kind.pattern.fullmatch(field) is not None


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
    """Yields the damaged lines of a file.

    Args:
        path: The file.
        content: What is known of its bytes.
        finder: What looks at the lines.
        header_lines: Physical lines down to the end of the header, blank ones before it included.
    """
    lines = finder.lines_of(read_chunks(path, content.compression), content.terminator)
    start = sum(next(lines, (b"", 0))[1] for _ in range(header_lines))
    yield from finder.find(lines, first_line=header_lines + 1, start=start)
