"""Names, places and connections of a lake."""

import re
from pathlib import Path

import duckdb
import pytest

from pipeline_assets.lake import Lake, LakeError, LakeUnreadableError, Positions, Table, query_schema


def test_a_table_name_is_a_place(lake: Lake) -> None:
    assert lake.table_uri("bronze.shop__invoice_lines") == f"{lake.uri}/bronze/shop__invoice_lines"


@pytest.mark.parametrize(
    "name", ["invoice_lines", "bronze.", "bronze.../x", "copper.x", "bronze.X", "bronze.a.b", "bronze.a/b"]
)
def test_other_names_are_refused(lake: Lake, name: str) -> None:
    with pytest.raises(LakeError, match="is not a table name"):
        lake.table_uri(name)


def test_the_tables_are_listed_by_layer(lake: Lake, con: duckdb.DuckDBPyConnection) -> None:
    assert lake.table_names() == []
    for name in ("gold.b", "bronze.z", "bronze.a"):
        Table(lake, name).create(query_schema(con, "SELECT 1 AS id"))
    assert lake.table_names() == ["bronze.a", "bronze.z", "gold.b"]


def test_secrets_do_not_show(tmp_path: Path) -> None:
    assert "hunter2" not in repr(Lake(str(tmp_path), {"secret_access_key": "hunter2"}))


def test_an_s3_lake_becomes_a_duckdb_secret() -> None:
    options = {"provider": "s3", "access_key_id": "key", "secret_access_key": "se'cret", "region": "eu-west-1",
               "endpoint": "http://127.0.0.1:8333", "allow_http": "true"}  # fmt: skip
    with Lake("s3://bucket/lake", options).connect() as con:
        (shown,) = con.sql("SELECT secret_string FROM duckdb_secrets()").fetchall()[0]
    assert "key_id=key" in shown
    assert "endpoint=127.0.0.1:8333" in shown
    assert "use_ssl=false" in shown
    assert "url_style=path" in shown


def test_connections_are_in_utc_and_bounded(lake: Lake) -> None:
    with lake.connect(memory_limit="100MB", threads=1) as con:
        found = con.sql(
            "SELECT current_setting('TimeZone'), current_setting('memory_limit'), current_setting('threads')"
        )
        assert found.fetchone() == ("UTC", "81.0 MiB", 1)


def test_a_connection_loads_nothing_unsigned_once_it_is_open(lake: Lake) -> None:
    with lake.connect() as con:
        (setting,) = con.sql("SELECT current_setting('allow_unsigned_extensions')").fetchone() or ()
        assert setting is False
        with pytest.raises(duckdb.InvalidInputException, match="while database is running"):
            con.execute("SET allow_unsigned_extensions = true")


@pytest.mark.parametrize(
    "name",
    ["a b", " lead", "trail ", "a#b", "a?b", "a+b", "a[b]", "a'b", 'a"b', "a{b}", "a*b", "a&b", "a;b", "a,b", "a:b",
     "a=b", "a~b", "ünï", "u\u0308", "日本"],
)  # fmt: skip
def test_a_lake_in_a_folder_of_any_such_name_is_written_and_read(tmp_path: Path, name: str) -> None:
    lake = Lake(str(tmp_path / name / "lake"))
    rows = "SELECT i AS id, ['a/b', 'c %', 'é'][1 + i % 3] AS place FROM range(6) AS t(i)"
    with lake.connect() as con:
        table = Table(lake, "bronze.x")
        table.create(query_schema(con, rows), partition_by=["place"])
        table.append(con, rows, batch_id="b")
        table.replace(con, f"{rows} WHERE i = 1", where="id = 1")
        table.open().create_checkpoint()
        assert Positions(table.open()).get("b") == 1
        assert con.execute(f"SELECT count(*), sum(id) FROM {table.scan()}").fetchone() == (6, 15)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("uri", "what"),
    [
        ("/lake%20x", "%"), ("/100%", "%"), ("/a\\b", "\\"), ("/a\tb", "\t"), ("/a\nb", "\n"), ("s3://lake/a%20b", "%"),
        ("s3://lake/a#b", "#"), ("s3://lake/a?b", "?"), ("s3://lake/a//b", "//"), ("s3://lake/a\nb", "\n"),
    ],
)  # fmt: skip
def test_a_place_that_some_reader_takes_for_another_is_refused(uri: str, what: str) -> None:
    with pytest.raises(LakeError, match=re.escape(f"a lake cannot lie at {uri!r}: {what!r}")):
        Lake(uri)


def test_a_query_that_cannot_read_the_lake_names_it_and_the_remedy(
    lake: Lake, con: duckdb.DuckDBPyConnection, table: Table
) -> None:
    for path in Path(table.uri).rglob("part-*.parquet"):
        path.unlink()
    with (
        pytest.raises(LakeUnreadableError, match=f"the lake at {re.escape(lake.uri)} .* run again"),
        lake.errors_explained(),
    ):
        con.execute(f"SELECT sum(seq) FROM {table.scan()}").fetchall()


def test_a_log_that_cannot_be_read_names_the_lake_and_the_remedy(lake: Lake, table: Table) -> None:
    opened = table.open()
    Path(table.uri, f"_delta_log/{1:020}.json").unlink()
    with (
        pytest.raises(LakeUnreadableError, match=f"the lake at {re.escape(lake.uri)} .* run again"),
        lake.errors_explained(),
    ):
        opened.transaction_version("first")


def test_errors_of_other_things_stay_what_they_are(lake: Lake, con: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    with pytest.raises(duckdb.IOException, match="landed"), lake.errors_explained():
        con.execute(f"FROM read_csv('{tmp_path}/landed.csv')")
    with pytest.raises(FileNotFoundError), lake.errors_explained():
        Path(lake.uri, "landed").read_text()
    with pytest.raises(OSError, match="zstd"), lake.errors_explained():
        raise OSError("zstd: what was unpacked is no such file")
