"""Reads the files of a table's log as they are, from disk or an object store; interprets nothing."""

from deltalake import DeltaTable
from deltalake.fs import DeltaStorageHandler
from pyarrow.fs import FileSystemHandler

FOLDER = "_delta_log"


def store_of(table: DeltaTable) -> FileSystemHandler:
    """Return the store that a table was opened from."""
    return DeltaStorageHandler.from_table(table._table)


def read(store: FileSystemHandler, name: str) -> bytes:
    """Read a file of the log.

    Raises:
        FileNotFoundError: It is not there.
    """
    return bytes(store.open_input_file(f"{FOLDER}/{name}").read())


def commit_file(version: int) -> str:
    """Name the file of a commit."""
    return f"{version:020d}.json"
