"""Several writers, and a pipeline that is killed with SIGKILL between any two steps: in the end nothing differs.

`--chaos-seconds=900` makes it longer; the seed is printed, `--chaos-seed` repeats it.
"""

import json
import random
import signal
import time

import psycopg
import pytest
from chaos import Chaos
from killing import worker

from pipeline_assets.demo.shop_db import create_tables
from pipeline_assets.ingest.cdc.slot.postgres import Postgres
from pipeline_assets.lake import Lake, Table

WORKER = """
import os, sys
from pathlib import Path
from deltalake import DeltaTable
from deltalake.table import TableAlterer
from killing import fork_for_each_line, kill_between
from pipeline_assets.contracts.base import contract
from pipeline_assets.ingest.cdc.table.change_table import ChangeTable
from pipeline_assets.ingest.cdc.slot.drain import Drain
from pipeline_assets.ingest.cdc.slot.health import ChangeSource
from pipeline_assets.ingest.cdc.slot.postgres import Postgres
from pipeline_assets.lake import Lake
from pipeline_assets.settings import load_settings
from warm_dbt import warm_dbt

lake, dbt = Lake(load_settings().lake_uri), warm_dbt(Path(sys.argv[1]))
chosen = ["customers", "products", "orders", "customers_history", "products_history"]
tables = tuple(
    ChangeTable(f"public.{name}", f"shop_db__{name}", contract(f"shop_db.{name.title()}"), (key,))
    for name, key in (("customers", "customer_id"), ("products", "stock_code"), ("orders", "order_id"))
)


def run(kill_at, transforms):
    commits = (DeltaTable, "create_write_transaction"), (TableAlterer, "set_table_properties")
    kill_between(kill_at, *commits, (Postgres, "create_slot"), (Postgres, "advance"))
    with lake.connect() as con:
        postgres = Postgres(os.environ["SHOP_DB_URL"], slot="chaos", publication="pipeline_assets")
        report = Drain(lake, con, ChangeSource("shop_db", tables, 2**40), postgres, "run").run()
        assert not report.suspects, report.suspects
    if transforms:
        ran = dbt("run", "--select", *chosen)
        assert ran.success, ran.exception


fork_for_each_line(run)
"""
KILLS = 6
TABLES = {"customers": "customer_id", "products": "stock_code", "orders": "order_id"}


def changes_of(url):
    """What an untroubled reader of another slot sees."""
    oracle = Postgres(url, slot="oracle", publication="pipeline_assets")
    keys = {f"public.{name}": (key,) for name, key in TABLES.items()}
    found = {name: [] for name in TABLES}
    for event in oracle.peek(oracle.flush_lsn(), 10**9, keys):
        found[event.table.partition(".")[2]].append((event.commit_lsn, event.tx_seq, event.op, event.key))
    return found


@pytest.mark.slow
def test_nothing_is_lost_doubled_or_wrong(database, settings, tmp_path, monkeypatch, request):
    seconds, seed = request.config.getoption("--chaos-seconds"), request.config.getoption("--chaos-seed")
    seed = seed or random.randrange(10**6)
    print("seed", seed)  # noqa: T201 - shown when the test fails
    chance = random.Random(seed)
    monkeypatch.setenv("SHOP_DB_URL", database)
    create_tables(database)
    Postgres(database, slot="oracle", publication="pipeline_assets").create_slot()
    killed, until = 0, time.monotonic() + seconds
    with worker(WORKER, tmp_path / "dbt") as run:
        with Chaos(database, seed) as chaos:
            # A busy machine has fewer kills in the time given: it goes on until there are enough of them.
            while time.monotonic() < until or (killed < KILLS and time.monotonic() < until + 240):
                transforms = chance.random() < 0.4
                kill_at = chance.randrange(24 if transforms else 14)
                killed += run(kill_at, transforms) == -signal.SIGKILL
        assert not chaos.errors
        assert run(-1, True) == 0
    print("killed", killed)  # noqa: T201
    assert killed >= KILLS
    lake = Lake(settings.lake_uri)
    with lake.connect() as con:
        compare_bronze(con, lake, database)
        for name, key in TABLES.items():
            compare_state(con, lake, database, name, key)
        for name in ("customers", "products"):
            check_history(con, lake, name, TABLES[name])


def compare_bronze(con, lake, url):
    expected = changes_of(url)
    for name in TABLES:
        table = Table(lake, f"bronze.shop_db__{name}")
        rows = con.execute(f"SELECT commit_lsn, tx_seq, op, key FROM {table.scan()} ORDER BY ALL").fetchall()
        assert len(rows) == len({row[:2] for row in rows}), f"{name}: an event is there twice"
        batches = [commit["batch_id"] for commit in table.open().history() if "batch_id" in commit]
        high, low = next(batch for batch in reversed(batches) if "snapshot" in batch).split()[1].split("/")
        first = (int(high, 16) << 32) + int(low, 16)
        # Rows of a snapshot stand one byte before its point, where no transaction can.
        streamed = [row for row in rows if row[0] % 8 == 0]
        assert streamed == [row for row in expected[name] if row[0] >= first], name


def compare_state(con, lake, url, name, key):
    with psycopg.connect(url) as source:
        cursor = source.execute(f"SELECT * FROM {name} ORDER BY {key}")  # the server's collation is C
        columns = [column.name for column in cursor.description]
        expected = [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]
    silver = Table(lake, f"silver.{name}").scan()
    listed = ", ".join(columns)
    rows = con.execute(f"SELECT {listed}, _unavailable FROM {silver} WHERE NOT _deleted ORDER BY {key}").fetchall()
    assert not [row for row in rows if row[-1]], f"{name}: values that are not known"
    found = [dict(zip(columns, row, strict=False)) for row in rows]
    for row in found:
        if "lines" in row:
            row["lines"] = json.loads(row["lines"])
        if row.get("points") is not None:
            row["points"] = int(row["points"])
    assert found == expected, name


def check_history(con, lake, name, key):
    history = Table(lake, f"silver.{name}_history").scan()
    silver = Table(lake, f"silver.{name}").scan()
    broken = con.execute(
        f"SELECT {key} FROM (SELECT {key}, valid_from, valid_to, is_current, is_deleted, lead(valid_from) OVER "
        f"(PARTITION BY {key} ORDER BY valid_from) AS next_from FROM {history}) "
        "WHERE valid_to IS DISTINCT FROM next_from OR valid_to <= valid_from "
        "OR is_current <> (valid_to IS NULL AND NOT is_deleted)"
    ).fetchall()
    assert not broken, f"{name}: versions overlap or leave a gap"
    live = f"SELECT {key} FROM {silver} WHERE NOT _deleted"
    current = f"SELECT {key} FROM {history} WHERE is_current AND NOT is_deleted"
    assert con.execute(f"({live} EXCEPT ALL {current}) UNION ALL ({current} EXCEPT ALL {live})").fetchall() == []
