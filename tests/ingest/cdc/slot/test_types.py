"""Every kind of value: the slot and the snapshot write it alike, and as CDC's one format says."""

import json
import unicodedata
from pathlib import Path
from typing import Annotated, Any

import pandera.polars as pa
import polars as pl
import pytest
from postgres import FAST, execute

from pipeline_assets.demo.postgres_server import PostgresServer
from pipeline_assets.ingest.cdc.slot.drain import Drain
from pipeline_assets.ingest.cdc.slot.health import ChangeSource, inspect
from pipeline_assets.ingest.cdc.slot.postgres import Postgres
from pipeline_assets.ingest.cdc.table import row
from pipeline_assets.ingest.cdc.table.change_table import ChangeTable
from pipeline_assets.lake import Lake, Table
from pipeline_assets.sql import quote_name

POSTGRESQL_15 = Path("/usr/lib/postgresql/15/bin")

AWKWARD = (
    "tab\t nl\n cr\r bs\b ff\f vt\v bell\a esc\x1b del\x7f \\ \\N \\. \\t \"quoted\" 'single' , { } NULL é 🛒 "
    "\u2028 \ufeff "
)

# Column name -> type, SQL expression, what its JSON holds.
VALUES: dict[str, tuple[str, str, Any]] = {
    "small": ("smallint", "-32768", -32768),
    "big": ("bigint", "9223372036854775807", 9223372036854775807),
    "oid": ("oid", "4294967295", 4294967295),
    "flag": ("boolean", "true", True),
    "numeric_38": ("numeric(38,10)", f"-{'9' * 28}.0123456789", f"-{'9' * 28}.0123456789"),
    "numeric_scale": ("numeric", "2.500", "2.500"),
    "numeric_nan": ("numeric", "'NaN'", "NaN"),
    "numeric_infinity": ("numeric", "'-Infinity'", "-Infinity"),
    "float": ("double precision", "0.1", 0.1),
    "float_small": ("double precision", "5e-324", 5e-324),
    "float_large": ("double precision", "1.7976931348623157e308", 1.7976931348623157e308),
    "float_nan": ("double precision", "'NaN'", "NaN"),
    "real_infinity": ("real", "'-inf'", "-Infinity"),
    "text": ("text", "$awkward$" + AWKWARD + "$awkward$", AWKWARD),
    "text_empty": ("text", "''", ""),
    "nothing": ("text", "NULL", None),
    "varchar": ("varchar(5)", "'ab'", "ab"),
    "char": ("char(5)", "'ab'", "ab   "),
    "date": ("date", "'2026-01-02'", "2026-01-02"),
    "date_infinity": ("date", "'infinity'", "infinity"),
    "date_bc": ("date", "'0044-03-15 BC'", "0044-03-15 BC"),
    "date_far": ("date", "'294276-12-31'", "294276-12-31"),
    "time": ("time", "'24:00'", "24:00:00"),
    "timetz": ("timetz", "'01:02:03.5+05:30'", "01:02:03.5+05:30"),
    "timestamp": ("timestamp", "'2026-01-02 03:04:05.000001'", "2026-01-02 03:04:05.000001"),
    "timestamp_bc": ("timestamp", "'0044-03-15 12:00 BC'", "0044-03-15 12:00:00 BC"),
    "timestamptz": ("timestamptz", "'2026-01-02 03:04:05.678-05'", "2026-01-02 08:04:05.678+00"),
    "timestamptz_infinity": ("timestamptz", "'-infinity'", "-infinity"),
    "interval": ("interval", "'1 year -2 mons 3 days 04:05:06.789'", "P10M3DT4H5M6.789S"),
    "uuid": ("uuid", "'B68A35A7-17AD-35B3-AF2A-AE46EDB4545A'", "b68a35a7-17ad-35b3-af2a-ae46edb4545a"),
    "bytea": ("bytea", r"'\x00ff5c0a'", "AP9cCg=="),
    "bytea_empty": ("bytea", "''", ""),
    "json": ("json", """'{"b": 2.50,  "a": "x\\n"}'""", '{"b": 2.50,  "a": "x\\n"}'),
    "jsonb": ("jsonb", """'{"b": 2.50, "a": [1, null]}'""", '{"a": [1, null], "b": 2.50}'),
    "mood": ("mood", "'so \"so\"'", 'so "so"'),
    "moods": ("mood[]", "ARRAY['fine', NULL, 'so \"so\"']::mood[]", ["fine", None, 'so "so"']),
    "ints": ("integer[]", "'{{1,2},{NULL,4}}'", [[1, 2], [None, 4]]),
    "ints_bounds": ("integer[]", "'[0:1]={1,2}'", [1, 2]),
    "ints_empty": ("integer[]", "'{}'", []),
    "texts": ("text[]", "ARRAY[$a$" + AWKWARD + "$a$, NULL, 'NULL', '', ' ']", [AWKWARD, None, "NULL", "", " "]),
    "texts_2d": ("text[][]", r"""ARRAY[['a"b', 'c\d'], [NULL, '{,}']]""", [['a"b', "c\\d"], [None, "{,}"]]),
    "numerics": ("numeric[]", "'{1.50,NaN}'", ["1.50", "NaN"]),
    "flags": ("boolean[]", "'{t,f,NULL}'", [True, False, None]),
    "floats": ("double precision[]", "'{0.1,NaN}'", [0.1, "NaN"]),
    "byteas": ("bytea[]", r"ARRAY['\x00ff'::bytea, ''::bytea]", ["AP8=", ""]),
    "times": ("timestamptz[]", "ARRAY['2026-01-02 03:04:05+00'::timestamptz]", ["2026-01-02 03:04:05+00"]),
    "jsons": ("jsonb[]", """ARRAY['{"a": "x,y"}'::jsonb]""", ['{"a": "x,y"}']),
    "boxes": ("box[]", "ARRAY['((0,0),(1,1))'::box, '((0,0),(2,2))'::box]", ["(1,1),(0,0)", "(2,2),(0,0)"]),
    "age": ("age", "7", 7),
    "ages": ("ages", "'{7,NULL}'", [7, None]),
    "age_array": ("age[]", "'{7,NULL}'", [7, None]),
    "pair": ("pair", "ROW(1, 'a,b')", '(1,"a,b")'),
    "pairs": ("pair[]", "ARRAY[ROW(1, 'a,\"b')]::pair[]", ['(1,"a,""b")']),
    "range": ("int4range", "'[1,5)'", "[1,5)"),
    "inet": ("inet", "'10.0.0.1/8'", "10.0.0.1/8"),
    "bits": ("bit(4)", "B'1010'", "1010"),
    "point": ("point", "'(1.5,2)'", "(1.5,2)"),
    "money": ("money", "'1234.5'", "$1,234.50"),
    "search": ("tsvector", "'a:1 b:2'", "'a':1 'b':2"),
    "vector": ("int2vector", "'1 2'", "1 2"),
    "table": ("regclass", "'public.t'", "public.t"),
}  # fmt: skip


