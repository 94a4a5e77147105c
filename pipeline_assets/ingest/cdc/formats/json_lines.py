"""Yields the lines of a landed file of records one at a time, with their numbers; lines that are too long are cut.

The parsers in `ingest.cdc.formats` interpret a line; `ingest.cdc.files` chooses the files.
"""

from collections.abc import Iterator
from pathlib import Path

from pipeline_assets.ingest.files.content import EXCERPT_BYTES, Content, read_chunks

LONGEST_LINE_BYTES = 64 * 1024 * 1024
"""Kafka's brokers accept a megabyte by default. A file without line ends must not fill the memory."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def lines(path: Path, content: Content) -> Iterator[tuple[int, bytes, bool]]:
    """Yield the lines of a file that are not blank.

    Args:
        path: The file.
        content: What the pass over its bytes found.

    Yields:
        Number of the line, from 1; its bytes without surrounding white space; and whether they are only the start of a
        line that is longer than `LONGEST_LINE_BYTES`.
    """
    number, rest, is_cut = 0, b"", False
    for chunk in read_chunks(path, content.compression):
        *whole, last = chunk.split(content.terminator)
        for part in whole:
            number += 1
            yield from _line(number, rest if is_cut else rest + part, is_cut)
            rest, is_cut = b"", False
        if not is_cut:
            rest += last
            if len(rest) > LONGEST_LINE_BYTES:
                rest, is_cut = rest[:EXCERPT_BYTES], True
    yield from _line(number + 1, rest, is_cut)


def _line(number: int, data: bytes, is_cut: bool) -> Iterator[tuple[int, bytes, bool]]:
    if number == 1:
        data = data.removeprefix(_BYTE_ORDER_MARK)
    if data := data.strip():
        yield number, data, is_cut
