"""Commit safety on PostgreSQL: whatever commits when, stamped with what, no row is missing and none comes twice."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from bank import Bank, paid
from postgres import execute
from psycopg.conninfo import conninfo_to_dict

from pipeline_assets.ingest.batch.counts import Counts, Report
from pipeline_assets.ingest.batch.rows import RowBatch, RowPlan
from pipeline_assets.ingest.database import postgres, pulls
from pipeline_assets.ingest.database.compare_keys import KeyComparison, compare_keys
from pipeline_assets.ingest.database.progress import Progress
from pipeline_assets.ingest.database.protocol import Transactions
from pipeline_assets.ingest.database.pulls import connect
from pipeline_assets.lake import Lake

SEEDS = range(3)


@pytest.fixture
def bank(postgres_bank: Bank) -> Bank:
    return postgres_bank


@contextmanager
def transaction(bank: Bank, *statements: str) -> Iterator[psycopg.Connection[Any]]:
    """Statements whose transaction is open in the block, and commits at its end."""
    with psycopg.connect(bank.url) as connection:
        for statement in statements:
            connection.execute(statement.encode())
        yield connection
        connection.commit()


@contextmanager
def waited_for(bank: Bank, action: Callable[[], object], *statements: str) -> Iterator[None]:
    """Statements whose transaction commits once the action, in a thread, waits for its lock; the block comes after."""
    with ThreadPoolExecutor(1) as pool:
        with transaction(bank, *statements):
            future = pool.submit(action)
            waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            while not future.done() and execute(bank.url, waits) == [(0,)]:
                time.sleep(0.02)
        future.result()
    yield


def pulled(bank: Bank, **options: Any) -> Report:
    return bank.pull(mode="incremental", **options)


def pull(bank: Bank, **options: Any) -> Counts:
    return pulled(bank, **options).total


@contextmanager
def planned() -> Iterator[list[RowPlan]]:
    """Gives the plans of the pulls meanwhile."""
    plans: list[RowPlan] = []

    def recorded(lake: Lake, con: Any, source: Any, plan: RowPlan, **options: Any) -> RowBatch:
        plans.append(plan)
        return RowBatch(lake, con, source, plan, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pulls, "RowBatch", recorded)
        yield plans


class TestLateCommits:
    @pytest.mark.parametrize("lookback", [None, 60])
    def test_a_row_stamped_early_and_committed_late_comes_once(self, bank: Bank, lookback: int | None) -> None:
        bank.execute(paid(1, "2026-01-05 10:00:00+00"))
        pull(bank, lookback=lookback)
        with transaction(bank, paid(2, "2026-01-05 10:00:01+00")):
            for number in range(3, 8):  # each far above what the open transaction has stamped
                bank.execute(paid(number, f"2026-01-{number + 5:02} 10:00:00+00"))
                pull(bank, lookback=lookback)
            assert bank.ids() == [1, 3, 4, 5, 6, 7]
        assert pull(bank, lookback=lookback).rows == 1
        assert bank.ids() == [1, 2, 3, 4, 5, 6, 7]
        assert pull(bank, lookback=lookback) == Counts()
        assert not bank.audit().mismatches

    def test_rows_of_others_do_not_wait_for_an_open_transaction(self, bank: Bank) -> None:
        pull(bank)
        with transaction(bank, paid(1)):
            bank.execute(paid(2))
            assert pull(bank).rows == 1
            assert pull(bank) == Counts(records_in=1, duplicates=1)  # read again, because the position has to wait
        assert bank.ids() == [2]

    def test_rows_of_savepoints_and_of_caught_exceptions_come_once(self, bank: Bank) -> None:
        caught = "DO $$ BEGIN FOR i IN 10..12 LOOP BEGIN INSERT INTO payments VALUES (i, '1', 'x', NULL); " \
                 "EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END $$"  # fmt: skip
        pull(bank)
        with transaction(bank, paid(1), "SAVEPOINT a", paid(2), "RELEASE a", caught, "SAVEPOINT b", paid(3),
                         "ROLLBACK TO b") as connection:  # fmt: skip
            bank.execute(paid(20))
            pull(bank)
            connection.execute(paid(4).encode())
            bank.execute(paid(21))
            pull(bank)
        pull(bank)
        assert bank.ids() == [1, 2, 4, 10, 11, 12, 20, 21]
        assert pull(bank).rows == 0

    def test_what_is_rolled_back_never_comes(self, bank: Bank) -> None:
        pull(bank)
        with transaction(bank, paid(1)) as connection:
            pull(bank)
            connection.rollback()
        pull(bank)
        assert bank.ids() == []

    def test_an_update_that_commits_late_comes_and_is_the_newest(self, bank: Bank) -> None:
        bank.execute(paid(1), paid(2))
        pull(bank)
        with transaction(bank, "UPDATE payments SET note = 'late' WHERE payment_id = 1"):
            bank.execute("UPDATE payments SET note = 'now' WHERE payment_id = 2")
            pull(bank)
        pull(bank)
        assert bank.rows("payment_id, note") == [(1, "a"), (1, "late"), (2, "a"), (2, "now")]

    def test_a_transaction_open_at_the_first_pull_is_not_lost(self, bank: Bank) -> None:
        with transaction(bank, paid(1, "2020-01-01 00:00:00+00")):
            bank.execute(paid(2))
            pull(bank, lookback=60)
            pull(bank, lookback=60)
        pull(bank, lookback=60)
        assert bank.ids() == [1, 2]


class TestStamps:
    def test_equal_times_and_no_times_come_once_each(self, bank: Bank) -> None:
        for number in range(0, 12, 3):
            bank.execute(paid(number), paid(number + 1, None), paid(number + 2))
            pull(bank, lookback=0)
        assert bank.ids() == list(range(12))

    def test_changes_without_a_new_stamp_are_found(self, bank: Bank) -> None:
        bank.execute(paid(1, "2001-01-01 00:00:00+00"), paid(2))
        pull(bank)
        bank.execute("UPDATE payments SET note = 'by hand' WHERE payment_id = 1", paid(3, "1999-01-01 00:00:00+00"))
        pull(bank)
        assert bank.rows("payment_id, note") == [(1, "a"), (1, "by hand"), (2, "a"), (3, "a")]

    def test_a_declared_lookback_reads_no_further(self, bank: Bank) -> None:
        bank.execute(paid(1, "2026-01-05 10:00:00+00"))
        pull(bank, lookback=60)
        bank.execute(paid(2, "2026-01-05 09:59:30+00"), paid(3, "2026-01-05 09:00:00+00"))
        pull(bank, lookback=60)
        assert bank.ids() == [1, 2]

    def test_a_clock_that_steps_within_the_lookback_loses_nothing(self, bank: Bank) -> None:
        for number, minute in enumerate([30, 10, 50, 20, 40, 0]):
            bank.execute(paid(number, f"2026-01-05 10:{minute:02}:00+00"))
            pull(bank, lookback=3600)
        assert bank.ids() == [0, 1, 2, 3, 4, 5]

    def test_numbers_handed_out_early_and_committed_late_come(self, bank: Bank) -> None:
        bank.execute(paid(1))
        pull(bank, watermark="payment_id", lookback=0)
        with transaction(bank, paid(2)):
            bank.execute(paid(900))
            pull(bank, watermark="payment_id", lookback=0)
            bank.execute(paid(901))
            pull(bank, watermark="payment_id", lookback=0)
        pull(bank, watermark="payment_id", lookback=0)
        assert bank.ids() == [1, 2, 900, 901]


class TestOtherTables:
    def test_a_table_made_anew_is_read_whole_without_what_is_there(self, bank: Bank) -> None:
        bank.execute(paid(1), paid(2))
        pull(bank)
        bank.execute("CREATE TABLE other AS SELECT * FROM payments", "DROP TABLE payments",
                     "ALTER TABLE other RENAME TO payments", paid(3, "2001-01-01 00:00:00+00"))  # fmt: skip
        assert pull(bank) == Counts(records_in=3, rows=1, duplicates=2)

    def test_a_rewritten_table_loses_nothing(self, bank: Bank) -> None:
        bank.execute(paid(1), paid(2))
        pull(bank)
        bank.execute("ALTER TABLE payments ALTER COLUMN note TYPE varchar(10)", "VACUUM FULL payments",
                     "VACUUM FREEZE payments", "CLUSTER payments USING payments_pkey", paid(3))  # fmt: skip
        pull(bank)
        assert bank.ids() == [1, 2, 3]

    def test_partitions_are_read_through_their_root(self, bank: Bank) -> None:
        bank.execute(
            "DROP TABLE payments",
            "CREATE TABLE payments (payment_id int, amount text, note text, updated_at timestamptz)"
            " PARTITION BY RANGE (payment_id)",
            "CREATE TABLE low PARTITION OF payments FOR VALUES FROM (0) TO (100)",
            "CREATE TABLE high PARTITION OF payments FOR VALUES FROM (100) TO (200)",
            paid(1),
        )
        pull(bank)
        with transaction(bank, paid(2)):
            bank.execute(paid(101), "UPDATE payments SET payment_id = 150 WHERE payment_id = 1")
            pull(bank)
        pull(bank)
        assert bank.ids() == [1, 2, 101, 150]

    def test_a_view_is_read_by_its_watermark(self, bank: Bank) -> None:
        bank.execute("CREATE VIEW shown AS SELECT * FROM payments WHERE payment_id < 100", paid(1), paid(2))
        pull(bank, table="shown")
        bank.execute(paid(3, "2026-01-05 09:00:00+00"), paid(4, None), paid(5, "2026-01-03 00:00:00+00"))
        assert pull(bank, table="shown") == Counts(records_in=4, rows=2, duplicates=2)
        assert bank.ids() == [1, 2, 3, 4]  # the fifth lies below the lookback of a day

    def test_a_role_with_nothing_but_select_will_do(self, bank: Bank) -> None:
        execute(bank.url, "DROP ROLE IF EXISTS reader", "CREATE ROLE reader LOGIN PASSWORD 'of-reader'",
                "GRANT SELECT ON payments TO reader", paid(1))  # fmt: skip
        owner_url = bank.url
        owner, _, rest = bank.url.partition("@")
        bank.url = f"{owner.split('://')[0]}://reader:of-reader@{rest}"
        pull(bank)
        assert bank.ids() == [1]
        execute(owner_url, "CREATE VIEW shown AS SELECT * FROM payments", "REVOKE SELECT ON payments FROM reader",
                "GRANT SELECT ON shown TO reader", paid(2))  # fmt: skip
        pull(bank, table="shown")
        assert bank.ids() == [1, 2]


REWRITE = "ALTER TABLE payments ALTER note TYPE varchar USING note || ''"


class TestRewritesMeanwhile:
    """A table is locked before the snapshot, which would see what is rewritten in between as empty."""

    def test_a_full_pull_waits_for_a_table_that_is_filled_anew(self, bank: Bank) -> None:
        bank.execute(*map(paid, range(1, 6)))
        bank.pull()
        with waited_for(bank, bank.pull, "TRUNCATE payments", *map(paid, range(1, 7))):
            assert bank.ids() == [1, 2, 3, 4, 5, 6]

    def test_a_view_is_locked_with_what_it_reads(self, bank: Bank) -> None:
        bank.execute("CREATE VIEW shown AS SELECT * FROM payments", *map(paid, range(1, 6)))
        with waited_for(bank, lambda: bank.pull(table="shown"), "TRUNCATE payments", paid(7)):
            assert bank.ids() == [7]

    def test_rows_that_are_rewritten_come_once(self, bank: Bank) -> None:
        bank.execute(*map(paid, range(1, 6)))
        with waited_for(bank, lambda: pull(bank), REWRITE):
            pull(bank)
        bank.execute(paid(9))
        with waited_for(bank, lambda: pull(bank), REWRITE):
            pull(bank)
        assert bank.ids() == [1, 2, 3, 4, 5, 9]

    def test_keys_are_not_gone_because_their_table_is_rewritten(self, bank: Bank) -> None:
        bank.execute(*map(paid, range(1, 6)))
        pull(bank)
        source, found = bank.source(table="payments", mode="incremental"), list[KeyComparison]()
        with waited_for(
            bank, lambda: found.append(compare_keys(bank.lake, bank.con.cursor(), source, connect(bank.url))), REWRITE
        ):
            assert found == [KeyComparison(keys=5, gone=0, missing=0)]

    def test_a_partition_that_is_filled_anew_is_waited_for(self, bank: Bank) -> None:
        bank.execute(*PARTITIONED, paid(1), paid(101))
        with waited_for(bank, bank.pull, "TRUNCATE high", paid(102)):
            assert bank.ids() == [1, 102]

    def test_a_table_in_the_place_of_another_is_the_one_that_is_read(self, bank: Bank) -> None:
        bank.execute("CREATE TABLE other (LIKE payments)", paid(1), paid(2).replace("payments", "other"))
        swap = ["DROP TABLE payments", "ALTER TABLE other RENAME TO payments"]
        with waited_for(bank, bank.pull, *swap):
            assert bank.ids() == [2]

    def test_a_name_that_means_another_table_after_the_lock_is_tried_again(
        self, bank: Bank, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real, described = postgres._described, list[object]()

        def describe(*arguments: Any) -> Any:
            described.append(real(*arguments))
            if len(described) == 1:
                ((user,),) = bank.execute("SELECT quote_ident(current_user)")  # its schema is searched first
                bank.execute(f"CREATE SCHEMA {user}", f"CREATE TABLE {user}.payments (LIKE public.payments)", paid(1))
            return described[-1]

        monkeypatch.setattr(postgres, "_described", describe)
        bank.pull()
        assert (bank.ids(), len(described)) == ([1], 4)


PARTITIONED = (
    "DROP TABLE payments",
    "CREATE TABLE payments (payment_id int, amount text, note text, updated_at timestamptz)"
    " PARTITION BY RANGE (payment_id)",
    "CREATE TABLE low PARTITION OF payments FOR VALUES FROM (0) TO (100)",
    "CREATE TABLE high PARTITION OF payments FOR VALUES FROM (100) TO (200)",
)


class TestMembers:
    """Rows of partitions and children that join a table are older than that."""

    @pytest.mark.parametrize("lookback", [None, 60])
    def test_the_rows_of_a_partition_that_is_attached_come_once(self, bank: Bank, lookback: int | None) -> None:
        old = paid(250, "2020-01-05 10:00:00+00").replace("payments", "later")
        bank.execute(*PARTITIONED, "CREATE TABLE later (LIKE payments)", old, paid(1))
        pull(bank, lookback=lookback)
        bank.execute("ALTER TABLE payments ATTACH PARTITION later FOR VALUES FROM (200) TO (300)", paid(2))
        assert pull(bank, lookback=lookback) == Counts(records_in=2, rows=2)
        bank.execute(paid(251))
        assert pull(bank, lookback=lookback) == Counts(records_in=1, rows=1)
        assert bank.ids() == [1, 2, 250, 251]

    def test_the_rows_of_the_partitions_of_a_partition_come_too(self, bank: Bank) -> None:
        bank.execute(*PARTITIONED, "CREATE TABLE later (LIKE payments) PARTITION BY RANGE (payment_id)",
                     "CREATE TABLE latest PARTITION OF later FOR VALUES FROM (200) TO (250)",
                     paid(210).replace("payments", "later"))  # fmt: skip
        pull(bank)
        bank.execute("ALTER TABLE payments ATTACH PARTITION later FOR VALUES FROM (200) TO (300)")
        pull(bank)
        pull(bank)
        assert bank.ids() == [210]

    def test_a_partition_that_is_attached_again_brings_what_came_meanwhile(self, bank: Bank) -> None:
        bank.execute(*PARTITIONED, paid(1), paid(101))
        pull(bank)
        bank.execute("ALTER TABLE payments DETACH PARTITION high", paid(102).replace("payments", "high"), paid(2))
        pull(bank)
        bank.execute("ALTER TABLE payments ATTACH PARTITION high FOR VALUES FROM (100) TO (200)")
        assert pull(bank) == Counts(records_in=2, rows=1, duplicates=1)
        assert bank.ids() == [1, 2, 101, 102]

    def test_the_rows_of_a_child_that_inherits_come_once(self, bank: Bank) -> None:
        bank.execute("CREATE TABLE child (LIKE payments)", paid(150).replace("payments", "child"), paid(1))
        pull(bank)
        bank.execute("ALTER TABLE child INHERIT payments", paid(2))
        pull(bank)
        assert pull(bank) == Counts()
        assert bank.ids() == [1, 2, 150]

    def test_a_child_that_is_rewritten_brings_nothing_twice(self, bank: Bank) -> None:
        bank.execute("CREATE TABLE child () INHERITS (payments)", paid(150).replace("payments", "child"), paid(1))
        pull(bank)
        bank.execute(REWRITE, paid(2))
        assert pull(bank) == Counts(records_in=3, rows=1, duplicates=2)
        assert pull(bank) == Counts()

    def test_a_partition_that_joins_while_a_pull_reads_is_not_lost(
        self, bank: Bank, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bank.execute(*PARTITIONED, "CREATE TABLE later (LIKE payments)", paid(1))
        pull(bank)
        bank.execute(paid(2), paid(250).replace("payments", "later"))
        real = postgres.PostgresSnapshot.read

        def read(self: postgres.PostgresSnapshot, *arguments: Any) -> Any:
            bank.execute("ALTER TABLE payments ATTACH PARTITION later FOR VALUES FROM (200) TO (300)")
            return real(self, *arguments)

        with monkeypatch.context() as patch:
            patch.setattr(postgres.PostgresSnapshot, "read", read)
            pull(bank)
        pull(bank)
        assert bank.ids() == [1, 2, 250]

    def test_a_new_partition_is_not_compared_with_all_of_bronze(self, bank: Bank) -> None:
        bank.execute(*PARTITIONED, paid(1), "VACUUM ANALYZE payments", "CREATE INDEX ON payments (updated_at)")
        pull(bank)
        loaded = "CREATE TABLE latest (LIKE payments)", paid(350).replace("payments", "latest")
        for change in [
            ("CREATE TABLE later PARTITION OF payments FOR VALUES FROM (200) TO (300)", paid(250)),
            (*loaded, "ALTER TABLE payments ATTACH PARTITION latest FOR VALUES FROM (300) TO (400)"),
            ("DROP TABLE low", "GRANT SELECT ON payments, high TO PUBLIC", "ANALYZE payments", paid(150)),
        ]:
            bank.execute(*change)
            with planned() as plans:
                assert pull(bank) == Counts(records_in=1, rows=1)
            assert [plan.may_repeat for plan in plans] == [None]
        assert bank.ids() == [1, 150, 250, 350]

    def test_a_partition_made_while_a_transaction_is_open_brings_nothing_twice(self, bank: Bank) -> None:
        bank.execute(*PARTITIONED)
        pull(bank)
        with transaction(bank, "CREATE TABLE other ()"):
            bank.execute("CREATE TABLE later PARTITION OF payments FOR VALUES FROM (200) TO (300)", paid(250))
            pull(bank)
            bank.execute("ALTER TABLE later ALTER note SET STORAGE plain", "VACUUM FULL later", paid(251))
            with planned() as plans:
                assert pull(bank) == Counts(records_in=2, rows=1, duplicates=1)
            assert [str(plan.may_repeat)[:19] for plan in plans] == ["_partition_date >= "]
        pull(bank)
        assert bank.ids() == [250, 251]

    def test_a_table_with_a_foreign_child_is_read_by_its_watermark(self, bank: Bank) -> None:
        server = conninfo_to_dict(bank.url)
        options = ", ".join(f"{name} '{server[name]}'" for name in ("host", "port", "dbname"))
        user = ", ".join(f"{name} '{server[name]}'" for name in ("user", "password") if server.get(name))
        bank.execute(
            "CREATE EXTENSION postgres_fdw",
            f"CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS ({options})",
            f"CREATE USER MAPPING FOR CURRENT_USER SERVER far OPTIONS ({user})",
            "CREATE TABLE remote (LIKE payments)",
            paid(1),
        )
        pull(bank)
        bank.execute(
            "CREATE FOREIGN TABLE child () INHERITS (payments) SERVER far OPTIONS (table_name 'remote')",
            paid(2), paid(150).replace("payments", "remote"),
        )  # fmt: skip
        pull(bank)
        bank.execute(paid(151).replace("payments", "remote"))
        pull(bank)
        bank.execute("DROP FOREIGN TABLE child", paid(3))
        pull(bank)
        assert bank.ids() == [1, 2, 3, 150, 151]


class TestOtherKindsOfPulls:
    def test_a_full_pull_in_between_leaves_nothing_to_come_twice(self, bank: Bank) -> None:
        bank.execute(paid(1))
        pull(bank)
        bank.execute(paid(2))
        bank.pull()
        assert pull(bank) == Counts(records_in=2, duplicates=2)
        bank.execute(paid(3))
        assert pull(bank) == Counts(records_in=1, rows=1)
        assert bank.ids() == [1, 2, 3]

    def test_a_mark_that_there_is_not_is_not_that_of_another_table(self, bank: Bank) -> None:
        bank.execute(paid(1))
        pull(bank, lookback=60)
        bank.execute("ALTER TABLE payments RENAME TO old", "CREATE TABLE payments (LIKE old)")
        with transaction(bank, "CREATE TABLE other ()", paid(2, "2026-01-01 10:00:00+00")):
            pull(bank, lookback=60)
        bank.execute(paid(3, "2026-01-01 10:00:00+00"))
        pull(bank, lookback=60)
        assert bank.ids() == [1, 2, 3]


def test_ages_are_counted_modulo_two_to_the_32(database: str) -> None:
    top = 2**32
    cases = [  # (xmin of the row, end of the snapshot, first that is new, whether it is)
        (100, 200, 100, True), (99, 200, 100, False), (199, 200, 200, False), (5, top + 10, top + 5, True),
        (5, top + 10, top + 6, False), (top - 1, top + 10, top - 1, True), (top - 2, top + 10, top - 1, False),
        (2, 1000, 900, False), (2, top + 3, top, False), (7, 3 * top + 8, 3 * top + 7, True),
    ]  # fmt: skip
    for xmin, xmax, first, is_new in cases:
        condition = f"{postgres._WRITTEN_BY.format(row='t', xmax=xmax)} >= {first}"
        ((found,),) = execute(database, f"SELECT {condition} FROM (VALUES ('{xmin}'::xid)) AS t(xmin)")
        assert found is is_new, (xmin, xmax, first)


def test_a_database_restored_to_an_earlier_state_counts_anew() -> None:
    done = Progress.first(7, Transactions("", 100, 110), 1, 5)
    assert done.is_followed_by(7, Transactions("", 100, 110))
    assert not done.is_followed_by(7, Transactions("", 90, 120))
    assert not done.is_followed_by(7, Transactions("", 100, 109))
    assert not done.is_followed_by(8, Transactions("", 100, 110))


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_under_a_stream_of_pulls_nothing_is_missing_and_nothing_comes_twice(bank: Bank, seed: int) -> None:
    """Writers insert, update, stamp early, commit late and roll back, while pulls follow each other."""
    end = time.monotonic() + 4
    writers = [threading.Thread(target=write, args=(bank.url, 1000 * seed + n, end)) for n in range(4)]
    for writer in writers:
        writer.start()
    pulls = 0
    while time.monotonic() < end:
        pull(bank, lookback=60 if seed % 2 else None)
        pulls += 1
    for writer in writers:
        writer.join()
    pull(bank, lookback=60 if seed % 2 else None)
    assert pull(bank).rows == 0
    assert pulls > 3
    last = "row_number() OVER (PARTITION BY payment_id ORDER BY _extracted_at DESC) = 1"
    newest = f"SELECT * FROM {bank.bronze.scan()} QUALIFY {last}"
    found = bank.con.execute(f"SELECT payment_id, note FROM ({newest}) ORDER BY ALL").fetchall()
    assert found == bank.execute("SELECT payment_id, note FROM payments ORDER BY 1")
    assert len(found) > 50
    twice = f"SELECT payment_id, note FROM {bank.bronze.scan()} GROUP BY ALL HAVING count(*) > 1"
    assert bank.con.execute(twice).fetchall() == []
    assert not bank.audit().mismatches


def write(url: str, seed: int, end: float) -> None:
    """Each row version has a note of its own, so that one that comes twice is seen."""
    chance = random.Random(seed)
    number = seed * 100_000
    with psycopg.connect(url) as connection:
        while time.monotonic() < end:
            stamp = "clock_timestamp()" if chance.random() < 0.7 else "NULL"
            for _ in range(chance.randint(1, 4)):
                number += 1
                connection.execute(f"INSERT INTO payments VALUES ({number}, '1', '{number}', {stamp})".encode())
                time.sleep(chance.choice([0, 0, 0.001, 0.05]))
            if chance.random() < 0.5:
                key = number - chance.randint(0, 5)
                change = f"UPDATE payments SET note = note || '{number}', updated_at = {stamp} WHERE payment_id = {key}"
                connection.execute(change.encode())
            time.sleep(chance.choice([0, 0, 0.01, 0.3]))
            if chance.random() < 0.15:
                connection.rollback()
            else:
                connection.commit()
