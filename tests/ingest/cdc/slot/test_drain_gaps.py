"""What stands between a change stream and its source: gaps, slots of others, publications that were away."""

import json
from contextlib import closing

import psycopg
import pytest
from shop_stream import PRODUCTS, SOURCE, Shop, insert

from pipeline_assets.ingest.cdc.slot.drain import Drain
from pipeline_assets.ingest.cdc.slot.health import inspect, stream_position
from pipeline_assets.ingest.cdc.slot.postgres import Postgres
from pipeline_assets.ingest.postgres_session import SourceDatabaseError


@pytest.fixture
def shop(database, tmp_path):
    return Shop(database, tmp_path)


def test_a_lost_slot_makes_tables_suspect_until_they_are_read_again(shop):
    shop.sql(insert("A", "B"))
    shop.drain()
    shop.postgres.drop_slot()
    shop.sql("DELETE FROM products WHERE stock_code = 'A'", insert("C"))
    report = shop.drain()
    assert "is gone" in report.suspects["shop_db__products"]
    assert "shop_db__resnapshot" in report.suspects["shop_db__products"]
    assert shop.ops() == ["r", "r"]
    assert shop.postgres.slot() is None
    again = shop.drain(resnapshot=["shop_db__products", "shop_db__orders"])
    assert not again.suspects
    assert shop.ops() == ["r", "r", "t", "r", "r"]
    shop.sql(insert("D"))
    shop.drain()
    assert shop.ops()[-1] == "c"


def test_a_slot_that_somebody_else_advanced_is_a_gap(shop):
    shop.drain()
    shop.sql(insert("A"))
    shop.postgres.advance(shop.postgres.flush_lsn())
    report = shop.drain()
    assert "another reader advanced the slot" in report.suspects["shop_db__products"]
    assert shop.drain(resnapshot=list(report.suspects)).suspects == {}
    assert shop.ops() == ["r"]


def test_a_gap_is_not_forgotten_when_the_remedy_is_killed(shop, monkeypatch):
    shop.drain()
    shop.sql(insert("LOST"), "INSERT INTO orders (order_id, status, lines) VALUES ('LOST', 'placed', '[]')")
    shop.postgres.advance(shop.postgres.flush_lsn())
    suspects = list(shop.drain().suspects)
    taken, real = [], Drain._snapshot

    def dying(drain, report, table, *rest):
        if taken:
            raise KeyboardInterrupt
        taken.append(table)
        real(drain, report, table, *rest)

    monkeypatch.setattr(Drain, "_snapshot", dying)
    with pytest.raises(KeyboardInterrupt):
        shop.drain(resnapshot=suspects)
    monkeypatch.undo()
    again = shop.drain()  # as the sensor asks for it, without the remedy's tag
    assert len(again.snapshots) == 1
    assert shop.ops() == ["r"]
    assert shop.ops("bronze.shop_db__orders") == ["r"]
    assert shop.drain().snapshots == frozenset()


def test_a_source_that_was_put_back_is_a_gap(shop):
    shop.drain()
    table = PRODUCTS.bronze(shop.lake)
    with shop.lake.connect() as con:
        table.commit(con, [], positions={stream_position(shop.postgres): shop.postgres.flush_lsn() + 10**9})
    shop.sql(insert("A"))
    assert "put back to an older state" in shop.drain().suspects["shop_db__products"]
    assert shop.ops() == []


def test_a_publication_that_was_gone_for_a_moment_has_its_tables_read_again(shop):
    shop.sql(insert("A"))
    shop.drain()
    shop.sql("DROP PUBLICATION shop", insert("B"), "CREATE PUBLICATION shop FOR TABLE products, orders", insert("C"))
    report = shop.drain()
    assert report.snapshots == {"shop_db__products", "shop_db__orders"}
    assert report.suspects == {}
    assert [json.loads(key)["stock_code"] for (key,) in shop.stored("key")[-3:]] == ["A", "B", "C"]
    shop.sql(insert("D"))
    assert shop.drain().snapshots == frozenset()
    assert shop.ops()[-1] == "c"


