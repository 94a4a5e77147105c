"""Pulls of three kinds of databases, in each mode, into real tables."""

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
import sqlalchemy
from bank import TABLE, Bank, paid
from postgres import execute
from pulled import Payments, Strict

from pipeline_assets.ingest.batch.counts import Counts
from pipeline_assets.ingest.batch.watermark import Watermark
from pipeline_assets.ingest.database import alchemy, postgres, pulls
from pipeline_assets.ingest.database.errors import DatabaseError
from pipeline_assets.ingest.database.pulls import DatabaseSource, connect


class TestFull:
    """Every row, in place of those of the last pull."""

    def test_the_table_is_what_the_source_is(self, bank: Bank) -> None:
        bank.execute(paid(1), paid(2, updated=None))
        bank.pull()
        bank.execute("DELETE FROM payments WHERE payment_id = 1", paid(3), "UPDATE payments SET note = 'b'")
        pulled = bank.pull()
        assert pulled.total == Counts(records_in=2, rows=2)
        assert bank.rows() == [(2, "1.50", "b"), (3, "1.50", "b")]
        assert not bank.audit().mismatches

    def test_misfits_are_dead_letters_until_they_are_mended(self, bank: Bank) -> None:
        bank.execute(paid(1, amount="x"))
        bank.pull()
        assert bank.dead() == ["cast: amount: 'x' is not DECIMAL(12,2)"]
        bank.execute("UPDATE payments SET amount = '2'")
        bank.pull()
        assert (bank.dead(), bank.ids()) == ([], [1])

    def test_an_empty_table_is_an_empty_table(self, bank: Bank) -> None:
        pulled = bank.pull()
        assert pulled.total == Counts()
        assert bank.rows() == []

    def test_a_query_names_its_columns(self, bank: Bank) -> None:
        bank.execute(paid(1), paid(2))
        query = "SELECT payment_id, amount AS \"Amount\", ':lower' AS note FROM payments WHERE payment_id > 1; -- end"
        bank.pull(bank.source(query=query.removesuffix("; -- end")))
        assert bank.rows() == [(2, "1.50", ":lower")]

    def test_another_pull_that_was_faster_leads_to_a_new_plan(
        self, bank: Bank, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bank.execute(paid(1))
        real, raced = pulls._read, []

        def read(*arguments: object) -> None:
            if not raced:
                raced.append(1)
                bank.pull()
            real(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(pulls, "_read", read)
        bank.pull()
        assert bank.ids() == [1]
        assert len([commit for commit in bank.bronze.open().history() if "readings" in commit]) == 2


class TestWindow:
    """Rows whose watermark lies in a day, in place of those of that day."""

    def test_days_are_read_and_read_again(self, bank: Bank) -> None:
        for number, updated in enumerate(["2026-01-03 23:59:59.999999+00", "2026-01-04 00:00:00+00",
                                          "2026-01-04 23:59:59.999999+00", "2026-01-05 00:00:00+00"]):  # fmt: skip
            bank.execute(paid(number, updated))
        found = bank.pull(first="2026-01-04", last="2026-01-05", mode="window", model=Strict)
        assert [counts.rows for counts in found.by_day["bank__payments"].values()] == [2, 1]
        days = [(1, date(2026, 1, 4)), (2, date(2026, 1, 4)), (3, date(2026, 1, 5))]
        assert bank.rows("payment_id, _partition_date") == days
        bank.execute("DELETE FROM payments WHERE payment_id = 1", paid(9, "2026-01-04 12:00:00+00"))
        bank.pull(first="2026-01-04", mode="window", model=Strict)
        assert bank.ids() == [2, 3, 9]
        assert not bank.audit(Strict).mismatches

    def test_a_query_has_its_bounds_bound(self, bank: Bank) -> None:
        bank.execute(paid(1, "2026-01-04 10:00:00+00"), paid(2, "2026-01-05 10:00:00+00"))
        query = "SELECT * FROM payments WHERE updated_at >= :lower AND updated_at < :upper"
        bank.pull(bank.source(Strict, query=query, mode="window"), first="2026-01-05")
        assert bank.ids() == [2]


class TestIncremental:
    """Rows that are new or changed since the last pull."""

    def test_what_is_new_or_changed_comes_once(self, bank: Bank) -> None:
        bank.execute(paid(1), paid(2))
        bank.pull(mode="incremental")
        bank.execute(
            paid(3), "UPDATE payments SET note = 'b', updated_at = '2026-01-05 11:00:00+00' WHERE payment_id = 1"
        )
        bank.pull(mode="incremental")
        last = bank.pull(mode="incremental")
        assert bank.rows("payment_id, note") == [(1, "a"), (1, "b"), (2, "a"), (3, "a")]
        assert last.total.rows == 0
        assert not bank.audit().mismatches

    def test_rows_without_a_watermark_come_once_too(self, bank: Bank) -> None:
        bank.execute(paid(1, None))
        for _ in range(3):
            bank.pull(mode="incremental")
        bank.execute(paid(2, None), "UPDATE payments SET note = 'b' WHERE payment_id = 1")
        for _ in range(3):
            bank.pull(mode="incremental")
        assert bank.rows("payment_id, note") == [(1, "a"), (1, "b"), (2, "a")]

    def test_equal_times_at_the_boundary_all_come(self, bank: Bank) -> None:
        for number in range(6):
            bank.execute(paid(number))
            bank.pull(mode="incremental")
        assert bank.ids() == [0, 1, 2, 3, 4, 5]

    def test_a_row_from_the_future_does_not_hide_the_present(self, bank: Bank) -> None:
        now = datetime.now(UTC).isoformat(sep=" ")
        bank.execute(paid(1, "2999-01-01 00:00:00+00"))
        bank.pull(mode="incremental")
        bank.execute(paid(2, now))
        bank.pull(mode="incremental")
        assert bank.ids() == [1, 2]

    def test_a_clock_that_was_set_back_hides_nothing(self, bank: Bank) -> None:
        bank.execute(paid(1, "2026-01-05 10:00:00+00"))
        bank.pull(mode="incremental")
        bank.execute(paid(2, "2026-01-05 09:00:00+00"))
        bank.pull(mode="incremental")
        assert bank.ids() == [1, 2]

    def test_misfits_are_dead_letters_once(self, bank: Bank) -> None:
        bank.execute(paid(1, amount="x"), paid(2))
        for _ in range(3):
            bank.pull(mode="incremental")
        assert (len(bank.dead()), bank.ids()) == (1, [2])
        assert not bank.audit().mismatches

    def test_a_growing_number_will_do(self, bank: Bank) -> None:
        for number in range(4):
            bank.execute(paid(number, None))
            bank.pull(mode="incremental", watermark="payment_id", lookback=2)
        assert bank.ids() == [0, 1, 2, 3]

    def test_a_query_reads_from_the_lower_bound(self, bank: Bank) -> None:
        source = bank.source(
            query="SELECT * FROM payments WHERE updated_at >= :lower OR updated_at IS NULL", mode="incremental"
        )
        bank.execute(paid(1, "2026-01-01 10:00:00+00"), paid(2, None), paid(3, "2026-01-05 10:00:00+00"))
        bank.pull(source)
        bank.execute(paid(4), "UPDATE payments SET note = 'old' WHERE payment_id = 1")
        bank.pull(source)
        assert bank.rows("payment_id, note") == [(1, "a"), (2, "a"), (3, "a"), (4, "a")]

    def test_another_column_as_watermark_reads_all_again_and_keeps_what_is_new(self, bank: Bank) -> None:
        bank.execute(paid(1), paid(2))
        bank.pull(mode="incremental")
        bank.execute("UPDATE payments SET note = 'b' WHERE payment_id = 1")
        pulled = bank.pull(mode="incremental", watermark="payment_id")
        assert pulled.total == Counts(records_in=2, rows=1, duplicates=1)

    @pytest.mark.parametrize("kind", ["sqlite", "duckdb"])
    def test_another_database_as_source_is_read_whole(self, tmp_path: Path, kind: str) -> None:
        for number, year in ((1, 2026), (2, 2020)):
            bank = Bank(tmp_path, f"{kind}:///{tmp_path}/{year}.db")
            bank.execute(TABLE.format(time="TEXT"), paid(number, f"{year}-01-05 10:00:00+00"))
            bank.pull(mode="incremental")
        assert bank.ids() == [1, 2]

    def test_a_schema_that_grows_is_rescued_or_evolves(self, bank: Bank) -> None:
        bank.execute(paid(1))
        bank.pull(mode="incremental")
        bank.execute("ALTER TABLE payments ADD COLUMN colour TEXT", paid(2).replace("VALUES", "VALUES").replace(
            "payments VALUES", "payments (payment_id, amount, note, updated_at) VALUES"),
            "UPDATE payments SET colour = 'red' WHERE payment_id = 2")  # fmt: skip
        bank.pull(mode="incremental")
        assert [found for found in bank.rows("payment_id, _rescued") if found[1]] == [(2, '{"colour":"red"}')]
        bank.execute(
            "INSERT INTO payments (payment_id, amount, colour, updated_at)"
            " VALUES (3, '1', 'blue', '2026-01-05 10:00:00+00')"
        )
        bank.pull(mode="incremental", schema_evolution=True)
        assert bank.rows("payment_id, colour", "payment_id = 3") == [(3, "blue")]


NUMBER = Watermark("payment_id", "BIGINT")


class TestDeclaration:
    """What contradicts itself is refused, with what to declare instead."""

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"mode": "incremental"}, "needs a watermark"),
            ({"watermark": Watermark("updated_at", "DATE")}, "mode full takes no watermark"),
            ({"source_table": None}, "either a table or a query"),
            ({"query": "b"}, "either a table or a query"),
            ({"keys": ("nope",)}, "nope are no columns of the contract"),
            ({"source_table": None, "query": "SELECT :lower"}, "mode full has no parameter, this one has :lower"),
            (
                {
                    "mode": "incremental",
                    "watermark": Watermark("payment_id", "BIGINT"),
                    "source_table": None,
                    "query": "x",
                },
                "mode incremental has :lower, this one has none",
            ),
            ({"mode": "window", "watermark": NUMBER}, "with days; payment_id is a number"),
            (
                {"mode": "window", "watermark": Watermark("updated_at", "TIMESTAMP")},
                "rows without updated_at would belong to no day",
            ),
        ],
    )
    def test_a_contradiction_is_an_error(self, options: dict[str, object], message: str) -> None:
        given = {"keys": ("payment_id",), "source_table": "payments", **options}
        with pytest.raises(ValueError, match=message):
            DatabaseSource("bank__payments", Payments, **given)  # type: ignore[arg-type]

    def test_a_watermark_is_a_column_that_grows(self) -> None:
        with pytest.raises(ValueError, match="watermark note is VARCHAR in the contract Payments"):
            Watermark.of(Payments, "note")
        with pytest.raises(ValueError, match="watermark nope is not there"):
            Watermark.of(Payments, "nope")


