"""The physical lines of a CSV file for closer examination, without those whose records are good (`csv_prefix`)."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import takewhile

from pipeline_assets.ingest.files.formats.csv_prefix import Layout, Prefix, good_prefix
from pipeline_assets.ingest.files.formats.physical_lines import MAX_LINE_BYTES, QUOTE

_LINE_OVERHEAD_BYTES = 48  # size of a bytes object
_LEAST_PIECE_BYTES, _LARGEST_PIECE_BYTES = 64 * 1024, 1024 * 1024

NEIGHBOURS = 10
"""Number of lines, above and below a value, that show what records look like."""


class Lines:
    """Physical lines with their ends and lengths; of a line over the limit only the start is kept."""

    def __init__(self, chunks: Iterable[bytes], layout: Layout) -> None:
        """Keep the file's bytes and its layout."""
        self._chunks, self._data, self._at = iter(chunks), b"", 0
        self._ready: Iterator[bytes] = iter(())
        self._n_ready = 0
        self._layout = layout
        self._piece = _LEAST_PIECE_BYTES
        self.passed_records = self.passed_values = 0
        self.last_passed: list[bytes] = []

    def __iter__(self) -> "Lines":
        return self

    def __next__(self) -> tuple[bytes, int]:
        if not self._n_ready:
            terminator = self._layout.terminator
            end = self._data.rfind(terminator, self._at, self._at + _LEAST_PIECE_BYTES)
            if end < 0:
                return self._long_line()
            parts = self._data[self._at : end].split(terminator)
            self._ready, self._n_ready, self._at = iter(parts), len(parts), end + 1
        self._n_ready -= 1
        text = next(self._ready) + self._layout.terminator
        return text, len(text)

    def _long_line(self) -> tuple[bytes, int]:
        """Take a line that is longer than a piece, or the last line."""
        dropped = 0
        while (end := self._data.find(self._layout.terminator, self._at)) < 0:
            if (surplus := len(self._data) - self._at - MAX_LINE_BYTES) > 0:
                self._data = self._data[:-surplus]
                dropped += surplus
            if not self._read():
                break
        end = len(self._data) if end < 0 else end + 1
        text, self._at = self._data[self._at : end], end
        if not text:
            raise StopIteration
        return text[:MAX_LINE_BYTES] if dropped else text, len(text) + dropped

    def _read(self) -> bool:
        chunk = next(self._chunks, b"")
        self._data, self._at = self._data[self._at :] + chunk, 0
        return bool(chunk)

    def pass_good(self) -> Prefix:
        """Pass over the records that are proved good in bulk; pass none while lines of the last examination are left.

        The pieces grow while all is good. After damage at least `_LEAST_PIECE_BYTES` are examined line by line, so the
        cost of vain proofs stays below that of the lines.
        """
        lines = size = 0
        last: deque[bytes] = deque(maxlen=NEIGHBOURS)
        while not self._n_ready:
            while len(self._data) - self._at < self._piece and self._read():
                pass
            piece = self._data[self._at : self._at + self._piece]
            found = good_prefix(piece, self._layout)
            if not found.lines:
                self._piece = _LEAST_PIECE_BYTES
                break
            self.passed_records += found.records
            self.passed_values += found.values
            last.extend(
                self._data[self._at : self._at + found.size - 1].rsplit(self._layout.terminator, NEIGHBOURS)[
                    -NEIGHBOURS:
                ]
            )
            lines, size, self._at = lines + found.lines, size + found.size, self._at + found.size
            self._piece = min(2 * self._piece, _LARGEST_PIECE_BYTES)
        self.last_passed = list(last)
        return Prefix(lines, size)

    def require_full_lines(self, full_lines: int) -> None:
        """From the next piece on, pass over values without types that have fewer lines which could be records."""
        self._layout = replace(self._layout, enough_without_types=full_lines)


@dataclass(frozen=True)
class Line:
    """A physical line: its number, its start, its bytes (only the first of a long line), their number."""

    line: int
    start: int
    text: bytes
    length: int


class Window:
    """Lines that were read but not yet passed: about `MAX_LINE_BYTES` of them."""

    def __init__(self, lines: Lines, first_line: int, start: int) -> None:
        """Start with lines, the number of the first, and where it starts."""
        self._source = lines
        self._held: list[tuple[bytes, int]] = []
        self._head = self._bytes = 0
        self._start = start
        self.next_line = first_line
        # The lines that were passed last; the one that `pop` returned is the last of them.
        self._passed: deque[bytes] = deque(maxlen=NEIGHBOURS + 1)

    def pop(self) -> Line | None:
        """Pass the next line; if no line is held, first pass all good records before it."""
        if self._head == len(self._held):
            passed = self._source.pass_good()
            self.next_line += passed.lines
            self._start += passed.size
            self._passed.extend(self._source.last_passed)
        if self.peek(self.next_line) is None:
            return None
        text, length = self._held[self._head]
        self._head += 1
        if self._head > 1000 and 2 * self._head > len(self._held):
            del self._held[: self._head]
            self._head = 0
        self._passed.append(text)
        line = Line(self.next_line, self._start, text, length)
        self._bytes -= len(text) + _LINE_OVERHEAD_BYTES
        self._start += length
        self.next_line += 1
        return line

    def require_full_lines(self, full_lines: int) -> None:
        """Forward to `Lines.require_full_lines`."""
        self._source.require_full_lines(full_lines)

    def above(self) -> Iterator[bytes]:
        """Return lines above the one that was passed last, the nearest first, up to one with a quote.

        That quote may end a value whose lines stand above it, and these are not records.
        """
        return takewhile(lambda text: QUOTE not in text, list(self._passed)[-2::-1])

    def peek(self, line: int) -> bytes | None:
        """Look at a line that was not passed yet; None at the end of the file, or beyond the window."""
        at = self._head + line - self.next_line
        while at >= len(self._held):
            if self._bytes > MAX_LINE_BYTES:
                return None
            found = next(self._source, None)
            if found is None:
                return None
            self._held.append(found)
            self._bytes += len(found[0]) + _LINE_OVERHEAD_BYTES
        return self._held[at][0]

    def drop_through(self, line: int) -> None:
        """Pass all lines up to a given one."""
        while self.next_line <= line and self.pop() is not None:
            pass