def test_a_slot_that_is_older_than_the_publication_and_the_lake_is_taken_over(shop):
    shop.sql("DROP PUBLICATION shop", "CREATE PUBLICATION shop")
    shop.postgres.create_slot()
    shop.sql(insert("A"), "DROP PUBLICATION shop", insert("B"), "CREATE PUBLICATION shop FOR TABLE products, orders")
    report = shop.drain()
    assert report.suspects == {}
    assert report.snapshots == {"shop_db__products", "shop_db__orders"}
    assert shop.ops() == ["r", "r"]
    shop.sql(insert("C"))
    assert shop.drain().snapshots == frozenset()
    assert shop.ops() == ["r", "r", "c"]


def test_tables_are_read_again_when_the_publication_was_missing_for_a_part_of_the_slot(shop, monkeypatch):
    shop.sql("DROP PUBLICATION shop", "CREATE PUBLICATION shop")
    shop.postgres.create_slot()
    shop.sql("DROP PUBLICATION shop", insert("A"), "CREATE PUBLICATION shop FOR TABLE products, orders")
    monkeypatch.setattr(Drain, "_snapshots", killed_after(Drain._snapshots))
    monkeypatch.setattr(Postgres, "advance", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):  # the tables are read, and the slot still holds the gap
        shop.drain()
    monkeypatch.undo()
    assert shop.drain().suspects == {}
    shop.sql(insert("B"))
    assert shop.drain().suspects == {}
    assert [json.loads(key)["stock_code"] for (key,) in shop.stored("key")[-2:]] == ["A", "B"]


def killed_after(method):
    def dying(*arguments):
        method(*arguments)
        raise KeyboardInterrupt

    return dying


def test_what_stands_in_the_way_of_a_slot_is_told_before_anything_is_read(shop):
    name = shop.postgres.slot_name
    drop = f"SELECT pg_drop_replication_slot('{name}')"
    shop.sql(insert("A"), f"SELECT pg_create_logical_replication_slot('{name}', 'test_decoding')")
    for make, told in (
        (
            "SELECT 1",
            f"the slot {name} uses test_decoding, not pgoutput: give the source another slot name; if nobody ",
        ),
        (f"{drop}; SELECT pg_create_physical_replication_slot('{name}')", "is one of physical replication: give the "),
    ):
        shop.sql(make)
        state = inspect(shop.lake, SOURCE, shop.postgres)
        assert told in state.blocked[0]
        assert drop in state.blocked[0]
        assert shop.drain().target is None
        assert not PRODUCTS.bronze(shop.lake).exists()
    shop.sql(drop)
    shop.postgres.create_slot()
    shop.sql(insert("B"))
    parameters = {"replication": "database", "application_name": "debezium", "autocommit": True}
    with closing(psycopg.connect(shop.url, **parameters)) as other:
        options = "(proto_version '1', publication_names 'shop')"
        other.pgconn.exec_(f"START_REPLICATION SLOT {name} LOGICAL 0/0 {options}".encode())
        told = f"the slot {name} is being read by PID {other.info.backend_pid} debezium: end it, or give the source "
        assert told in inspect(shop.lake, SOURCE, shop.postgres).blocked[0]
        assert shop.drain().target is None
        assert not PRODUCTS.bronze(shop.lake).exists()


def test_problems_of_the_source_are_named_with_the_remedy(shop):
    shop.sql("ALTER PUBLICATION shop DROP TABLE orders", "ALTER PUBLICATION shop SET (publish = 'insert')")
    state = inspect(shop.lake, SOURCE, shop.postgres)
    assert "ALTER PUBLICATION shop ADD TABLE public.orders" in state.unreadable["shop_db__orders"]
    assert "leaves out delete, truncate, update" in state.publication[0]
    shop.sql("DROP PUBLICATION shop")
    assert "there is no publication shop" in inspect(shop.lake, SOURCE, shop.postgres).blocked[0]
    assert shop.drain().target is None


def test_an_unreachable_database_is_an_error_without_the_password(shop):
    away = Postgres("postgresql://reader:hunter2@127.0.0.1:1/shop", slot="s", publication="p")
    with pytest.raises(SourceDatabaseError) as error, shop.lake.connect() as con:
        Drain(shop.lake, con, SOURCE, away).run()
    assert "127.0.0.1" in str(error.value)
    assert "hunter2" not in str(error.value) + repr(away)
