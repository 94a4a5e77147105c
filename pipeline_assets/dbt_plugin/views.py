"""The tables of the lake as one dbt run sees them: each at one version, as a view in dbt's DuckDB."""

from collections.abc import Collection
from threading import RLock

import duckdb
from deltalake import DeltaTable

from pipeline_assets.dbt_plugin.plan import Pin, Run, is_optional, model_options
from pipeline_assets.lake import LakeError, Table, TableNotFoundError, audited_in, position_name, published
from pipeline_assets.sql import quote_name

WORK = "work"
"""Schema of the in-memory helpers of one run (touched keys, touched rows); never a lake layer."""


class Views:
    """The tables of a run, as views.

    Attributes:
        run: State of the invocation.
    """

    def __init__(self, con: duckdb.DuckDBPyConnection, run: Run) -> None:
        self._con, self._lock, self.run = con, RLock(), run

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """Return a cursor of dbt's connection."""
        return self._con.cursor()

    def open(self, names: Collection[str], may_be_empty: Collection[str]) -> None:
        """Pin and register tables.

        A table that was never built is registered as empty if its name is in `may_be_empty`.
        """
        self._forget()
        for name in sorted(names):
            try:
                self._pin(name)
            except TableNotFoundError:
                if name in may_be_empty:
                    self._register_empty(name)

    def pin(self, name: str, reader: str) -> Pin:
        """Return the version of a table that this run reads; register its view the first time.

        Raises:
            LakeError: The table was never built.
        """
        try:
            return self._pin(name)
        except TableNotFoundError as error:
            raise LakeError(
                f"{reader} reads {name}, which has never been built (nothing at {Table(self.run.lake, name).uri}): "
                f"materialize {name.replace('.', '/')} first, then run {reader} again"
            ) from error

    def find(self, name: str, reader: str) -> Pin | None:
        """Return the version as `pin` does; None for an optional table that was never built, whose view is empty."""
        if not is_optional(self.run.nodes.get(name, {})):
            return self.pin(name, reader)
        pin = self.built(name)
        if pin is None:
            self._register_empty(name)
        return pin

    def built(self, name: str) -> Pin | None:
        """Return the version of a table that this run reads, as `pin` does; None if it was never built."""
        try:
            return self._pin(name)
        except TableNotFoundError:
            return None

    def set_pin(self, table: Table, opened: DeltaTable) -> Pin:
        """Make the opened version the one that this run reads from now on."""
        pin = self.run.pins[table.name] = Pin(table, opened, position_name(table, opened))
        self._remember_owed(pin)
        self._register(table.name, f"SELECT * FROM {table.scan(pin.version)} WHERE {published(opened)}")
        return pin

    def _pin(self, name: str) -> Pin:
        with self._lock:
            if name not in self.run.pins:
                table = Table(self.run.lake, name)
                opened = table.open()
                # Silver does not see rows of bronze that were not audited yet.
                audited = audited_in(opened)
                self.set_pin(table, opened if audited in (None, opened.version()) else table.open(audited))
            return self.run.pins[name]

    def _register(self, name: str, select: str) -> None:
        cursor = self.cursor()
        cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {quote_name(name.split('.')[0])}")
        cursor.execute(f"CREATE OR REPLACE VIEW {relation(name)} AS {select}")

    def _register_empty(self, name: str) -> None:
        """Register a view without rows, with the declared columns: unit tests take their fixtures' types from it."""
        columns = self.run.nodes[name]["columns"].values() or [{"name": "_", "data_type": "int"}]
        typed = [
            f"CAST(NULL AS {column.get('data_type') or 'varchar'}) AS {quote_name(column['name'])}"
            for column in columns
        ]
        self._register(name, f"SELECT {', '.join(typed)} WHERE false")

    def _remember_owed(self, pin: Pin) -> None:
        """Note the days that downstream tables have yet to apply: their data tests check them again."""
        name = pin.table.name
        readers = [Table(self.run.lake, reader) for reader in self.run.readers.get(name, [])]
        if not readers or not model_options(self.run.nodes[name]).get("date_column"):
            return
        applied = [version for reader in readers if (version := reader.position(pin.position)) is not None]
        # None (no reader has applied anything) means everything; the oldest version covers the younger ones.
        self.run.owed[name] = pin.changes_since(min(applied, default=None)).added

    def _forget(self) -> None:
        """Drop the views of the last invocation in this process: dbt keeps its connection, and with it the views."""
        cursor = self.cursor()
        cursor.execute(f"DROP SCHEMA IF EXISTS {WORK} CASCADE")
        cursor.execute(f"CREATE SCHEMA {WORK}")
        views = cursor.execute("SELECT schema_name || '.' || view_name FROM duckdb_views() WHERE NOT internal")
        for (name,) in views.fetchall():
            if name in self.run.nodes:
                cursor.execute(f"DROP VIEW {relation(name)}")


def relation(name: str) -> str:
    """Quote a table's name for SQL."""
    return ".".join(quote_name(part) for part in name.split("."))


def work(name: str) -> str:
    """Return the name of a helper relation."""
    return f"{WORK}.{quote_name(name)}"
