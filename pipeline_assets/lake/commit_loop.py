"""Committing against other writers: plan on the newest version, commit the next one, and if it is taken plan anew.

Storage grants a version to one writer only. A writer that lost re-reads and decides anew; it never re-sends blindly,
because delta-rs accepts a repeated application transaction. What a plan holds is `table`'s to say.
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import duckdb
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError

from pipeline_assets.lake import commit_facts
from pipeline_assets.lake.errors import CommitConflictError, PositionMovedError
from pipeline_assets.lake.files import DataFile, discard
from pipeline_assets.lake.positions import Positions
from pipeline_assets.lake.removal import Removal

# 8 writers on one table met at most 23 conflicts in a row (facts-services.md); 100 is out of reach for honest work.
ATTEMPTS = 100


@dataclass(frozen=True)
class Plan:
    """One attempt's commit against one version.

    Attributes:
        files: The new rows.
        removal: The rows that go.
        replaces_all: Whether all rows go.
        own_files: Whether the files are of this attempt only, and of no use to the next.
    """

    files: Sequence[DataFile]
    removal: Removal = field(default_factory=Removal)
    replaces_all: bool = False
    own_files: bool = False


def commit(
    con: duckdb.DuckDBPyConnection,
    name: str,
    open_newest: Callable[[], DeltaTable],
    uri: str,
    plan: Callable[[DeltaTable], Plan],
    *,
    expect: Mapping[str, int | None] | None,
    positions: Mapping[str, int] | None,
    metadata: Mapping[str, str] | None,
) -> int:
    """Plans and commits until a version is won.

    Args:
        con: A connection of the lake.
        name: The table's name, for errors.
        open_newest: Opens its newest version.
        uri: Its root.
        plan: What to commit on top of a version.
        expect: Positions that the log must hold.
        positions: Positions to set in the same commit.
        metadata: Further facts, kept in the commit.

    Returns:
        The version committed; the newest one when there was nothing to do.

    Raises:
        PositionMovedError: The log holds other positions than expected; nothing was committed.
        CommitConflictError: Too many conflicts with other writers.
    """
    expect = dict(expect or {})
    for attempt in range(ATTEMPTS):
        table = open_newest()
        before = Positions(table)
        found = {key: before.get(key) for key in expect}
        if found != expect:
            raise PositionMovedError(name, found)
        planned = plan(table)
        files, removal = planned.files, planned.removal
        moved = {key: value for key, value in (positions or {}).items() if before.get(key) != value}
        if not files and not removal.survivors and not removal.actions and not moved:
            return table.version()
        facts = commit_facts.describe(con, table, uri, files, removal, replaces_all=planned.replaces_all)
        schema = table.schema()
        try:
            table.create_write_transaction(
                [*(file.add_action(schema) for file in (*files, *removal.survivors)), *removal.actions],
                mode="append",
                schema=schema,
                partition_by=table.metadata().partition_columns,
                commit_properties=commit_facts.properties(moved, {**facts, **(metadata or {})}, retries=0),
            )
        except CommitFailedError:
            for file in (*(files if planned.own_files else ()), *removal.survivors):
                discard(uri, file.path)
            time.sleep(random.uniform(0, min(0.02 * 2 ** min(attempt, 5), 0.5)))  # noqa: S311 - jitter
            continue
        return table.version() + 1
    raise CommitConflictError(name, ATTEMPTS)
