"""Sends one commit, and finds out what became of it if storage does not say.

An answer can be lost: the commit is in the log, and the writer is told that it failed (a reply that a proxy drops, a
link that NFS transmits twice, a checkpoint that fails after the commit). Who then deletes the files of the "failed"
commit makes the table unreadable. So each commit carries an id, and after any error the log is asked who has the
version: a commit of one's own is a success, another writer's is a lost race, and only files of a commit that can
never come are deleted.
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
"""Commit metadata: by this a writer knows a commit for its own."""

_SENDS = 3
_READS = 3
# One request, and its answer. After retries, or of 5xx, nobody knows what became of a request before.
_DENIED = re.compile(r"Error performing PUT \S+ in \S+ - Server returned non-2xx status code: 40[0-7]")
_REFUSALS = re.compile(r"append-only|Unsupported .*features|Table features must be specified")


class _Holder(Enum):
    """Who has a version."""

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
    """Commits the version after the one that is opened.

    Args:
        name: The table's name, for errors.
        table: The version that the commit follows from.
        write: Sends it with the given properties.
        positions: Positions to set in it.
        metadata: Facts to keep in it.
        files: Files that it names. They count as named from now on, unless it is certain that they are not.

    Returns:
        Its version; None if another writer has that version, and nothing of this is in the table.

    Raises:
        StorageError: Storage refused; nothing of this is in the table.
        WriteRefusedError: Delta does not allow it; nothing of this is in the table.
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
        except BaseException as error:  # noqa: BLE001 - an interruption, too, must find out
            failure = error
            holder = _holder(name, table, version, commit_id, error)
        is_local = table.table_uri.startswith("file:")
        can_come = holder is _Holder.NOBODY and not is_local and not _is_refused(failure)
        if holder is not _Holder.US and not can_come:
            _mark(files, False)
        if not isinstance(failure, Exception):  # interrupted
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
        # What was sent may still arrive. It is sent again as it is: whichever comes first, it is ours.
        may_arrive |= _DENIED.search(reason(failure)) is None
    if may_arrive:
        raise CommitUnknownError(name, version, failure) from failure
    _mark(files, False)
    raise failed(name, table.table_uri, failure) from failure


def failed(name: str, uri: str, error: BaseException) -> LakeError:
    """Gives the error that says whether Delta refused a write or storage did, after which nothing of it is there."""
    return WriteRefusedError(name, error) if _is_refused(error) else StorageError(uri, error, name)


def _is_refused(error: BaseException) -> bool:
    """Whether delta-rs did not even send a commit, as the table or the protocol does not allow it."""
    if isinstance(error, DeltaProtocolError | SchemaMismatchError):
        return True
    return isinstance(error, DeltaError) and _REFUSALS.search(str(error)) is not None


def _wait(attempt: int) -> None:
    """Waits before another attempt, and not after the last."""
    if attempt:
        time.sleep(0.05 * 4**attempt)


def _mark(files: Sequence[DataFile], may_be_named: bool) -> None:
    for file in files:
        file.may_be_named = may_be_named


def _is_of_storage(error: BaseException) -> bool:
    return isinstance(error, OSError | DeltaError)


def _holder(name: str, table: DeltaTable, version: int, commit_id: str, failure: BaseException) -> _Holder:
    """Asks the log who has a version."""
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
