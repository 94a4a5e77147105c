"""Committing beside other writers: plan on the newest version, commit the next one, and plan anew if it is taken.

Storage grants a version to one writer only. A writer that lost the race reads the table again and plans again. It never
sends the same commit blindly, because delta-rs accepts a repeated application transaction. What a plan holds is decided
in `table`.
"""

import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import duckdb
from deltalake import CommitProperties, DeltaTable, Schema
from deltalake.exceptions import DeltaError

from pipeline_assets.lake import commit_facts, schemas
from pipeline_assets.lake.errors import (
    CommitConflictError,
    LakeError,
    PositionMovedError,
    TypesMovedError,
    reason,
)
from pipeline_assets.lake.files import DataFile
from pipeline_assets.lake.positions import positions_of
from pipeline_assets.lake.reading import TableReader
from pipeline_assets.lake.removal import Removal
from pipeline_assets.lake.sending import send

_LOG = logging.getLogger(__name__)

# 8 writers on one table met at most 23 conflicts in a row; honest work does not reach 100.
ATTEMPTS = 100

_LARGE = 1_000
"""A commit with at least this many positions and files is followed by a checkpoint.

delta-rs makes a checkpoint after a hundred commits. Until then, each opening parses the commits: a commit that names
20,000 landed files has 5.7 MB and takes 60 ms of CPU, its checkpoint takes 10 ms.
"""


@dataclass(frozen=True)
class Plan:
    """What one attempt commits on top of one version.

    Attributes:
        files: The new rows.
        removal: The rows that are removed.
        replaces_all: Whether all rows are removed.
        own_files: Whether the files belong to this attempt only and are useless to the next one.
        schema: The columns from now on, if they change; then all rows are removed and `removal` is ignored.
    """

    files: Sequence[DataFile]
    removal: Removal = field(default_factory=Removal)
    replaces_all: bool = False
    own_files: bool = False
    schema: Schema | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to commit."""
        return not (self.files or self.removal.survivors or self.removal.actions or self.schema)


def commit(
    con: duckdb.DuckDBPyConnection,
    table: TableReader,
    plan: Callable[[DeltaTable], Plan],
    *,
    expect: Mapping[str, int | None] | None,
    positions: Mapping[str, int] | None,
    metadata: Mapping[str, str] | None,
    types: Mapping[str, str] | None = None,
) -> int:
    """Plan and commit until a version is won.

    Args:
        con: A connection of the lake.
        table: The table.
        plan: What to commit on top of a version.
        expect: Positions that the log must hold.
        positions: Positions to set in the same commit.
        metadata: Further facts, kept in the commit.
        types: Delta types of the table's columns when the files were written.

    Returns:
        The version committed; the newest one when there was nothing to do.

    Raises:
        PositionMovedError: The log holds other positions than expected; nothing was committed.
        TypesMovedError: A column has another type by now; nothing was committed.
        CommitConflictError: Too many conflicts with other writers.
        StorageError: Storage refused; nothing was committed.
        WriteRefusedError: Delta does not allow it; nothing was committed.
        CommitUnknownError: Storage failed, and does not say whether the commit is there.
    """
    expect, positions = dict(expect or {}), dict(positions or {})
    for attempt in range(ATTEMPTS):
        opened = table.open()
        before = positions_of(opened, {*expect, *positions})
        found = {key: before[key] for key in expect}
        if found != expect:
            raise PositionMovedError(table.name, found)
        if types and (others := schemas.moved(types, schemas.types(opened.schema()))):
            raise TypesMovedError(table.name, others)
        planned = plan(opened)
        moved = {key: value for key, value in positions.items() if before[key] != value}
        if planned.is_empty and not moved:
            return opened.version()
        own = [*(planned.files if planned.own_files else ()), *planned.removal.survivors]
        try:
            version = _send(con, table, opened, planned, moved, metadata or {})
        except BaseException:
            table.delete_uncommitted(own)
            raise
        if version is not None:
            if len(moved) + len(planned.files) >= _LARGE:
                _checkpoint(table, opened)
            return version
        table.delete_uncommitted(own)
        time.sleep(random.uniform(0, min(0.02 * 2 ** min(attempt, 5), 0.5)))  # noqa: S311 - jitter
    raise CommitConflictError(table.name, ATTEMPTS)


def _checkpoint(table: TableReader, opened: DeltaTable) -> None:
    """Make a checkpoint of the newest version. The commit is done, so a failure here is only logged."""
    try:
        table.refresh(opened)
        opened.create_checkpoint()
    except (DeltaError, LakeError, OSError) as error:
        _LOG.warning("table %s: no checkpoint was made, a later commit makes one: %s", table.name, reason(error))


def _send(
    con: duckdb.DuckDBPyConnection,
    table: TableReader,
    opened: DeltaTable,
    plan: Plan,
    positions: Mapping[str, int],
    metadata: Mapping[str, str],
) -> int | None:
    """Commit a plan on the version that it was made for; return None if another writer has taken the next version."""
    files, removal, schema = [*plan.files, *plan.removal.survivors], plan.removal, plan.schema or opened.schema()
    if plan.schema is None:
        facts = commit_facts.describe(con, opened, table.uri, plan.files, removal, replaces_all=plan.replaces_all)
    else:  # no dates are listed: the columns change, so anything may have changed
        facts = commit_facts.of_new_shape(plan.files)

    def write(properties: CommitProperties) -> None:
        opened.create_write_transaction(
            [*(file.add_action(schema) for file in files), *removal.actions],
            mode="append" if plan.schema is None else "overwrite",
            schema=schema,
            partition_by=opened.metadata().partition_columns,
            commit_properties=properties,
        )

    return send(table.name, opened, write, positions=positions, metadata={**facts, **metadata}, files=files)
