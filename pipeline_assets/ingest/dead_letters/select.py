"""Select dead letters, and describe them: groups by reason, and samples.

This module writes nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import duckdb

from pipeline_assets.lake import Table
from pipeline_assets.lake.dead_letters import WEIGHT, waiting
from pipeline_assets.sql import quote_text

REPLAYABLE = "(raw_types IS NOT NULL AND _source.file IS NOT NULL AND _source.line IS NOT NULL)"
"""SQL: whether a dead letter of a row table holds a record, and the place that the record would take."""

ORDER = "_partition_date, _batch_id, _source.file, _source.line"

PLACE = f"({ORDER})"
"""SQL: where a record of a row table comes from. A row and a dead letter of the same record have the same."""

# A reason quotes the value that did not fit (cast: amount: 'abc' is not BIGINT), or gives numbers (expected 8, found
# 7).
_MASKED = r"""regexp_replace(regexp_replace(reason, '(?s)''.*?'' is not ', '''...'' is not ', 'g'),
    '([ :=])[0-9]+([.,][0-9]+)*', '\1N', 'g')"""
_WHICH = "(_partition_date, _batch_id, coalesce(_source.file, ''), coalesce(_source.line, -1), reason, raw)"


@dataclass(frozen=True)
class Selection:
    """Which of the waiting dead letters of a table are meant: those that match everything that is given.

    Attributes:
        day: Their partition.
        reason: A part of their reason, or a group's masked reason as `groups` gives it.
        batch: Their batch.
        limit: At most so many, the first by day, batch and place.
    """

    day: date | None = None
    reason: str | None = None
    batch: str | None = None
    limit: int | None = None

    @property
    def predicate(self) -> str:
        """SQL of what is given, without the limit."""
        parts = []
        if self.day is not None:
            parts.append(f"_partition_date = DATE '{self.day}'")
        if self.reason is not None:
            reason = quote_text(self.reason)
            parts.append(f"(contains(reason, {reason}) OR {_MASKED} = {reason})")
        if self.batch is not None:
            parts.append(f"_batch_id = {quote_text(self.batch)}")
        return " AND ".join(parts) or "TRUE"

    def relation(self, dead_letters: Table, version: int | None = None, *, also: str = "TRUE") -> str:
        """Give the relation of the selected waiting dead letters, with all columns.

        Args:
            dead_letters: Their table.
            version: Its version; the newest if not given.
            also: A further predicate, so that the limit counts only those that it selects.
        """
        limit = "" if self.limit is None else f" ORDER BY {ORDER} LIMIT {self.limit}"
        return f"(SELECT * FROM {waiting(dead_letters, version)} WHERE {self.predicate} AND {also}{limit})"

    def where(self, dead_letters: Table, version: int | None = None) -> str:
        """Give a predicate on the table's rows, which may also select discarded ones."""
        if self.limit is None:
            return self.predicate
        return f"{self.predicate} AND {_WHICH} IN (SELECT {_WHICH} FROM {self.relation(dead_letters, version)})"


@dataclass(frozen=True)
class Group:
    """Waiting dead letters of one reason.

    Attributes:
        reason: With the values masked.
        dead_letters: Their number.
        records: Number of records of the source that they stand for.
        first_day: Their first partition.
        last_day: Their last partition.
        file: Where one of them comes from.
        line: Its line or number there, if that is known.
        raw: Its raw record.
        is_replayable: Whether any of them holds a record that a replay of a row table can try.
    """

    reason: str
    dead_letters: int
    records: int
    first_day: date
    last_day: date
    file: str
    line: int | None
    raw: str
    is_replayable: bool


def groups(con: duckdb.DuckDBPyConnection, dead_letters: Table, selection: Selection | None = None) -> Sequence[Group]:
    """Group waiting dead letters by reason, the most frequent first; give [] if the table does not exist."""
    if not dead_letters.exists():
        return []
    first = "arg_min(struct_pack(s := _source, raw := raw), struct_pack(d := _partition_date, s := _source))"
    found = con.execute(
        f"SELECT {_MASKED} AS masked, count(*) AS n, sum({WEIGHT})::BIGINT, min(_partition_date), "
        f"max(_partition_date), bool_or({REPLAYABLE}), {first} "
        f"FROM {(selection or Selection()).relation(dead_letters)} GROUP BY masked ORDER BY n DESC, masked"
    ).fetchall()
    return [
        Group(reason, n, records, first, last, sample["s"]["file"], sample["s"]["line"], sample["raw"], replayable)
        for reason, n, records, first, last, replayable, sample in found
    ]
