"""Dead letters that a later delivery of their file makes untrue: found while it is read, removed after its commit.

A dead letter is removed in three cases: the file, delivered again, holds the same record in the same line (it is a dead
letter of this delivery, too); that line is longer now (it was cut, because the file was still being written); or the
file could not be read at all then, and can be read now. All others stay until they are replayed, whatever became of
their file.
"""

from collections.abc import Sequence

import duckdb

from pipeline_assets.ingest.cdc.table.change_table import ChangeBatch
from pipeline_assets.sql import quote_text

_BYTES_PER_ESCAPE = 3  # "\xc3" has three bytes more than the byte that it stands for
_LONGEST_CUT_CHARACTER = 3  # bytes of a UTF-8 character that lacks at least one byte


class StaleDeadLetters:
    """The dead letters of some files' earlier deliveries, in the tables that a run writes to."""

    def __init__(self, con: duckdb.DuckDBPyConnection, batches: Sequence[ChangeBatch], paths: Sequence[str]) -> None:
        """Look up these dead letters.

        Args:
            con: A connection of the lake.
            batches: The batches of the run.
            paths: The files that it reads.
        """
        self._con = con
        self._with_dead_letters: set[str] = set()
        self._last_lines: dict[tuple[str, int], list[str]] = {}
        self._completed: set[tuple[str, int]] = set()
        self._read: set[str] = set()
        files = ", ".join(map(quote_text, paths))
        for batch in batches:
            dead_letters = batch.dead_letters
            if not dead_letters.exists():
                continue
            # A line that was cut is the last line of its delivery.
            found = con.execute(
                f"SELECT _source.file, _source.line, raw FROM {dead_letters.scan()} WHERE _source.file IN ({files}) "
                "QUALIFY row_number() OVER (PARTITION BY _source.file, _batch_id ORDER BY _source.line DESC) = 1"
            ).fetchall()
            for file, line, raw in found:
                self._with_dead_letters.add(batch.name)
                self._last_lines.setdefault((file, line), []).append(raw)

    def compare(self, path: str, number: int, data: bytes) -> None:
        """Note a line that was cut when the file was delivered before."""
        if any(_is_start(raw, data) for raw in self._last_lines.get((path, number), ())):
            self._completed.add((path, number))

    def was_read(self, path: str) -> None:
        """Note a file that can be read."""
        self._read.add(path)

    def of(self, batch: ChangeBatch) -> str | None:
        """Give the predicate on dead letters that a batch makes untrue once it is committed; None without any."""
        if batch.name not in self._with_dead_letters or not self._read:
            return None
        own, place = quote_text(batch.plan.batch_id), "(_source.file, _source.line"
        again = f"{place}, raw) IN (SELECT {place}, raw) FROM {batch.dead_letters.scan()} WHERE _batch_id = {own})"
        completed = " OR ".join(
            f"(_source.file = {quote_text(path)} AND _source.line = {line})" for path, line in sorted(self._completed)
        )
        files = ", ".join(map(quote_text, sorted(self._read)))
        return (
            f"_source.file IN ({files}) AND _batch_id <> {own} "
            f"AND (_source.line = 0 OR {again} OR ({completed or 'false'}))"
        )


def _is_start(raw: str, data: bytes) -> bool:
    """Tell whether a dead letter's text is the start of a line; its last character may have been cut in the middle."""
    size = len(raw.encode())
    for escapes in range(_LONGEST_CUT_CHARACTER + 1):
        start = size - escapes * _BYTES_PER_ESCAPE
        if 0 < start < len(data) and data[:start].decode("utf-8", "backslashreplace") == raw:
            return True
    return False
