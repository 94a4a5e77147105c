"""Source against silver at one point: equal, planted differences found, and the events that mend them."""

import pytest
from postgres import execute

from pipeline_assets.contracts.base import contract, raw_shape
from pipeline_assets.ingest.cdc import reconcile
from pipeline_assets.ingest.cdc.reconcile import NotComparableError, compare, repair
from pipeline_assets.ingest.cdc.slot.drain import Drain
from pipeline_assets.ingest.cdc.slot.health import ChangeSource, stream_position
from pipeline_assets.ingest.cdc.slot.postgres import Postgres
from pipeline_assets.ingest.cdc.table import row
from pipeline_assets.ingest.cdc.table.change_table import ChangeTable
from pipeline_assets.lake import Lake, Table, position_name, query_schema

PRODUCTS = ChangeTable("public.products", "shop_db__products", contract("shop_db.Products"), ("stock_code",))


class Shop:
    """A source, its bronze, and a silver table that is made by hand: the last word on each key."""

    def __init__(self, url, folder):
        self.url, self.lake = url, Lake(str(folder / "lake"))
        self.postgres = Postgres(url, slot=f"s{url.rpartition('_')[2]}", publication="shop")
        self.silver = Table(self.lake, "silver.products")
        self.con = self.lake.connect()
        execute(
            url,
            "CREATE TABLE products (stock_code text PRIMARY KEY, description text, unit_price numeric(12,3) NOT NULL, "
            "updated_at timestamptz NOT NULL DEFAULT '2026-01-01')",
            "INSERT INTO products SELECT 'P' || i, 'd', i FROM generate_series(1, 500) i",
            "CREATE PUBLICATION shop FOR TABLE products",
        )

    def drain(self, **options):
        source = ChangeSource("shop_db", (PRODUCTS,), 1024**3)
        return Drain(self.lake, self.con, source, self.postgres).run(**options)

    def build_silver(self):
        bronze = PRODUCTS.bronze(self.lake)
        columns = raw_shape(PRODUCTS.model).columns
        typed = ", ".join(f"{row.typed(f'_row[{n}]', c.dtype)} AS {c.name}" for n, c in enumerate(columns, 1))
        texts = row.texts([column.name for column in columns], "after")
        rows = (
            f"SELECT {typed}, op = 'd' AS _deleted FROM (SELECT *, {texts} AS _row FROM {bronze.scan()} "
            "QUALIFY row_number() OVER (PARTITION BY key ORDER BY commit_lsn DESC, tx_seq DESC) = 1)"
        )
        self.silver.create(query_schema(self.con, rows))
        self.silver.overwrite(self.con, rows, positions={position_name(bronze): bronze.open().version()})

    def compare(self):
        return compare(self.con, self.lake, PRODUCTS, self.silver, stream_position(self.postgres))

    def plant(self, rows, where):
        position = {position_name(PRODUCTS.bronze(self.lake)): PRODUCTS.bronze(self.lake).open().version()}
        self.silver.replace(self.con, rows, where=where, positions=position)


@pytest.fixture
def shop(database, tmp_path):
    found = Shop(database, tmp_path)
    yield found
    found.con.close()


def test_equal_sides_have_equal_checksums_in_every_range(shop):
    shop.drain(reconcile=[PRODUCTS.name])
    shop.build_silver()
    found = shop.compare()
    assert len(found.ranges) == 20
    assert sum(part.source_rows for part in found.ranges) == 500
    assert all(part.is_equal for part in found.ranges)
    assert not found.differences


def test_writes_after_the_point_do_not_matter(shop):
    shop.drain(reconcile=[PRODUCTS.name])
    execute(shop.url, "DELETE FROM products WHERE unit_price < 100")
    shop.build_silver()
    assert not shop.compare().differences


def test_planted_differences_are_found_and_mended(shop):
    shop.drain(reconcile=[PRODUCTS.name])
    shop.build_silver()
    scan = shop.silver.scan()
    shop.plant(
        f"SELECT * REPLACE (999::DECIMAL(12,3) AS unit_price) FROM {scan} WHERE stock_code = 'P7'", "stock_code = 'P7'"
    )
    shop.plant(f"SELECT * REPLACE ('P9999' AS stock_code) FROM {scan} WHERE stock_code = 'P8'", "stock_code = 'P8'")
    found = shop.compare()
    assert found.differences == {"different": 1, "extra": 1, "missing": 1}
    assert [(case.kind, case.key) for case in found.examples] == [
        ("different", '{"stock_code":"P7"}'),
        ("missing", '{"stock_code":"P8"}'),
        ("extra", '{"stock_code":"P9999"}'),
    ]
    assert sum(not part.is_equal for part in found.ranges) <= 3
    assert repair(shop.con, shop.lake, PRODUCTS, found, "run") == 3
    assert repair(shop.con, shop.lake, PRODUCTS, found, "run") == 0  # once per point, whoever asks again
    rows = shop.con.execute(
        f"SELECT op, key FROM {PRODUCTS.bronze(shop.lake).scan()} WHERE starts_with(_batch_id, 'repair') ORDER BY key"
    )
    assert rows.fetchall() == [
        ("r", '{"stock_code":"P7"}'),
        ("r", '{"stock_code":"P8"}'),
        ("d", '{"stock_code":"P9999"}'),
    ]
    shop.drain(reconcile=[PRODUCTS.name])
    shop.build_silver()
    assert not shop.compare().differences


