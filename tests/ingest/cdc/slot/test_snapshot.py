"""Rows at one point, and the stream that goes on there: on a real server, with writers at work."""

import json
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from postgres import execute

from pipeline_assets.ingest import postgres_session
from pipeline_assets.ingest.cdc.events import ChangeEvent
from pipeline_assets.ingest.cdc.formats import debezium
from pipeline_assets.ingest.cdc.slot import snapshot as snapshot_module
from pipeline_assets.ingest.cdc.slot.postgres import Postgres, SourceDatabaseError
from pipeline_assets.ingest.cdc.table.change_table import envelope

FAR, MANY = 1 << 60, 1_000_000
T = "public.t"


@pytest.fixture
def source(database: str) -> Postgres:
    return Postgres(database, slot=f"shop_{database[-12:]}", publication="shop")


def rows(source: Postgres, table: str = T, keys: tuple[str, ...] = ("id",)) -> list[ChangeEvent]:
    with source.snapshot([table]) as snapshot:
        return list(snapshot.rows(table, keys))


def test_rows_come_just_before_the_point(database: str, source: Postgres):
    execute(database, "CREATE TABLE t (id int PRIMARY KEY, txt text)", "CREATE PUBLICATION shop FOR TABLE t")
    source.create_slot()
    execute(database, "INSERT INTO t VALUES (1, NULL), (2, 'tab\tline\nback\\slash \\N')")
    before = source.flush_lsn()
    with source.snapshot([T]) as snapshot:
        first, second = snapshot.rows(T, ["id"])
        assert (first.op, first.key, first.before, first.after) == ("r", '{"id":1}', None, '{"id":1,"txt":null}')
        assert json.loads(second.after or "") == {"id": 2, "txt": "tab\tline\nback\\slash \\N"}
        assert before < snapshot.point
        assert [(e.commit_lsn, e.tx_seq, e.lsn, e.txid) for e in (first, second)] == [
            (snapshot.point - 1, 1, snapshot.point - 1, None), (snapshot.point - 1, 2, snapshot.point - 1, None),
        ]  # fmt: skip
        letter = debezium.parse(envelope(second), origin=second.origin, place=second.place, keys={T: ["id"]})
        assert letter == second, "a row that did not fit is replayed at its place"
        emptied = snapshot.truncate(T)
        assert (emptied.op, emptied.key, emptied.commit_lsn, emptied.tx_seq) == ("t", None, first.commit_lsn, 0)
    streamed = list(source.peek(FAR, MANY, {T: ["id"]}))
    assert [e.after for e in streamed] == [first.after, second.after]
    assert all(e.commit_lsn < first.commit_lsn for e in streamed)


def test_the_point_never_lies_beyond_what_a_run_drains_to(database: str, source: Postgres):
    execute(database, "CREATE TABLE t (id int PRIMARY KEY)", "CREATE PUBLICATION shop FOR TABLE t")
    with source.snapshot([T]) as snapshot:
        assert snapshot.point <= source.flush_lsn()


def write(url: str, seed: int, stop: threading.Event) -> None:
    """Transactions of a few changes to keys of its own, some rolled back, until told to stop."""
    choose = random.Random(seed)
    with psycopg.connect(url) as session:
        number = 0
        while not stop.is_set():
            for _ in range(choose.randint(1, 4)):
                number += 1
                known = seed * 1_000_000 + choose.randint(1, number)
                session.execute("INSERT INTO t VALUES (%s, 0)", [seed * 1_000_000 + number])
                session.execute("UPDATE t SET n = n + 1 WHERE id = %s", [known])
                if choose.random() < 0.3:
                    session.execute("DELETE FROM t WHERE id = %s", [seed * 1_000_000 + choose.randint(1, number)])
                if choose.random() < 0.2:
                    session.execute(
                        "UPDATE t SET id = -id WHERE id = %s", [seed * 1_000_000 + choose.randint(1, number)]
                    )
            session.rollback() if choose.random() < 0.2 else session.commit()


