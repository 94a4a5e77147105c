"""Runs of a change stream against a real PostgreSQL: snapshot, stream, kills, altered tables."""

import itertools
import json

import pytest
from shop_stream import ORDERS, PRODUCTS, Shop, insert

from pipeline_assets.ingest.batch.batch import Batch
from pipeline_assets.ingest.cdc.slot import drain
from pipeline_assets.ingest.cdc.slot.drain import Drain
from pipeline_assets.ingest.cdc.slot.health import ChangeSource, stream_position
from pipeline_assets.ingest.cdc.slot.postgres import Postgres
from pipeline_assets.ingest.cdc.table import chunks
from pipeline_assets.ingest.cdc.table.change_table import ChangeTable, EventBatch
from pipeline_assets.ingest.postgres_session import SourceDatabaseError
from pipeline_assets.lake import Table

LONG = "SELECT json_agg(json_build_object('stock_code', md5(i::text))) FROM generate_series(1, 200) i"


@pytest.fixture
def shop(database, tmp_path):
    return Shop(database, tmp_path)


def test_the_first_run_reads_the_tables_whole_and_the_next_goes_on_from_there(shop):
    shop.sql(insert("A", "B"))
    first = shop.drain()
    assert first.snapshots == {"shop_db__products", "shop_db__orders"}
    shop.sql("UPDATE products SET unit_price = 2 WHERE stock_code = 'A'", "DELETE FROM products WHERE stock_code = 'B'")
    second = shop.drain()
    assert second.snapshots == frozenset()
    assert shop.ops() == ["r", "r", "u", "d"]
    assert json.loads(shop.stored("after")[2][0])["unit_price"] == "2.000"
    assert vars(second.counts["shop_db__products"]) == {"records_in": 2, "rows": 2, "dead_letters": 0, "duplicates": 0}


def test_a_run_without_news_adds_nothing_and_moves_the_slot_on(shop):
    shop.drain()
    shop.sql("CREATE TABLE other (id int)", "INSERT INTO other SELECT generate_series(1, 1000)")
    report = shop.drain()
    assert not report.counts["shop_db__products"].records_in
    slot = shop.postgres.slot()
    assert slot.confirmed_flush_lsn == report.target
    assert PRODUCTS.bronze(shop.lake).position(stream_position(shop.postgres)) == report.target


def test_every_table_knows_the_position_before_the_slot_forgets(shop, monkeypatch):
    shop.drain()
    shop.sql(insert("A"))
    monkeypatch.setattr(Postgres, "advance", lambda *_: pytest.fail("killed"))
    with pytest.raises(pytest.fail.Exception):
        shop.drain()
    monkeypatch.undo()
    report = shop.drain()
    assert shop.ops() == ["c"]
    assert not report.suspects


@pytest.mark.parametrize("kill_at", [1, 2, 3, 4])
def test_a_kill_between_the_commits_of_a_snapshot_or_a_batch_changes_nothing(shop, monkeypatch, kill_at):
    shop.sql(insert("A", "B"), "INSERT INTO orders (order_id, status, lines) VALUES ('1', 'placed', '[]')")
    calls, commit = [], EventBatch.commit

    def dying(batch):
        calls.append(batch)
        if len(calls) == kill_at:
            raise KeyboardInterrupt
        return commit(batch)

    monkeypatch.setattr(Batch, "commit", dying)
    with pytest.raises(KeyboardInterrupt):
        shop.drain()
    monkeypatch.undo()
    shop.sql(insert("C"))
    shop.drain()
    assert sorted(shop.stored("key")) == [(f'{{"stock_code":"{code}"}}',) for code in "ABC"]
    assert shop.ops("bronze.shop_db__orders") == ["r"]
    assert not shop.drain().suspects


def test_dead_letters_are_there_once_whatever_was_killed(shop, monkeypatch):
    shop.sql("CREATE TABLE extra (id int PRIMARY KEY)", "ALTER PUBLICATION shop ADD TABLE extra")
    shop.sql("INSERT INTO products VALUES ('A', null, 'NaN')")
    monkeypatch.setattr(Table, "commit", lambda *_, **__: pytest.fail("killed"))
    with pytest.raises(pytest.fail.Exception):  # between a snapshot's letters and its rows
        shop.drain()
    monkeypatch.undo()
    shop.drain()
    shop.sql("INSERT INTO extra VALUES (1)")
    monkeypatch.setattr(Postgres, "advance", lambda *_: pytest.fail("killed"))
    with pytest.raises(pytest.fail.Exception):
        shop.drain()
    monkeypatch.undo()
    shop.sql("INSERT INTO extra VALUES (2)")
    shop.drain()
    for name, count in (("products", 1), ("unrouted", 2)):
        with shop.lake.connect() as con:
            letters = Table(shop.lake, f"dead_letters.shop_db__{name}").scan()
            assert con.execute(f"SELECT count(*) FROM {letters}").fetchone() == (count,), name


