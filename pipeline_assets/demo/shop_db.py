"""The shop's own database: a plain PostgreSQL in which real days are traded as transactions.

Holds: its tables (`open_shop`), the days of the data (`replay`), a day on which people tidy up (`tidy_up`), and slow
trade without end (`trade`). Does not hold: what the transactions are (`shop_days`, `shop_tidying`), nor anything that
reads changes; the slot is the reader's, the shop only has a publication.

Each transaction notes in `shop_replay`, which is not published, how far its day is, and so commits exactly once,
however often a process is killed and started again.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from itertools import count
from pathlib import Path
from threading import Event

import psycopg
from psycopg import sql

from pipeline_assets.demo.shop import ShopError
from pipeline_assets.demo.shop_days import Transaction, open_days
from pipeline_assets.demo.shop_tidying import tidying

DATABASE = "shop"
PUBLICATION = "pipeline_assets"
TABLES = ("customers", "products", "orders")

# A publication first: a slot that is older than its publication cannot be read in PostgreSQL 15.
# Lines are not compressed (EXTERNAL), so that orders of some twenty lines and more are TOASTed, as bigger ones are
# elsewhere: what a change of status sends to a reader of changes is then the order without its lines.
_SCHEMA = f"""
    CREATE TYPE order_status AS ENUM ('placed', 'paid', 'shipped', 'delivered', 'cancelled');
    CREATE TABLE customers (
        customer_id bigint PRIMARY KEY,
        name text NOT NULL,
        email text,
        phone text,
        country text NOT NULL,
        created_at timestamptz NOT NULL,
        updated_at timestamptz NOT NULL
    );
    CREATE TABLE products (
        stock_code text PRIMARY KEY,
        description text,
        unit_price numeric(12, 3) NOT NULL,
        updated_at timestamptz NOT NULL
    );
    CREATE TABLE orders (
        order_id text PRIMARY KEY,
        customer_id bigint,
        status order_status NOT NULL,
        ordered_at timestamptz NOT NULL,
        lines jsonb NOT NULL,
        line_count integer NOT NULL,
        total numeric(18, 3) NOT NULL,
        updated_at timestamptz NOT NULL
    );
    ALTER TABLE orders ALTER COLUMN lines SET STORAGE EXTERNAL;
    ALTER TABLE customers REPLICA IDENTITY FULL;
    CREATE TABLE shop_replay (day date PRIMARY KEY, transactions integer NOT NULL, finished boolean NOT NULL);
    CREATE PUBLICATION {PUBLICATION} FOR TABLE {", ".join(TABLES)};
"""

# Not in the publication: whoever wants payments asks for them.
_PAYMENTS = """
    CREATE TABLE payments (
        payment_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        order_id text NOT NULL,
        customer_id bigint,
        amount numeric(18, 3) NOT NULL,
        method text NOT NULL,
        status text NOT NULL,
        paid_at timestamptz NOT NULL,
        updated_at timestamptz NOT NULL
    );
    CREATE INDEX ON payments (order_id);
    CREATE INDEX ON payments (updated_at);
"""

_DONE = "SELECT transactions, finished FROM shop_replay WHERE day = %s"
_NOTE = """
    INSERT INTO shop_replay (day, transactions, finished) VALUES (%s, %s, %s)
    ON CONFLICT (day) DO UPDATE SET transactions = excluded.transactions, finished = excluded.finished"""
_LOCK = 0x5409  # whoever trades holds it
_LOCK_SECONDS = 5  # a killed trader's connection has ended by then
_PIPELINED = 100  # transactions before the answers are fetched

Pause = Callable[[], bool]
"""Waits before a transaction and says whether to go on."""


def open_shop(server_url: str) -> str:
    """Create the database with its tables and the publication, where they do not exist.

    Args:
        server_url: Of any database of the server; of a role that may create databases.

    Returns:
        The URL of the database `shop`, password included.
    """
    with psycopg.connect(server_url, autocommit=True) as con:
        known = con.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone()
        if known is None:
            con.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
    url = server_url.rpartition("/")[0] + f"/{DATABASE}"
    create_tables(url)
    return url


def create_tables(url: str) -> None:
    """Create the shop's tables and its publication in one transaction, unless they are there."""
    with psycopg.connect(url) as con:
        for table, statements in (("shop_replay", _SCHEMA), ("payments", _PAYMENTS)):
            (there,) = con.execute("SELECT to_regclass(%s) IS NOT NULL", (f"public.{table}",)).fetchone() or (False,)
            if not there:
                con.execute(statements)


