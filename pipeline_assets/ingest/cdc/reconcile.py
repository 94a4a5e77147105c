"""Source against silver at one consistent point: counts and checksums by key range, and events that mend differences.

`slot.drain` stores the source's rows at a WAL position, as they are, and drains exactly up to it; silver was built from
that. So the two must be equal, row by row, whatever was written meanwhile. The columns of the contract are compared;
columns that the source added later are not. This module reads nothing from a database.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

import duckdb
import pyarrow as pa

from pipeline_assets.contracts.base import raw_shape
from pipeline_assets.ingest.cdc.events import ChangeEvent, lsn_text
from pipeline_assets.ingest.cdc.table import row
from pipeline_assets.ingest.cdc.table.change_table import ChangeTable, EventBatch, EventPlan, validate_sql
from pipeline_assets.ingest.cdc.table.chunks import in_chunks
from pipeline_assets.lake import (
    DataFile,
    Lake,
    LakeError,
    PositionMovedError,
    Table,
    position_name,
    query_schema,
)
from pipeline_assets.sql import quote_name, quote_text

UNREADABLE = "unreadable"
"""Kind of a row at the source that does not fit the contract: no event can mend it."""

EXTRA = "extra"
"""Kind of a row in silver that the source does not have."""

_RANGES = 20
_EXAMPLES = 20
# A snapshot at the same point numbers its rows from 1; the mending events come after them.
_AFTER_A_SNAPSHOT = 1 << 40


class NotComparableError(LakeError):
    """Silver was built from another position than the source was read at."""


@dataclass(frozen=True)
class KeyRange:
    """One range of keys on both sides.

    Attributes:
        first_key: Smallest key of the range at the source, as text; None for keys below all of these.
        source_rows: Rows at the source, unreadable ones too.
        silver_rows: Live rows in silver.
        source_checksum: XOR of the hashes of the source's readable rows.
        silver_checksum: XOR of the hashes of silver's rows.
    """

    first_key: str | None
    source_rows: int
    silver_rows: int
    source_checksum: str
    silver_checksum: str

    @property
    def is_equal(self) -> bool:
        """Whether both sides hold the same rows."""
        return (self.source_rows, self.source_checksum) == (self.silver_rows, self.silver_checksum)


class Difference(NamedTuple):
    """A row that differs: its kind, its key as JSON, and why it is unreadable."""

    kind: str
    key: str
    reason: str | None


@dataclass(frozen=True)
class Comparison:
    """Outcome of a comparison.

    Attributes:
        point: WAL position at which both sides were compared.
        ranges: All key ranges, in order.
        differences: Kind to number of rows: missing, extra or different in silver, or `UNREADABLE` at the source.
        examples: The first few of them.
    """

    point: int
    ranges: Sequence[KeyRange]
    differences: Mapping[str, int]
    examples: Sequence[Difference]

    @property
    def is_equal(self) -> bool:
        """Whether both sides hold the same rows, each the same number of times."""
        return all(part.is_equal for part in self.ranges)


def store(
    con: duckdb.DuckDBPyConnection,
    lake: Lake,
    table: ChangeTable,
    chunks: Iterable[Sequence[ChangeEvent]],
    positions: Mapping[str, int],
) -> None:
    """Store the source's rows for `compare`, in place of those of the last time: all of them, without validation.

    Args:
        con: A connection of the lake.
        lake: The lake.
        table: The captured table.
        chunks: All its rows, as `r` events.
        positions: The positions at which they were read.
    """
    stored = _at_source(lake, table)
    stored.create(
        query_schema(con, "SELECT NULL::VARCHAR AS key, NULL::VARCHAR AS after"),
        description=f"Rows of {table.source_table} as last stored for reconciliation.",
    )
    files: list[DataFile] = []
    try:
        for chunk in chunks:
            rows = pa.table({"key": [event.key for event in chunk], "after": [event.after for event in chunk]})
            con.register("cdc_rows", rows)
            files += stored.write(con, "SELECT key, after FROM cdc_rows")
            con.unregister("cdc_rows")
    except BaseException:
        stored.delete_uncommitted(files)
        raise
    stored.commit(con, files, where="TRUE", positions=positions)


def compare(con: duckdb.DuckDBPyConnection, lake: Lake, table: ChangeTable, silver: Table, position: str) -> Comparison:
    """Compare the stored rows of the source with the current state in silver.

    Args:
        con: A connection of the lake; `repair` needs the same one.
        lake: The lake.
        table: The captured table.
        silver: Its current state.
        position: Name of the stream's position.

    Raises:
        NotComparableError: Silver was built from another position than the source was read at.
    """
    sides = _at_one_point(lake, table, silver, position)
    columns = raw_shape(table.model).columns
    keys, listed = ", ".join(map(quote_name, table.keys)), ", ".join(quote_name(column.name) for column in columns)
    typed = ", ".join(
        f"{row.typed(f'_row[{at}]', column.dtype)} AS {quote_name(column.name)}" for at, column in enumerate(columns, 1)
    )
    texts = row.texts([column.name for column in columns], "after")
    validated = validate_sql(table, f"(SELECT *, 'r' AS op, []::VARCHAR[] AS unavailable FROM {sides.source})")
    con.execute(
        f"""CREATE OR REPLACE VIEW cdc_source AS
        SELECT {keys}, key, after, _reason AS reason, CASE WHEN _reason IS NULL THEN hash({listed}) END AS row_hash
        FROM (SELECT key, after, _reason, {typed} FROM (SELECT *, {texts} AS _row FROM ({validated})))"""
    )
    con.execute(
        f"CREATE OR REPLACE VIEW cdc_silver AS SELECT {keys}, hash({listed}) AS row_hash FROM {sides.silver} "
        "WHERE NOT _deleted"
    )
    ranges = _ranges(con, table.keys)
    found = Comparison(sides.point, ranges, {}, ())
    if found.is_equal:
        return found
    kinds = {column.name: column.dtype for column in columns}
    return Comparison(sides.point, ranges, *_differences(con, {name: kinds[name] for name in table.keys}))


def repair(con: duckdb.DuckDBPyConnection, lake: Lake, table: ChangeTable, found: Comparison, run_id: str) -> int:
    """Append the events that make silver equal to the source: `r` of its rows, `d` of rows that it does not have.

    They carry the commit position of the comparison's point, so that newer changes win over them. They are appended
    once for each point. Unreadable rows are left alone. While there is one, rows that the source does not seem to have
    are left alone, too: an unreadable row may be such a row, under another key.

    Returns:
        Number of events.
    """
    left = (UNREADABLE, EXTRA) if UNREADABLE in found.differences else (UNREADABLE,)
    if not found.differences.keys() - set(left):
        return 0
    batch_id = f"repair {found.point:X}"
    planned = EventPlan(
        expect={batch_id: None}, positions={batch_id: 1}, batch_id=batch_id, extracted_at=datetime.now(UTC)
    )
    with EventBatch(lake, con, table, planned, run_id=run_id) as batch:
        for chunk in in_chunks(_mending(con.cursor(), table, found.point - 1, left)):
            batch.add(chunk.events)
        try:
            batch.commit()
        except PositionMovedError:  # already mended
            return 0
        return batch.counts.records_in


def _mending(
    con: duckdb.DuckDBPyConnection, table: ChangeTable, lsn: int, left: Collection[str]
) -> Iterator[ChangeEvent]:
    now = int(datetime.now(UTC).timestamp() * 1_000_000)
    listed = ", ".join(map(quote_text, left))
    rows = con.execute(f"SELECT kind, key, after FROM cdc_differences WHERE kind NOT IN ({listed}) ORDER BY key")
    number = _AFTER_A_SNAPSHOT
    while found := rows.fetchone():
        kind, key, after = found
        number += 1
        place = (lsn, number, lsn, None, now, "reconciliation", number)
        yield ChangeEvent(table.source_table, "d" if kind == EXTRA else "r", key, None, after, (), *place)


class _Sides(NamedTuple):
    """Both sides at one WAL position: relations of versions that do not change."""

    point: int
    source: str
    silver: str


def _at_source(lake: Lake, table: ChangeTable) -> Table:
    return Table(lake, f"bronze.{table.name}__source_rows")


def _at_one_point(lake: Lake, table: ChangeTable, silver: Table, position: str) -> _Sides:
    """Give the versions in which silver was built from bronze at exactly the position at which the source was read."""
    stored, bronze = _at_source(lake, table), table.bronze(lake)
    if not stored.exists():
        raise NotComparableError(f"{stored.name} does not exist yet: run the job that reconciles, not this asset alone")
    read, built = stored.open(), silver.open()
    point, applied = read.transaction_version(position) or 0, built.transaction_version(position_name(bronze))
    reached = None if applied is None else bronze.open(applied).transaction_version(position)
    if reached != point:
        raise NotComparableError(
            f"{silver.name} reflects {lsn_text(reached or 0)}, {table.source_table} was read at {lsn_text(point)}: "
            "another run went on meanwhile; run the job again"
        )
    return _Sides(point, stored.scan(read.version()), silver.scan(built.version()))


def _ranges(con: duckdb.DuckDBPyConnection, keys: Sequence[str]) -> list[KeyRange]:
    """Give counts and checksums of both sides by ranges of the first key column, cut at the source's quantiles."""
    key = quote_name(keys[0])
    cuts = ", ".join(f"{at / _RANGES}" for at in range(_RANGES))
    con.execute(
        f"CREATE OR REPLACE TABLE cdc_cuts AS SELECT row_number() OVER (ORDER BY cut) AS number, cut FROM "
        f"(SELECT DISTINCT unnest(quantile_disc({key}, [{cuts}])) AS cut FROM cdc_source) WHERE cut IS NOT NULL"
    )
    sides = [
        f"SELECT {at} AS side, coalesce((SELECT max(number) FROM cdc_cuts WHERE cut <= {key}), 0) AS number, row_hash "
        f"FROM {view}"
        for at, view in enumerate(("cdc_source", "cdc_silver"))
    ]
    found = con.execute(
        f"SELECT cut::VARCHAR, count(*) FILTER (side = 0), count(*) FILTER (side = 1), "
        "coalesce(bit_xor(row_hash) FILTER (side = 0), 0), coalesce(bit_xor(row_hash) FILTER (side = 1), 0) "
        f"FROM ({' UNION ALL '.join(sides)}) LEFT JOIN cdc_cuts USING (number) GROUP BY number, cut ORDER BY number"
    )
    return [KeyRange(cut, here, there, f"{a:016x}", f"{b:016x}") for cut, here, there, a, b in found.fetchall()]