def test_a_table_that_is_altered_after_a_kill_is_read_again(shop, monkeypatch):
    shop.sql(insert("A"))
    monkeypatch.setattr(Drain, "_drain", lambda _, __, tables, *___: tables and pytest.fail("killed"))
    with pytest.raises(pytest.fail.Exception):  # after the snapshot
        shop.drain()
    monkeypatch.undo()
    shop.sql("ALTER TABLE products ADD COLUMN stock int NOT NULL DEFAULT 7")
    assert shop.drain().snapshots == {"shop_db__products"}
    shop.sql("ALTER TABLE products DROP COLUMN description", "ALTER TABLE products ADD COLUMN description text")
    assert shop.drain().snapshots == {"shop_db__products"}
    assert shop.drain().snapshots == frozenset()


def test_a_column_with_a_default_has_the_table_read_again(shop):
    shop.sql(insert("A", "B"))
    shop.drain()
    shop.sql("ALTER TABLE products ADD COLUMN note text", insert("C").replace(")", ", now(), 'n')"))
    assert shop.drain().snapshots == frozenset()
    shop.sql("ALTER TABLE products ADD COLUMN stock int NOT NULL DEFAULT 7")
    assert shop.drain().snapshots == {"shop_db__products"}
    assert shop.ops() == ["r", "r", "c", "t", "r", "r", "r"]
    assert {json.loads(after)["stock"] for (after,) in shop.stored("after")[4:]} == {7}
    assert shop.drain().snapshots == frozenset()
    shop.sql("ALTER TABLE products RENAME COLUMN note TO remark")
    assert shop.drain().snapshots == {"shop_db__products"}


def test_a_table_that_was_not_published_for_a_while_is_read_again(shop):
    shop.sql(insert("A"))
    shop.drain()
    shop.sql("CREATE TABLE extra (id int PRIMARY KEY)", "ALTER PUBLICATION shop ADD TABLE extra")
    assert shop.drain().snapshots == frozenset()  # that concerns no other table
    shop.sql("ALTER PUBLICATION shop DROP TABLE products", insert("B"), "ALTER PUBLICATION shop ADD TABLE products")
    assert shop.drain().snapshots == {"shop_db__products"}
    assert shop.ops() == ["r", "t", "r", "r"]
    shop.sql("ALTER PUBLICATION shop SET TABLE products WHERE (stock_code <> 'C'), orders", insert("C"))
    assert shop.drain().snapshots == {"shop_db__products"}
    shop.sql(
        "ALTER PUBLICATION shop SET (publish = 'insert')", "DELETE FROM products WHERE stock_code = 'A'",
        "ALTER PUBLICATION shop SET (publish = 'insert, update, delete, truncate')",
    )  # fmt: skip
    assert shop.drain().snapshots == {"shop_db__products", "shop_db__orders"}
    assert shop.drain().snapshots == frozenset()


def test_a_table_that_could_not_be_read_for_some_runs_is_read_again_unasked(shop):
    shop.sql(insert("A"))
    shop.drain()
    for away, back in (
        ("ALTER PUBLICATION shop DROP TABLE products", "ALTER PUBLICATION shop ADD TABLE products"),
        ("ALTER TABLE products REPLICA IDENTITY NOTHING", "ALTER TABLE products REPLICA IDENTITY DEFAULT"),
    ):
        shop.sql("DELETE FROM products", away, insert("B"))
        version = shop.drain() and Table(shop.lake, "bronze.shop_db__products").open().version()
        shop.sql("INSERT INTO orders (order_id, status, lines) SELECT gen_random_uuid(), 'placed', '[]'")
        assert shop.drain().suspects == {}
        assert Table(shop.lake, "bronze.shop_db__products").open().version() == version
        shop.sql(back)
        assert shop.drain().snapshots == {"shop_db__products"}
        assert [json.loads(key) for (key,) in shop.stored("key")[-1:]] == [{"stock_code": "B"}]
    assert shop.drain().snapshots == frozenset()


def test_a_table_whose_keys_are_not_those_of_its_updates_is_left_alone(shop):
    wrong = ChangeTable("public.products", "shop_db__products", PRODUCTS.model, ("description",))
    shop.sql(insert("A"))
    shop.drain()
    shop.sql("UPDATE products SET unit_price = 2")
    with shop.lake.connect() as con:
        Drain(shop.lake, con, ChangeSource("shop_db", (wrong, ORDERS), 1024**3), shop.postgres, "run").run()
    assert shop.ops() == ["r"]
    assert shop.drain().snapshots == {"shop_db__products"}