def test_silver_of_another_position_is_not_compared(shop):
    shop.drain(reconcile=[PRODUCTS.name])
    shop.build_silver()
    execute(shop.url, "DELETE FROM products WHERE stock_code = 'P1'")
    shop.drain()
    shop.build_silver()
    with pytest.raises(NotComparableError, match="another run went on"):
        shop.compare()


def test_a_row_that_does_not_fit_is_found_whether_silver_has_it_or_not_and_never_deleted(shop):
    execute(shop.url, "ALTER TABLE products ALTER unit_price TYPE text, ALTER updated_at TYPE text")
    shop.drain()
    execute(
        shop.url,
        "UPDATE products SET unit_price = 'ten' WHERE stock_code = 'P7'",
        "INSERT INTO products VALUES ('P501', 'never fitted', 'one')",
    )
    shop.drain(reconcile=[PRODUCTS.name])
    shop.build_silver()
    found = shop.compare()
    assert found.differences == {"unreadable": 2}
    assert {case.key for case in found.examples} == {'{"stock_code":"P7"}', '{"stock_code":"P501"}'}
    assert all("cast: unit_price" in case.reason for case in found.examples)
    assert sum(part.source_rows for part in found.ranges) == 501
    assert repair(shop.con, shop.lake, PRODUCTS, found, "run") == 0


def test_a_row_that_moved_to_another_key_where_it_does_not_fit_stays_under_its_old_one(shop):
    execute(shop.url, "ALTER TABLE products ALTER unit_price TYPE text, ALTER updated_at TYPE text")
    shop.drain()
    execute(shop.url, "UPDATE products SET stock_code = 'Z', unit_price = 'ten' WHERE stock_code = 'P7'")
    shop.drain(reconcile=[PRODUCTS.name])
    shop.build_silver()
    found = shop.compare()
    assert found.differences == {"extra": 1, "unreadable": 1}
    assert repair(shop.con, shop.lake, PRODUCTS, found, "run") == 0


def test_a_key_that_silver_has_twice_is_not_equal(shop):
    shop.drain(reconcile=[PRODUCTS.name])
    shop.build_silver()
    scan = shop.silver.scan()
    shop.plant(
        f"SELECT * FROM {scan} WHERE stock_code = 'P7' UNION ALL SELECT * FROM {scan} WHERE stock_code = 'P7'",
        "stock_code = 'P7'",
    )
    found = shop.compare()
    assert not found.is_equal
    assert found.differences == {}
    assert sum(part.silver_rows - part.source_rows for part in found.ranges) == 1


def test_the_key_of_a_row_that_is_too_many_is_one_that_an_event_can_have(tmp_path):
    keys = {"ratio": "DOUBLE", "id": "BLOB", "price": "DECIMAL(20,6)", "n": "BIGINT"}
    with Lake(str(tmp_path)).connect() as con:
        con.execute(
            "CREATE TABLE cdc_silver AS SELECT 'inf'::DOUBLE AS ratio, '\\x00\\xFF'::BLOB AS id, "
            "12345678901234.123456::DECIMAL(20,6) AS price, 7::BIGINT AS n, 1::UBIGINT AS row_hash"
        )
        con.execute("CREATE TABLE cdc_source AS SELECT *, '' AS key, '' AS after, '' AS reason FROM cdc_silver")
        con.execute("DELETE FROM cdc_source")
        _, [found] = reconcile._differences(con, keys)
        typed = ", ".join(f"{row.typed(f'_key[{at}]', dtype)}" for at, dtype in enumerate(keys.values(), 1))
        con.execute("CREATE TABLE event AS SELECT ? AS key", [found.key])
        read = con.execute(f"SELECT {typed} FROM (SELECT {row.texts(list(keys), 'key')} AS _key FROM event)")
        assert read.fetchone() == con.execute(f"SELECT {', '.join(keys)} FROM cdc_silver").fetchone()
