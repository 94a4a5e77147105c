"""Data files of a Delta table: DuckDB writes them, this module turns what DuckDB reports into Delta's add actions.

No commit happens here: a file that no commit names is invisible and is vacuumed later. DuckDB's own COPY is used
because it streams, uses all cores and takes 0.6 times the CPU of an Arrow stream into delta-rs (benchmarks/).
"""

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from deltalake import Schema
from deltalake.transaction import AddAction

from pipeline_assets.lake.errors import LakeError
from pipeline_assets.lake.storage import quote_name, quote_text

_FORMAT = "FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1, RETURN_STATS"
# One row in 100,000 needs a longer prefix to be told apart; long texts would only bloat the log.
_LONGEST_TEXT_IN_STATS = 64
_NUMBERS = {"byte", "short", "integer", "long"}


@dataclass(frozen=True)
class DataFile:
    """One Parquet file below a table's root, written but not yet committed.

    Attributes:
        path: Relative to the table's root, as it is on disk (not URL-encoded).
        size_bytes: Size of the file.
        rows: Number of rows.
        partition_values: Partition column to value as Delta writes it; None is SQL null.
        columns: Column name to DuckDB's statistics of it (`min`, `max`, `null_count`, as text).
    """

    path: str
    size_bytes: int
    rows: int
    partition_values: Mapping[str, str | None]
    columns: Mapping[str, Mapping[str, str]]

    def null_count(self, column: str) -> int:
        """Number of nulls in a top-level column."""
        return int(self.columns[column]["null_count"])

    def add_action(self, schema: Schema) -> AddAction:
        """Describes the file for the log, with the statistics that readers skip files by."""
        return AddAction(
            path=self.path,
            size=self.size_bytes,
            partition_values=dict(self.partition_values),
            modification_time=int(time.time() * 1000),
            data_change=True,
            stats=json.dumps(self._stats(schema)),
        )

    def _stats(self, schema: Schema) -> dict[str, Any]:
        low: dict[str, Any] = {}
        high: dict[str, Any] = {}
        nulls: dict[str, int] = {}
        for column in schema.fields:
            found = self.columns.get(column.name)
            if found is None:
                continue
            nulls[column.name] = int(found["null_count"])
            bounds = _bounds(str(getattr(column.type, "type", "")), found.get("min"), found.get("max"))
            if bounds is not None:
                low[column.name], high[column.name] = bounds
        return {"numRecords": self.rows, "minValues": low, "maxValues": high, "nullCount": nulls}


def write_parquet(
    con: duckdb.DuckDBPyConnection,
    select: str,
    table_uri: str,
    *,
    partition_by: Sequence[str] = (),
    partition_values: Mapping[str, str | None] | None = None,
) -> list[DataFile]:
    """Streams a query into new Parquet files below a table's root.

    Args:
        con: Connection that the query's tables live in.
        select: The query. With `partition_by` it gives those columns too; with `partition_values` it must not.
        table_uri: Root of the table.
        partition_by: Columns whose values decide the folder; they are not stored in the files.
        partition_values: The one partition that all rows belong to, instead of `partition_by`.

    Returns:
        The files that hold rows; none for an empty result.
    """
    folder, options = table_uri, ""
    if partition_values is not None:
        folder += "".join(f"/{key}={value}" for key, value in partition_values.items())
    if partition_by:
        columns = ", ".join(quote_name(column) for column in partition_by)
        options = f", PARTITION_BY ({columns}), APPEND, FILENAME_PATTERN 'part-{{uuid}}'"
    if "://" not in folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
    target = folder if partition_by else f"{folder}/part-{uuid.uuid4()}.parquet"
    try:
        written = con.execute(f"COPY ({select}) TO {quote_text(target)} ({_FORMAT}{options})").fetchall()
    except BaseException:
        if not partition_by:  # else its name is not known, and vacuum has to find it
            discard(table_uri, target.removeprefix(table_uri).lstrip("/"))
        raise
    files = []
    for name, rows, size_bytes, _footer, columns_, keys in written:
        path = name.removeprefix(table_uri).lstrip("/")
        if rows == 0:
            discard(table_uri, path)
            continue
        stats = {key[1:-1].replace('""', '"'): value for key, value in columns_.items() if '"."' not in key}
        files.append(DataFile(path, size_bytes, rows, keys or partition_values or {}, stats))
    return files


def discard(table_uri: str, path: str) -> None:
    """Deletes a file that was written but will not be committed. On an object store that is left to vacuum."""
    if "://" not in table_uri:
        Path(table_uri, path).unlink(missing_ok=True)


def query_schema(con: duckdb.DuckDBPyConnection, select: str) -> Schema:
    """Gives the Delta schema of a query's result; all columns nullable.

    Raises:
        LakeError: A column has a type that Delta does not know.
    """
    arrow: pa.Schema = con.sql(f"SELECT * FROM ({select}) LIMIT 0").to_arrow_table().schema
    try:
        return Schema.from_arrow(arrow)
    except Exception as error:  # delta-rs raises a bare Exception for an unknown type
        if not isinstance(error, Exception) or "Schema error" not in str(error):
            raise
        kinds = ", ".join(f"{column.name} {column.type}" for column in arrow)
        reason = str(error).splitlines()[0]
        raise LakeError(f"the query has a column that Delta cannot store ({reason}); its columns: {kinds}") from error


def _bounds(kind: str, low: str | None, high: str | None) -> tuple[Any, Any] | None:
    """Turns DuckDB's textual bounds into Delta's; None where they could mislead a reader."""
    if low is None or high is None:
        return None
    if kind in _NUMBERS:
        return int(low), int(high)
    if kind.startswith("decimal"):
        # JSON numbers are doubles to most readers: 15 digits survive, more could round past a value.
        exact = all(len(text.lstrip("-").replace(".", "")) <= 15 for text in (low, high))
        return (float(low), float(high)) if exact else None
    if kind == "date":
        return (low, high) if _is_year_of_four(low, high) else None
    if kind in ("timestamp", "timestamp_ntz") and _is_year_of_four(low, high):
        suffix = "Z" if kind == "timestamp" else ""
        return tuple(text.removesuffix("+00").replace(" ", "T") + suffix for text in (low, high))  # type: ignore[return-value]
    if kind == "string" and low.isascii() and high.isascii() and max(len(low), len(high)) <= _LONGEST_TEXT_IN_STATS:
        return low, high
    return None


def _is_year_of_four(*texts: str) -> bool:
    """Whether dates are plain ISO: "infinity" and years BC or beyond 9999 are not Delta's."""
    return all(len(text) >= 10 and text[4] == "-" and text[:4].isdigit() and "BC" not in text for text in texts)