def test_a_partition_that_goes_without_an_event_has_the_table_read_again(shop):
    shop.sql(
        "DROP TABLE products",
        "CREATE TABLE products (stock_code text PRIMARY KEY, description text, unit_price numeric(12,3) NOT NULL, "
        "updated_at timestamptz NOT NULL DEFAULT now()) PARTITION BY LIST (stock_code)",
        "CREATE TABLE products_a PARTITION OF products FOR VALUES IN ('A')",
        "CREATE TABLE products_b PARTITION OF products FOR VALUES IN ('B')",
        "ALTER PUBLICATION shop ADD TABLE products",
        "ALTER PUBLICATION shop SET (publish_via_partition_root = true)",
        insert("A", "B"),
    )
    shop.drain()
    shop.sql("CREATE TABLE products_c PARTITION OF products FOR VALUES IN ('C')", insert("C"))
    assert shop.drain().snapshots == frozenset()
    shop.sql("TRUNCATE products_b")
    assert shop.drain().snapshots == {"shop_db__products"}
    shop.sql("ALTER TABLE products DETACH PARTITION products_a")
    assert shop.drain().snapshots == {"shop_db__products"}
    assert shop.ops() == ["r", "r", "c", "t", "r", "r", "t", "r"]
    assert shop.drain().snapshots == frozenset()


@pytest.mark.parametrize("records", [1, 2, 50_000])
def test_a_key_change_whose_new_row_does_not_fit_deletes_nothing(shop, monkeypatch, records):
    monkeypatch.setattr(chunks, "RECORDS", records)
    shop.sql(insert("A", "B"))
    shop.drain()
    shop.sql("UPDATE products SET stock_code = 'Z', unit_price = 'NaN' WHERE stock_code = 'A'", insert("C"))
    report = shop.drain()
    assert shop.ops() == ["r", "r", "c"]
    assert vars(report.counts["shop_db__products"]) == {"records_in": 3, "rows": 1, "dead_letters": 2, "duplicates": 0}


def test_long_values_that_a_change_leaves_out_are_unavailable_and_not_null(shop):
    shop.sql(f"INSERT INTO orders (order_id, status, lines) SELECT '1', 'placed', ({LONG})::jsonb")
    shop.drain()
    shop.sql("UPDATE orders SET status = 'paid'", "UPDATE orders SET order_id = '2'")
    shop.drain()
    found = shop.stored("op, unavailable, json_exists(after, '$.lines')", "bronze.shop_db__orders")
    assert found == [("r", [], True), ("u", ["lines"], False), ("d", [], None), ("c", ["lines"], False)]


def test_what_does_not_fit_and_what_is_not_declared_are_dead_letters(shop):
    shop.sql("CREATE TABLE extra (id int PRIMARY KEY)", "ALTER PUBLICATION shop ADD TABLE extra")
    shop.drain()
    shop.sql("INSERT INTO extra VALUES (1)", "INSERT INTO products VALUES ('A', null, 'NaN')")
    report = shop.drain()
    assert vars(report.counts["shop_db__products"]) == {"records_in": 1, "rows": 0, "dead_letters": 1, "duplicates": 0}
    assert report.counts["shop_db__unrouted"].dead_letters == 1
    with shop.lake.connect() as con:
        rows = con.execute(f"FROM {Table(shop.lake, 'dead_letters.shop_db__products').scan()} SELECT reason").fetchall()
    assert rows == [("cast: unit_price: 'NaN' is not DECIMAL(12,3)",)]


def test_tables_that_are_altered_in_every_round_are_named_and_the_next_run_reads_them(shop, monkeypatch):
    shop.drain()
    really_inspect, rounds = drain.inspect, itertools.count()

    def inspected_before_it_is_altered(*args, **options):
        state, number = really_inspect(*args, **options), next(rounds)
        table, values = [("products", "'P{}', 'd', 1"), ("orders", "'{}', 'new', '[]'")][number % 2]
        columns = "stock_code, description, unit_price" if table == "products" else "order_id, status, lines"
        shop.sql(
            f"ALTER TABLE {table} ADD COLUMN x{number} int",
            f"INSERT INTO {table} ({columns}) VALUES ({values.format(number)})",
            f"ALTER TABLE {table} DROP COLUMN x{number}",
        )
        return state

    with monkeypatch.context() as altering:
        altering.setattr(drain, "inspect", inspected_before_it_is_altered)
        with pytest.raises(
            SourceDatabaseError, match=r"altered and altered back \(shop_db__orders: .*; shop_db__products: .*\)"
        ):
            shop.drain()
    assert next(rounds) == 5
    shop.drain()
    assert {json.loads(key)["stock_code"] for (key,) in shop.stored("key") if key} == {"P0", "P2", "P4"}
