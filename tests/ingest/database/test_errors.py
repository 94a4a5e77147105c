"""Errors of source databases: what is tried again, what is told, and that no password ever is."""

import sqlite3
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pyarrow as pa
import pytest
from bank import Bank, paid
from postgres import execute

from pipeline_assets.ingest.database import errors, postgres
from pipeline_assets.ingest.database.errors import DatabaseError
from pipeline_assets.ingest.database.protocol import Relation, Selection
from pipeline_assets.ingest.database.pulls import connect

SECRET = "p@ss/w:rd %41"
QUOTED = "p%40ss%2Fw%3Ard%20%2541"
T = Relation(table="payments")
HOLDER = """
import sys, duckdb
with duckdb.connect(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.readline()
"""


def failure(url: str, relation: Relation = T) -> DatabaseError:
    def read() -> None:
        with (
            duckdb.connect() as con,
            connect(url).snapshot(relation) as snapshot,
            snapshot.read(con, Selection()) as reading,
        ):
            con.execute(reading.sql).fetchall()

    with pytest.raises(DatabaseError) as raised:
        read()
    return raised.value


def told(error: DatabaseError) -> str:
    """All that anybody could be shown of it."""
    return "".join([str(error), repr(error), *traceback.format_exception(error)])


class TestPasswords:
    def test_a_refused_password_is_not_told_and_not_tried_again(self, database: str) -> None:
        place = database.partition("@")[2]
        error = failure(f"postgresql://somebody:{QUOTED}@{place}")
        assert "somebody" in str(error)
        assert not error.is_transient
        assert SECRET not in told(error)
        assert QUOTED not in told(error)

    def test_a_password_in_the_text_of_a_server_is_left_out(self, database: str) -> None:
        place = database.partition("@")[2]
        execute(database, "DROP ROLE IF EXISTS teller", f"CREATE ROLE teller LOGIN PASSWORD '{SECRET}'")
        error = failure(f"postgresql://teller:{QUOTED}@{place}", Relation(query=f"SELECT '{SECRET}'::int"))
        assert "invalid input syntax for type integer" in str(error)
        assert SECRET not in told(error)

    @pytest.mark.parametrize(
        "url",
        [f"postgresql://u:{SECRET}@h:port/d", f"sqlite://u:{SECRET}@h:port/d", f"nosuch://u:{QUOTED}@h/d", f"://{SECRET}",
         f"host=h password={SECRET} port=x", f"mysql+pymysql://u:p@ss{SECRET}@h/d",
         f"duckdb:///md:db?motherduck_token={SECRET}", f"duckdb:///a.db?token={SECRET}"],
    )  # fmt: skip
    def test_a_url_that_cannot_be_read_is_not_told(self, url: str) -> None:
        with pytest.raises(DatabaseError) as raised:
            connect(url)
        assert SECRET not in told(raised.value)
        assert QUOTED not in told(raised.value)
        assert "p@ss" not in told(raised.value)

    def test_a_file_that_is_not_there_is_not_made(self, tmp_path: Path) -> None:
        assert f"there is no file {tmp_path}/bank.db" in str(failure(f"sqlite:///{tmp_path}/bank.db"))
        assert not (tmp_path / "bank.db").exists()

    def test_what_is_shown_of_a_database_has_none(self) -> None:
        for url in (f"postgresql://u:{QUOTED}@h/d", "sqlite:///a.db?timeout=5"):
            shown = f"{connect(url)!r} {connect(url).place}"
            assert QUOTED not in shown
            assert SECRET not in shown