def is_watched(url: str) -> bool:
    """Tell whether somebody has a replication slot on the shop's database."""
    with psycopg.connect(url) as con:
        query = "SELECT EXISTS (SELECT FROM pg_replication_slots WHERE database = current_database())"
        return con.execute(query).fetchone() == (True,)


def replay(url: str, source_parquet: Path, days: Sequence[date] | None = None) -> int:
    """Trade days of the data, those that were not traded yet.

    Args:
        url: The shop's database, with its tables.
        source_parquet: `shop.DEMO_PARQUET`, or the whole data set with the same columns.
        days: Trading days, in order; all of them if None.

    Returns:
        How many transactions that was; 0 if all days were traded before.

    Raises:
        ShopError: A day without trade, or somebody else is trading.
    """
    with _trading(url) as con, open_days(source_parquet) as shop:
        if unknown := [day for day in days or () if day not in shop.calendar]:
            raise ShopError(f"the shop sold nothing on {unknown[0]}: trading_days() lists its days")
        numbers = range(len(shop.calendar)) if days is None else [shop.calendar.index(day) for day in days]
        return sum(_trade_day(con, shop.day(number), shop.transactions(number)) for number in numbers)


def trade(url: str, source_parquet: Path, stop: Event, *, transactions_per_second: float = 3.0) -> None:
    """Trade on where `replay` ended, slowly; after the last day of the data, the first one comes again.

    Args:
        url: As for `replay`.
        source_parquet: As for `replay`.
        stop: Returns soon after it is set.
        transactions_per_second: At most.

    Raises:
        ShopError: Somebody else is trading.
    """
    with _trading(url) as con, open_days(source_parquet) as shop:
        for number in count():
            _trade_day(
                con, shop.day(number), shop.transactions(number), lambda: not stop.wait(1 / transactions_per_second)
            )
            if stop.is_set():
                return


def tidy_up(url: str, day: date) -> int:
    """Let the shop's people tidy up on a day without trade: some of everything that a database can do to its rows.

    Args:
        url: As for `replay`, with some days traded.
        day: The shop's date; each has this once.

    Returns:
        How many transactions that was; 0 if it was done before.
    """
    with _trading(url) as con:
        return _trade_day(con, day, tidying(day))


@contextmanager
def _trading(url: str) -> Iterator[psycopg.Connection]:
    """Lend a connection of the one process that trades."""
    # What a crash of the server would lose is noted as not done, so it is done again: no commit waits for the disk.
    options = f"-c synchronous_commit=off -c lock_timeout={_LOCK_SECONDS}s"
    with psycopg.connect(url, autocommit=True, options=options) as con:
        try:
            con.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
        except psycopg.errors.LockNotAvailable:
            raise ShopError("somebody else is trading in the shop (`make dev`?): stop that first") from None
        yield con


def _trade_day(
    con: psycopg.Connection, day: date, transactions: Iterable[Transaction], pause: Pause | None = None
) -> int:
    """Execute what is left of a day; return how many transactions that was."""
    done, finished = con.execute(_DONE, (day,)).fetchone() or (0, False)
    if finished:
        return 0
    executed = 0
    with con.pipeline() as pipeline:
        for number, transaction in enumerate(transactions, 1):
            if number <= done:
                continue
            if pause is not None and not pause():
                return executed
            _execute(con, transaction, note=(day, number, False))
            executed += 1
            if pause is not None or executed % _PIPELINED == 0:
                pipeline.sync()
        con.execute("BEGIN")
        con.execute("SET LOCAL synchronous_commit = on")  # the disk has the whole day, and readers of changes see it
        con.execute(_NOTE, (day, done + executed, True))
        con.execute("COMMIT")
    return executed


def _execute(con: psycopg.Connection, transaction: Transaction, note: tuple[date, int, bool]) -> None:
    con.execute("BEGIN")
    for statement, values in transaction.statements:
        con.execute(statement, values)
    if transaction.rolled_back:
        con.execute("ROLLBACK")
    else:
        con.execute(_NOTE, note)
        con.execute("COMMIT")
