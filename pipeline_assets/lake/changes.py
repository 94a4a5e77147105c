"""What changed in a table since a version, read from its log. The base of "recompute only what was touched".

Each downstream table keeps, in its own log, the upstream version that it reflects; the difference to the newest
upstream version is what it still owes, whatever run was killed or asked for which range.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from deltalake import DeltaTable

from pipeline_assets.lake.commit_facts import TOUCHED_DATES, UNDATED, added_dates
from pipeline_assets.lake.pruning import neighbours
from pipeline_assets.lake.table import Table
from pipeline_assets.sql import quote_text

# Commits of these kinds change no row. ADD COLUMN changes the schema; the rows that fill it come in a WRITE.
_NO_ROWS = {
    "CREATE TABLE",
    "ADD COLUMN",
    "OPTIMIZE",
    "VACUUM START",
    "VACUUM END",
    "SET TBLPROPERTIES",
    "ADD CONSTRAINT",
    "DROP CONSTRAINT",
    "ADD FEATURE",
    "FSCK",
}
_ATTEMPTS = 10


@dataclass(frozen=True)
class Changes:
    """What happened to a table between a known version and the newest.

    Attributes:
        version: The newest version, to be stored as the new position.
        dates: Dates whose rows were added or removed; None when only "anything may have changed" can be said.
        added: Dates whose rows were added; None also when all rows were replaced.
    """

    version: int
    dates: frozenset[date] | None
    added: frozenset[date] | None = None


@dataclass(frozen=True)
class Batch:
    """A batch of a change table, as its commit describes it.

    Attributes:
        batch_id: Its name; each of its rows carries it.
        dates: The partitions it went to.
        first_lsn: Least commit_lsn in it.
        last_lsn: Greatest commit_lsn in it.
    """

    batch_id: str
    dates: frozenset[date]
    first_lsn: int
    last_lsn: int


def position_name(table: Table, opened: DeltaTable | None = None) -> str:
    """Names the position that a downstream table keeps of this one; a table made anew has another name."""
    return f"{table.name}@{(opened or table.open()).metadata().id}"


def changes_since(table: Table, version: int | None) -> Changes:
    """Reads the touched dates of all commits after a version.

    Args:
        table: The upstream table.
        version: The version that is already applied; None for none.

    Returns:
        The changes. `dates` is None when nothing was applied before, the log no longer reaches back that far, or a
        writer that does not list its dates (another engine) changed rows.
    """
    newest, commits = _commits(table, version)
    if commits is None:
        return Changes(newest, None)
    touched: set[date] = set()
    added: frozenset[date] | None = frozenset()
    for commit in commits:
        if TOUCHED_DATES in commit:
            touched.update(map(date.fromisoformat, json.loads(commit[TOUCHED_DATES])))
            came = added_dates(commit)
            added = None if added is None or came is None else added | came
        elif UNDATED in commit or commit.get("operation") not in _NO_ROWS:
            return Changes(newest, None)
    return Changes(newest, frozenset(touched), added)


def batches_since(table: Table, version: int | None, until: int) -> list[Batch] | None:
    """Reads which batches a change table gained after a version, up to another.

    Args:
        table: A table whose batches say their `commit_lsn_min` and `commit_lsn_max`.
        version: The version that is already applied; None for none.
        until: The version that is read.

    Returns:
        The batches; None when nothing was applied before, the log no longer reaches back that far, or a commit did
        anything but append a batch: then only "anything may have changed" can be said.
    """
    if version is None or version > until:
        return None
    _, commits = _commits(table, version)
    if commits is None:
        return None
    batches = []
    for commit in (commit for commit in commits if commit["version"] <= until):
        if "commit_lsn_min" in commit and commit.get("rows_removed") == "0":
            batches.append(
                Batch(
                    str(commit["batch_id"]),
                    frozenset(map(date.fromisoformat, json.loads(commit[TOUCHED_DATES]))),
                    int(commit["commit_lsn_min"]),
                    int(commit["commit_lsn_max"]),
                )
            )
        elif json.loads(commit.get(TOUCHED_DATES, "[]")) or (
            TOUCHED_DATES not in commit and commit.get("operation") not in _NO_ROWS
        ):
            return None
    return batches


def select_batches(table: Table, version: int, batches: Sequence[Batch]) -> str:
    """Gives a query: the rows of some batches, from files that partitions and statistics cannot rule out."""
    scan = table.scan(version)
    predicates = list(_predicates(batches)) or ["false"]
    return " UNION ALL ".join(f"SELECT * FROM {scan} WHERE {predicate}" for predicate in predicates)


def _predicates(batches: Sequence[Batch]) -> Iterator[str]:
    """One predicate for each run of neighbouring days, so that a batch of old days has not all since read."""
    for days in neighbours(sorted(frozenset[date]().union(*(batch.dates for batch in batches)))):
        here = [batch for batch in batches if batch.dates & set(days)]
        yield (
            f"_partition_date >= DATE '{days[0]}' AND _partition_date <= DATE '{days[-1]}' "
            f"AND commit_lsn >= {min(batch.first_lsn for batch in here)} "
            f"AND commit_lsn <= {max(batch.last_lsn for batch in here)} "
            f"AND _batch_id IN ({', '.join(quote_text(batch.batch_id) for batch in here)})"
        )


def _commits(table: Table, version: int | None) -> tuple[int, Sequence[Mapping[str, Any]] | None]:
    """The newest version and the commits after another, newest first; None if they cannot be told."""
    for _ in range(_ATTEMPTS):
        opened = table.open()
        newest = opened.version()
        if version is None or version > newest:
            return newest, None
        if version == newest:
            return newest, []
        commits = opened.history(newest - version)
        # delta-rs 1.6 lists commits from the newest there is, but numbers them from the version opened.
        table.refresh(opened)
        if opened.version() == newest:
            known = [commit for commit in commits if commit["version"] > version]
            return newest, known if len(known) == newest - version else None
    return newest, None
