"""The damaged lines of a CSV file that are left out: where they are, and the copy without them.

A file may have 27 million of them, so only the first are kept in full; the others are kept as runs of neighbouring
lines.
"""

from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

import polars as pl

from pipeline_assets.ingest.files import limits
from pipeline_assets.ingest.files.content import Content, read_chunks
from pipeline_assets.ingest.files.formats.csv_damage import Damage


class Removed:
    """Damaged lines, ascending.

    Attributes:
        kept: The first ones in full.
        number: Number of all damaged lines.
    """

    def __init__(self, damages: Iterable[Damage]) -> None:
        """Collect the lines."""
        self.kept: list[Damage] = []
        self.number = self._bytes = 0
        self._lines, self._counts, self._starts, self._lengths = (array("Q") for _ in range(4))
        for damage in damages:
            self._add(damage)

    def _add(self, damage: Damage) -> None:
        self.number += damage.lines
        is_next = bool(self._lines) and self._starts[-1] + self._lengths[-1] == damage.start
        if is_next and self._lines[-1] + self._counts[-1] == damage.line:
            self._counts[-1] += damage.lines
            self._lengths[-1] += damage.length
        else:
            for places, value in (
                (self._lines, damage.line),
                (self._counts, damage.lines),
                (self._starts, damage.start),
                (self._lengths, damage.length),
            ):
                places.append(value)
        if len(self.kept) < limits.MAX_DEAD_LETTERS and self._bytes < limits.MAX_DEAD_LETTER_BYTES:
            self.kept.append(damage)
            self._bytes += len(damage.text)

    def ranges(self) -> Iterator[tuple[int, int, bytes]]:
        """Yield start and length of each range to remove, with nothing in its place."""
        for start, length in zip(self._starts, self._lengths, strict=True):
            yield start, length, b""

    def lines_in_file(self, lines: pl.Series) -> pl.Series:
        """Turn line numbers of the copy into line numbers of the file."""
        counts = pl.Series(self._counts, dtype=pl.Int64)
        after = counts.cum_sum()
        places = pl.Series(self._lines, dtype=pl.Int64) - (after - counts)
        found = places.search_sorted(lines, side="right").cast(pl.Int64)
        return lines + pl.concat([pl.Series([0], dtype=pl.Int64), after]).gather(found)


def write_changed(path: Path, content: Content, target: Path, ranges: Iterable[tuple[int, int, bytes]]) -> None:
    """Copy a file, decompressed, with other bytes in place of some ranges.

    Args:
        path: The file.
        content: What is known of its bytes.
        target: The copy.
        ranges: Start and length of each range, ascending and apart, and the bytes in its place.
    """
    with target.open("wb") as file:
        base = at = 0
        wanted = iter(ranges)
        current = next(wanted, None)
        for chunk in read_chunks(path, content.compression):
            end = base + len(chunk)
            while at < end:
                if current is None or current[0] >= end:
                    file.write(chunk[at - base :])
                    at = end
                elif at < current[0]:
                    file.write(chunk[at - base : current[0] - base])
                    at = current[0]
                else:
                    start, length, instead = current
                    if at == start:
                        file.write(instead)
                    at = min(start + length, end)
                    if at < start + length:
                        break
                    current = next(wanted, None)
            base = end
