"""Source against silver at one consistent point: counts and checksums by key range, and events that mend what differs.

`drain` has stored the source's rows at a WAL position and drained exactly up to it; silver was built from that. So the
two must be equal, row by row, whatever was written meanwhile. Nothing of a database is read here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import duckdb

from pipeline_assets.contracts.base import raw_shape
from pipeline_assets.ingest.cdc import row
from pipeline_assets.ingest.cdc.change_table import ChangeTable, Staging
from pipeline_assets.ingest.cdc.events import ChangeEvent, lsn_text
from pipeline_assets.ingest.sql import identifier
from pipeline_assets.lake import Lake, LakeError, PositionMovedError, Table, position_name

AT_SOURCE = "__at_source"
"""Suffix of the table with the source's rows as last stored for reconciliation."""

_RANGES = 20
_EVENTS_PER_CHUNK = 50_000


class NotComparableError(LakeError):
    """Silver does not stand where the source was read."""


@dataclass(frozen=True)
class KeyRange:
    """One range of keys on both sides.

    Attributes:
        first_key: Smallest key of the range at the source, as text; None for keys below all of these.
        source_rows: Rows at the source.
        silver_rows: Live rows in silver.
        source_checksum: XOR of the hashes of the source's rows.
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


@dataclass(frozen=True)
class Comparison:
    """Outcome of a comparison.

    Attributes:
        point: WAL position at which both sides were compared.
        ranges: All key ranges, in order.
        differences: (kind, key as JSON) of rows that differ; kind is missing, extra or different (in silver).
    """

    point: int
    ranges: Sequence[KeyRange]
    differences: Sequence[tuple[str, str]] = ()


def compare(con: duckdb.DuckDBPyConnection, lake: Lake, table: ChangeTable, silver: Table, position: str) -> Comparison:
    """Compares the stored rows of the source with the current state in silver.

    Args:
        con: A connection of the lake; `repair` wants the same one.
        lake: The lake.
        table: The captured table.
        silver: Its current state.
        position: Name of the stream's position.

    Raises:
        NotComparableError: Silver was built from another position than the source was read at.
    """
    point = _common_point(lake, table, silver, position)
    source = _at_source(lake, table)
    columns = raw_shape(table.model).columns
    listed = ", ".join(identifier(column.name) for column in columns)
    typed = ", ".join(
        f"{row.typed(f'_row[{at}]', column.dtype)} AS {identifier(column.name)}" for at, column in enumerate(columns, 1)
    )
    texts = row.texts([column.name for column in columns], "after")
    con.execute(
        f"CREATE OR REPLACE VIEW cdc_source AS SELECT key, after, {typed} "
        f"FROM (SELECT key, after, {texts} AS _row FROM {source.scan()})"
    )
    con.execute(f"CREATE OR REPLACE VIEW cdc_silver AS SELECT {listed} FROM {silver.scan()} WHERE NOT _deleted")
    ranges = _ranges(con, table.keys, listed)
    equal = all(found.is_equal for found in ranges)
    differences = [] if equal else _differences(con, table.keys, listed)
    return Comparison(point, ranges, differences)


def repair(
    con: duckdb.DuckDBPyConnection, lake: Lake, source: str, table: ChangeTable, found: Comparison, run_id: str
) -> int:
    """Appends the events that make silver equal to the source: `r` of its rows, `d` of rows that it does not have.

    They carry the commit position of the comparison's point, so newer changes win over them. Once per point.

    Returns:
        Number of events.
    """
    if not found.differences:
        return 0
    batch_id = f"repair {found.point:X}"
    staging = Staging(con, lake, table, source, batch_id, datetime.now(UTC))
    now, lsn = int(datetime.now(UTC).timestamp() * 1_000_000), found.point - 1
    rows = con.cursor().execute("SELECT kind, key, after FROM cdc_differences ORDER BY key")
    number = 0
    while chunk := rows.fetchmany(_EVENTS_PER_CHUNK):
        events = []
        for number, (kind, key, after) in enumerate(chunk, number + 1):  # noqa: B020 - goes on counting
            op = "d" if kind == "extra" else "r"
            events.append(
                ChangeEvent(
                    table.source_table, op, key, None, after, (), lsn, number, lsn, None, now, "reconciliation", number
                )
            )
        staging.add(events)
    try:
        staging.commit(expect={batch_id: None}, positions={batch_id: 1}, metadata={"run_id": run_id})
    except PositionMovedError:  # mended before
        staging.discard()
    return number


def _at_source(lake: Lake, table: ChangeTable) -> Table:
    return Table(lake, f"bronze.{table.name}{AT_SOURCE}")


def _common_point(lake: Lake, table: ChangeTable, silver: Table, position: str) -> int:
    """The WAL position at which the source was read, if silver was built from bronze at that very position."""
    stored, bronze = _at_source(lake, table), table.bronze(lake)
    point = stored.position(position)
    if point is None:
        raise NotComparableError(f"{stored.name} does not exist yet: run the job that reconciles, not this asset alone")
    applied = silver.position(position_name(bronze))
    reached = None if applied is None else bronze.open(applied).transaction_version(position)
    if reached != point:
        raise NotComparableError(
            f"{silver.name} reflects {lsn_text(reached or 0)}, {table.source_table} was read at {lsn_text(point)}: "
            "another run went on meanwhile; run the job again"
        )
    return point


def _ranges(con: duckdb.DuckDBPyConnection, keys: Sequence[str], columns: str) -> list[KeyRange]:
    """Counts and checksums of both sides by ranges of the first key column, cut at the source's quantiles."""
    key = identifier(keys[0])
    cuts = ", ".join(f"{at / _RANGES}" for at in range(_RANGES))
    con.execute(
        f"CREATE OR REPLACE TABLE cdc_cuts AS SELECT row_number() OVER (ORDER BY cut) AS number, cut FROM "
        f"(SELECT DISTINCT unnest(quantile_disc({key}, [{cuts}])) AS cut FROM cdc_source)"
    )
    sides = [
        f"SELECT {at} AS side, coalesce((SELECT max(number) FROM cdc_cuts WHERE cut <= {key}), 0) AS number, "
        f"hash({columns}) AS row_hash FROM {view}"
        for at, view in enumerate(("cdc_source", "cdc_silver"))
    ]
    found = con.execute(
        f"SELECT cut::VARCHAR, count(*) FILTER (side = 0), count(*) FILTER (side = 1), "
        "coalesce(bit_xor(row_hash) FILTER (side = 0), 0), coalesce(bit_xor(row_hash) FILTER (side = 1), 0) "
        f"FROM ({' UNION ALL '.join(sides)}) LEFT JOIN cdc_cuts USING (number) GROUP BY number, cut ORDER BY number"
    )
    return [KeyRange(cut, here, there, f"{a:016x}", f"{b:016x}") for cut, here, there, a, b in found.fetchall()]


def _differences(con: duckdb.DuckDBPyConnection, keys: Sequence[str], columns: str) -> list[tuple[str, str]]:
    """Finds the rows that differ, into the table `cdc_differences` (kind, key, after)."""
    names = ", ".join(map(identifier, keys))
    key = "to_json(struct_pack(" + ", ".join(f"{identifier(name)} := silver.{identifier(name)}" for name in keys) + "))"
    con.execute(
        f"""CREATE OR REPLACE TABLE cdc_differences AS
        SELECT
            CASE WHEN silver.row_hash IS NULL THEN 'missing' WHEN source.row_hash IS NULL THEN 'extra'
                ELSE 'different' END AS kind,
            coalesce(source.key, {key}::VARCHAR) AS key,
            source.after
        FROM (SELECT {names}, key, after, hash({columns}) AS row_hash FROM cdc_source) AS source
        FULL JOIN (SELECT {names}, hash({columns}) AS row_hash FROM cdc_silver) AS silver USING ({names})
        WHERE source.row_hash IS DISTINCT FROM silver.row_hash"""
    )
    return con.execute("SELECT kind, key FROM cdc_differences ORDER BY key").fetchall()
