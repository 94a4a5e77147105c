"""Values survive: what a database holds is in bronze exactly, or is a dead letter that names the column."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated
from unittest.mock import ANY

import duckdb
import pandera.polars as pa
import polars as pl
import pytest
from bank import Bank
from postgres import execute
from pulled import at

AWKWARD = (
    "quote \" apostrophe ' comma , semicolon ; back\\slash \\N \\. tab\t cr\r lf\n crlf\r\n "
    "é ü 漢字 🐘 %s :lower $1 {a,b} \x01 \x7f"
)


class Wide(pa.DataFrameModel):
    """A column of each type."""

    id: int
    text: str = pa.Field(nullable=True)
    digits: Annotated[pl.Decimal, 38, 0] = pa.Field(nullable=True)
    money: Annotated[pl.Decimal, 18, 4] = pa.Field(nullable=True)
    double: float = pa.Field(nullable=True)
    single: pl.Float32 = pa.Field(nullable=True)
    flag: bool = pa.Field(nullable=True)
    day: pl.Date = pa.Field(nullable=True)
    moment: Annotated[pl.Datetime, "us", "UTC"] = pa.Field(nullable=True)
    local: Annotated[pl.Datetime, "us", None] = pa.Field(nullable=True)
    bytes: pl.Binary = pa.Field(nullable=True)
    document: str = pa.Field(nullable=True)
    words: Annotated[pl.List, pl.String] = pa.Field(nullable=True)
    numbers: Annotated[pl.List, pl.Int64] = pa.Field(nullable=True)
    other: str = pa.Field(nullable=True)


LOCAL = at("1969-12-31 23:59:59").replace(tzinfo=None)
NAMES = list(Wide.to_schema().columns)


@pytest.fixture
def wide(database: str, tmp_path: Path) -> Iterator[Bank]:
    bank = Bank(tmp_path, database)
    bank.execute(
        "CREATE TABLE wide (id int PRIMARY KEY, text text, digits numeric, money numeric(18,4), double float8,"
        " single float4, flag bool, day date, moment timestamptz, local timestamp, bytes bytea, document jsonb,"
        " words text[], numbers bigint[], other interval)"
    )
    yield bank
    bank.con.close()


def pull(bank: Bank) -> None:
    bank.pull(bank.source(Wide, table="wide", keys=("id",)))


class TestPostgres:
    def test_values_come_as_they_are(self, wide: Bank) -> None:
        import psycopg

        given = {
            "id": 1, "text": AWKWARD, "digits": Decimal("9" * 38), "money": Decimal("-12345678901234.5678"),
            "double": 0.1 + 0.2, "single": 0.1, "flag": True, "day": date(2026, 2, 28),
            "moment": datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC), "local": LOCAL,
            "bytes": bytes(range(256)), "document": '{"b": 1.50, "a": [null, "\\u00e9\\n"], "c": 1e400}',
            "words": ["", None, "NULL", 'a"b\\c,{}', " x "], "numbers": [1, -(2**63), None],
            "other": "1 year 2 mons -3 days 04:05:06.789",
        }  # fmt: skip
        with psycopg.connect(wide.url) as connection:
            values = ", ".join(f"%({name})s" for name in NAMES)
            connection.execute(f"INSERT INTO wide ({', '.join(NAMES)}) VALUES ({values})".encode(), given)
        pull(wide)
        (row,) = wide.rows(", ".join(NAMES))
        found = dict(zip(NAMES, row, strict=True))
        assert found.pop("single") == pytest.approx(0.1)
        assert found.pop("document") == '{"a": [null, "é\\n"], "b": 1.50, "c": 1' + "0" * 400 + "}"
        assert found.pop("other") == "P1Y2M-3DT4H5M6.789S"
        assert found == {name: value for name, value in given.items() if name in found}
        assert wide.dead() == []

    def test_nulls_and_empty_values_are_not_the_same(self, wide: Bank) -> None:
        execute(
            wide.url,
            "INSERT INTO wide (id) VALUES (1)",
            r"INSERT INTO wide (id, text, bytes, words) VALUES (2, '', '\x', '{}')",
        )
        pull(wide)
        assert wide.rows("id, text, bytes, words") == [(1, None, None, None), (2, "", b"", [])]

    @pytest.mark.parametrize(
        ("column", "value", "reason"),
        [
            ("digits", "'NaN'", "cast: digits: 'NaN' is not DECIMAL(38,0)"),
            ("digits", "'Infinity'", "cast: digits: 'Infinity' is not DECIMAL(38,0)"),
            ("digits", f"'{'9' * 39}'", f"cast: digits: '{'9' * 39}' is not DECIMAL(38,0)"),
            ("digits", "1.5", "cast: digits: '1.5' is not DECIMAL(38,0)"),
            ("moment", "'infinity'", "cast: moment: 'infinity' is not TIMESTAMP WITH TIME ZONE"),
            ("moment", "'0044-03-15 BC'", "cast: moment: '0044-03-15 00:00:00+00 BC' is not TIMESTAMP WITH TIME ZONE"),
            ("day", "'-infinity'", "cast: day: '-infinity' is not DATE"),
            ("local", "'20260-01-01'", "cast: local: '20260-01-01 00:00:00' is not TIMESTAMP"),
        ],
    )
    def test_what_a_type_cannot_hold_is_a_dead_letter_naming_the_column(
        self, wide: Bank, column: str, value: str, reason: str
    ) -> None:
        execute(wide.url, "INSERT INTO wide (id) VALUES (1)", f"INSERT INTO wide (id, {column}) VALUES (2, {value})")
        pull(wide)
        assert wide.rows("id") == [(1,)]
        assert wide.dead() == [reason]
        assert '"id":"2"' in wide.dead("raw")[0]

    def test_special_doubles_survive(self, wide: Bank) -> None:
        execute(wide.url, "INSERT INTO wide (id, double) VALUES (1, 'NaN'), (2, '-Infinity'), (3, 5e-324), (4, '-0')")
        pull(wide)
        assert wide.rows("id, double::VARCHAR") == [(1, "nan"), (2, "-inf"), (3, "5e-324"), (4, "-0.0")]

    def test_the_session_of_the_role_does_not_matter(self, wide: Bank) -> None:
        name = wide.url.rpartition("/")[2]
        execute(
            wide.url,
            f"ALTER DATABASE {name} SET TimeZone = 'America/New_York'",
            f"ALTER DATABASE {name} SET DateStyle = 'SQL, DMY'",
            f"ALTER DATABASE {name} SET extra_float_digits = -3",
            f"ALTER DATABASE {name} SET bytea_output = 'escape'",
            "INSERT INTO wide (id, moment, day, double, bytes)"
            r" VALUES (1, '2026-01-02 03:04:05+00', '2026-02-01', 0.1234567890123456, '\x00ff')",
        )
        pull(wide)
        assert wide.rows("moment, day, double, bytes") == [
            (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), date(2026, 2, 1), 0.1234567890123456, b"\x00\xff")
        ]

    def test_types_that_no_contract_names_come_as_text(self, wide: Bank) -> None:
        execute(wide.url, "CREATE TYPE mood AS ENUM ('sad', 'ok')", "CREATE DOMAIN short AS text[] CHECK (true)")
        values = "'ok'::mood, '10.0.0.0/8'::cidr, '{a,b}'::short, '[1,5)'::int4range, '\\xff'::bytea, '24:00'::time"
        execute(wide.url, f"CREATE TABLE odd AS SELECT 1 AS id, {values}".replace("'ok'::mood", "'ok'::mood AS mood"))
        wide.pull(wide.source(Wide, table="odd", keys=("id",)))
        (rescued,) = (row[0] for row in wide.rows("_rescued"))
        assert rescued == (
            '{"mood":"ok","cidr":"10.0.0.0/8","short":["a","b"],"int4range":"[1,5)","bytea":{"base64":"/w=="},'
            '"time":"24:00:00"}'
        )

    def test_domains_over_domains_are_what_the_last_one_is_over(self, wide: Bank) -> None:
        execute(wide.url, "CREATE DOMAIN raw AS bytea", "CREATE DOMAIN token AS raw NOT NULL",
                "CREATE DOMAIN salt AS token", "CREATE DOMAIN n AS int", "CREATE DOMAIN key AS n",
                "CREATE TABLE odd (id key, bytes token, salt salt)",
                r"INSERT INTO odd VALUES (1, '\xff', '\xff')")  # fmt: skip
        wide.pull(wide.source(Wide, table="odd", keys=("id",)))
        assert wide.rows("id, bytes, _rescued") == [(1, b"\xff", '{"salt":{"base64":"/w=="}}')]

    def test_a_column_of_nothing_but_null_is_read(self, wide: Bank) -> None:
        execute(wide.url, "CREATE TABLE one (id int)", "INSERT INTO one VALUES (NULL), (7), (NULL)")
        wide.pull(wide.source(Wide, table="one", keys=("id",)))
        assert (wide.rows("id"), wide.dead()) == ([(7,)], ["required: id is missing"] * 2)

    def test_a_value_of_many_megabytes_is_read(self, wide: Bank) -> None:
        execute(
            wide.url, "INSERT INTO wide (id, text) SELECT g, repeat(E'x\"\\n', 4000000) FROM generate_series(1, 2) g"
        )
        pull(wide)
        assert wide.rows("id, length(text)") == [(1, 12_000_000), (2, 12_000_000)]

    def test_awkward_names_are_read(self, wide: Bank) -> None:
        execute(
            wide.url,
            'CREATE SCHEMA "my %s"',
            'CREATE TABLE "my %s"."Ta:ble" ("Id" int, "te %(x)s ""xt" text, "Text" text)',
        )
        execute(wide.url, "INSERT INTO \"my %s\".\"Ta:ble\" VALUES (1, 'b', 'a')")
        wide.pull(wide.source(Wide, table="my %s.Ta:ble", keys=("id",)))
        assert wide.rows("id, text, _rescued") == [(1, "a", '{"te %(x)s \\"xt":"b"}')]


class TestSqlite:
    def test_values_come_as_they_are(self, tmp_path: Path) -> None:
        bank = Bank(tmp_path, f"sqlite:///{tmp_path}/a.db")
        with closing(sqlite3.connect(tmp_path / "a.db")) as connection, connection:
            connection.execute("CREATE TABLE wide (id, text, digits, money, double, flag, day, moment, bytes, other)")
            rows = [
                (1, AWKWARD + "\0", "9" * 38, 19.99, 0.1 + 0.2, 1, "2026-02-28", "2026-01-02T03:04:05.678901Z",
                 bytes(range(256)), b"a"),
                (2, "", 2**62, 5, float("inf"), 0, None, "2026-01-02 03:04:05+02:00", "text", 1.5),
            ]  # fmt: skip
            connection.executemany(f"INSERT INTO wide VALUES ({', '.join('?' * 10)})", rows)
        bank.pull(bank.source(Wide, table="wide", keys=("id",)))
        assert bank.rows("id, text, digits, money, double, flag, day, moment, bytes, other") == [
            (1, AWKWARD + "\0", Decimal("9" * 38), Decimal("19.99"), 0.1 + 0.2, True, date(2026, 2, 28),
             datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC), bytes(range(256)), "a"),
            (2, "", Decimal(2**62), Decimal(5), float("inf"), False, None,
             datetime(2026, 1, 2, 1, 4, 5, tzinfo=UTC), b"text", "1.5"),
        ]  # fmt: skip
        assert bank.dead() == []

    def test_what_does_not_fit_is_a_dead_letter(self, tmp_path: Path) -> None:
        bank = Bank(tmp_path, f"sqlite:///{tmp_path}/a.db")
        bank.execute("CREATE TABLE wide (id INTEGER, digits)", "INSERT INTO wide VALUES (1, 'many'), (2, 1.5)")
        bank.pull(bank.source(Wide, table="wide", keys=("id",)))
        assert bank.dead() == ["cast: digits: '1.5' is not DECIMAL(38,0)", "cast: digits: 'many' is not DECIMAL(38,0)"]

    def test_text_that_is_no_utf8_costs_its_own_record(self, tmp_path: Path) -> None:
        bank = Bank(tmp_path, f"sqlite:///{tmp_path}/a.db")
        bank.execute(
            "CREATE TABLE wide (id INTEGER, text TEXT)", "INSERT INTO wide VALUES (1, CAST(x'ff' AS TEXT)), (2, 'é')"
        )
        bank.pull(bank.source(Wide, table="wide", keys=("id",)))
        assert bank.dead() == ["cast: text: '\\xFF' is not VARCHAR"]
        assert bank.rows("id, text") == [(2, "é")]


class TestDuckDB:
    def test_values_come_as_they_are(self, tmp_path: Path) -> None:
        bank = Bank(tmp_path, f"duckdb:///{tmp_path}/a.db")
        with duckdb.connect(str(tmp_path / "a.db")) as connection:
            connection.execute("SET TimeZone = 'America/New_York'")
            connection.execute(
                "CREATE TABLE wide AS SELECT 1 AS id, $text AS text, 99999999999999999999999999999999999999::HUGEINT AS"
                " digits, 1.5::DECIMAL(10,1) AS money, 'nan'::DOUBLE AS double, true AS flag, DATE '2026-02-28' AS day,"
                " TIMESTAMPTZ '2026-01-02 03:04:05.678901+00' AS moment, TIMESTAMP_S '1969-12-31 23:59:59' AS local,"
                " '\\x00\\xff'::BLOB AS bytes, {'a': [1, NULL]} AS document, ['', NULL, 'b'] AS words,"
                " [1, 2] AS numbers, uuid '00000000-0000-0000-0000-000000000001' AS other,"
                " INTERVAL 1 DAY AS unknown, '\\xff'::BLOB AS raw",
                {"text": AWKWARD},
            )
        bank.pull(bank.source(Wide, table="main.wide", keys=("id",)))
        (row,) = bank.rows("* EXCLUDE (double, _partition_date, _batch_id, _extracted_at, _source, _deleted)")
        assert row == (
            1, AWKWARD, Decimal("9" * 38), Decimal("1.5"), None, True, date(2026, 2, 28),
            datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC), LOCAL, b"\0\xff",
            '{"a":[1,null]}', ["", None, "b"], [1, 2], "00000000-0000-0000-0000-000000000001",
            '{"unknown":"1 day","raw":{"base64":"/w=="}}',
        )  # fmt: skip
        assert bank.rows("isnan(double)") == [(True,)]

    def test_what_does_not_fit_is_a_dead_letter(self, tmp_path: Path) -> None:
        bank = Bank(tmp_path, f"duckdb:///{tmp_path}/a.db")
        bank.execute("CREATE TABLE wide AS SELECT 1 AS id, TIMESTAMP 'infinity' AS moment, 1.5 AS digits")
        bank.pull(bank.source(Wide, table="wide", keys=("id",)))
        (reason,) = bank.dead()
        assert "digits: '1.5' is not DECIMAL(38,0)" in reason


@pytest.mark.parametrize("kind", ["postgres", "duckdb", "sqlite"])
@pytest.mark.parametrize("evolve", [False, True])
def test_bytes_are_text_in_utf8_or_a_dead_letter_whatever_the_source(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, evolve: bool
) -> None:
    """The rule of files, too (tests/ingest/files/formats/test_binary.py)."""
    url = request.getfixturevalue("database") if kind == "postgres" else f"{kind}:///{tmp_path}/a.db"
    dtype = "bytea" if kind == "postgres" else "BLOB"
    written = r"'caf\xC3\xA9'", r"'\xFF'"
    text, other = {"postgres": (r"'\x636166c3a9'", r"'\xff'"), "sqlite": ("x'636166c3a9'", "x'ff'")}.get(kind, written)
    bank = Bank(tmp_path, url)
    bank.execute(
        f"CREATE TABLE odd (id int, text {dtype}, photo {dtype})",
        f"INSERT INTO odd VALUES (1, {text}, {text}), (2, {text}, {other}), (3, {other}, {text})",
    )
    bank.pull(bank.source(Wide, table="odd", keys=("id",), schema_evolution=evolve))
    ((reason, raw),) = bank.dead("reason, raw")
    assert reason == "cast: text: '\\xFF' is not VARCHAR"
    assert json.loads(raw) == {"id": ANY, "text": {"base64": "/w=="}, "photo": "café"}
    if evolve:
        assert bank.rows("text, photo, _rescued") == [
            ("café", "café", None),
            ("café", None, '{"photo":{"base64":"/w=="}}'),
        ]
    else:
        assert bank.rows("text, _rescued") == [
            ("café", '{"photo":"café"}'),
            ("café", '{"photo":{"base64":"/w=="}}'),
        ]
