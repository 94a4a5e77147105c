"""Debezium on Kafka Connect, as connectors/postgres.json configures it, to silver: row by row the source's rows.

Needs Java 17 and Maven, which fetches the jars once. A broker, a worker and a consumer run on this machine only.
"""

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse
from uuid import uuid4

import pandera.polars as pa
import polars as pl
import psycopg
import pytest
from change_models import STATE, ChangeModels
from change_records import Shop
from postgres import execute

import pipeline_assets.ingest.cdc
from pipeline_assets.dbt_plugin import changes
from pipeline_assets.ingest.cdc.table.change_table import ChangeTable
from pipeline_assets.lake import Table
from pipeline_assets.settings import load_settings

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not (shutil.which("java") and shutil.which("mvn")), reason="needs Java and Maven"),
]

HERE = Path(__file__).parent / "live_connectors"
JARS = Path(__file__).parents[2] / ".pipeline" / "live-connectors"
SHIPPED = Path(pipeline_assets.ingest.cdc.__file__).parent / "connectors/postgres.json"
JAVA = ("java", "-Xms64m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", f"{JARS}/*")  # fmt: skip
PATIENCE_SECONDS = 240


class Thing(pa.DataFrameModel):
    """A row; what has no type of its own is its text."""

    id: pl.Int64
    price: pl.String = pa.Field(nullable=True)
    ratio: pl.String = pa.Field(nullable=True)
    note: pl.String = pa.Field(nullable=True)
    long: pl.String = pa.Field(nullable=True)
    document: pl.String = pa.Field(nullable=True)
    numbers: pl.String = pa.Field(nullable=True)
    words: pl.String = pa.Field(nullable=True)


TABLE = ChangeTable("public.things", "db__things", Thing, ("id",))
BEGIN = (
    "CREATE TABLE things (id bigint PRIMARY KEY, price numeric(38,10), ratio double precision, note text, long text, "
    "document jsonb, numbers int[], words text[])",
    "ALTER TABLE things ALTER long SET STORAGE EXTERNAL",
    "CREATE PUBLICATION pipeline_assets FOR TABLE things",
    "INSERT INTO things SELECT i, i + 0.0000000001, i / 3.0, 'n' || i, repeat('x', 9000) || i, "
    """'{"a": 2.50, "b": "s"}', ARRAY[i, NULL], ARRAY['a"b', NULL, ''] FROM generate_series(1, 200) i""",
)
CHANGES = (
    "UPDATE things SET note = note || '!' WHERE id % 2 = 0",  # leaves the TOASTed column out
    "UPDATE things SET price = 1234567890123456789012345678.0123456789, document = '\"s\"' WHERE id < 20",
    "UPDATE things SET numbers = '{}', words = NULL WHERE id BETWEEN 30 AND 40",
    "UPDATE things SET id = id + 1000 WHERE id BETWEEN 50 AND 60",
    "DELETE FROM things WHERE id > 150 AND id < 200",
    "INSERT INTO things (id, ratio) VALUES (5000, 5e-324), (5001, 'NaN'), (5002, 0.1)",
)
AFTER_TRUNCATE = ("TRUNCATE things", "INSERT INTO things (id, note) SELECT i, 'new' FROM generate_series(1, 20) i")


@contextmanager
def process(folder: Path, name: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    with (
        (folder / f"{name}.log").open("wb") as log,
        subprocess.Popen([*JAVA, *arguments], stdout=log, stderr=log) as it,
    ):
        try:
            yield it
        finally:
            it.terminate()
            try:
                it.wait(20)
            except subprocess.TimeoutExpired:
                it.kill()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def wait_for(what: Callable[[], bool], *processes: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not what():
        assert all(one.poll() is None for one in processes), "it ended: see its log"
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.5)


def answers(port: int) -> bool:
    with socket.socket() as found:
        return found.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="session")
def jars() -> None:
    if not any(JARS.glob("debezium-connector-postgres-*.jar")):
        command = ["mvn", "-q", "-B", "-f", str(HERE / "pom.xml"), "dependency:copy-dependencies"]
        got = subprocess.run([*command, f"-DoutputDirectory={JARS}"], capture_output=True, text=True, timeout=600)
        if got.returncode:
            pytest.skip("Maven could not fetch the connectors")


@pytest.fixture
def broker(jars: None, tmp_path: Path) -> Iterator[int]:
    port, controller = free_port(), free_port()
    settings = {
        "process.roles": "broker,controller", "node.id": "1", "log.dirs": str(tmp_path / "kafka"),
        "controller.quorum.voters": f"1@127.0.0.1:{controller}", "controller.listener.names": "CONTROLLER",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "offsets.topic.replication.factor": "1", "offsets.topic.num.partitions": "1",
        "group.initial.rebalance.delay.ms": "0",
    }  # fmt: skip
    config = tmp_path / "server.properties"
    config.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    name = "5L6g3nShT-eMCtK--X86sw"
    subprocess.run([*JAVA, "kafka.tools.StorageTool", "format", "-t", name, "-c", str(config)], check=True)
    with process(tmp_path, "broker", "kafka.Kafka", str(config)) as running:
        wait_for(lambda: answers(port), running)
        yield port


