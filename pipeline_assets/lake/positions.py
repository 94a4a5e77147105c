"""The positions (application transactions) in a table's log, all read at once.

delta-rs finds one position in one pass over the log (3 to 10 ms in a log of 20,000 positions) and makes another pass
for the next one: plans that ask for some thousands took minutes. One pass here finds all positions, at the cost of two
or three passes of delta-rs.
"""

import json
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

from deltalake import DeltaTable
from pyarrow.fs import FileSelector, FileSystemHandler, PyFileSystem

from pipeline_assets.lake import log
from pipeline_assets.lake.errors import TableUnreadableError

# A request to an object store waits 5 to 10 ms; a log has up to 100 commits since its last checkpoint.
_REQUESTS_AT_ONCE = 16
_ONE_BY_ONE = 4


def positions_of(table: DeltaTable, names: Collection[str]) -> dict[str, int | None]:
    """Return some positions of the opened version in the cheaper way: a few one by one, many in one pass."""
    if len(names) <= _ONE_BY_ONE:
        return {name: table.transaction_version(name) for name in names}
    known = Positions(table)
    return {name: known.get(name) for name in names}


class Positions:
    """The positions of the opened version of a table.

    The log is read when the first position is asked for, not before.
    """

    def __init__(self, table: DeltaTable, prefix: str = "") -> None:
        """Read nothing yet.

        Args:
            table: The opened version.
            prefix: Of the names that will be asked for: a log of 100,000 files and 300 days has few of days. Names that
                begin otherwise are looked up one by one.
        """
        self._table = table
        self._prefix = prefix

    def get(self, name: str) -> int | None:
        """Return a position; None when the log has no position of this name."""
        if self._known is None or not name.startswith(self._prefix):
            return self._table.transaction_version(name)
        return self._known.get(name)

    @cached_property
    def _known(self) -> dict[str, int] | None:
        return _read(self._table, self._prefix)


def _read(table: DeltaTable, prefix: str) -> dict[str, int] | None:
    """Read all positions; None if the log is not made of plain checkpoints and commits, or is no longer complete."""
    store = log.store_of(table)
    try:
        start = _checkpoint(store, table.version())
        found = {} if start is None else dict(_of_checkpoint(store, start, prefix))
        commits = range(0 if start is None else start + 1, table.version() + 1)
        with ThreadPoolExecutor(1 if table.table_uri.startswith("file:") else _REQUESTS_AT_ONCE) as pool:
            for commit in pool.map(lambda version: log.read(store, log.commit_file(version)), commits):
                found.update(_of_commit(commit))
    except FileNotFoundError:  # checkpoints in parts or of version 2, which other engines may write
        return None
    except OSError as error:
        raise TableUnreadableError(table.metadata().name or "", table.table_uri, error) from error
    return found


def _checkpoint(store: FileSystemHandler, version: int) -> int | None:
    """Find the version of a checkpoint to start from: the last one, or for an older version the last one before it."""
    try:
        last = int(json.loads(log.read(store, "_last_checkpoint"))["version"])
    except (FileNotFoundError, KeyError, TypeError, ValueError):  # the file is only a hint
        last = -1
    if 0 <= last <= version:
        return last
    names = (found.base_name for found in PyFileSystem(store).get_file_info(FileSelector(log.FOLDER)))
    known = (int(name[:20]) for name in names if name[20:] == ".checkpoint.parquet" and name[:20].isdigit())
    return max((number for number in known if number <= version), default=None)


def _of_checkpoint(store: FileSystemHandler, version: int, prefix: str) -> Iterator[tuple[str, int]]:
    from pyarrow import compute, parquet  # importing takes 0.1 s, which a process that reads no position does not pay

    path = f"{log.FOLDER}/{version:020d}.checkpoint.parquet"
    actions = parquet.read_table(path, columns=["txn"], filesystem=PyFileSystem(store))
    for chunk in actions["txn"].chunks if actions.num_columns else ():
        known = chunk.drop_null()
        known = known.filter(compute.starts_with(known.field("appId"), prefix))
        yield from zip(known.field("appId").to_pylist(), known.field("version").to_pylist(), strict=True)


def _of_commit(text: bytes) -> Iterator[tuple[str, int]]:
    lines = [line for line in text.split(b"\n") if b'"txn"' in line]
    for action in json.loads(b"[" + b",".join(lines) + b"]"):
        if "txn" in action:  # otherwise "txn" is part of some name or value
            yield action["txn"]["appId"], int(action["txn"]["version"])
