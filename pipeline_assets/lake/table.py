"""`Table`: the one place that commits to Delta tables. Append, replace, merge; each one commit, each idempotent.

How a write is made safe: the rows are first written as Parquet files that nobody sees (`files`). Then, until a version
is won from other writers (`commit_loop`): open the newest version, compare the positions in its log with those the
write expects, find the rows to replace, and commit the next version.

Reading tables is DuckDB's `delta_scan`; what changed since a version is in `changes`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import duckdb
from deltalake import DeltaTable, Schema, write_deltalake
from deltalake.exceptions import DeltaError
from deltalake.exceptions import TableNotFoundError as DeltaTableNotFoundError

from pipeline_assets.lake import commit_facts, commit_loop, merging, schemas
from pipeline_assets.lake import files as data_files
from pipeline_assets.lake.commit_loop import Plan
from pipeline_assets.lake.errors import (
    PositionMovedError,
    SchemaMismatchError,
    TableNotFoundError,
    TableUnreadableError,
)
from pipeline_assets.lake.files import DataFile
from pipeline_assets.lake.pruning import rows_near_keys
from pipeline_assets.lake.removal import plan_removal
from pipeline_assets.lake.storage import Lake, quote_names, quote_text


@dataclass(frozen=True)
class Table:
    """A Delta table of a lake, by name. Holds no state: each call opens the newest version.

    Attributes:
        lake: How it is reached.
        name: `<layer>.<snake_case>`, or what errors call a table that lies elsewhere.
        root: Where it lies, if not where the lake has a table of its name: a path or URI as `Lake.uri`.
    """

    lake: Lake
    name: str
    root: str | None = None

    @property
    def uri(self) -> str:
        """Root of the table."""
        return self.root or self.lake.table_uri(self.name)

    def exists(self) -> bool:
        """Whether the table has a log. Storage that cannot be asked is an error, not a "no"."""
        try:
            return DeltaTable.is_deltatable(self.uri, storage_options=dict(self.lake.storage_options))
        except Exception as error:
            raise TableUnreadableError(self.name, self.uri, error) from error

    def open(self, version: int | None = None) -> DeltaTable:
        """Opens the newest or a given version.

        Raises:
            TableNotFoundError: There is no table.
            TableUnreadableError: There is something, but it cannot be opened.
        """
        try:
            return DeltaTable(self.uri, version=version, storage_options=dict(self.lake.storage_options))
        except DeltaTableNotFoundError as error:
            raise TableNotFoundError(self.name, self.uri) from error
        except Exception as error:
            if not self.exists():
                raise TableNotFoundError(self.name, self.uri) from error
            raise TableUnreadableError(self.name, self.uri, error) from error

    def scan(self, version: int | None = None) -> str:
        """Gives the SQL table function that reads the table in a connection prepared by the lake."""
        at = "" if version is None else f", version => {version}"
        return f"delta_scan({quote_text(self.uri)}{at})"

    def position(self, name: str) -> int | None:
        """Reads a position (an application transaction) from the log; None when it, or the table, is not there."""
        return self.open().transaction_version(name) if self.exists() else None

    def create(
        self,
        schema: Schema,
        *,
        partition_by: Sequence[str] = (),
        date_column: str | None = None,
        description: str | None = None,
    ) -> None:
        """Creates the table unless it is there; adds columns that it lacks.

        Args:
            schema: The columns. Types of columns that exist are not changed.
            partition_by: Delta partition columns.
            date_column: The column whose dates each commit lists as touched, for what lies downstream.
            description: Shown by catalogs.
        """
        if not self.exists():
            configuration: dict[str, str | None] = {commit_facts.DATE_COLUMN: date_column} if date_column else {}
            try:
                DeltaTable.create(
                    self.uri,
                    schema,
                    partition_by=list(partition_by),
                    name=self.name,
                    description=description,
                    configuration=configuration,
                    storage_options=dict(self.lake.storage_options),
                    raise_if_key_not_exists=False,
                )
            except DeltaError:
                if not self.exists():  # else it appeared between the question and the answer
                    raise
        table = self.open()
        known = {column.name for column in table.schema().fields}
        if new := [column for column in schema.fields if column.name not in known]:
            try:
                table.alter.add_columns(new)
            except DeltaError:
                known = {column.name for column in self.open().schema().fields}
                if any(column.name not in known for column in new):
                    raise

    def set_properties(
        self,
        properties: Mapping[str, str],
        *,
        version: int | None = None,
        metadata: Mapping[str, str] | None = None,
        max_retries: int,
    ) -> None:
        """Sets table properties, in a commit of its own.

        Args:
            properties: Name to value; others stay as they are.
            version: The version that they follow from; the newest one if not given.
            metadata: Further facts, kept in the commit.
            max_retries: How many commits of others it may come after; with 0 it is the next one, or none.

        Raises:
            CommitFailedError: Others committed; nothing was set.
        """
        self.open(version).alter.set_table_properties(
            dict(properties),
            raise_if_not_exists=False,
            commit_properties=commit_facts.properties(None, metadata, retries=max_retries),
        )

    def append(
        self,
        con: duckdb.DuckDBPyConnection,
        rows: str,
        *,
        batch_id: str,
        expect: Mapping[str, int | None] | None = None,
        positions: Mapping[str, int] | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> int | None:
        """Appends a batch once: the same `batch_id` again changes nothing.

        Args:
            con: Connection that the query's tables live in.
            rows: A query; its columns and types are the table's.
            batch_id: Deterministic name of the batch, kept in the log.
            expect: Further positions as they were when the batch was planned.
            positions: Further positions to set, e.g. the upstream version that the batch ends at.
            metadata: Further facts of the batch, kept in the commit.

        Returns:
            The version committed, or None when the batch was there already or another run moved a position.
        """
        if self.position(batch_id) is not None:
            return None
        files = self._write(con, rows)
        try:
            return self.commit(
                con,
                files,
                expect={**(expect or {}), batch_id: None},
                positions={**(positions or {}), batch_id: 1},
                metadata={"batch_id": batch_id, **(metadata or {})},
            )
        except PositionMovedError:
            for file in files:
                data_files.discard(self.uri, file.path)
            return None

    def replace(
        self,
        con: duckdb.DuckDBPyConnection,
        rows: str,
        *,
        where: str,
        expect: Mapping[str, int | None] | None = None,
        positions: Mapping[str, int] | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> int:
        """Replaces the rows that a predicate selects by the rows of a query, in one commit.

        Files without a selected row are neither read nor rewritten; files selected whole are dropped unread.

        Args:
            con: Connection that the query's tables live in.
            rows: A query; its columns and types are the table's.
            where: SQL predicate on the table's columns: a range of dates, keys in a query, `TRUE` for all.
            expect: Positions as they were when the rows were planned.
            positions: Application transactions to set, e.g. the upstream versions that the rows reflect.
            metadata: Further facts, kept in the commit.

        Returns:
            The version committed.

        Raises:
            PositionMovedError: Another run moved a position meanwhile; nothing was committed.
        """
        return self.commit(
            con, self._write(con, rows), where=where, expect=expect, positions=positions, metadata=metadata
        )

    def overwrite(
        self,
        con: duckdb.DuckDBPyConnection,
        rows: str,
        *,
        positions: Mapping[str, int] | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> int:
        """Replaces all rows, and the schema if the query's differs. One commit; history stays readable."""
        table = self.open()
        schema = data_files.query_schema(con, rows)
        if schemas.types(schema) == schemas.types(table.schema()):
            return self.replace(con, rows, where="TRUE", positions=positions, metadata=metadata)
        write_deltalake(
            table,
            con.sql(rows).to_arrow_reader(),
            mode="overwrite",
            schema_mode="overwrite",
            commit_properties=commit_facts.properties(positions, metadata, retries=commit_loop.ATTEMPTS),
        )
        return self.open().version()

    def replace_keys(
        self,
        con: duckdb.DuckDBPyConnection,
        rows: str,
        *,
        keys: Sequence[str],
        also: str | None = None,
        expect: Mapping[str, int | None] | None = None,
        positions: Mapping[str, int] | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> int:
        """Replaces the rows of some keys by the rows of a query, in one commit.

        Partitions that cannot hold a key are not read, if the partition column is one of `keys` (`rows_near_keys`).

        Args:
            con: Connection that the query's tables live in.
            rows: A relation; its columns and types are the table's. Stored rows of its keys are replaced.
            keys: Columns that name the rows to replace.
            also: Relation of further keys, whose stored rows go.
            expect: Positions as they were when the rows were planned.
            positions: Application transactions to set.
            metadata: Further facts, kept in the commit.

        Returns:
            The version committed.

        Raises:
            PositionMovedError: Another run moved a position meanwhile; nothing was committed.
        """
        gone = "replaced_keys"
        further = f" UNION ALL SELECT {quote_names(keys)} FROM {also}" if also else ""
        con.execute(f"CREATE OR REPLACE TEMP TABLE {gone} AS SELECT {quote_names(keys)} FROM ({rows}){further}")
        files = self._write(con, rows)

        def plan(table: DeltaTable) -> Plan:
            stored = rows_near_keys(con, table, self.scan(table.version()), keys, gone)
            where = f"({quote_names(keys)}) IN (SELECT {quote_names(keys)} FROM {gone})"
            removal = plan_removal(con, table, self.uri, stored, where, commit_facts.date_column(table))
            return Plan(files, removal)

        return self._commit(con, plan, expect=expect, positions=positions, metadata=metadata)

    def merge(
        self,
        con: duckdb.DuckDBPyConnection,
        rows: str,
        *,
        keys: Sequence[str],
        sequence: Sequence[str],
        expect: Mapping[str, int | None] | None = None,
        positions: Mapping[str, int] | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> int:
        """Upserts by key; a row whose sequence is less than the stored one's never wins.

        Of equal sequences the stored row stays, unless the content differs. Partitions that cannot hold a key are not
        read, if the partition column is one of `keys` (`rows_near_keys`).

        Args:
            con: Connection that the query's tables live in.
            rows: A query; its columns and types are the table's. Several rows of a key: the greatest sequence counts.
            keys: Columns that name a row; not null.
            sequence: Columns that order the versions of a row, most significant first; not null.
            expect: Positions as they were when the rows were planned.
            positions: Application transactions to set.
            metadata: Further facts, kept in the commit.

        Returns:
            The table's version afterwards; unchanged when every row was old news and no position moved.

        Raises:
            PositionMovedError: Another run moved a position meanwhile; nothing was committed.
        """
        merging.take_in(con, self.name, rows, keys, sequence)

        def plan(table: DeltaTable) -> Plan:
            stored = rows_near_keys(con, table, self.scan(table.version()), keys, merging.INCOMING)
            merging.find_winners(con, stored, list(schemas.types(table.schema())), keys, sequence)
            files = self._write(con, f"SELECT * FROM {merging.WINNERS}")
            if not files:
                return Plan([])
            where = f"({quote_names(keys)}) IN (SELECT {quote_names(keys)} FROM {merging.WINNERS})"
            removal = plan_removal(con, table, self.uri, stored, where, commit_facts.date_column(table))
            return Plan(files, removal, own_files=True)

        return self._commit(con, plan, expect=expect, positions=positions, metadata=metadata)

    def commit(
        self,
        con: duckdb.DuckDBPyConnection,
        files: Sequence[DataFile],
        *,
        where: str | None = None,
        expect: Mapping[str, int | None] | None = None,
        positions: Mapping[str, int] | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> int:
        """Commits files that are already written, optionally in place of the rows that `where` selects.

        Args:
            con: A connection of the lake.
            files: What `files.write_parquet` gave.
            where: SQL predicate on the rows to remove.
            expect: Positions as they were when the files were planned.
            positions: Positions to set in the same commit.
            metadata: Further facts, kept in the commit.

        Returns:
            The version committed; the newest one when there was nothing to do.

        Raises:
            PositionMovedError: The log holds other positions than expected; nothing was committed.
            CommitConflictError: Too many conflicts with other writers.
        """

        def plan(table: DeltaTable) -> Plan:
            if not where:
                return Plan(files)
            rows = f"(SELECT *, filename FROM {self.scan(table.version())})"
            removal = plan_removal(con, table, self.uri, rows, where, commit_facts.date_column(table))
            return Plan(files, removal, replaces_all=where == "TRUE")

        return self._commit(con, plan, expect=expect, positions=positions, metadata=metadata)

    def _commit(
        self,
        con: duckdb.DuckDBPyConnection,
        plan: Callable[[DeltaTable], Plan],
        *,
        expect: Mapping[str, int | None] | None,
        positions: Mapping[str, int] | None,
        metadata: Mapping[str, str] | None,
    ) -> int:
        return commit_loop.commit(
            con, self.name, self.open, self.uri, plan, expect=expect, positions=positions, metadata=metadata
        )

    def _write(self, con: duckdb.DuckDBPyConnection, rows: str) -> list[DataFile]:
        """Writes a query's rows as files of this table, refusing what does not fit its schema."""
        table = self.open()
        wanted, given = schemas.types(table.schema()), schemas.types(data_files.query_schema(con, rows))
        problems = schemas.misfits(wanted, given)
        if problems:
            raise SchemaMismatchError(self.name, problems)
        partition_by = table.metadata().partition_columns
        return data_files.write_parquet(
            con, f"SELECT {quote_names(list(wanted))} FROM ({rows})", self.uri, partition_by=partition_by
        )
