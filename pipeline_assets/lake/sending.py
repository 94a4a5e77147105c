"""Sends one commit, and finds out what became of it if storage does not say.

An answer can be lost: the commit is in the log, but the writer is told that it failed (a proxy drops the reply, NFS
transmits a link twice, a checkpoint fails after the commit). A writer that then deletes the files of the "failed"
commit makes the table unreadable. So each commit carries an id, and after any error the writer asks the log who
committed the version. Its own commit is a success, another writer's a lost race. Files are deleted only if their commit
can no longer arrive.
"""

import logging
import re
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from enum import Enum

from deltalake import CommitProperties, DeltaTable
from deltalake.exceptions import DeltaError, DeltaProtocolError, SchemaMismatchError

from pipeline_assets.lake import commit_facts, log
from pipeline_assets.lake.errors import CommitUnknownError, LakeError, StorageError, WriteRefusedError, reason
from pipeline_assets.lake.files import DataFile

_LOG = logging.getLogger(__name__)

COMMIT_ID = "commit_id"
"""Commit metadata: by this id a writer recognises its own commit."""

_SENDS = 3
_READS = 3
# The answer to a single request. After retries, or an answer 5xx, the fate of the earlier requests is unknown.
_DENIED = re.compile(r"Error performing PUT \S+ in \S+ - Server returned non-2xx status code: 40[0-7]")
_REFUSALS = re.compile(r"append-only|Unsupported .*features|Table features must be specified")


class _Holder(Enum):
    """Who committed a version."""

    US = 1
    ANOTHER = 2
    NOBODY = 3


def send(
    name: str,
    table: DeltaTable,
    write: Callable[[CommitProperties], object],
    *,
    positions: Mapping[str, int] | None = None,
    metadata: Mapping[str, str] | None = None,
    files: Sequence[DataFile] = (),
) -> int | None:
    """Commit the version after the opened one.

    Args:
        name: The table's name, for errors.
        table: The version that the commit follows.
        write: Sends the commit with the given properties.
        positions: Positions to set in it.
        metadata: Facts to keep in it.
        files: Files that it names. From now on they count as named, unless it is certain that they are not.

    Returns:
        Its version; None if another writer has that version, and the table holds no part of this commit.

    Raises:
        StorageError: Storage refused; the table holds no part of the commit.
        WriteRefusedError: Delta does not allow it; the table holds no part of the commit.
        CommitUnknownError: Storage failed, and does not say whether the commit is in the table.
    """
    version, commit_id = table.version() + 1, uuid.uuid4().hex
    properties = commit_facts.properties(positions, {**(metadata or {}), COMMIT_ID: commit_id})
    _mark(files, True)
    may_arrive = False
    for attempt in range(_SENDS):
        _wait(attempt)
        try:
            write(properties)
            return version
        except BaseException as error:  # noqa: BLE001 - an interrupted writer, too, must find out
            failure = error
            holder = _holder(name, table, version, commit_id, error)
        is_local = table.table_uri.startswith("file:")
        can_come = holder is _Holder.NOBODY and not is_local and not _is_refused(failure)
        if holder is not _Holder.US and not can_come:
            _mark(files, False)
        if not isinstance(failure, Exception):  # the writer was interrupted
            raise failure
        if holder is _Holder.ANOTHER:
            return None
        if holder is _Holder.US:
            _LOG.warning(
                "table %s: version %s is committed, although storage reported: %s. The write is done; if it was the "
                "checkpoint that failed, a later commit makes one",
                name,
                version,
                reason(failure),
            )
            return version
        if not _is_of_storage(failure):  # refused before it was sent
            raise failure
        if not can_come:
            raise failed(name, table.table_uri, failure) from failure
        # The first request may still arrive. The same commit is sent again: whichever arrives first, it is our own.
        may_arrive |= _DENIED.search(reason(failure)) is None
    if may_arrive:
        raise CommitUnknownError(name, version, failure) from failure
    _mark(files, False)
    raise failed(name, table.table_uri, failure) from failure


def failed(name: str, uri: str, error: BaseException) -> LakeError:
    """Return the error of a failed write: Delta refused it, or storage did.

    Either way the table holds no part of it.
    """
    return WriteRefusedError(name, error) if _is_refused(error) else StorageError(uri, error, name)


def _is_refused(error: BaseException) -> bool:
    """Tell whether delta-rs did not even send a commit, because the table or the protocol does not allow it."""
    if isinstance(error, DeltaProtocolError | SchemaMismatchError):
        return True
    return isinstance(error, DeltaError) and _REFUSALS.search(str(error)) is not None


def _wait(attempt: int) -> None:
    """Wait before every attempt but the first."""
    if attempt:
        time.sleep(0.05 * 4**attempt)


def _mark(files: Sequence[DataFile], may_be_named: bool) -> None:
    for file in files:
        file.may_be_named = may_be_named


def _is_of_storage(error: BaseException) -> bool:
    return isinstance(error, OSError | DeltaError)


def _holder(name: str, table: DeltaTable, version: int, commit_id: str, failure: BaseException) -> _Holder:
    """Ask the log who committed a version."""
    for attempt in range(_READS):
        _wait(attempt)
        try:
            text = log.read(log.store_of(table), log.commit_file(version))
            return _Holder.US if commit_id.encode() in text else _Holder.ANOTHER
        except FileNotFoundError:
            return _Holder.NOBODY
        except Exception as error:
            if not _is_of_storage(failure):
                raise failure from error
    raise CommitUnknownError(name, version, failure) from failure
