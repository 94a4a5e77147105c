"""The accounting of change tables: what a run's commits say that they read, against what lies in the tables.

What is counted while reading is `change_table`'s; what a wrong account means for downstream is a component's.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import duckdb

from pipeline_assets.ingest.cdc.table.change_table import Counts
from pipeline_assets.lake import Table, days_predicate
from pipeline_assets.lake.commit_facts import TOUCHED_DATES
from pipeline_assets.lake.dead_letters import WEIGHT, dead_letter_table, waiting, weighed
from pipeline_assets.sql import quote_text

_COMMITS_LOOKED_AT = 200


@dataclass(frozen=True)
class Misaccount:
    """A batch whose counts in the tables are not those of its reading."""

    batch_id: str
    events_in: int
    rows: int
    dead_letters: int


def account(con: duckdb.DuckDBPyConnection, bronze: Table) -> tuple[Counts, list[Misaccount]]:
    """Compares the batches of the last run that brought events, its latest 200, with what lies in the tables.

    Args:
        con: A connection of the lake.
        bronze: A change table.

    Returns:
        The counts as the tables hold them, and the batches that do not add up. Nothing of either if no run brought any.
    """
    if not bronze.exists():
        return Counts(), []
    commits = [commit for commit in bronze.open().history(_COMMITS_LOOKED_AT) if "events_in" in commit]
    batches = {commit["batch_id"]: commit for commit in commits if commit.get("run_id") == commits[0].get("run_id")}
    rows = _count(con, bronze.scan(), batches, within=_touched(batches.values()))
    dead_letters_table = dead_letter_table(bronze.lake, bronze.name)
    dead_letters = (
        _count(con, weighed(dead_letters_table), batches, sum_of=WEIGHT) if dead_letters_table.exists() else {}
    )
    total, wrong = Counts(), []
    for batch_id, commit in batches.items():
        found = Counts(int(commit["events_in"]), rows.get(batch_id, 0), dead_letters.get(batch_id, 0))
        total += found
        if found.events_in != found.rows + found.dead_letters:
            wrong.append(Misaccount(batch_id, found.events_in, found.rows, found.dead_letters))
    return total, wrong


def dead_letters(con: duckdb.DuckDBPyConnection, bronze: Table) -> Sequence[tuple[str, int]]:
    """Counts the dead letters that wait to be replayed, by reason, the most frequent first."""
    table = dead_letter_table(bronze.lake, bronze.name)
    if not table.exists():
        return []
    return con.execute(
        f"SELECT reason, sum({WEIGHT})::BIGINT AS n FROM {waiting(table)} GROUP BY reason ORDER BY n DESC, reason"
    ).fetchall()


def _touched(commits: Iterable[Mapping[str, str]]) -> str:
    """The predicate on the dates that some commits touched."""
    return days_predicate(
        "_partition_date", {date.fromisoformat(day) for commit in commits for day in json.loads(commit[TOUCHED_DATES])}
    )


def _count(
    con: duckdb.DuckDBPyConnection, relation: str, batches: Iterable[str], *, within: str = "TRUE", sum_of: str = "1"
) -> dict[str, int]:
    """Counts the rows of some batches.

    Dead letters of records that are no events lie in the partition of their reading, which no bronze commit names.
    """
    listed = ", ".join(map(quote_text, batches))
    if not listed:
        return {}
    found = con.execute(
        f"SELECT _batch_id, sum({sum_of})::BIGINT FROM {relation} WHERE {within} AND _batch_id IN ({listed}) "
        "GROUP BY _batch_id"
    )
    return dict(found.fetchall())