@contextmanager
def writers(url: str, count: int) -> Iterator[None]:
    stop = threading.Event()
    threads = [threading.Thread(target=write, args=(url, seed, stop)) for seed in range(1, count + 1)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_snapshot_and_stream_have_no_seam(database: str, source: Postgres):
    """Every event after the point changes exactly the row that it must: a lost or a repeated one would not."""
    execute(database, "CREATE TABLE t (id int PRIMARY KEY, n int)", "CREATE PUBLICATION shop FOR TABLE t")
    source.create_slot()
    points = []
    with writers(database, 3):
        for _ in range(4):
            threading.Event().wait(0.15)
            with source.snapshot([T]) as snapshot:
                points.append((snapshot.point, list(snapshot.rows(T, ["id"]))))
            threading.Event().wait(0.15)
    events = list(source.peek(source.flush_lsn(), MANY, {T: ["id"]}))
    final = dict(execute(database, "SELECT id, n FROM t"))
    assert len(events) > 500
    assert len(final) > 50
    for point, held in points:
        state = {row["id"]: row["n"] for row in (json.loads(event.after or "") for event in held)}
        assert len(state) == len(held) > 0
        for event in events:
            if event.commit_lsn >= point:
                apply(state, event)
        assert state == final


def apply(state: dict[int, int], event: ChangeEvent) -> None:
    number = json.loads(event.key or "")["id"]
    if event.op == "d":
        del state[number]
        return
    assert (number in state) == (event.op == "u"), "lost or repeated"
    state[number] = json.loads(event.after or "")["n"]


def test_several_tables_are_of_one_moment(database: str, source: Postgres):
    execute(
        database,
        "CREATE TABLE t (id int PRIMARY KEY)", "CREATE TABLE u (id int PRIMARY KEY)", "INSERT INTO t VALUES (1)",
        "CREATE PUBLICATION shop FOR TABLE t, u",
    )  # fmt: skip
    with source.snapshot([T, "public.u"]) as snapshot:
        assert len(list(snapshot.rows(T, ["id"]))) == 1
        execute(database, "INSERT INTO t VALUES (2)", "INSERT INTO u VALUES (2)")
        assert list(snapshot.rows("public.u", ["id"])) == []
        assert len(list(snapshot.rows(T, ["id"]))) == 1


@pytest.mark.parametrize(
    ("definition", "publication"),
    [
        ("(id int PRIMARY KEY, n int, twice int GENERATED ALWAYS AS (n * 2) STORED)", "t"),
        ("(n int, id int PRIMARY KEY, secret text)", "t (id, n)"),
        ("(id int PRIMARY KEY, n int)", "t WHERE (id > 1)"),
        ("(id int PRIMARY KEY, n int)", "t (id) WHERE (id > 1)"),
    ],
)
def test_what_the_publication_leaves_out_is_left_out(
    database: str, source: Postgres, definition: str, publication: str
):
    execute(database, f"CREATE TABLE t {definition}", f"CREATE PUBLICATION shop FOR TABLE {publication}")
    source.create_slot()
    execute(database, "INSERT INTO t (id, n) VALUES (1, 10), (2, 20)")
    assert [e.after for e in rows(source)] == [e.after for e in source.peek(FAR, MANY, {T: ["id"]})]


def test_rows_of_partitions_and_of_inheriting_tables(database: str, source: Postgres):
    execute(
        database,
        "CREATE TABLE t (id int PRIMARY KEY) PARTITION BY RANGE (id)",
        "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (9)",
        "CREATE TABLE parent (id int PRIMARY KEY)", "CREATE TABLE child (PRIMARY KEY (id)) INHERITS (parent)",
        "CREATE PUBLICATION shop FOR TABLE t, parent WITH (publish_via_partition_root = true)",
    )  # fmt: skip
    source.create_slot()
    execute(database, "INSERT INTO t VALUES (1)", "INSERT INTO parent VALUES (1)", "INSERT INTO child VALUES (2)")
    streamed = {(e.table, e.after) for e in source.peek(FAR, MANY, {})}
    assert streamed == {(name, after) for name, after in [
        (T, '{"id":1}'), ("public.parent", '{"id":1}'), ("public.child", '{"id":2}'),
    ]}  # fmt: skip
    for table in (T, "public.parent", "public.child"):
        assert {(e.table, e.after) for e in rows(source, table)} == {
            change for change in streamed if change[0] == table
        }


def test_a_table_that_is_truncated_or_rewritten_at_that_moment_is_not_taken_for_empty(
    database: str, source: Postgres, monkeypatch: pytest.MonkeyPatch
):
    execute(
        database,
        "CREATE TABLE t (id int PRIMARY KEY, n int)", "INSERT INTO t VALUES (1)", "CREATE PUBLICATION shop FOR TABLE t",
    )  # fmt: skip
    export = snapshot_module._export

    def then_rewrite(*arguments: Any) -> tuple[int, str]:
        exported = export(*arguments)
        execute(database, "ALTER TABLE t ALTER n TYPE bigint")
        return exported

    with monkeypatch.context() as patch:
        patch.setattr(snapshot_module, "_export", then_rewrite)
        with pytest.raises(SourceDatabaseError, match=r"public\.t was truncated or rewritten just as .*: run again"):
            rows(source)
    assert len(rows(source)) == 1


def test_a_table_keeps_its_shape_while_it_is_read(database: str, source: Postgres, monkeypatch: pytest.MonkeyPatch):
    execute(database, "CREATE TABLE t (id int PRIMARY KEY)", "CREATE PUBLICATION shop FOR TABLE t")
    with source.snapshot([T]), pytest.raises(psycopg.errors.LockNotAvailable):
        execute(database, "SET lock_timeout = '50ms'; TRUNCATE t")
    monkeypatch.setitem(postgres_session._SETTINGS, "lock_timeout", "50ms")
    with psycopg.connect(database) as session:
        session.execute("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(SourceDatabaseError, match="lock timeout; end the transaction that has been open longest"):
            rows(source)


def test_what_cannot_be_read_is_named(database: str, source: Postgres):
    execute(
        database,
        "CREATE TABLE t (id int PRIMARY KEY)",
        "CREATE TABLE u (id int)",
        "CREATE PUBLICATION shop FOR TABLE t",
    )
    with pytest.raises(SourceDatabaseError, match=r"there is no table public\.nothing: create it"):
        rows(source, "public.nothing")
    with pytest.raises(
        SourceDatabaseError, match=r'public\.u is not in the publication shop: ALTER PUBLICATION "shop" ADD TABLE'
    ):
        rows(source, "public.u")
    with pytest.raises(SourceDatabaseError, match=r"public\.t: the key column code is not published"):
        rows(source, keys=("id", "code"))


def test_rows_that_a_policy_hides_are_an_error(database: str, source: Postgres):
    role = f"r_{database[-12:]}"
    execute(
        database,
        "CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1), (2)", "CREATE PUBLICATION shop FOR TABLE t",
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY", "CREATE POLICY few ON t USING (id = 1)",
        f"CREATE ROLE {role} LOGIN REPLICATION PASSWORD 'pw'", f"GRANT SELECT ON t TO {role}",
    )  # fmt: skip
    limited = Postgres(f"postgresql://{role}:pw@{database.partition('@')[2]}", slot="shop", publication="shop")
    with pytest.raises(SourceDatabaseError, match="row-level security"):
        rows(limited)
    execute(database, "DROP TABLE t", f"DROP ROLE {role}")


def test_a_snapshot_leaves_nothing_behind(database: str, source: Postgres):
    execute(
        database,
        "CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t SELECT generate_series(1, 10000)",
        "CREATE PUBLICATION shop FOR TABLE t",
    )  # fmt: skip
    slots = "SELECT slot_name FROM pg_replication_slots WHERE database = current_database()"
    with source.snapshot([T]) as snapshot:
        assert execute(database, slots) == []  # the temporary one is gone as soon as its snapshot is ours
        for _ in snapshot.rows(T, ["id"]):
            break
    execute(database, "SET lock_timeout = '5s'; DROP TABLE t")