def test_every_type_is_alike_in_slot_and_snapshot_and_survives(database: str):
    check_types(database)


@pytest.mark.skipif(not POSTGRESQL_15.is_dir(), reason="Debian's postgresql-15 is not installed")
def test_the_oldest_version_that_is_supported_writes_the_same(tmp_path: Path):
    with PostgresServer(tmp_path, settings=FAST, bin_dir=POSTGRESQL_15) as server:
        execute(server.url(), "CREATE DATABASE shop_database")
        check_types(server.url("shop_database"))


def test_a_database_of_another_encoding(postgres_server: PostgresServer):
    """The server converts what it sends, names of columns too."""
    execute(postgres_server.url(), "CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0")
    url = postgres_server.url("latin")
    try:
        execute(
            url,
            'CREATE TABLE t (id int PRIMARY KEY, "prénom" text, noms text[])', "CREATE PUBLICATION shop FOR TABLE t",
        )  # fmt: skip
        source = Postgres(url, slot="latin", publication="shop")
        source.create_slot()
        execute(url, "INSERT INTO t VALUES (1, 'Zoë', '{é}')")
        (inserted,) = source.peek(1 << 60, 1000, {"public.t": ["id"]})
        with source.snapshot(["public.t"]) as snapshot:
            (read,) = snapshot.rows("public.t", ["id"])
        assert inserted.after == read.after == '{"id":1,"prénom":"Zoë","noms":["é"]}'
        source.drop_slot()
    finally:
        execute(postgres_server.url(), "DROP DATABASE latin WITH (FORCE)")


class Awkward(pa.DataFrameModel):
    """Columns whose values PostgreSQL has and a contract's type may not."""

    id: pl.Int64
    ints: pl.List(pl.Int64) = pa.Field(nullable=True)
    texts: pl.List(pl.String) = pa.Field(nullable=True)
    times: pl.List(pl.Datetime("us", "UTC")) = pa.Field(nullable=True)
    at: Annotated[pl.Datetime, "us", "UTC"] = pa.Field(nullable=True)
    day: pl.Date = pa.Field(nullable=True)
    price: pl.Decimal(12, 3) = pa.Field(nullable=True)
    ratio: pl.Float64 = pa.Field(nullable=True)


