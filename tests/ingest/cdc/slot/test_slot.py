"""What a slot gives, up to which position, and what becomes of it: on a real server."""

import gc
import json
import time
import tracemalloc
from pathlib import Path

import psycopg
import pytest
from postgres import FAST, execute

from pipeline_assets.demo.postgres_server import PostgresServer
from pipeline_assets.ingest import postgres_session
from pipeline_assets.ingest.cdc.slot import slot as slot_module
from pipeline_assets.ingest.cdc.slot.postgres import Postgres, SlotStatus, SourceDatabaseError
from pipeline_assets.sql import quote_text

KEYS = {"public.t": ["id"]}
FAR, MANY = 1 << 60, 1_000_000


@pytest.fixture
def source(database: str) -> Postgres:
    """A slot on one table of integers and texts."""
    execute(database, "CREATE TABLE t (id int PRIMARY KEY, txt text)", "CREATE PUBLICATION shop FOR TABLE t")
    # The name of the database makes slots of tests differ: they are the server's, not the database's.
    postgres = Postgres(database, slot=f"shop_{database[-12:]}", publication="shop")
    postgres.create_slot()
    return postgres


def ids(source: Postgres, upto: int = FAR, max_changes: int = MANY) -> list[tuple[str, str | None]]:
    return [(event.op, event.key) for event in source.peek(upto, max_changes, KEYS)]


def status_of(source: Postgres) -> SlotStatus:
    status = source.slot()
    assert status is not None
    return status


def key(number: int) -> str:
    return f'{{"id":{number}}}'


def test_peeking_takes_nothing_out_and_advancing_does(database: str, source: Postgres):
    execute(database, "INSERT INTO t VALUES (1)")
    target = source.flush_lsn()
    assert ids(source) == ids(source) == [("c", key(1))]
    source.advance(target)
    assert ids(source) == []
    source.advance(target - 1000)  # never back, and no error
    assert status_of(source).confirmed_flush_lsn == target


def test_columns_may_be_called_as_those_of_the_change_table(database: str):
    names = ["op", "ts", "key", "before", "after", "unavailable", "commit_lsn", "tx_seq", "lsn", "table", "_id", "__op"]
    columns = ", ".join(f'"{name}" text' for name in names)
    execute(
        database,
        f"CREATE TABLE named (id int, {columns}, PRIMARY KEY (id, op, key))",
        "CREATE PUBLICATION named FOR TABLE named",
    )
    postgres = Postgres(database, slot=f"named_{database[-12:]}", publication="named")
    postgres.create_slot()
    values = ", ".join(f"'v-{name}'" for name in names)
    execute(database, f"INSERT INTO named VALUES (1, {values})", "UPDATE named SET key = 'k', ts = 't'")
    events = list(postgres.peek(FAR, MANY, {"public.named": ["key", "op", "id"]}))
    assert [event.op for event in events] == ["c", "d", "c"]
    first = {"id": 1, **{name: f"v-{name}" for name in names}}
    assert json.loads(events[0].after or "") == first
    assert json.loads(events[2].after or "") == {**first, "key": "k", "ts": "t"}
    assert json.loads(events[1].key or "") == {"key": "v-key", "op": "v-op", "id": 1}


def test_the_bound_is_exclusive_and_loses_no_transaction_that_starts_at_it(database: str, source: Postgres):
    """P = position of the end of the WAL; then a commit record is written, which starts exactly there."""
    for number in range(100):
        with psycopg.connect(database) as session:
            session.execute("INSERT INTO t VALUES (%s)", [number])
            execute(database, "CREATE TABLE x ()", "DROP TABLE x")  # commits, so the insert is on disk too
            position = source.flush_lsn()
            session.commit()
        (event,) = source.peek(FAR, MANY, KEYS)
        changes = source.peek(position, MANY, KEYS)
        assert list(changes) == []
        assert changes.reached == position
        source.advance(position)
        assert ids(source) == [("c", key(number))], "lost"
        source.advance(event.commit_lsn + 1)
        assert ids(source) == [], "repeated"
        if event.commit_lsn == position:
            return
    pytest.fail("the server wrote something of its own each time")


