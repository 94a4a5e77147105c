"""`TableReader`: where a table of the lake is, and how it is read. How it is written is in `table`."""

from collections.abc import Iterable
from dataclasses import dataclass

import duckdb
from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError as DeltaTableNotFoundError

from pipeline_assets.lake import files as data_files
from pipeline_assets.lake.errors import TableNotFoundError, TableUnreadableError
from pipeline_assets.lake.files import DataFile
from pipeline_assets.lake.storage import Lake
from pipeline_assets.sql import quote_text


@dataclass(frozen=True)
class TableReader:
    """A Delta table of a lake, by name. Holds no state: each call opens the newest version.

    Attributes:
        lake: The lake that holds it.
        name: `<layer>.<snake_case>`, or the name that errors use for a table that lies elsewhere.
        root: Its place, if it is not where the lake keeps a table of its name: a path or URI as `Lake.uri`.
    """

    lake: Lake
    name: str
    root: str | None = None

    @property
    def uri(self) -> str:
        """Root of the table."""
        return self.root or self.lake.table_uri(self.name)

    def exists(self) -> bool:
        """Tell whether the table has a log. Storage that gives no answer is an error, not a "no"."""
        try:
            return DeltaTable.is_deltatable(self.uri, storage_options=dict(self.lake.storage_options))
        except Exception as error:
            raise TableUnreadableError(self.name, self.uri, error) from error

    def open(self, version: int | None = None) -> DeltaTable:
        """Open the newest or a given version.

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

    def refresh(self, opened: DeltaTable) -> None:
        """Bring an opened table to the newest version by reading the new commits only.

        Opening it again would read the whole log.

        Raises:
            TableUnreadableError: The new commits cannot be read.
        """
        try:
            opened.update_incremental()
        except Exception as error:
            raise TableUnreadableError(self.name, self.uri, error) from error

    def scan(self, version: int | None = None) -> str:
        """Return the SQL table function that reads the table in a connection prepared by the lake."""
        at = "" if version is None else f", version => {version}"
        return f"delta_scan({quote_text(self.uri)}{at})"

    def columns(self, con: duckdb.DuckDBPyConnection) -> dict[str, str]:
        """Give the columns with their types, as DuckDB names them."""
        return {name: kind for name, kind, *_ in con.execute(f"DESCRIBE SELECT * FROM {self.scan()}").fetchall()}

    def position(self, name: str) -> int | None:
        """Read a position (an application transaction) from the log.

        Return None when the position or the table does not exist.
        """
        try:
            return self.open().transaction_version(name)
        except TableNotFoundError:
            return None

    def delete_uncommitted(self, files: Iterable[DataFile]) -> None:
        """Delete files that were written for the table, except those that a version may name."""
        data_files.delete_uncommitted(self.uri, files, self.lake.storage_options)