@pytest.mark.parametrize("by_stream", [False, True])
def test_lists_are_rows_and_what_no_type_holds_is_a_dead_letter_by_slot_and_by_snapshot(database, tmp_path, by_stream):
    lake = Lake(str(tmp_path))
    table = ChangeTable("public.t", "db__t", Awkward, ("id",))
    source = Postgres(database, slot=f"shop_{database[-12:]}", publication="shop")

    def drain():
        with lake.connect() as con:
            Drain(lake, con, ChangeSource("db", (table,), 1 << 30), source, "run").run()

    execute(
        database,
        "CREATE TABLE t (id int PRIMARY KEY, ints int[], texts text[], times timestamptz[], at timestamptz, day date, "
        "price numeric, ratio float8)",
        "CREATE PUBLICATION shop FOR TABLE t",
    )
    if by_stream:
        drain()
    values = [
        """'{1,NULL,2}', ARRAY['a "b"', NULL, '{}', 'हिन्दी'], '{2026-01-02 03:04:05+01}', now(), now(), 1.5, 'NaN'""",
        "'{}', '{}', '{}', null, null, null, '-Infinity'",
        "'{{1,2},{3,4}}', null, null, null, null, null, null",
        "null, null, '{infinity}', 'infinity', '-infinity', 'NaN', null",
        "null, null, null, '0044-03-15 BC', '12026-01-01', 'Infinity', null",
    ]
    execute(database, *(f"INSERT INTO t VALUES ({number}, {line})" for number, line in enumerate(values)))
    drain()
    with lake.connect() as con:
        texts = row.texts(["ints", "texts"], "after")
        lists = f"{row.typed('_row[1]', 'BIGINT[]')}, {row.typed('_row[2]', 'VARCHAR[]')}"
        read = f"(SELECT key, {texts} AS _row FROM {table.bronze(lake).scan()})"
        rows = con.execute(f"SELECT {lists} FROM {read} ORDER BY key").fetchall()
        letters = con.execute(f"FROM {Table(lake, 'dead_letters.db__t').scan()} SELECT reason ORDER BY 1").fetchall()
    assert rows == [([1, None, 2], ['a "b"', None, "{}", "हिन्दी"]), ([], [])]
    assert [reason for (reason,) in letters] == [
        "cast: at: '0044-03-15 00:00:00+00 BC' is not TIMESTAMP WITH TIME ZONE; cast: day: '12026-01-01' is not DATE; "
        "cast: price: 'Infinity' is not DECIMAL(12,3)",
        "cast: ints: '[[1,2],[3,4]]' is not BIGINT[]",
        "cast: times: '[\"infinity\"]' is not TIMESTAMP WITH TIME ZONE[]; cast: at: 'infinity' is not TIMESTAMP WITH "
        "TIME ZONE; cast: day: '-infinity' is not DATE; cast: price: 'NaN' is not DECIMAL(12,3)",
    ]


ODD = [
    "a.b c",
    "😀",
    unicodedata.normalize("NFD", "prénom"),
    "x" * 63,
    "_deleted",
    'say "hi" %s {}',
    "नाम",
    "निम",
    "Id",
]


class Wide(pa.DataFrameModel):
    """Columns whose names the source writes otherwise, two of them in letters that are made of several characters."""

    id: pl.Int64
    created_at: Annotated[pl.Datetime, "us", "UTC"]
    prénom: pl.String = pa.Field(nullable=True)
    name_in_hindi: pl.String = pa.Field(nullable=True, alias="नाम")