def test_transactions_come_whole_and_in_commit_order(database: str, source: Postgres):
    with psycopg.connect(database) as early, psycopg.connect(database) as late:
        early.execute("INSERT INTO t SELECT generate_series(1, 5)")
        late.execute("INSERT INTO t SELECT generate_series(11, 15)")
        late.commit()
        early.commit()
    target, found = source.flush_lsn(), []
    for _ in range(10):
        changes = source.peek(target, 1, KEYS)
        if not (keys := [event.key for event in changes]):
            break
        found.append(keys)
        source.advance(changes.reached or 0)
    assert [len(keys) for keys in found] == [5, 5]
    assert found[0][0] == key(11)
    assert changes.reached == target


def test_how_far_a_loop_got(database: str, source: Postgres):
    execute(database, "INSERT INTO t VALUES (1), (2)", "INSERT INTO t VALUES (3)")
    target = source.flush_lsn()
    cut = source.peek(target, 2, KEYS)
    assert cut.reached is None
    events = list(cut)
    assert cut.reached == events[-1].commit_lsn + 1 < target
    whole = source.peek(target, MANY, KEYS)
    assert len(list(whole)) == 3
    assert whole.reached == target
    beyond = source.peek(FAR, MANY, KEYS)
    list(beyond)
    assert target <= (beyond.reached or 0) <= source.flush_lsn()


def test_an_open_transaction_is_delivered_later(database: str, source: Postgres):
    with psycopg.connect(database) as session:
        session.execute("INSERT INTO t VALUES (1)")
        execute(database, "INSERT INTO t VALUES (2)")
        assert ids(source) == [("c", key(2))]
        source.advance(source.flush_lsn())
        assert ids(source) == []
        status = status_of(source)
        assert status.retained_bytes > status.lag_bytes  # what the open transaction holds
    assert ids(source) == [("c", key(1))]


def test_rolled_back_changes_do_not_come(database: str, source: Postgres):
    with psycopg.connect(database) as session:
        session.execute("INSERT INTO t VALUES (1); SAVEPOINT s; INSERT INTO t VALUES (2); ROLLBACK TO s")
        session.execute("INSERT INTO t VALUES (3)")
        session.commit()
        session.execute("INSERT INTO t VALUES (4)")
        session.rollback()
    assert ids(source) == [("c", key(1)), ("c", key(3))]


@pytest.mark.parametrize("identity", ["DEFAULT", "FULL"])
def test_updates_of_keys_and_of_toasted_rows(database: str, source: Postgres, identity: str):
    execute(
        database,
        f"ALTER TABLE t REPLICA IDENTITY {identity}, ADD n int, ALTER txt SET STORAGE EXTERNAL",
        "INSERT INTO t VALUES (1, repeat('x', 10000), 1)", "UPDATE t SET n = 2", "UPDATE t SET id = 9", "DELETE FROM t",
        "TRUNCATE t",
    )  # fmt: skip
    insert, update, gone, came, delete, truncate = source.peek(FAR, MANY, KEYS)
    assert [e.op for e in (insert, update, gone, came, delete, truncate)] == ["c", "u", "d", "c", "d", "t"]
    assert (update.key, gone.key, came.key, delete.key, truncate.key) == (key(1), key(1), key(9), key(9), None)
    assert (gone.commit_lsn, gone.tx_seq, gone.lsn) == (came.commit_lsn, came.tx_seq - 1, came.lsn)
    row = insert.after or ""
    if identity == "FULL":
        assert (update.before, update.after, update.unavailable) == (row, row.replace('"n":1', '"n":2'), ())
        assert len(delete.before or "") > 10_000
    else:
        assert (update.before, update.after, update.unavailable) == (None, '{"id":1,"n":2}', ("txt",))
        assert (gone.before, came.after, came.unavailable) == (key(1), '{"id":9,"n":2}', ("txt",))
        assert delete.before == key(9)


def test_a_key_that_is_itself_stored_apart_is_known(database: str, source: Postgres):
    execute(
        database,
        "CREATE TABLE k (id text PRIMARY KEY, n int)", "ALTER TABLE k ALTER id SET STORAGE EXTERNAL",
        "ALTER PUBLICATION shop ADD TABLE k", "INSERT INTO k VALUES (repeat('k', 2500), 1)", "UPDATE k SET n = 2",
    )  # fmt: skip
    _, update = source.peek(FAR, MANY, {"public.k": ["id"]})
    assert (update.op, len(update.key or ""), update.unavailable) == ("u", 2500 + len('{"id":""}'), ())


