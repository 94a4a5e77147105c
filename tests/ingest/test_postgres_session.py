"""Sessions that print values in one way whatever the database's defaults, and errors that tell no password."""

import traceback

import pytest
from dagster._utils.error import serializable_error_info_from_exc_info
from postgres import execute

from pipeline_assets.ingest.cdc.slot.postgres import Postgres
from pipeline_assets.ingest.postgres_session import _SETTINGS, Database, SourceDatabaseError, redact


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://shop:s3cret@db:5432/shop",
        "cannot connect to postgresql://shop:s3cret@db/shop and postgresql://shop:s3cret@db2/shop",
        "postgres://shop:s3cret@with@at:and/slash@db/shop",
        "host=db password=s3cret dbname=shop",
        r"host=db password = 's3cret \' s3cret' dbname=shop",
        "postgresql://db/shop?user=shop&password=s3cret&sslmode=require",
    ],
)
def test_passwords_are_redacted(text: str):
    redacted = redact(text)
    assert "s3cret" not in redacted
    assert "***" in redacted
    assert "db" in redacted


def test_text_without_a_password_stays():
    text = 'http://db:8080/path, FATAL: password authentication failed for user "shop"'
    assert redact(text) == text


def test_a_wrong_password_is_not_told(database: str):
    url = database.replace("postgres:", "postgres:s3cret")
    source = Postgres(url, slot="shop", publication="shop")
    with pytest.raises(SourceDatabaseError, match=r"127\.0\.0\.1:\d+/test_.*password authentication failed") as caught:
        source.slot()
    error = caught.value
    stored_by_dagster = serializable_error_info_from_exc_info((type(error), error, error.__traceback__))
    shown = [repr(source), repr(vars(source)), stored_by_dagster.to_string(), *traceback.format_exception(error)]
    assert "s3cret" not in "".join(shown)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql//shop:s3cret@db/shop", "postgresql+psycopg2://shop:s3cret@db/shop", "s3cret",
        "postgresql://shop:pass@s3cret@db/shop", "postgresql://shop:s3cret/word@db/shop",
        "postgresql://shop:%s3cret@db",
    ],
)  # fmt: skip
def test_a_malformed_connection_string_is_not_told(url: str):
    with pytest.raises(SourceDatabaseError, match="give postgresql://user:password@host:port/db") as caught:
        Postgres(url, slot="shop", publication="shop")
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


def test_a_host_that_does_not_answer_is_named():
    with pytest.raises(
        SourceDatabaseError, match=r"PostgreSQL 127\.0\.0\.1:1/shop: connection failed: .*Connection refused"
    ):
        Postgres("postgresql://shop:s3cret@127.0.0.1:1/shop", slot="shop", publication="shop").flush_lsn()


def test_defaults_of_the_database_do_not_count(database: str):
    name = database.rpartition("/")[2]
    odd = {
        "datestyle": "SQL, DMY", "intervalstyle": "sql_standard", "timezone": "America/New_York",
        "extra_float_digits": "-5", "bytea_output": "escape", "search_path": "public", "statement_timeout": "100ms",
        "row_security": "on",
    }  # fmt: skip
    expected = dict(_SETTINGS)
    if execute(database, "SHOW server_version_num") >= [("170000",)]:
        odd, expected = odd | {"transaction_timeout": "100ms"}, expected | {"transaction_timeout": "0"}
    execute(database, *(f"ALTER DATABASE {name} SET {setting} = '{value}'" for setting, value in odd.items()))
    for replication in (False, True):
        with Database(database, "test").connect(replication=replication) as session:
            for setting, value in expected.items():
                shown = session.execute(f"SHOW {setting}".encode()).fetchone()
                assert shown == (value.replace("60s", "1min").replace("", '""' if setting == "search_path" else ""),)
            values = session.execute(
                "SELECT timestamptz '2026-01-02 03:04:05.678+00', date '2026-01-02', interval '1 day 2 hours', "
                "float8 '0.1', '\\x00ff'::bytea, pg_sleep(0.15)::text"
            )
            raw = [values.pgresult.get_value(0, column) for column in range(5)] if values.pgresult else []
            assert raw == [b"2026-01-02 03:04:05.678+00", b"2026-01-02", b"P1DT2H", b"0.1", b"\\x00ff"]


def test_a_database_of_unknown_encoding_is_refused(postgres_server):
    url = postgres_server.url()
    execute(url, "CREATE DATABASE ascii_only ENCODING 'SQL_ASCII' TEMPLATE template0")
    try:
        with pytest.raises(SourceDatabaseError, match="its encoding is SQL_ASCII"):
            Postgres(postgres_server.url("ascii_only"), slot="shop", publication="shop").slot()
    finally:
        execute(url, "DROP DATABASE ascii_only")


def test_sessions_are_closed_and_named(database: str):
    with Database(database, "pipeline_assets shop").connect() as session:
        assert session.execute("SHOW application_name").fetchone() == ("pipeline_assets shop",)
    assert session.closed
