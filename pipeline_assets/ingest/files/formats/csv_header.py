"""The header of a CSV file: which fields it names, where it ends, and what is wrong with it.

A repeated name makes the file unreadable only if the contract needs that column. A column without a name, and the
repetition of a name that the contract does not need, are kept in `_rescued` under their place: `(4)`, `(5) amount`. An
unnamed empty column, which spreadsheets write at the end of each line, is dropped.
"""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline_assets.contracts.base import RawShape
from pipeline_assets.ingest.conform.fields import SourceField
from pipeline_assets.ingest.conform.names import Columns
from pipeline_assets.ingest.files.content import HEAD_BYTES, Content
from pipeline_assets.ingest.files.formats.physical_lines import QUOTE, header_record
from pipeline_assets.ingest.files.formats.records import UnreadableFile
from pipeline_assets.ingest.files.formats.text_reader import BOM

STRAY_QUOTE = "csv: quote: a stray one in the header, which is read without its quotes"
TEXT_AFTER = "csv: quote: text follows a closing one in the header, which is read without that text"
_DELIMITERS = {",": "','", ";": "';'", "\t": '"\\t"', "|": "'|'"}  # delimiters as YAML writes them


@dataclass(frozen=True)
class Header:
    """A CSV file's header.

    Attributes:
        fields: The fields, in order.
        last_line: Physical line on which it ends.
        start: Byte at which it starts.
        text: Its bytes, without its line end.
        mended: The bytes that are read instead, if it holds a stray quote.
        problem: What is wrong with it in that case.
    """

    fields: tuple[SourceField, ...]
    last_line: int
    start: int
    text: bytes
    mended: bytes | None = None
    problem: str = ""


def csv_header(content: Content, delimiter: str, shape: RawShape | None = None) -> Header:
    """Read the header of a CSV file.

    Args:
        content: What is known of its bytes.
        delimiter: One ASCII character.
        shape: The contract's columns, which reveal a stray quote or a wrong delimiter.

    Raises:
        UnreadableFile: There is no header, or it cannot name the fields.
    """
    separator = delimiter.encode()
    head = content.head.removeprefix(BOM)
    found = re.match(rb"[\r\n]*", head)
    above = found[0] if found else b""
    record = header_record(head, separator, content.terminator)
    first = head[len(above) :].split(content.terminator, 1)[0].rstrip(b"\r\n")
    if not first and not record:
        raise UnreadableFile("header: missing")
    wanted = {column.name for column in shape.columns} if shape else None
    # The first of the readings that name most columns of the contract.
    readings = _readings(first, record, delimiter)
    best = max(readings, key=lambda reading: _known(reading.names, wanted), default=None)
    if best is None:
        raise UnreadableFile(f"header: longer than {HEAD_BYTES} bytes")
    _check_delimiter(best.text if best.mended is None else best.mended, best.names, delimiter, wanted)
    last = above.count(content.terminator) + best.text.count(content.terminator) + 1
    start = len(content.head) - len(head) + len(above)
    below = head[len(above) + len(best.text) :].lstrip(b"\r\n").split(content.terminator, 1)[0]
    fields = _fields(_passed_over(best.names, below, separator), wanted)
    return Header(fields, last, start, best.text, best.mended, best.problem)


@dataclass(frozen=True)
class _Reading:
    """One way to read the header: its bytes, the bytes read instead (if any), the reason, and the names."""

    text: bytes
    mended: bytes | None
    problem: str
    names: list[str]


def _readings(first: bytes, record: bytes | None, delimiter: str) -> list[_Reading]:
    """Return the ways to read a header: as it is, if possible; without quotes; without text after a closing quote."""
    ways: list[tuple[bytes, bytes | None, str]] = []
    cut = record and _without_text_after_quotes(record, delimiter.encode())
    if record and cut == record:
        ways.append((record, None, ""))
    if QUOTE in first:
        ways.append((first, first.replace(QUOTE, b""), STRAY_QUOTE))
    if record and cut and cut != record:
        ways.append((record, cut, TEXT_AFTER))
    return [
        _Reading(text, mended, problem, _names(text if mended is None else mended, delimiter))
        for text, mended, problem in ways
    ]


def _without_text_after_quotes(record: bytes, separator: bytes) -> bytes:
    edge = re.escape(separator)
    field = rb'(^|%s)( *"(?:[^"]|"")*+" *)?([^%s]*)' % (edge, edge)
    return re.sub(field, lambda found: found[1] + (found[2] or found[3]), record)


def _names(record: bytes, delimiter: str) -> list[str]:
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
    return [name.strip() for name in names]


def _known(names: Sequence[str], wanted: set[str] | None) -> int:
    """Count the contract's columns that are named."""
    columns = Columns(wanted or set())
    return len({columns.column(name) for name in names} - {None})


def _check_delimiter(record: bytes, names: Sequence[str], delimiter: str, wanted: set[str] | None) -> None:
    """Raise UnreadableFile if only another delimiter than the declared one gives columns of the contract."""
    if _known(names, wanted):
        return
    for other, shown in _DELIMITERS.items():
        if other != delimiter and _known(_names(record, other), wanted):
            raise UnreadableFile(f"header: the delimiter looks like {shown}: set `delimiter: {shown}`")


def _passed_over(names: list[str], below: bytes, separator: bytes) -> list[str]:
    """Return the names without the empty ones at their end, if the first record has no fields for them."""
    named = len(names)
    while named > 1 and not names[named - 1]:
        named -= 1
    is_shorter = QUOTE not in below and below.count(separator) + 1 == named
    return names[:named] if is_shorter else names


def _fields(names: Sequence[str], wanted: set[str] | None) -> tuple[SourceField, ...]:
    fields: list[SourceField] = []
    seen: set[str] = set()
    twice: set[str] = set()
    for place, name in enumerate(names):
        if name and name not in seen:
            fields.append(SourceField(name, f"f{place}", "VARCHAR"))
        else:
            fields.append(SourceField(f"({place + 1}) {name}".rstrip(), f"f{place}", "VARCHAR", evolves_to=""))
            if name and (wanted is None or _known([name], wanted)):
                twice.add(name)
        seen.add(name)
    if twice:
        names = ", ".join(map(repr, sorted(twice)))
        raise UnreadableFile(
            f"header: {names} is there more than once, and which is meant cannot be known: rename or remove the others"
        )
    return tuple(fields)