def test_altered_tables(database: str, source: Postgres):
    execute(
        database,
        "INSERT INTO t VALUES (1, 'a')", "ALTER TABLE t ADD n int DEFAULT 7", "INSERT INTO t VALUES (2, 'b')",
        "ALTER TABLE t RENAME txt TO name", "ALTER TABLE t ALTER n TYPE text", "INSERT INTO t VALUES (3, 'c')",
        "ALTER TABLE t DROP name", "INSERT INTO t VALUES (4)",
    )  # fmt: skip
    assert [event.after for event in source.peek(FAR, MANY, KEYS)] == [
        '{"id":1,"txt":"a"}', '{"id":2,"txt":"b","n":7}', '{"id":3,"name":"c","n":"7"}', '{"id":4,"n":"7"}',
    ]  # fmt: skip


def test_a_large_transaction_is_not_held_in_memory(database: str, source: Postgres):
    execute(database, "INSERT INTO t SELECT n, repeat('x', 500) FROM generate_series(1, 20000) n")
    count = 0
    tracemalloc.start()
    try:
        for _ in source.peek(FAR, 10, KEYS):
            count += 1
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 20_000
    assert peak < 2_000_000  # of 10 MB


def test_a_loop_that_is_left_early_leaves_no_session(database: str, source: Postgres):
    execute(database, "INSERT INTO t SELECT generate_series(1, 20000)")
    for _ in source.peek(FAR, MANY, KEYS):
        break
    gc.collect()
    deadline = time.monotonic() + 5
    while execute(database, "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'pipeline_assets%'"):
        assert time.monotonic() < deadline
    assert len(ids(source)) == 20_000


def test_pending_events_are_counted_up_to_a_limit(database: str, source: Postgres, monkeypatch: pytest.MonkeyPatch):
    assert source.pending(100) == slot_module.Pending(0, True, None)
    execute(database, "INSERT INTO t VALUES (1), (2)", "UPDATE t SET txt = 'a'", "TRUNCATE t")
    some, everything = source.pending(2), source.pending(100)
    assert (some.events, some.is_complete) == (2, False)
    assert (everything.events, everything.is_complete) == (5, True)
    events = list(source.peek(FAR, MANY, KEYS))
    assert everything.first_commit_at is not None
    assert round(everything.first_commit_at.timestamp() * 1_000_000) == events[0].ts_us
    monkeypatch.setattr(slot_module, "COUNT_SECONDS", 0.001)
    execute(database, "INSERT INTO t SELECT generate_series(1, 20000)")
    assert source.pending(MANY) == slot_module.Pending(MANY, False, None)


def test_a_missing_publication_is_an_error_not_an_empty_stream(database: str, source: Postgres):
    execute(database, "INSERT INTO t VALUES (1)", "DROP PUBLICATION shop")
    for ask in (lambda: ids(source), lambda: source.pending(10), source.create_slot):
        with pytest.raises(SourceDatabaseError, match=r"no publication shop: CREATE PUBLICATION \"shop\" FOR TABLE"):
            ask()


def test_a_publication_that_was_dropped_and_made_again_lost_changes(database: str, source: Postgres):
    """PostgreSQL 18 skips what was changed in between, with a warning; older ones refuse."""
    execute(
        database,
        "DROP PUBLICATION shop", "INSERT INTO t VALUES (1)", "CREATE PUBLICATION shop FOR TABLE t",
        "INSERT INTO t VALUES (2)",
    )  # fmt: skip
    changes = source.peek(FAR, MANY, KEYS)
    told = r'shop was missing for a part of what the slot .* read the tables whole again|"shop" does not exist'
    with pytest.raises(SourceDatabaseError, match=told):
        list(changes)
    assert changes.reached is None


def test_a_publication_with_an_odd_name(database: str, source: Postgres):
    execute(database, 'CREATE PUBLICATION "Shop\'s, all" FOR TABLE t')
    odd = Postgres(database, slot=source.slot_name + "_odd", publication="Shop's, all")
    odd.create_slot()
    execute(database, "INSERT INTO t VALUES (1)")
    assert ids(odd) == [("c", key(1))]


