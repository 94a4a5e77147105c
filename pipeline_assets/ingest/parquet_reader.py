"""Open a Parquet file as a DuckDB relation of records."""

from pathlib import Path

import duckdb

from pipeline_assets.ingest.content import Content
from pipeline_assets.ingest.records import Records, SourceField, UnreadableFile
from pipeline_assets.ingest.sql import quoted

_ROW = "file_row_number"


def open_parquet(con: duckdb.DuckDBPyConnection, path: Path, content: Content, scratch: Path) -> Records:
    """Open a Parquet file; fields are told apart by their place, whatever their names.

    Raises:
        UnreadableFile: It is no Parquet file.
    """
    if not content.head.startswith(b"PAR1"):
        raise UnreadableFile("file: not a Parquet file (no magic bytes)")
    # Not `binary_as_string`: bytes that are no UTF-8 would end the scan of the whole file.
    options = "binary_as_string = false, hive_partitioning = false"
    source = f"read_parquet({quoted(str(path))}, {options})"
    dtypes = [dtype for _, dtype, *_ in con.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()]
    fields = tuple(
        _field(name, f"f{i}", dtype) for i, (name, dtype) in enumerate(zip(_names(con, path), dtypes, strict=True))
    )
    columns = ", ".join(field.column for field in fields)
    if any(field.name.lower() == _ROW for field in fields):  # then DuckDB refuses to number the rows
        line = "row_number() OVER ()"
    else:
        source, columns = f"read_parquet({quoted(str(path))}, {options}, {_ROW} = true)", f"{columns}, n"
        line = "n + 1"
    values = "".join(f", {_selected(field, dtype)}" for field, dtype in zip(fields, dtypes, strict=True))
    sql = f"SELECT {line} AS _line{values} FROM {source} AS t({columns})"
    return Records("parquet", sql, fields, con, path, scratch)


def _names(con: duckdb.DuckDBPyConnection, path: Path) -> list[str]:
    """Names of the top fields as they are written; DESCRIBE makes `Id_1` of a second one that differs by case only."""
    elements = con.execute(
        f"SELECT name, coalesce(num_children, 0) FROM parquet_schema({quoted(str(path))})"
    ).fetchall()
    names, below = [], 0
    for name, children in elements[1:]:  # the first is the root; what is nested follows its parent
        if below == 0:
            names.append(name)
        below += children - (below > 0)
    return names


def _field(name: str, column: str, dtype: str) -> SourceField:
    if dtype == "BLOB":  # Hive and Impala write text so; `conform` finds out value by value
        return SourceField(name, column, dtype, evolves_to="VARCHAR")
    return SourceField(name, column, "VARCHAR" if dtype == "JSON" else dtype)


def _selected(field: SourceField, dtype: str) -> str:
    return f"{field.column}::VARCHAR AS {field.column}" if dtype == "JSON" else field.column
