"""`Table`: the only place that commits to Delta tables. Append, replace, merge: each is one commit, each is idempotent.

How a write is made safe: the rows are first written as Parquet files that no reader sees (`files`). Then the writer
repeats these steps until it wins a version from other writers (`commit_loop`): open the newest version, compare the
positions in its log with those that the write expects, find the rows to replace, and commit the next version.

Tables are read by DuckDB's `delta_scan`; what changed since a version is in `changes`.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import duckdb
from deltalake import DeltaTable, Schema

from pipeline_assets.lake import commit_facts, commit_loop, merging, schemas, shape
from pipeline_assets.lake import files as data_files
from pipeline_assets.lake.commit_loop import Plan
from pipeline_assets.lake.errors import PositionMovedError, SchemaMismatchError
from pipeline_assets.lake.files import DataFile
from pipeline_assets.lake.pruning import rows_near_keys
from pipeline_assets.lake.reading import TableReader
from pipeline_assets.lake.removal import Removal, plan_removal
from pipeline_assets.lake.schemas import Widening
from pipeline_assets.sql import quote_name, quote_names

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Table(TableReader):
    """A Delta table of a lake, by name. Holds no state: each call opens the newest version.

    A write takes over the files that it is given: afterwards they are in the table, or deleted. Only a write that ends
    without knowing whether it is in the table (`CommitUnknownError`) leaves them. Nothing is committed, and
    PositionMovedError is raised, if another run has meanwhile moved a position that the write expects.

    Attributes:
        lake: The lake that holds it.
        name: `<layer>.<snake_case>`, or the name that errors use for a table that lies elsewhere.
        root: Its place, if it is not where the lake keeps a table of its name: a path or URI as `Lake.uri`.
    """

    def create(
        self,
        schema: Schema,
        *,
        partition_by: Sequence[str] = (),
        date_column: str | None = None,
        description: str | None = None,
    ) -> None:
        """Create the table unless it exists; add columns that it lacks.

        Args:
            schema: The columns. Types of columns that exist are not changed.
            partition_by: Delta partition columns.
            date_column: The column whose dates each commit lists as touched, for tables downstream.
            description: Shown by catalogs.
        """
        shape.create(self, schema, partition_by=partition_by, date_column=date_column, description=description)

    def set_properties(
        self, properties: Mapping[str, str], *, version: int | None = None, metadata: Mapping[str, str] | None = None
    ) -> int:
        """Set table properties in a separate commit.

        Args:
            properties: Name to value; other properties stay as they are.
            version: The version that the commit must directly follow; any version if not given.
            metadata: Further facts, kept in the commit.

        Returns:
            The version committed.

        Raises:
            CommitConflictError: Another writer committed first; nothing was set.
        """
        return shape.set_properties(self, properties, version=version, metadata=metadata)

    def write(
        self,
        con: duckdb.DuckDBPyConnection,
        select: str,
        *,
        partition_by: Sequence[str] = (),
        partition_values: Mapping[str, str | None] | None = None,
        is_wide: bool = False,
    ) -> list[DataFile]:
        """Write files for a later `commit` (or `delete_uncommitted`); see `files.write_parquet`."""
        return data_files.write_parquet(
            con,
            select,
            self.uri,
            partition_by=partition_by,
            partition_values=partition_values,
            storage_options=self.lake.storage_options,
            is_wide=is_wide,
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
        """Append a batch once: the same `batch_id` again changes nothing.

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
        opened = self.open()
        if opened.transaction_version(batch_id) is not None:
            return None
        files, types = self._write(con, rows, opened)
        try:
            return self.commit(
                con,
                files,
                types=types,
                expect={**(expect or {}), batch_id: None},
                positions={**(positions or {}), batch_id: 1},
                metadata={"batch_id": batch_id, **(metadata or {})},
            )
        except PositionMovedError:
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
        """Replace the rows that a predicate selects by the rows of a query, in one commit. Return its version.

        Files without a selected row are neither read nor rewritten; files whose rows are all selected are dropped
        unread.

        Args:
            con: Connection that the query's tables live in.
            rows: A query; its columns and types are the table's.
            where: SQL predicate on the table's columns: a range of dates, keys in a query, `TRUE` for all.
            expect: Positions as they were when the rows were planned.
            positions: Application transactions to set, e.g. the upstream versions that the rows reflect.
            metadata: Further facts, kept in the commit.
        """
        files, types = self._write(con, rows)
        return self.commit(con, files, types=types, where=where, expect=expect, positions=positions, metadata=metadata)

    def overwrite(
        self,
        con: duckdb.DuckDBPyConnection,
        rows: str,
        *,
        expect: Mapping[str, int | None] | None = None,
        positions: Mapping[str, int] | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> int:
        """Replace all rows, and the schema if the query's differs. One commit; the history stays readable."""
        table = self.open()
        schema = data_files.query_schema(con, rows)
        if schemas.types(schema) == schemas.types(table.schema()):
            files, types = self._write(con, rows, table, schema)
            return self.commit(
                con, files, types=types, where="TRUE", expect=expect, positions=positions, metadata=metadata
            )
        shape.allow(self, schema)
        files = self.write(con, rows, partition_by=table.metadata().partition_columns)
        return self._commit(
            con, lambda _: Plan(files, schema=schema), files, expect=expect, positions=positions, metadata=metadata
        )

    def retype(self, con: duckdb.DuckDBPyConnection, columns: Mapping[str, str]) -> int:
        """Give columns other types: rewrite all rows in one commit. History and positions stay.

        The commit does not list which dates changed, so tables downstream are rebuilt with the new types.

        Args:
            con: A connection of the lake.
            columns: Column name to SQL of its new value, over the stored columns.

        Returns:
            The version committed.
        """
        listed = ", ".join(f"{value} AS {quote_name(name)}" for name, value in columns.items())
        shape.allow(self, data_files.query_schema(con, f"SELECT * REPLACE ({listed}) FROM {self.scan()}"))

        def plan(table: DeltaTable) -> Plan:
            rows = f"SELECT * REPLACE ({listed}) FROM {self.scan(table.version())}"
            schema = data_files.query_schema(con, rows)  # first, because a failure after writing would leave files
            files = self.write(con, rows, partition_by=table.metadata().partition_columns)
            return Plan(files, own_files=True, schema=schema)

        return self._commit(con, plan, (), expect=None, positions=None, metadata=None)

    def widen(self, con: duckdb.DuckDBPyConnection, schema: Schema) -> list[Widening]:
        """Give columns the types of a schema, where every possible value stays what it is.

        The first run that needs it rewrites all rows; a log message says so beforehand.

        Returns:
            What was widened.
        """
        opened = self.open()
        wider = schemas.widenings(schemas.types(opened.schema()), schemas.types(schema))
        if wider:
            listed = ", ".join(map(str, wider))
            _LOG.warning("table %s: %s, for which all %s rows are rewritten", self.name, listed, opened.count())
            self.retype(con, {each.column: f"CAST({quote_name(each.column)} AS {each.wanted})" for each in wider})
        return wider

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
        """Replace the rows of some keys by the rows of a query, in one commit.

        If the partition column is one of `keys`, partitions that cannot hold a key are not read (`rows_near_keys`).

        Args:
            con: Connection that the query's tables live in.
            rows: A relation; its columns and types are the table's. Stored rows of its keys are replaced.
            keys: Columns that name the rows to replace.
            also: Relation of further keys whose stored rows are removed.
            expect: Positions as they were when the rows were planned.
            positions: Application transactions to set.
            metadata: Further facts, kept in the commit.

        Returns:
            The version committed.
        """
        gone = "replaced_keys"
        further = f" UNION ALL SELECT {quote_names(keys)} FROM {also}" if also else ""
        con.execute(f"CREATE OR REPLACE TEMP TABLE {gone} AS SELECT {quote_names(keys)} FROM ({rows}){further}")
        files, types = self._write(con, rows)

        def plan(table: DeltaTable) -> Plan:
            stored = rows_near_keys(con, table, self.scan(table.version()), keys, gone)
            where = f"({quote_names(keys)}) IN (SELECT {quote_names(keys)} FROM {gone})"
            return Plan(files, self._removal(con, table, stored, where))

        return self._commit(con, plan, files, types=types, expect=expect, positions=positions, metadata=metadata)

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
        """Upsert by key; a row whose sequence is less than the stored one's never wins.

        If the sequences are equal, the stored row stays unless the content differs. If the partition column is one of
        `keys`, partitions that cannot hold a key are not read (`rows_near_keys`).

        Args:
            con: Connection that the query's tables live in.
            rows: A query; its columns and types are the table's. Of several rows of a key, the greatest sequence
                counts.
            keys: Columns that name a row; not null.
            sequence: Columns that order the versions of a row, most significant first; not null.
            expect: Positions as they were when the rows were planned.
            positions: Application transactions to set.
            metadata: Further facts, kept in the commit.

        Returns:
            The table's version afterwards; unchanged when no row won and no position moved.
        """
        merging.load_incoming(con, self.name, rows, keys, sequence)
        given = schemas.types(data_files.query_schema(con, f"FROM {merging.INCOMING}"))

        def plan(table: DeltaTable) -> Plan:
            self._refuse_misfit(schemas.types(table.schema()), given)
            stored = rows_near_keys(con, table, self.scan(table.version()), keys, merging.INCOMING)
            merging.find_winners(con, stored, list(schemas.types(table.schema())), keys, sequence)
            files, _ = self._write(con, f"SELECT * FROM {merging.WINNERS}")
            if not files:
                return Plan([])
            where = f"({quote_names(keys)}) IN (SELECT {quote_names(keys)} FROM {merging.WINNERS})"
            try:
                return Plan(files, self._removal(con, table, stored, where), own_files=True)
            except BaseException:
                self.delete_uncommitted(files)
                raise

        return self._commit(con, plan, (), expect=expect, positions=positions, metadata=metadata)

    def commit(
        self,
        con: duckdb.DuckDBPyConnection,
        files: Sequence[DataFile],
        *,
        types: Mapping[str, str] | None = None,
        where: str | None = None,
        expect: Mapping[str, int | None] | None = None,
        positions: Mapping[str, int] | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> int:
        """Commit files that are already written, optionally in place of the rows that `where` selects.

        Args:
            con: A connection of the lake.
            files: What `files.write_parquet` returned.
            types: Column name to Delta type as the files have them. If another run has given the table other types
                meanwhile, the table would become unreadable with these files.
            where: SQL predicate on the rows to remove.
            expect: Positions as they were when the files were planned.
            positions: Positions to set in the same commit.
            metadata: Further facts, kept in the commit.

        Returns:
            The version committed; the newest one when there was nothing to do.

        Raises:
            PositionMovedError: The log holds other positions than expected; nothing was committed.
            TypesMovedError: The table has other types by now; nothing was committed.
            CommitConflictError: Too many conflicts with other writers.
        """

        def plan(table: DeltaTable) -> Plan:
            if not where:
                return Plan(files)
            rows = f"(SELECT *, filename FROM {self.scan(table.version())})"
            return Plan(files, self._removal(con, table, rows, where), replaces_all=where == "TRUE")

        return self._commit(con, plan, files, types=types, expect=expect, positions=positions, metadata=metadata)

    def _commit(
        self,
        con: duckdb.DuckDBPyConnection,
        plan: Callable[[DeltaTable], Plan],
        files: Sequence[DataFile],
        *,
        expect: Mapping[str, int | None] | None,
        positions: Mapping[str, int] | None,
        metadata: Mapping[str, str] | None,
        types: Mapping[str, str] | None = None,
    ) -> int:
        try:
            return commit_loop.commit(
                con, self, plan, expect=expect, positions=positions, metadata=metadata, types=types
            )
        except BaseException:
            self.delete_uncommitted(files)
            raise

    def _removal(self, con: duckdb.DuckDBPyConnection, table: DeltaTable, rows: str, where: str) -> Removal:
        column = commit_facts.date_column(table)
        return plan_removal(con, table, self.uri, rows, where, column, self.lake.storage_options)

    def _write(
        self,
        con: duckdb.DuckDBPyConnection,
        rows: str,
        opened: DeltaTable | None = None,
        schema: Schema | None = None,
    ) -> tuple[list[DataFile], dict[str, str]]:
        """Write a query's rows as files of this table and return the files and the table's types.

        Refuse rows that do not fit. `opened` and `schema` (of the query) are looked up if the caller has none.
        """
        table = opened or self.open()
        wanted = schemas.types(table.schema())
        given = schemas.types(schema or data_files.query_schema(con, rows))
        self._refuse_misfit(wanted, given)
        select = f"SELECT {quote_names(list(wanted))} FROM ({rows})"
        return self.write(con, select, partition_by=table.metadata().partition_columns), wanted

    def _refuse_misfit(self, wanted: Mapping[str, str], given: Mapping[str, str]) -> None:
        if problems := schemas.misfits(wanted, given):
            raise SchemaMismatchError(self.name, problems)