def test_a_slot_that_fell_too_far_behind_is_lost(tmp_path: Path):
    with PostgresServer(tmp_path, settings={**FAST, "max_slot_wal_keep_size": "1MB"}) as server:
        url = server.url()
        execute(url, "CREATE TABLE t (id int PRIMARY KEY)", "CREATE PUBLICATION shop FOR TABLE t")
        source = Postgres(url, slot="shop", publication="shop")
        assert not source.create_slot().is_lost
        for _ in range(3):
            execute(url, "SELECT pg_logical_emit_message(false, 'fill', 'x'), pg_switch_wal()", "CHECKPOINT")
        status = status_of(source)
        assert status.is_lost
        assert (status.wal_status, status.invalidation_reason) == ("lost", "wal_removed")
        with pytest.raises(SourceDatabaseError, match=r'can no longer access replication slot "shop".*wal_removed'):
            ids(source)
        source.drop_slot()
        assert source.slot() is None
        source.drop_slot()


def test_a_slot_of_another_database_cannot_be_read(database: str, source: Postgres, postgres_server: PostgresServer):
    other = Postgres(postgres_server.url(), slot=source.slot_name, publication="shop")
    status = status_of(other)
    assert not status.is_in_database
    assert status.database == database.rpartition("/")[2]


def test_a_slot_waits_for_open_transactions_and_says_so(
    database: str, source: Postgres, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(postgres_session._SETTINGS, "lock_timeout", "200ms")
    with psycopg.connect(database) as session:
        session.execute("INSERT INTO t VALUES (1)")
        late = Postgres(database, slot=source.slot_name + "_late", publication="shop")
        pid = session.info.backend_pid
        told = rf"have not: transaction of postgres, PID {pid} .*SELECT pg_terminate_backend\({pid}\)"
        with pytest.raises(SourceDatabaseError, match=told):
            late.create_slot()
        assert late.slot() is None
        with pytest.raises(SourceDatabaseError, match=told), late.snapshot(["public.t"]):
            pass


@pytest.mark.parametrize("is_old", [False, True])
def test_a_prepared_transaction_that_nobody_ends_is_named_and_not_waited_for(
    database: str, source: Postgres, monkeypatch: pytest.MonkeyPatch, is_old: bool
):
    monkeypatch.setitem(postgres_session._SETTINGS, "lock_timeout", "1h" if is_old else "200ms")
    monkeypatch.setattr(slot_module, "LOCK_TIMEOUT_SECONDS", 0 if is_old else 60)
    gid = f"order {database[-12:]} 'x'"
    literal = quote_text(gid)
    with psycopg.connect(database, autocommit=True) as session:
        session.execute(f"BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION {literal}".encode())
    late = Postgres(database, slot=source.slot_name + "_late", publication="shop")
    remedy = rf"prepared transaction {literal} of postgres since .*{database[-12:]}: COMMIT PREPARED {literal}, or "
    try:
        with pytest.raises(SourceDatabaseError, match=remedy):
            late.create_slot()
        with pytest.raises(SourceDatabaseError, match=remedy), late.snapshot(["public.t"]):
            pass
    finally:
        execute(database, f"ROLLBACK PREPARED {literal}")
    late.create_slot()


def test_the_cluster_has_a_number(database: str, source: Postgres, postgres_server: PostgresServer):
    assert source.system_identifier().isdigit()
    assert source.system_identifier() == Postgres(postgres_server.url(), slot="x", publication="x").system_identifier()


def test_a_role_needs_replication_and_select_alone(database: str, source: Postgres):
    name = database[-12:]
    execute(database, f"CREATE ROLE r_{name} LOGIN REPLICATION PASSWORD 'pw'", f"GRANT SELECT ON t TO r_{name}")
    url = f"postgresql://r_{name}:pw@{database.partition('@')[2]}"
    plain = Postgres(url, slot=source.slot_name, publication="shop")
    execute(database, "INSERT INTO t VALUES (1)")
    assert ids(plain) == [("c", key(1))]
    assert plain.pending(10).events == 1
    assert plain.system_identifier() == source.system_identifier()
    assert plain.describe(["public.t"])["public.t"].is_published
    with plain.snapshot(["public.t"]) as snapshot:
        assert len(list(snapshot.rows("public.t", ["id"]))) == 1
    plain.advance(plain.flush_lsn())
    execute(database, f"ALTER ROLE r_{name} NOREPLICATION")
    with pytest.raises(SourceDatabaseError, match="the role needs LOGIN, REPLICATION, and SELECT"):
        ids(plain)
    execute(database, f"DROP OWNED BY r_{name}", f"DROP ROLE r_{name}")
