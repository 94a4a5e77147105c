"""Opens a Parquet file as a DuckDB relation of records.

Holds the fields and the query. `parquet_values` says what Arrow reads instead of DuckDB, and why.
"""

from collections.abc import Sequence
from pathlib import Path

import duckdb
import pyarrow as pa

from pipeline_assets.ingest.conform.fields import SourceField
from pipeline_assets.ingest.files.content import Content
from pipeline_assets.ingest.files.formats.records import Records, UnreadableFile
from pipeline_assets.sql import quote_text

_ROW = "file_row_number"


def open_parquet(
    con: duckdb.DuckDBPyConnection, path: Path, content: Content, scratch: Path, *, careful: bool
) -> Records:
    """Open a Parquet file; fields are identified by their place, whatever their names.

    Args:
        con: The connection to read with.
        path: The file.
        content: What is known of its bytes.
        scratch: An existing directory.
        careful: True if DuckDB has failed at this file.

    Raises:
        UnreadableFile: The file is not a Parquet file, or is damaged.
    """
    if not content.head.startswith(b"PAR1"):
        raise UnreadableFile("file: not a Parquet file (no magic bytes)")
    from pipeline_assets.ingest.files.formats import parquet_values

    tops = parquet_values.top_fields(con, path)
    target = scratch / "exact.parquet"
    doubtful = [index for index, top in enumerate(tops) if top.is_doubtful]
    try:
        wrong: Sequence[int] | None = parquet_values.inexact(path, doubtful) if doubtful and not careful else []
        decoded = parquet_values.decode(path, None if careful else wrong, target) if careful or wrong else []
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:  # also for names that are not UTF-8
        if isinstance(error, OSError) and error.errno is not None:
            raise  # an error of the disk that is written
        raise UnreadableFile(f"file: {(str(error).splitlines() or [type(error).__name__])[0]}") from error
    instead = {each.index: each for each in decoded}
    exact = f"(SELECT * FROM read_parquet({quote_text(str(target))}, hive_partitioning = false))"
    if careful:
        fields = tuple(
            SourceField(tops[each.index].name, f"e{each.index}", each.dtype, each.evolves_to) for each in decoded
        )
        return Records("parquet", f"SELECT * FROM {exact}", fields, con, path, scratch)
    fields, source = _scan(con, path, [top.name for top in tops])
    if instead:
        fields = tuple(
            SourceField(field.name, f"e{i}", instead[i].dtype, instead[i].evolves_to) if i in instead else field
            for i, field in enumerate(fields)
        )
        source = f"SELECT * FROM ({source}) JOIN {exact} USING (_line)"
    return Records("parquet", source, fields, con, path, scratch)


def _scan(con: duckdb.DuckDBPyConnection, path: Path, names: Sequence[str]) -> tuple[tuple[SourceField, ...], str]:
    """Return the fields as DuckDB reads them, and the query."""
    # Not `binary_as_string`: bytes that are not UTF-8 would end the scan of the whole file.
    options = "binary_as_string = false, hive_partitioning = false"
    source = f"read_parquet({quote_text(str(path))}, {options})"
    dtypes = [dtype for _, dtype, *_ in con.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()]
    if len(dtypes) != len(names):
        raise UnreadableFile(f"file: {len(names)} Parquet fields are declared, {len(dtypes)} can be read")
    fields = tuple(_field(name, f"f{i}", dtype) for i, (name, dtype) in enumerate(zip(names, dtypes, strict=True)))
    columns = ", ".join(field.column for field in fields)
    if any(field.name.lower() == _ROW for field in fields):  # then DuckDB refuses to number the rows
        line = "row_number() OVER ()"
    else:
        source, columns = f"read_parquet({quote_text(str(path))}, {options}, {_ROW} = true)", f"{columns}, n"
        line = "n + 1"
    values = "".join(f", {_selected(field, dtype)}" for field, dtype in zip(fields, dtypes, strict=True))
    return fields, f"SELECT {line} AS _line{values} FROM {source} AS t({columns})"


def _field(name: str, column: str, dtype: str) -> SourceField:
    if dtype == "BLOB":  # Hive and Impala write text like this; `conform` decides value by value
        return SourceField(name, column, dtype, evolves_to="VARCHAR")
    return SourceField(name, column, "VARCHAR" if dtype == "JSON" else dtype)


def _selected(field: SourceField, dtype: str) -> str:
    return f"{field.column}::VARCHAR AS {field.column}" if dtype == "JSON" else field.column
