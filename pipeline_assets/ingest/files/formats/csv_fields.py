"""Reads one physical line of a CSV file that starts outside or inside quotes: its state at the end, its fields.

`Kind` tells whether a field's text may be a value of its column; the cast itself is in `ingest.conform`.
"""

import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

from pipeline_assets.ingest.conform.casts import normal
from pipeline_assets.ingest.files.formats.physical_lines import QUOTE

_NUMBER = rb"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*"
_DATE = rb"\s*\d{4}-\d\d-\d\d([ T].*)?\s*"
_BOOLEAN = rb"(?i)\s*(true|false|t|f|0|1)\s*"
_PATTERNS: dict[str, bytes] = {
    "BOOLEAN": _BOOLEAN,
    **dict.fromkeys(("DATE", "TIMESTAMP"), _DATE),
    **dict.fromkeys(("DECIMAL", "DOUBLE", "FLOAT", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT"), _NUMBER),
}


@dataclass(frozen=True)
class Parsed:
    """A line as read from its start, outside or inside quotes.

    Attributes:
        state: `closed`: outside quotes at its end; `open`: inside quotes; `broken`: text follows a closing quote.
        delimiters: Number of delimiters in it that end a field.
        quote: Place of the last quote that opened; for a line that starts inside quotes, of the first that closed; -1
            if there is no such quote.
    """

    state: Literal["closed", "open", "broken"]
    delimiters: int
    quote: int


def _after_spaces(text: bytes, at: int) -> int:
    while text[at : at + 1] == b" ":
        at += 1
    return at


def _closing(text: bytes, at: int) -> int:
    """Find the quote that closes a value, from a place in the value; -1 if no quote closes it."""
    close = text.find(QUOTE, at)
    while close >= 0 and text[close + 1 : close + 2] == QUOTE:
        close = text.find(QUOTE, close + 2)
    return close


def parse(text: bytes, separator: bytes, *, inside: bool) -> Parsed:
    """Read a line without its end."""
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
                return Parsed("open", delimiters, quote)
            quote = close if starts_inside and quote < 0 else quote
            inside, at = False, _after_spaces(text, close + 1)
            if at < len(text) and text[at : at + 1] != separator:
                return Parsed("broken", delimiters, quote)
        at = text.find(separator, at) + 1
        if at == 0:
            return Parsed("closed", delimiters, quote)
        delimiters += 1


class Field(NamedTuple):
    """A field of a line.

    Attributes:
        text: Its text without quotes.
        is_quoted: Whether it is written in quotes.
    """

    text: bytes
    is_quoted: bool


def fields_of(text: bytes, separator: bytes) -> list[Field] | None:
    """Split a line at its delimiters; None if its quotes are not closed in it."""
    fields, at = [], 0
    while True:
        start, at = at, _after_spaces(text, at)
        if text[at : at + 1] == QUOTE:
            close = _closing(text, at + 1)
            end = _after_spaces(text, close + 1)
            if close < 0 or (end < len(text) and text[end : end + 1] != separator):
                return None
            fields.append(Field(text[at + 1 : close].replace(QUOTE * 2, QUOTE), is_quoted=True))
        else:
            end = text.find(separator, at)
            end = len(text) if end < 0 else end
            fields.append(Field(text[start:end], is_quoted=False))
        if end >= len(text):
            return fields
        at = end + 1


@dataclass(frozen=True)
class Kind:
    """What a field has to be: a pattern of its text (None for any text), and whether it is required."""

    pattern: re.Pattern[bytes] | None
    required: bool

    def fits(self, text: bytes) -> bool:
        """Tell whether a field's text may be such a value."""
        if not text.strip():
            return not self.required
        return self.pattern is None or self.pattern.fullmatch(text) is not None


TEXT = Kind(None, False)


def kind_of(dtype: str, *, required: bool) -> Kind:
    """Return the kind of a contract's column by its DuckDB type."""
    pattern = _PATTERNS.get(re.split(r"[( ]", normal(dtype))[0])
    return Kind(re.compile(pattern) if pattern else None, required)