class TestTransience:
    @pytest.mark.parametrize(
        ("state", "expected"),
        [("08006", True), ("40001", True), ("40P01", True), ("53300", True), ("57P01", True), ("57P03", True),
         ("55P03", True), ("57014", True), ("42601", False), ("42P01", False), ("42501", False), ("22012", False),
         ("57P04", False), ("28P01", False)],
    )  # fmt: skip
    def test_states_of_postgres(self, state: str, expected: bool) -> None:
        error = psycopg.errors.lookup(state)("text")
        assert errors.of_postgres("h", error, None).is_transient is expected

    def test_a_server_that_is_not_there_may_come(self) -> None:
        error = failure("postgresql://u:p@127.0.0.1:1/d")
        assert error.is_transient
        assert "127.0.0.1:1/d" in str(error)
        assert "refused" in str(error)

    def test_a_database_that_is_not_there_will_not(self, database: str) -> None:
        error = failure(f"{database}_nowhere")
        assert not error.is_transient
        assert "does not exist" in str(error)

    def test_a_missing_privilege_has_a_remedy(self, database: str) -> None:
        execute(database, "CREATE TABLE payments (a int)", "DROP ROLE IF EXISTS nobody_here",
                f"CREATE ROLE nobody_here LOGIN PASSWORD '{SECRET}'")  # fmt: skip
        error = failure(f"postgresql://nobody_here:{QUOTED}@{database.partition('@')[2]}")
        assert "permission denied for table payments" in str(error)
        assert "GRANT SELECT" in str(error)

    def test_a_missing_driver_is_named(self) -> None:
        with pytest.raises(DatabaseError, match=r"no driver for nosuch is installed .*pip install"):
            connect("nosuch://h/d")

    def test_a_sqlite_file_that_is_locked_will_be_free(self, tmp_path: Path) -> None:
        with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as connection:
            connection.execute("CREATE TABLE payments (a)")
            connection.execute("BEGIN EXCLUSIVE")
            assert failure(f"sqlite:///{tmp_path}/a.db?timeout=0.05").is_transient

    def test_a_duckdb_file_that_another_process_writes_will_be_free(self, tmp_path: Path) -> None:
        path = tmp_path / "a.db"
        with duckdb.connect(path) as connection:
            connection.execute("CREATE TABLE payments (a INT)")
        holds = [sys.executable, "-W", "ignore", "-c", HOLDER, str(path)]
        with subprocess.Popen(holds, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
            assert holder.stdout
            assert holder.stdout.readline() == "held\n"
            error = failure(f"duckdb:///{path}")
            holder.communicate("done\n")
        assert error.is_transient
        assert str(path) in str(error)

    def test_a_file_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        error = failure(f"duckdb:///{tmp_path}/nowhere.db")
        assert not error.is_transient
        assert "nowhere.db" in str(error)


def test_a_connection_that_breaks_while_rows_stream_is_begun_again(
    postgres_bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank, broken = postgres_bank, []
    bank.execute("INSERT INTO payments SELECT g, g, repeat('x', 100), now() FROM generate_series(1, 50000) g")
    monkeypatch.setattr(postgres, "_CHUNK_BYTES", 100_000)
    real = postgres._batches

    def batches(cursor: Any, *arguments: Any) -> Iterator[pa.RecordBatch]:
        for batch in real(cursor, *arguments):
            yield batch
            if not broken:
                broken.append(1)
                bank.execute(f"SELECT pg_terminate_backend({cursor.connection.info.backend_pid}, 5000)")

    monkeypatch.setattr(postgres, "_batches", batches)
    bank.pull(mode="incremental")
    assert broken
    assert bank.rows("count(*), sum(payment_id)::BIGINT") == [(50_000, 1_250_025_000)]
    files = list(Path(bank.bronze.uri).rglob("*.parquet"))
    assert len([file for file in files if "_delta_log" not in str(file)]) == 1, "the first attempt left a file"


def test_an_error_of_the_lake_is_not_taken_for_one_of_the_source(
    postgres_bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = postgres_bank
    bank.execute(paid(1))

    def full(*_: object, **__: object) -> None:
        raise duckdb.IOException("No space left on device")

    monkeypatch.setattr("pipeline_assets.lake.Table.write", full)
    with pytest.raises(duckdb.IOException, match="No space left"):
        bank.pull()
