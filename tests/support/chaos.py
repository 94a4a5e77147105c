"""Writers that do to a shop's database whatever applications do to databases, until they are told to stop."""

import random
from threading import Event, Thread

import psycopg

KEYS = 60
_LONG = "(SELECT json_agg(json_build_object('stock_code', md5(random()::text))) FROM generate_series(1, 120))"


class Chaos:
    """Some writers at once, each with its own connection and its own random numbers."""

    def __init__(self, url: str, seed: int, writers: int = 3) -> None:
        self._url, self._stop = url, Event()
        self.transactions = 0
        self.errors: list[BaseException] = []
        self._threads = [Thread(target=self._write, args=(random.Random(seed + n), n == 0)) for n in range(writers)]

    def __enter__(self) -> "Chaos":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _write(self, chance: random.Random, alters: bool) -> None:
        added = 0
        try:
            with psycopg.connect(self._url, autocommit=True) as con:
                while not self._stop.is_set():
                    if alters and chance.random() < 0.01 and added < 3:
                        added += 1
                        self._try(con, [_ALTERATIONS[added - 1]], chance)
                    statements = [chance.choice(_STATEMENTS) for _ in range(chance.choice([1, 1, 2, 5, 20]))]
                    self._try(
                        con, [(_truncate if chance.random() < 0.004 else one)(chance) for one in statements], chance
                    )
                    self._stop.wait(chance.random() * 0.02)
        except BaseException as error:
            self.errors.append(error)
            raise

    def _try(self, con: psycopg.Connection, statements: list[str], chance: random.Random) -> None:
        try:
            with con.transaction():
                for statement in statements:
                    con.execute(statement.encode())
                if chance.random() < 0.15:
                    raise psycopg.Rollback
                self.transactions += 1
        except (psycopg.errors.DeadlockDetected, psycopg.errors.UniqueViolation):
            pass  # the writers get in each other's way; so do applications


def _customer(chance: random.Random) -> str:
    key = chance.randrange(KEYS)
    mail = chance.choice(["NULL", f"'c{chance.random()}@example.com'", "''", "E'a\\tb\\n\"''\\\\ \\u2028 é😀'"])
    return chance.choice(
        [
            "INSERT INTO customers (customer_id, name, email, country, created_at, updated_at) "
            f"VALUES ({key}, 'n', {mail}, 'EIRE', now(), now()) "
            "ON CONFLICT (customer_id) DO UPDATE SET name = customers.name || 'x'",
            f"UPDATE customers SET email = {mail}, updated_at = clock_timestamp() WHERE customer_id = {key}",
            f"UPDATE customers SET customer_id = {chance.randrange(KEYS)} WHERE customer_id = {key}",
            f"DELETE FROM customers WHERE customer_id = {key}",
        ]
    )


def _product(chance: random.Random) -> str:
    key = f"P{chance.randrange(KEYS)}"
    return chance.choice(
        [
            f"INSERT INTO products (stock_code, description, unit_price, updated_at) VALUES ('{key}', NULL, "
            f"{chance.randrange(1000)} / 8.0, now()) ON CONFLICT (stock_code) DO UPDATE SET unit_price = 1.125",
            f"INSERT INTO products (stock_code, unit_price, updated_at) SELECT '{key}-' || i, i, now() "
            "FROM generate_series(1, 7) i ON CONFLICT DO NOTHING",
            f"UPDATE products SET unit_price = {chance.randrange(1000)}, updated_at = now() WHERE stock_code = '{key}'",
            f"UPDATE products SET stock_code = stock_code || '!' WHERE stock_code = '{key}'",
            f"DELETE FROM products WHERE stock_code LIKE '{key}%'",
        ]
    )


def _order(chance: random.Random) -> str:
    key = f"O{chance.randrange(KEYS)}"
    return chance.choice(
        [
            f"INSERT INTO orders (order_id, status, ordered_at, lines, line_count, total, updated_at) VALUES ('{key}', "
            f"'placed', now(), {_LONG}, 1, 1.5, now()) ON CONFLICT (order_id) DO UPDATE SET lines = excluded.lines",
            f"UPDATE orders SET status = 'paid', updated_at = clock_timestamp() WHERE order_id = '{key}'",
            f"UPDATE orders SET lines = '[]' WHERE order_id = '{key}'",
            f"UPDATE orders SET order_id = order_id || '!' WHERE order_id = '{key}'",
            f"DELETE FROM orders WHERE order_id LIKE '{key}%'",
        ]
    )


def _truncate(_chance: random.Random) -> str:
    return "TRUNCATE products"


_STATEMENTS = [_customer, _product, _order]
_ALTERATIONS = [
    "ALTER TABLE products ADD COLUMN note text",
    "ALTER TABLE customers ADD COLUMN points integer NOT NULL DEFAULT 3",
    "ALTER TABLE orders ADD COLUMN channel text",
]
