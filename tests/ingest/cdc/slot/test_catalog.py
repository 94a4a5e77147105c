"""What a stream must know of its tables before it reads them."""

import pytest
from postgres import execute

from pipeline_assets.ingest.cdc.slot.postgres import Postgres, Publication


@pytest.fixture
def source(database: str) -> Postgres:
    return Postgres(database, slot="shop", publication="shop")


def test_a_table(database: str, source: Postgres):
    execute(
        database,
        "CREATE TYPE public.status AS ENUM ('placed')",
        """CREATE TABLE orders (
            dropped int, line int, order_id text, total numeric(18,3) NOT NULL DEFAULT 0, status public.status,
            net int GENERATED ALWAYS AS (line) STORED, PRIMARY KEY (order_id, line) INCLUDE (total))""",
        "ALTER TABLE orders DROP COLUMN dropped",
        "CREATE PUBLICATION shop FOR TABLE orders",
    )
    found = source.describe(["public.orders", "public.nothing"])
    assert list(found) == ["public.orders"]
    orders = found["public.orders"]
    assert [(c.number, c.name, c.type) for c in orders.columns] == [
        (2, "line", "integer"), (3, "order_id", "text"), (4, "total", "numeric(18,3)"), (5, "status", "public.status"),
        (6, "net", "integer"),
    ]  # fmt: skip
    line, order_id, total, status, net = orders.columns
    assert (order_id.is_not_null, status.is_not_null) == (True, False)
    assert (total.has_default, line.has_default, net.has_default, net.is_generated) == (True, False, False, True)
    assert (order_id.is_toastable, line.is_toastable) == (True, False)
    assert orders.primary_key == orders.identity_columns == ("order_id", "line")
    assert (orders.replica_identity, orders.is_partitioned, orders.partition_of) == ("d", False, None)
    assert (orders.is_published, orders.row_filter) == (True, None)
    assert orders.published_columns == ("line", "order_id", "total", "status")


def test_a_default_that_was_dropped_again_is_still_in_the_rows_that_were_there(database: str, source: Postgres):
    execute(
        database,
        "CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1)", "ALTER TABLE t ADD n int DEFAULT 7",
        "ALTER TABLE t ALTER n DROP DEFAULT", "CREATE TABLE i (id int PRIMARY KEY, i int GENERATED ALWAYS AS IDENTITY)",
    )  # fmt: skip
    found = source.describe(["public.t", "public.i"])
    assert [[c.has_default for c in found[name].columns] for name in ("public.t", "public.i")] == [[False, True]] * 2


@pytest.mark.parametrize(
    ("statement", "mode", "columns"),
    [
        ("REPLICA IDENTITY FULL", "f", ("id", "code", "n")),
        ("REPLICA IDENTITY NOTHING", "n", ()),
        ("REPLICA IDENTITY USING INDEX t_code_key", "i", ("code",)),
        ("DROP CONSTRAINT t_pkey", "d", ()),
        ("DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (id) DEFERRABLE", "d", ()),
    ],
)
def test_replica_identity(database: str, source: Postgres, statement: str, mode: str, columns: tuple[str, ...]):
    execute(
        database, "CREATE TABLE t (id int PRIMARY KEY, code text NOT NULL UNIQUE, n int)", f"ALTER TABLE t {statement}"
    )
    found = source.describe(["public.t"])["public.t"]
    assert (found.replica_identity, found.identity_columns) == (mode, columns)


def test_what_a_publication_leaves_out(database: str, source: Postgres):
    assert source.publication() is None
    execute(
        database,
        "CREATE TABLE t (id int PRIMARY KEY, secret text, n int)", "CREATE TABLE other (id int PRIMARY KEY)",
        "CREATE PUBLICATION shop FOR TABLE t (n, id) WHERE (id > 5) WITH (publish = 'insert, update')",
    )  # fmt: skip
    assert source.publication() == Publication(frozenset({"insert", "update"}), via_root=False)
    found = source.describe(["public.t", "public.other"])
    assert found["public.t"].published_columns == ("id", "n")
    assert found["public.t"].row_filter == "(id > 5)"
    assert not found["public.other"].is_published


@pytest.mark.parametrize("via_root", [False, True])
def test_partitions_arrive_under_one_name_or_the_other(database: str, source: Postgres, via_root: bool):
    execute(
        database,
        "CREATE TABLE t (id int PRIMARY KEY) PARTITION BY RANGE (id)",
        "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (9)",
        f"CREATE PUBLICATION shop FOR TABLE t WITH (publish_via_partition_root = {via_root})",
    )
    found = source.describe(["public.t", "public.t1"])
    assert found["public.t"].is_partitioned
    assert found["public.t1"].partition_of == "public.t"
    assert [found[name].is_published for name in ("public.t", "public.t1")] == [via_root, not via_root]


def test_files_change_when_rows_are_moved(database: str, source: Postgres):
    execute(database, "CREATE TABLE t (id int PRIMARY KEY)")
    before = source.describe(["public.t"])["public.t"].files
    execute(database, "ALTER TABLE t ADD n int")
    assert source.describe(["public.t"])["public.t"].files == before
    execute(database, "ALTER TABLE t ALTER n TYPE bigint")
    assert source.describe(["public.t"])["public.t"].files != before


def test_names_are_taken_as_they_are(database: str, source: Postgres):
    execute(database, 'CREATE SCHEMA "Odd"', 'CREATE TABLE "Odd"."Ta""ble" ("I d" int PRIMARY KEY)')
    found = source.describe(['Odd.Ta"ble'])['Odd.Ta"ble']
    assert found.sql_name == '"Odd"."Ta""ble"'
    assert found.primary_key == ("I d",)
