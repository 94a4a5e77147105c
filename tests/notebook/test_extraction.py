# ruff: noqa: DTZ001  times without a zone are what some of it is about
"""A query of each kind of database as a typed frame."""

import sqlite3
import sys
from contextlib import closing
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pytest
from postgres import execute

from pipeline_assets import BatchDataIngester, DeltaLakeManager
from pipeline_assets.ingest.database.errors import DatabaseError
from pipeline_assets.notebook import NotebookError

UTC_US = pl.Datetime("us", "UTC")


def sqlite_of(folder: Path, *statements: str) -> str:
    with closing(sqlite3.connect(folder / "a.db")) as connection, connection:
        for statement in statements:
            connection.execute(statement)
    return f"sqlite:///{folder}/a.db"


def duckdb_of(folder: Path, *statements: str) -> str:
    with duckdb.connect(str(folder / "a.duckdb")) as connection:
        for statement in statements:
            connection.execute(statement)
    return f"duckdb:///{folder}/a.duckdb"


def read(url: str, query: str, **options: Any) -> pl.DataFrame:
    found = BatchDataIngester().extract_from_database(url, query, **options)
    assert isinstance(found, pl.DataFrame)
    return found


def content(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.drop("_extracted_at", "_source")


class TestPostgres:
    QUERY = """SELECT 9223372036854775807::bigint AS big, 1::smallint AS small, 1.10::numeric(12,2) AS money,
        sum(x) AS total, 0.1::float8 AS double, true AS flag, DATE '2026-02-28' AS day,
        TIMESTAMPTZ '2026-01-02 03:04:05.678901+02' AS moment, TIMESTAMP '2026-01-02 03:04:05' AS local,
        '\\x00ff'::bytea AS bytes, ARRAY[1, NULL] AS numbers, ARRAY['a,"b'] AS words, '{"a": 1}'::jsonb AS document,
        '100%'::text AS "te:x t", interval '1 day' AS span, ARRAY[1.50, 2] AS numerics
        FROM (VALUES (1.25), (2)) AS v(x) GROUP BY 1 -- a comment"""

    def test_columns_have_the_types_of_the_database(self, database: str) -> None:
        found = content(read(database, self.QUERY))
        assert dict(found.schema) == {
            "big": pl.Int64, "small": pl.Int16, "money": pl.Decimal(12, 2), "total": pl.Decimal(38, 18),
            "double": pl.Float64, "flag": pl.Boolean, "day": pl.Date, "moment": UTC_US, "local": pl.Datetime("us"),
            "bytes": pl.Binary, "numbers": pl.List(pl.Int32), "words": pl.List(pl.String), "document": pl.String,
            "te:x t": pl.String, "span": pl.String, "numerics": pl.String,
        }  # fmt: skip
        assert found.row(0) == (
            2**63 - 1, 1, Decimal("1.10"), Decimal("3.25"), 0.1, True, date(2026, 2, 28),
            datetime(2026, 1, 2, 1, 4, 5, 678901, tzinfo=UTC), datetime(2026, 1, 2, 3, 4, 5), b"\x00\xff",
            [1, None], ['a,"b'], '{"a": 1}', "100%", "P1D", "[1.50,2]",
        )  # fmt: skip

    def test_in_pandas_nothing_becomes_a_float(self, database: str) -> None:
        found = BatchDataIngester({"frames": "pandas"}).extract_from_database(
            database, f"{self.QUERY}\nUNION ALL SELECT {', '.join(['NULL'] * 16)} ORDER BY 1"
        )
        assert isinstance(found, pd.DataFrame)
        assert found["big"].tolist() == [2**63 - 1, pd.NA]
        assert found["money"].tolist()[0] == Decimal("1.10")
        assert {name: str(found[name].dtype) for name in ("big", "money", "flag", "day", "moment", "local")} == {
            "big": "Int64", "money": "decimal128(38, 18)[pyarrow]", "flag": "boolean", "day": "date32[day][pyarrow]",
            "moment": "datetime64[us, UTC]", "local": "datetime64[us]",
        }  # fmt: skip
        assert found["_source"][0]["line"] == 1

    def test_an_empty_result_has_the_columns_and_types(self, database: str) -> None:
        found = read(database, f"SELECT * FROM ({self.QUERY}\n) AS q WHERE false")
        assert (found.height, found["moment"].dtype, found["_extracted_at"].dtype) == (0, UTC_US, UTC_US)
        assert found["_source"].dtype == pl.Struct({"file": pl.String, "line": pl.Int64})

    def test_a_value_that_its_type_does_not_hold_is_a_dead_letter(self, database: str) -> None:
        ingester = BatchDataIngester()
        found = ingester.extract_from_database(
            database,
            "SELECT * FROM (VALUES (1, now(), 1.5), (2, 'infinity', 1), (3, now(), 'NaN')) AS v(id, moment, n)",
        )
        assert found["id"].to_list() == [1]
        assert found["n"].dtype == pl.Decimal(38, 18)
        assert (ingester.counts.records_in, ingester.counts.rows, ingester.counts.dead_letters) == (3, 1, 2)
        letters = ingester.dead_letters
        assert letters["reason"].to_list() == [
            "cast: moment: 'infinity' is not TIMESTAMP WITH TIME ZONE",
            "cast: n: 'NaN' is not DECIMAL(38,18)",
        ]
        assert letters["_source"].struct.field("line").to_list() == [2, 3]

    def test_a_numeric_that_is_too_long_is_text(self, database: str) -> None:
        found = read(database, f"SELECT {'9' * 39}::numeric AS n UNION ALL SELECT 0.5")
        assert found["n"].to_list() == ["9" * 39, "0.5"]
        assert read(database, "SELECT 1e-19::numeric AS n")["n"].dtype == pl.String

    @pytest.mark.parametrize("frames", ["polars", "pandas"])
    def test_the_types_of_two_batches_are_one(self, database: str, tmp_path: Path, frames: str, stored: Any) -> None:
        for values in ("1, 1.25", "2, 1.125", "NULL, NULL"):
            batch = BatchDataIngester({"frames": frames}).extract_from_database(
                database, f"SELECT * FROM (VALUES ({values})) AS v(whole, n)"
            )
            DeltaLakeManager(tmp_path).create_or_update_table(batch, "t")
        found = stored(tmp_path / "bronze" / "t")
        assert sorted((row["whole"] or 0, row["n"]) for row in found) == [
            (0, None), (1, Decimal("1.25")), (2, Decimal("1.125"))
        ]  # fmt: skip

    def test_no_password_shows(self, database: str) -> None:
        secret = database.partition("://")[2].partition("@")[0].partition(":")[2]
        for url in (database.replace(secret, "hunter2"), database.replace("127.0.0.1", "nowhere.invalid")):
            with pytest.raises(DatabaseError) as caught:
                read(url, "SELECT 1")
            assert "hunter2" not in str(caught.value)
            assert secret not in str(caught.value)

    def test_what_the_database_refuses_is_told(self, database: str) -> None:
        with pytest.raises(DatabaseError, match="nothing"):
            read(database, "SELECT * FROM nothing")
        with pytest.raises(DatabaseError, match="syntax error"):
            read(database, "DELETE FROM pg_class")
        execute(database, "CREATE SEQUENCE s")
        with pytest.raises(DatabaseError, match="read-only transaction"):
            read(database, "SELECT nextval('s')")


class TestWatermark:
    ROWS = (
        "VALUES (1, {0}'2026-01-05 09:59:59'), (2, {0}'2026-01-05 10:00:00'), (3, {0}'2026-01-05 10:00:01'), (4, NULL)"
    )

    @pytest.fixture(params=["postgres", "postgres_local", "duckdb", "duckdb_local", "sqlite"])
    def source(self, request: pytest.FixtureRequest, tmp_path: Path) -> str:
        if request.param == "sqlite":
            rows = self.ROWS.format("")
            return sqlite_of(tmp_path, "CREATE TABLE t (id INTEGER, seen_at TEXT)", f"INSERT INTO t {rows}")
        kind = "TIMESTAMP" if request.param.endswith("_local") else "TIMESTAMPTZ"
        statements = (
            f"CREATE TABLE t (id INTEGER, seen_at {kind})",
            f"INSERT INTO t {self.ROWS.format('TIMESTAMPTZ ' if kind == 'TIMESTAMPTZ' else '')}".replace("')", "+00')")
            if kind == "TIMESTAMPTZ"
            else f"INSERT INTO t {self.ROWS.format('')}",
        )
        if request.param.startswith("duckdb"):
            return duckdb_of(tmp_path, *statements)
        url = str(request.getfixturevalue("database"))
        execute(url, *statements)
        return url

    def test_what_equals_it_and_what_has_none_come_too(self, source: str) -> None:
        for last in (
            datetime(2026, 1, 5, 10, tzinfo=UTC),
            datetime(2026, 1, 5, 10),  # taken as UTC
            pd.Timestamp("2026-01-05 12:00:00.000000999+02:00"),
            np.datetime64("2026-01-05T10:00:00", "ns"),
        ):
            found = read(source, "SELECT * FROM t;", watermark_column="seen_at", last_watermark=last)
            assert sorted(found["id"]) == [2, 3, 4], last
        for nothing in (None, pd.NaT, float("nan"), np.datetime64("NaT")):
            assert read(source, "SELECT * FROM t", watermark_column="seen_at", last_watermark=nothing).height == 4
        for last in (None, datetime(2026, 1, 5, tzinfo=UTC)):
            with pytest.raises(DatabaseError, match="has no column changed"):
                read(source, "SELECT * FROM t", watermark_column="changed", last_watermark=last)

    def test_numbers_and_dates_and_texts_are_watermarks(self, database: str, tmp_path: Path) -> None:
        query = "SELECT g AS \"myId\", DATE '2026-01-01' + g AS day FROM generate_series(1, 5) AS g"
        assert read(database, query, watermark_column="myId", last_watermark=4)["myId"].to_list() == [4, 5]
        assert read(database, query, watermark_column="myId", last_watermark=np.int64(4)).height == 2
        assert read(database, query, watermark_column="day", last_watermark=date(2026, 1, 6)).height == 1
        assert read(database, query, watermark_column="day", last_watermark="2026-01-06").height == 1
        url = sqlite_of(tmp_path, "CREATE TABLE t AS SELECT '2026-01-05T10:00:00Z' AS seen_at")
        assert (
            read(url, "SELECT * FROM t", watermark_column="seen_at", last_watermark="2026-01-05T10:00:00Z").height == 1
        )

    def test_sqlite_takes_a_query_that_a_comment_ends(self, tmp_path: Path) -> None:
        url = sqlite_of(tmp_path, "CREATE TABLE t (seen)", "INSERT INTO t VALUES (1), (2)")
        found = read(url, "SELECT * FROM t; -- all", watermark_column="seen", last_watermark=2)
        assert found["seen"].to_list() == [2]

    @pytest.mark.parametrize(
        ("values", "last", "message"),
        [
            ("1767607200", datetime(2026, 1, 5, tzinfo=UTC), "has integer values"),
            ("1, 2.5, NULL, 'x'", 2, "has text values"),
            ("'2026-01-05'", 20260105, "has text values"),
        ],
    )
    def test_sqlite_compares_only_what_is_alike(self, tmp_path: Path, values: str, last: Any, message: str) -> None:
        rows = ", ".join(f"({value})" for value in values.split(", "))
        url = sqlite_of(tmp_path, "CREATE TABLE t (seen)", f"INSERT INTO t VALUES {rows}")
        with pytest.raises(NotebookError, match=f"seen {message}, .* last_watermark"):
            read(url, "SELECT * FROM t;", watermark_column="seen", last_watermark=last)

    def test_a_name_is_what_the_query_calls_it(self, database: str) -> None:
        with pytest.raises(DatabaseError, match="Give watermark_column as the query calls it"):
            read(database, 'SELECT 1 AS "UpdatedAt"', watermark_column="updated_at")


class TestOthers:
    def test_duckdb_has_its_own_types(self, tmp_path: Path) -> None:
        url = duckdb_of(tmp_path)
        found = content(
            read(
                url,
                "SELECT sum(i) AS s, 1.5::DECIMAL(9,1) AS d, '\\xFF'::BLOB AS b,"
                " TIMESTAMPTZ '2026-01-01 00:00:00+00' AS t,"
                " [1] AS l, {'a': 1} AS r, 200::UTINYINT AS u, TIME '10:00' AS clock FROM range(3) AS x(i)",
            )
        )
        assert found.row(0) == (
            Decimal(3), Decimal("1.5"), b"\xff", datetime(2026, 1, 1, tzinfo=UTC), [1], '{"a":1}', 200, "10:00:00",
        )  # fmt: skip
        assert found.dtypes[0] == pl.Decimal(38, 0)

    def test_of_sqlite_all_values_of_a_column_decide(self, tmp_path: Path) -> None:
        url = sqlite_of(
            tmp_path,
            "CREATE TABLE t (id, price, big, mixed, bytes, empty, zip)",
            f"INSERT INTO t VALUES (1, 5, {2**53 + 1}, 1, x'ff', NULL, '00123'),"
            " (2, 19.99, 0.5, 'one', x'00', NULL, '4'), (NULL, NULL, NULL, NULL, NULL, NULL, NULL)",
        )
        found = content(read(url, "SELECT * FROM t"))
        assert dict(found.schema) == {
            "id": pl.Int64, "price": pl.Float64, "big": pl.String, "mixed": pl.String, "bytes": pl.Binary,
            "empty": pl.Null, "zip": pl.String,
        }  # fmt: skip
        assert found.rows()[:2] == [
            (1, 5.0, str(2**53 + 1), "1", b"\xff", None, "00123"),
            (2, 19.99, "0.5", "one", b"\x00", None, "4"),
        ]

    def test_what_the_extraction_adds_is_taken(self, tmp_path: Path) -> None:
        with pytest.raises(NotebookError, match="_source is what the extraction adds"):
            read(sqlite_of(tmp_path), "SELECT 1 AS _source")


class TestArguments:
    def test_config_names_what_it_knows(self) -> None:
        with pytest.raises(NotebookError, match="config knows no 'frame': there is frames"):
            BatchDataIngester({"frame": "pandas"})
        for other in ("pandas", ["frames"]):
            with pytest.raises(NotebookError, match=r"config is a dict with frames, not (str|list)"):
                BatchDataIngester(other)  # type: ignore[arg-type]
        with pytest.raises(NotebookError, match="'polars' or 'pandas'"):
            BatchDataIngester({"frames": "spark"})

    def test_pandas_may_be_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pandas", None)
        assert BatchDataIngester().dead_letters.height == 0
        with pytest.raises(NotebookError, match="pip install pandas"):
            BatchDataIngester({"frames": "pandas"})

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"last_watermark": 1}, "needs watermark_column"),
            ({"watermark_column": "x", "last_watermark": 1.5}, "is 1.5, a float"),
            ({"watermark_column": "x", "last_watermark": True}, "a bool"),
        ],
    )
    def test_a_watermark_is_a_time_a_date_a_number_or_a_text(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(NotebookError, match=message):
            read("sqlite://", "SELECT 1 AS x", **options)

    @pytest.mark.parametrize("name", ["connection_string", "query", "watermark_column"])
    def test_texts_are_texts(self, name: str) -> None:
        for value in (1, "") if name == "watermark_column" else (None, 1, " "):
            given: dict[str, Any] = {"connection_string": "sqlite://", "query": "SELECT 1 AS x", name: value}
            with pytest.raises(NotebookError, match=f"{name} is {value!r}: give"):
                BatchDataIngester().extract_from_database(**given)

    def test_a_query_has_no_parameters(self) -> None:
        with pytest.raises(NotebookError, match="has :lower: give last_watermark"):
            read("sqlite://", "SELECT 1 AS x WHERE x > :lower")
