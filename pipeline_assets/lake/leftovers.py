"""Deletes data files that no version names: files of a failed write, and files of a failed commit.

The writer knows which files these are. Files that no process knows any more are found by vacuum.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import duckdb
from deltalake.fs import DeltaStorageHandler
from pyarrow.fs import FileSelector, PyFileSystem

from pipeline_assets.lake.errors import reason
from pipeline_assets.sql import quote_name, quote_text

_LOG = logging.getLogger(__name__)

# Listing the whole table gives 1,000 files per request; a write to so many partitions has changed much of it anyway.
_MOST_FOLDERS = 100


def sweep(
    con: duckdb.DuckDBPyConnection,
    select: str,
    table_uri: str,
    target: str,
    partition_by: Sequence[str],
    storage_options: Mapping[str, str] | None,
) -> None:
    """Delete the files that a failed COPY left.

    Args:
        con: The connection of the COPY.
        select: Its query.
        table_uri: Root of the table.
        target: Start of the names of its files; with `partition_by` they lie in the folders of partitions below.
        partition_by: Columns that the COPY made folders of.
        storage_options: How an object store is reached.
    """
    folder, _, name = target.rpartition("/")
    try:
        if "://" not in table_uri:
            found = Path(folder).glob(f"{'*/' * len(partition_by)}*{name}*")  # DuckDB writes tmp_<name> first
            paths = [path.relative_to(table_uri).as_posix() for path in found]
        elif not partition_by:
            paths = [f"{target}.parquet".removeprefix(table_uri).lstrip("/")]
        elif storage_options is None:
            return
        else:
            store = PyFileSystem(DeltaStorageHandler(table_uri, dict(storage_options)))
            folders = _folders(con, select, partition_by)
            listed = (file for selected in _selectors(folders) for file in store.get_file_info(selected))
            paths = [file.path for file in listed if file.base_name.startswith(name)]
    except (OSError, duckdb.Error) as error:
        _LOG.warning("%s cannot be searched for what a failed write left, vacuum will find it: %s", table_uri, error)
    else:
        delete(table_uri, paths, storage_options)


def _folders(con: duckdb.DuckDBPyConnection, select: str, partition_by: Sequence[str]) -> list[str]:
    """Return the folders of the partitions that a query has rows of, as DuckDB names them."""
    parts = (
        f"{quote_text(f'{name}=')} || coalesce(url_encode({quote_name(name)}::VARCHAR), '__HIVE_DEFAULT_PARTITION__')"
        for name in partition_by
    )
    found = con.execute(f"SELECT DISTINCT concat_ws('/', {', '.join(parts)}) FROM ({select})").fetchall()
    return [folder for (folder,) in found]


def _selectors(folders: Sequence[str]) -> list[FileSelector]:
    if len(folders) > _MOST_FOLDERS:
        return [FileSelector("", recursive=True)]
    return [FileSelector(folder, allow_not_found=True) for folder in folders]


def delete(table_uri: str, paths: Sequence[str], storage_options: Mapping[str, str] | None) -> None:
    """Delete files, trying twice. A file that stays is no reason to fail: no reader sees it.

    Args:
        table_uri: Root of the table.
        paths: Paths of the files below it.
        storage_options: How an object store is reached.
    """
    is_local = "://" not in table_uri
    if not paths or (not is_local and storage_options is None):
        return
    for _ in range(2):
        paths, error = _undeleted(table_uri, paths, storage_options or {}, is_local=is_local)
        if not paths:
            return
    _LOG.warning("%s keeps %s files that no version names, for vacuum: %s", table_uri, len(paths), reason(error))


def _undeleted(
    table_uri: str, paths: Sequence[str], storage_options: Mapping[str, str], *, is_local: bool
) -> tuple[list[str], BaseException]:
    left, last = [], BaseException()
    store = None if is_local else DeltaStorageHandler(table_uri, dict(storage_options))
    for path in paths:
        try:
            if store is None:
                Path(table_uri, path).unlink(missing_ok=True)
            else:
                store.delete_file(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            left.append(path)
            last = error
    return left, last