def connector(url: str, folder: Path) -> Path:
    """The shipped settings, but for the places."""
    place = urlparse(url)
    own = {
        "database.hostname": str(place.hostname), "database.port": str(place.port),
        "database.user": str(place.username), "database.password": unquote(place.password or ""),
        "database.dbname": place.path[1:], "table.include.list": "public.things", "topic.prefix": "live",
        "slot.name": f"live_{uuid4().hex[:8]}", "topic.creation.default.replication.factor": "1",
        "topic.creation.default.partitions": "3", "slot.drop.on.stop": "true",
    }  # fmt: skip
    file = folder / "connector.json"
    file.write_text(json.dumps({"name": "live", "config": json.loads(SHIPPED.read_text())["config"] | own}))
    return file


def consumed(broker: int, folder: Path) -> list[bytes]:
    """All records of the tables' topics, key and value, as a sink writes them."""
    arguments = ("--bootstrap-server", f"127.0.0.1:{broker}", "--include", r"live\..*", "--from-beginning",
                 "--timeout-ms", "8000", "--property", "print.key=true")  # fmt: skip
    command = [*JAVA, "org.apache.kafka.tools.consumer.ConsoleConsumer", *arguments]
    with (folder / "consumer.log").open("ab") as log:
        got = subprocess.run(command, stdout=subprocess.PIPE, stderr=log, timeout=120)
    pairs = (line.split(b"\t", 1) for line in got.stdout.splitlines() if b"\t" in line)
    return [b'{"key":' + key + b',"value":' + value + b"}" for key, value in pairs]


def source_rows(url: str) -> list[tuple[Any, ...]]:
    columns = "id, price::text, ratio, note, long, document::text, to_json(numbers), to_json(words)"
    with psycopg.connect(url) as session:
        rows = session.execute(f"SELECT {columns} FROM things ORDER BY id").fetchall()
    return [tuple(row) for row in rows]


def comparable(row: tuple[Any, ...]) -> tuple[Any, ...]:
    number, price, ratio, *texts, numbers, words = row
    lists = (json.loads(found) if isinstance(found, str) else found for found in (numbers, words))
    return (number, price, None if ratio is None else repr(float(ratio)), *texts, *lists)


def test_silver_equals_the_source_row_by_row(
    broker: int, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPELINE_LAKE_URI", str(tmp_path / "lake"))
    load_settings.cache_clear()
    monkeypatch.setattr(changes, "contract", lambda name: Thing)
    execute(database, *BEGIN)
    port = free_port()
    worker = {
        "bootstrap.servers": f"127.0.0.1:{broker}", "offset.storage.file.filename": str(tmp_path / "offsets"),
        "key.converter": "org.apache.kafka.connect.json.JsonConverter", "plugin.discovery": "service_load",
        "value.converter": "org.apache.kafka.connect.json.JsonConverter", "listeners": f"http://127.0.0.1:{port}",
        "plugin.path": str(tmp_path / "none"), "offset.flush.interval.ms": "1000",
    }  # fmt: skip
    (tmp_path / "worker.properties").write_text("".join(f"{name}={value}\n" for name, value in worker.items()))
    main = ("org.apache.kafka.connect.cli.ConnectStandalone", str(tmp_path / "worker.properties"))
    shop = Shop(tmp_path, TABLE)
    with ExitStack() as stack:
        running = stack.enter_context(process(tmp_path, "connect", *main, str(connector(database, tmp_path))))

        def landed(is_there: Callable[[list[bytes]], bool], name: str) -> None:
            def look() -> bool:
                lines = consumed(broker, tmp_path)
                shop.land(f"2026-01-02/{name}.jsonl", *lines)
                return is_there(lines)

            wait_for(look, running)
            shop.ingest()
            assert shop.letters("db__things") == []

        def silver() -> list[tuple[Any, ...]]:
            models = ChangeModels(shop.lake, Thing, ["id"], "0")
            models.run()
            columns = "id, price, ratio, note, long, document, numbers, words"
            scan = Table(shop.lake, STATE).scan()
            found = models.con.execute(f"SELECT {columns} FROM {scan} WHERE NOT _deleted ORDER BY id").fetchall()
            models.close()
            return [comparable(row) for row in found]

        def equal() -> None:
            assert silver() == [comparable(row) for row in source_rows(database)]

        landed(lambda lines: sum(b'"op":"r"' in line for line in lines) == 200, "a")
        equal()
        execute(database, *CHANGES)
        landed(lambda lines: any(b'"id":5002' in line for line in lines), "b")
        equal()
        execute(database, *AFTER_TRUNCATE)
        landed(lambda lines: sum(b'"note":"new"' in line for line in lines) == 20, "c")
        equal()
    load_settings.cache_clear()