def _differences(con: duckdb.DuckDBPyConnection, keys: Mapping[str, str]) -> tuple[dict[str, int], list[Difference]]:
    """Find the rows that differ, into the table `cdc_differences` (kind, key, reason, after)."""
    values = ", ".join(f"{quote_name(name)} := {_in_json(name, dtype)}" for name, dtype in keys.items())
    key = f"to_json(struct_pack({values}))"
    con.execute(
        f"""CREATE OR REPLACE TABLE cdc_differences AS
        SELECT
            CASE WHEN source.reason IS NOT NULL THEN '{UNREADABLE}' WHEN silver.row_hash IS NULL THEN 'missing'
                WHEN source.row_hash IS NULL THEN '{EXTRA}' ELSE 'different' END AS kind,
            coalesce(source.key, {key}::VARCHAR) AS key,
            source.reason,
            source.after
        FROM cdc_source AS source FULL JOIN cdc_silver AS silver USING ({", ".join(map(quote_name, keys))})
        WHERE source.row_hash IS DISTINCT FROM silver.row_hash OR source.reason IS NOT NULL"""
    )
    counted = con.execute("SELECT kind, count(*) FROM cdc_differences GROUP BY kind ORDER BY kind").fetchall()
    examples = con.execute(f"SELECT kind, key, reason FROM cdc_differences ORDER BY key LIMIT {_EXAMPLES}").fetchall()
    return dict(counted), [Difference(*example) for example in examples]


def _in_json(name: str, dtype: str) -> str:
    """Give the SQL of a key in silver as events have it: bytes in base64.

    Infinity as text, since JSON has no number for it.
    """
    column = f"silver.{quote_name(name)}"
    if dtype == "BLOB":
        return f"to_base64({column})"
    return f"CAST({column} AS VARCHAR)" if dtype in ("FLOAT", "DOUBLE") else column