def test_columns_get_the_contracts_names_by_slot_and_by_snapshot_and_the_others_keep_theirs(database, tmp_path):
    lake = Lake(str(tmp_path))
    tables = tuple(ChangeTable(f"public.{name}", f"db__{name}", Wide, ("id",)) for name in ("camel", "odd", "clash"))
    source = Postgres(database, slot=f"shop_{database[-12:]}", publication="shop")

    def drain():
        with lake.connect() as con:
            Drain(lake, con, ChangeSource("db", tables, 1 << 30), source, "run").run()
            return inspect(lake, ChangeSource("db", tables, 1 << 30), source)

    listed = ", ".join(f"{quote_name(name)} text" for name in ODD)
    execute(
        database,
        'CREATE TABLE camel ("ID" int PRIMARY KEY, "createdAt" timestamptz DEFAULT now())',
        f"CREATE TABLE odd (id int PRIMARY KEY, created_at timestamptz DEFAULT now(), {listed})",
        'CREATE TABLE clash ("ID" int PRIMARY KEY, "Id" int, created_at timestamptz)',
        "CREATE PUBLICATION shop FOR ALL TABLES",
        'INSERT INTO camel ("ID") VALUES (1)', "INSERT INTO odd VALUES (1, now(), 'ab', 'sm', 'pr', 'xx', 'de', 'sa', "
        "'na', 'ni', 'Id')",
    )  # fmt: skip
    drain()
    execute(database, 'UPDATE camel SET "ID" = 2', "UPDATE odd SET id = 2", "INSERT INTO clash VALUES (1, 2)")
    state = drain()
    assert state.identity == {
        "db__clash": "in public.clash, 'ID' and 'Id' are both id of the contract: rename one of them. Nothing is read "
        "of it until then"
    }
    with lake.connect() as con:
        rows = {
            name: con.execute(
                f"SELECT op, key, after FROM {Table(lake, f'bronze.db__{name}').scan()} ORDER BY commit_lsn, tx_seq"
            ).fetchall()
            for name in ("camel", "odd")
        }
        letters = Table(lake, "dead_letters.db__camel")
        assert con.execute(f"SELECT count(*) FROM {letters.scan()}").fetchone() == (0,)
    for name, found in rows.items():
        assert [(op, key) for op, key, _ in found] == [("r", '{"id":1}'), ("d", '{"id":1}'), ("c", '{"id":2}')], name
    documents = [json.loads(after) for op, _, after in rows["odd"] if op != "d"]
    names = ["id", "created_at", *("prénom" if name == ODD[2] else name for name in ODD)]
    assert [list(document) for document in documents] == [names, names]
    assert [document["prénom"] for document in documents] == ["pr", "pr"]
    assert [list(json.loads(after)) for op, _, after in rows["camel"] if op != "d"] == [["id", "created_at"]] * 2


def check_types(database: str) -> None:
    columns = ", ".join(f'"{name}" {dtype}' for name, (dtype, _, _) in VALUES.items())
    execute(
        database,
        "CREATE TYPE mood AS ENUM ('fine', 'so \"so\"')", "CREATE DOMAIN age AS integer CHECK (VALUE >= 0)",
        "CREATE DOMAIN ages AS integer[]", "CREATE TYPE pair AS (n integer, txt text)",
        f"CREATE TABLE t (id int PRIMARY KEY, {columns})", "ALTER TABLE t REPLICA IDENTITY FULL",
        "CREATE PUBLICATION shop FOR TABLE t",
    )  # fmt: skip
    source = Postgres(database, slot=f"shop_{database[-12:]}", publication="shop")
    source.create_slot()
    odd = {"datestyle": "SQL, DMY", "intervalstyle": "postgres", "timezone": "Asia/Kolkata", "bytea_output": "escape"}
    name = database.rpartition("/")[2]
    execute(database, *(f"ALTER DATABASE {name} SET {setting} = '{value}'" for setting, value in odd.items()))
    execute(
        database,
        "SET datestyle = 'ISO, YMD'; SET timezone = 'UTC'; "
        f"INSERT INTO t VALUES (1, {', '.join(expression for _, expression, _ in VALUES.values())})",
        "UPDATE t SET small = 1",
    )
    inserted, updated = source.peek(1 << 60, 1000, {"public.t": ["id"]})
    with source.snapshot(["public.t"]) as snapshot:
        (read,) = snapshot.rows("public.t", ["id"])
    assert json.loads(inserted.after or "") == {"id": 1} | {column: value for column, (*_, value) in VALUES.items()}
    assert updated.before == inserted.after
    assert updated.after == read.after == (inserted.after or "").replace("-32768", "1")
    assert updated.key == read.key == '{"id":1}'


def test_arrays_are_those_that_postgresql_itself_makes_of_them(database: str):
    arrays = [
        r"""ARRAY[['a"b', 'c\d'], [NULL, '{,}']]""", "ARRAY['', ' ', 'NULL', 'null', NULL]", "'{}'::text[]",
        "ARRAY[[['a', 'b'], ['c', 'd']]]", "ARRAY[E'tab\\tnl\\ncr\\r\\x0b\\x0c']", "'[5:6]={\"{\",\"}\"}'::text[]",
    ]  # fmt: skip
    execute(
        database,
        "CREATE TABLE t (id int PRIMARY KEY, a text[])",
        *(f"INSERT INTO t VALUES ({number}, {array})" for number, array in enumerate(arrays)),
        "CREATE PUBLICATION shop FOR TABLE t",
    )
    with Postgres(database, slot=f"shop_{database[-12:]}", publication="shop").snapshot(["public.t"]) as snapshot:
        ours = [json.loads(event.after or "")["a"] for event in snapshot.rows("public.t", ["id"])]
    assert ours == [array for (array,) in execute(database, "SELECT to_jsonb(a) FROM t")]
