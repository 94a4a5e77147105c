"""A shop's PostgreSQL, and a change stream of it into a lake."""

from postgres import execute

from pipeline_assets.contracts.base import contract
from pipeline_assets.ingest.cdc.slot.drain import Drain
from pipeline_assets.ingest.cdc.slot.health import ChangeSource
from pipeline_assets.ingest.cdc.slot.postgres import Postgres
from pipeline_assets.ingest.cdc.table.change_table import ChangeTable
from pipeline_assets.lake import Lake, Table

PRODUCTS = ChangeTable("public.products", "shop_db__products", contract("shop_db.Products"), ("stock_code",))
ORDERS = ChangeTable("public.orders", "shop_db__orders", contract("shop_db.Orders"), ("order_id",))
SOURCE = ChangeSource("shop_db", (PRODUCTS, ORDERS), 1024**3)


class Shop:
    """A shop's database, and a stream of it into a lake."""

    def __init__(self, url, folder):
        self.url = url
        self.lake = Lake(str(folder / "lake"))
        self.postgres = Postgres(url, slot=f"s{url.rpartition('_')[2]}", publication="shop")
        self.sql(
            "CREATE TABLE products (stock_code text PRIMARY KEY, description text, unit_price numeric(12,3) NOT NULL, "
            "updated_at timestamptz NOT NULL DEFAULT now())",
            "CREATE TABLE orders (order_id text PRIMARY KEY, customer_id bigint, status text NOT NULL, ordered_at "
            "timestamptz NOT NULL DEFAULT now(), lines jsonb NOT NULL, line_count int NOT NULL DEFAULT 1, "
            "total numeric(18,3) NOT NULL DEFAULT 1, updated_at timestamptz NOT NULL DEFAULT now())",
            "CREATE PUBLICATION shop FOR TABLE products, orders",
        )

    def sql(self, *statements):
        return execute(self.url, *statements)

    def drain(self, **options):
        with self.lake.connect() as con:
            return Drain(self.lake, con, SOURCE, self.postgres, "run").run(**options)

    def stored(self, columns="*", name="bronze.shop_db__products"):
        with self.lake.connect() as con:
            return con.execute(
                f"SELECT {columns} FROM {Table(self.lake, name).scan()} ORDER BY commit_lsn, tx_seq"
            ).fetchall()

    def ops(self, name="bronze.shop_db__products"):
        return [op for (op,) in self.stored("op", name)]


def insert(*codes, price="1.5"):
    return "INSERT INTO products VALUES " + ", ".join(f"('{code}', 'd {code}', {price})" for code in codes)