class TestErrors:
    """What fails says why, and leaves nothing behind."""

    def test_a_syntax_error_fails_at_once_with_its_text(self, bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
        calls = []
        real = pulls._read
        monkeypatch.setattr(pulls, "_read", lambda *a: (calls.append(1), real(*a))[1])
        with pytest.raises(DatabaseError, match="syntax error"):
            bank.pull(bank.source(query="SELEC 1"))
        assert calls == [1]

    def test_a_table_that_is_not_there_is_named(self, bank: Bank) -> None:
        with pytest.raises(DatabaseError, match="nowhere"):
            bank.pull(table="nowhere")

    def test_a_watermark_that_the_source_lacks_is_named(self, bank: Bank) -> None:
        bank.execute("ALTER TABLE payments RENAME COLUMN updated_at TO changed", paid(1))
        with pytest.raises(DatabaseError, match="has no column updated_at: it has payment_id, amount, note, changed"):
            bank.pull(mode="incremental")

    def test_a_connection_error_is_tried_again(self, bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
        bank.execute(paid(1))
        attempts = []
        real = pulls._plan

        def plan(*arguments: object) -> object:
            attempts.append(1)
            if len(attempts) < 3:
                raise DatabaseError("the server closed the connection", is_transient=True)
            return real(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(pulls, "_plan", plan)
        bank.pull()
        assert (len(attempts), bank.ids()) == (3, [1])

    def test_each_window_has_attempts_of_its_own(self, bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
        attempts = []
        real = pulls._plan

        def plan(*arguments: object) -> object:
            attempts.append(1)
            if len(attempts) % 2:
                raise DatabaseError("the server closed the connection", is_transient=True)
            return real(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(pulls, "_plan", plan)
        found = bank.pull(first="2026-01-01", last="2026-01-06", mode="window", model=Strict)
        assert (len(attempts), len(found.by_day["bank__payments"])) == (12, 6)

    def test_an_error_that_stays_is_told_after_five_attempts(self, bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
        attempts = []

        def fail(*_: object) -> None:
            attempts.append(1)
            raise DatabaseError("the server starts up", is_transient=True)

        monkeypatch.setattr(pulls, "_plan", fail)
        with pytest.raises(DatabaseError, match="starts up"):
            bank.pull()
        assert len(attempts) == 5


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("postgresql://u:p@h/d", "PostgresDatabase"),
        ("postgres://u:p@h/d", "PostgresDatabase"),
        ("postgresql+psycopg://u:p@h/d", "PostgresDatabase"),
        ("host=h dbname=d", "PostgresDatabase"),
        ("duckdb:///a.db", "DuckDBFile"),
        ("sqlite:///a.db", "AlchemyDatabase"),
    ],
)
def test_the_url_says_which_reader(url: str, kind: str) -> None:
    found = connect(url)
    assert type(found).__name__ == kind
    assert ":p@" not in f"{found!r} {found.place}"


@pytest.mark.parametrize(
    ("url", "other"),
    [
        ("postgresql://u:p@h/d", "postgres://v:q@h:5432/d?connect_timeout=3"),
        ("mssql+pyodbc://u:p@h/d", "mssql+pymssql://v:q@h/d?timeout=3"),
        ("sqlite:///a.db", "sqlite+pysqlite:///a.db?timeout=3"),
    ],
)
def test_another_user_driver_or_option_is_the_same_place(url: str, other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alchemy, "create_engine", lambda *_, **__: sqlalchemy.create_engine("sqlite://"))
    assert connect(url).place == connect(other).place
    assert connect(url).place != connect(url + "2").place


def test_a_large_table_is_read_in_parts_at_one_snapshot(postgres_bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    bank = postgres_bank
    monkeypatch.setattr(postgres, "SPLIT_FROM_ROWS", 100)
    bank.execute(
        "INSERT INTO payments SELECT -g * g, g, 'x', now() FROM generate_series(1, 2000) g", "ANALYZE payments"
    )
    real = postgres.PostgresSnapshot.read

    def read(self: postgres.PostgresSnapshot, *arguments: object) -> object:
        bank.execute("UPDATE payments SET payment_id = payment_id - 10000000")
        return real(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(postgres.PostgresSnapshot, "read", read)
    pulled = bank.pull(mode="incremental")
    assert pulled.total == Counts(records_in=2000, rows=2000)
    assert bank.ids() == sorted(-g * g for g in range(1, 2001))
    assert bank.rows("count(DISTINCT _source.file)") == [(8,)]
    assert not bank.audit().mismatches


def test_a_table_that_is_filled_anew_while_its_parts_are_read_is_read_again(
    postgres_bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = postgres_bank
    monkeypatch.setattr(postgres, "SPLIT_FROM_ROWS", 100)
    bank.execute("INSERT INTO payments SELECT g, g, 'x', now() FROM generate_series(1, 2000) g", "ANALYZE payments")
    real, filled = postgres.PostgresSnapshot.splits, list[Future[object]]()
    waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"

    def splits(self: postgres.PostgresSnapshot, keys: Sequence[str]) -> object:
        parts = real(self, keys)
        if not filled:
            filled.append(pool.submit(execute, bank.url, f"BEGIN; TRUNCATE payments; {paid(1)}; COMMIT"))
            while bank.execute(waits) == [(0,)]:
                time.sleep(0.02)
        return parts

    monkeypatch.setattr(postgres.PostgresSnapshot, "splits", splits)
    begun = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        pulled = bank.pull()
    assert pulled.total == Counts(records_in=1, rows=1)
    assert time.monotonic() - begun < 30  # not for as long as a lock is waited for


def test_a_part_that_fails_fails_the_pull(postgres_bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    bank = postgres_bank
    monkeypatch.setattr(postgres, "SPLIT_FROM_ROWS", 100)
    bank.execute("INSERT INTO payments SELECT g, g, 'x', now() FROM generate_series(1, 2000) g", "ANALYZE payments")
    real = postgres.PostgresDatabase.session
    sessions = []

    def session(self: postgres.PostgresDatabase, snapshot: str | None = None) -> object:
        sessions.append(1)
        return real(self, "nonsense" if len(sessions) == 4 else snapshot)

    monkeypatch.setattr(postgres.PostgresDatabase, "session", session)
    with pytest.raises(DatabaseError, match="invalid snapshot identifier"):
        bank.pull()
    assert bank.rows() == []
    assert not list(Path(bank.bronze.uri).rglob("*.parquet"))
