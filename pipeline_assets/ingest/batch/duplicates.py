"""Find records that were read before: they equal the newest row of their key, or an earlier record of the batch.

Why a source reads records again is known in `ingest.database` and `ingest.rest`. This module writes nothing.

Only the newest row of a key is compared, not every row: a value that changes and changes back is a change.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import duckdb

from pipeline_assets.sql import quote_name, quote_names

_DUPLICATES = "batch_duplicates"


@dataclass(frozen=True)
class WrittenBatch:
    """A batch that is written and not committed.

    Attributes:
        relation: `bronze_table.written_rows` of its files.
        columns: Columns that make up the content of a row.
        keys: The columns among them that name a record.
    """

    relation: str
    columns: Sequence[str]
    keys: Sequence[str]


def find_duplicates(
    con: duckdb.DuckDBPyConnection, batch: WrittenBatch, *, rows: str, has: Collection[str], dead_letters: str | None
) -> int:
    """Find the records of a batch that bring nothing new, for `without_duplicates`.

    Args:
        con: Connection of the lake; it gets the temporary table of the duplicates.
        batch: The batch.
        rows: Query of the stored rows that may be read again: columns of the table.
        has: Columns that the table has now, without those that this batch adds.
        dead_letters: Query of the `raw` of the dead letters that may be read again; None if there are none.

    Returns:
        The number of duplicates.
    """
    keys, content = quote_names(batch.keys), quote_names(batch.columns)
    columns = ", ".join(quote_name(name) if name in has else f"NULL AS {quote_name(name)}" for name in batch.columns)
    fit, unfit = (f"FROM {batch.relation} WHERE r._reason IS {test}" for test in ("NULL", "NOT NULL"))
    # Of equal records the first one stays. When DuckDB groups, nulls equal each other, and so do NaNs.
    again = f"""
        SELECT file, line FROM (SELECT r._source.file AS file, r._source.line AS line,
            row_number() OVER (PARTITION BY {content} ORDER BY r._source.file, r._source.line) AS place {fit})
        WHERE place > 1
        UNION ALL
        SELECT file, line FROM (SELECT r._source.file AS file, r._source.line AS line,
            row_number() OVER (PARTITION BY r._raw ORDER BY r._source.file, r._source.line) AS place {unfit})
        WHERE place > 1"""
    newest = f"""SELECT * FROM (SELECT s.*, rank() OVER (PARTITION BY {keys} ORDER BY _extracted_at DESC) AS place
            FROM (SELECT {columns}, _extracted_at, _deleted FROM ({rows})) AS s
            SEMI JOIN (SELECT {keys} {fit}) AS k ON {_equal("s", "k", batch.keys)})
        WHERE place = 1 AND NOT _deleted"""
    stored = f"""
        SELECT r._source.file, r._source.line FROM {batch.relation} SEMI JOIN ({newest}) AS s
        ON {_equal("r", "s", batch.columns)} WHERE r._reason IS NULL"""
    parts = [again, stored]
    if dead_letters is not None:
        parts.append(f"SELECT r._source.file, r._source.line {unfit} AND r._raw IN ({dead_letters})")
    con.execute(f"CREATE OR REPLACE TEMP TABLE {_DUPLICATES} AS SELECT DISTINCT * FROM ({' UNION ALL '.join(parts)})")
    found = con.execute(f"SELECT count(*) FROM {_DUPLICATES}").fetchone()
    return int(found[0]) if found else 0


def without_duplicates(relation: str) -> str:
    """Give a batch's relation without the records that `find_duplicates` found."""
    return f"{relation} ANTI JOIN {_DUPLICATES} AS p ON p.file = r._source.file AND p.line = r._source.line"


def _equal(left: str, right: str, columns: Sequence[str]) -> str:
    return " AND ".join(f"{left}.{c} IS NOT DISTINCT FROM {right}.{c}" for c in map(quote_name, columns))
