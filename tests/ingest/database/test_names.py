"""Tables and columns of any name can be pulled: capitals, dots, quotes."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pandera.polars as pa
import pytest
from postgres import execute

from pipeline_assets.ingest.batch.watermark import Watermark
from pipeline_assets.ingest.database.protocol import name_parts
from pipeline_assets.ingest.database.pulls import DatabaseSource, connect, pull
from pipeline_assets.lake import Lake, Table

TODAY = datetime.now(UTC).date()
DDL = 'CREATE TABLE {} ("Id" bigint, "Changed.At" bigint)'


class Items(pa.DataFrameModel):
    """Whatever is read."""

    id: int = pa.Field()
    changed_at: int = pa.Field()


@pytest.mark.parametrize(
    ("written", "parts"),
    [
        ("items", ["items"]),
        ("public.Items", ["public", "Items"]),
        ('public."Order.Items"', ["public", "Order.Items"]),
        ('"a.b"."c.d"', ["a.b", "c.d"]),
        ('"say ""hi"""', ['say "hi"']),
        ("db.schema.order items", ["db", "schema", "order items"]),
    ],
)
def test_dots_separate_and_quotes_hold(written: str, parts: list[str]) -> None:
    assert name_parts(written) == parts


@pytest.mark.parametrize("written", ["", ".", "a.", ".a", "a..b", '"a', 'a"b"', '"a"b', '""'])
def test_what_is_no_name_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match="table"):
        name_parts(written)


def pulled(folder: Path, url: str, table: str, **options: Any) -> list[Any]:
    lake = Lake(str(folder / "lake"))
    source = DatabaseSource("b__items", Items, ("id",), source_table=table, **{"mode": "full", **options})
    with lake.connect() as con:
        pull(lake, con, source, connect(url), TODAY, TODAY)
        return con.execute(f"SELECT id, changed_at FROM {Table(lake, 'bronze.b__items').scan()}").fetchall()


NAMES = ['"Order.Items"', "OrderItems", '"say ""hi"" %s :x"']


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("options", [{}, {"mode": "incremental", "watermark": Watermark.of(Items, "changed_at")}])
def test_postgresql_tables_of_any_name_are_pulled(tmp_path: Path, database: str, name: str, options) -> None:
    quoted = name if name.startswith('"') else f'"{name}"'
    for schema, written in (("public", f"public.{name}"), ('"my.schema"', f'"my.schema".{name}')):
        execute(
            database, f"CREATE SCHEMA IF NOT EXISTS {schema}", DDL.format(f"{schema}.{quoted}"),
            f"INSERT INTO {schema}.{quoted} VALUES (1, 2)",
        )  # fmt: skip
        assert pulled(tmp_path / schema, database, written, **options) == [(1, 2)]


@pytest.mark.parametrize("name", NAMES)
def test_tables_of_a_duckdb_file_of_any_name_are_pulled(tmp_path: Path, name: str) -> None:
    with duckdb.connect(str(tmp_path / "s.duckdb")) as con:
        quoted = name if name.startswith('"') else f'"{name}"'
        con.execute(DDL.format(quoted))
        con.execute(f"INSERT INTO {quoted} VALUES (1, 2)")
    assert pulled(tmp_path, f"duckdb:///{tmp_path}/s.duckdb", name) == [(1, 2)]


@pytest.mark.parametrize("name", NAMES)
def test_tables_of_sqlite_of_any_name_are_pulled(tmp_path: Path, name: str) -> None:
    import sqlite3

    con = sqlite3.connect(tmp_path / "s.db")
    quoted = name if name.startswith('"') else f'"{name}"'
    con.execute(DDL.format(quoted))
    con.execute(f"INSERT INTO {quoted} VALUES (1, 2)")
    con.commit()
    con.close()
    assert pulled(tmp_path, f"sqlite:///{tmp_path}/s.db", name) == [(1, 2)]
