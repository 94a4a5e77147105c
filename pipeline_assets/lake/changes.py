"""What changed in a table since a version, read from its log. The base of "recompute only what was touched".

Each downstream table keeps, in its own log, the upstream version that it reflects; the difference to the newest
upstream version is what it still owes, whatever run was killed or asked for which range.
"""

import json
from dataclasses import dataclass
from datetime import date

from pipeline_assets.lake.table import TOUCHED_DATES, Table

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


@dataclass(frozen=True)
class Changes:
    """What happened to a table between a known version and the newest.

    Attributes:
        version: The newest version, to be stored as the new position.
        dates: Dates whose rows were added or removed; None when only "anything may have changed" can be said.
    """

    version: int
    dates: frozenset[date] | None


def position_name(table: Table) -> str:
    """Names the position that a downstream table keeps of this one; a table made anew has another name."""
    return f"{table.name}@{table.open().metadata().id}"


def changes_since(table: Table, version: int | None) -> Changes:
    """Reads the touched dates of all commits after a version.

    Args:
        table: The upstream table.
        version: The version that is already applied; None for none.

    Returns:
        The changes. `dates` is None when nothing was applied before, the log no longer reaches back that far, or a
        writer that does not list its dates (another engine) changed rows.
    """
    opened = table.open()
    newest = opened.version()
    if version is None or version > newest:
        return Changes(newest, None)
    if version == newest:
        return Changes(newest, frozenset())
    commits = [commit for commit in opened.history(newest - version) if commit["version"] > version]
    if len(commits) < newest - version:
        return Changes(newest, None)
    dates: set[date] = set()
    for commit in commits:
        if TOUCHED_DATES in commit:
            dates.update(map(date.fromisoformat, json.loads(commit[TOUCHED_DATES])))
        elif commit.get("operation") not in _NO_ROWS:
            return Changes(newest, None)
    return Changes(newest, frozenset(dates))
