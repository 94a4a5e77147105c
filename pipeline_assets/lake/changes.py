"""What changed in a table since a version, read from its log. "Recompute only what was touched" builds on this.

Each downstream table keeps in its own log the upstream version that it reflects. The difference to the newest upstream
version is what it still has to apply, whichever run was killed and whichever range was asked for.
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

# Commits of these kinds change no row. ADD COLUMN changes the schema; the rows that fill the column come in a WRITE.
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
    """What happened to a table between a known version and the newest one.

    Attributes:
        version: The newest version, to be stored as the new position.
        dates: Dates whose rows were added or removed; None if anything may have changed.
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
        dates: The partitions that hold its rows.
        first_lsn: Least commit_lsn in it.
        last_lsn: Greatest commit_lsn in it.
    """

    batch_id: str
    dates: frozenset[date]
    first_lsn: int
    last_lsn: int


def position_name(table: Table, opened: DeltaTable | None = None) -> str:
    """Name the position that a downstream table keeps of this one; a table that is created anew gets another name."""
    return f"{table.name}@{(opened or table.open()).metadata().id}"


def changes_since(table: Table, version: int | None) -> Changes:
    """Read the touched dates of all commits after a version.

    Args:
        table: The upstream table.
        version: The version that is already applied; None if nothing was applied yet.

    Returns:
        The changes. `dates` is None when nothing was applied before, when the log no longer reaches back that far, or
        when a writer that does not list its dates (another engine) changed rows.
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
    """Read which batches a change table gained after one version and up to another.

    Args:
        table: A table whose batches record their `commit_lsn_min` and `commit_lsn_max`.
        version: The version that is already applied; None if nothing was applied yet.
        until: The version that is read.

    Returns:
        The batches. None if anything may have changed: nothing was applied before, the log no longer reaches back that
        far, or a commit did something other than append a batch.
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
    """Build a query for the rows of some batches.

    It reads only files that partitions and statistics cannot rule out.
    """
    scan = table.scan(version)
    predicates = list(_predicates(batches)) or ["false"]
    return " UNION ALL ".join(f"SELECT * FROM {scan} WHERE {predicate}" for predicate in predicates)


def _predicates(batches: Sequence[Batch]) -> Iterator[str]:
    """Yield one predicate for each run of neighbouring days; one for all would read the days in between, too."""
    for days in neighbours(sorted(frozenset[date]().union(*(batch.dates for batch in batches)))):
        here = [batch for batch in batches if batch.dates & set(days)]
        yield (
            f"_partition_date >= DATE '{days[0]}' AND _partition_date <= DATE '{days[-1]}' "
            f"AND commit_lsn >= {min(batch.first_lsn for batch in here)} "
            f"AND commit_lsn <= {max(batch.last_lsn for batch in here)} "
            f"AND _batch_id IN ({', '.join(quote_text(batch.batch_id) for batch in here)})"
        )


def _commits(table: Table, version: int | None) -> tuple[int, Sequence[Mapping[str, Any]] | None]:
    """Return the newest version and the commits after `version`, newest first; None if the log cannot list them."""
    for _ in range(_ATTEMPTS):
        opened = table.open()
        newest = opened.version()
        if version is None or version > newest:
            return newest, None
        if version == newest:
            return newest, []
        commits = opened.history(newest - version)
        # delta-rs 1.6 lists the commits from the newest one on, but numbers them from the version that was opened.
        table.refresh(opened)
        if opened.version() == newest:
            known = [commit for commit in commits if commit["version"] > version]
            return newest, known if len(known) == newest - version else None
    return newest, None
