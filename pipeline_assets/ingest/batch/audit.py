"""The audit of a bronze table: which days are fit to be published.

Publishing them is in `lake.publication`. An audit covers the days that were asked for and all days that were read since
the last audit, so that rows of a run that was killed before its checks are audited by the next.
"""

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from typing import Any

import duckdb
from deltalake import DeltaTable

from pipeline_assets.contracts.base import Model, Violations
from pipeline_assets.contracts.validation import validate_rows
from pipeline_assets.ingest.dead_letters.settled import settled_days
from pipeline_assets.ingest.files.ingest import DayCounts
from pipeline_assets.ingest.files.plan import owner_of
from pipeline_assets.lake import Positions, Table, audited_in, days_predicate, held_in, newest_day, publish_or_withhold
from pipeline_assets.lake.dead_letters import WEIGHT, dead_letter_table, weighed
from pipeline_assets.sql import quote_names

_COMMITS_LOOKED_AT = 20
_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Mismatch:
    """A file, or what else was read, whose counts in the tables are not those of its reading."""

    file: str
    day: date
    records_in: int
    rows: int
    dead_letters: int


@dataclass(frozen=True)
class Findings:
    """What an audit found.

    Attributes:
        where: Predicate on the rows that were audited.
        counts: Rows and dead letters by day, as the tables hold them.
        contract: Outcome of validating the rows.
        failing: Days with rows against the contract.
        total: Counts of the files that were reconciled.
        mismatches: Files whose counts do not add up.
        over: Days with more dead letters than the failure budget allows.
        held: All days of the table that are withheld after this audit.
        shrunk: Days whose snapshot has no row, or far fewer than the one before: rows of both.
    """

    where: str
    counts: Mapping[date, DayCounts]
    contract: Violations
    failing: frozenset[date]
    total: DayCounts
    mismatches: list[Mismatch]
    over: frozenset[date]
    held: frozenset[date] = frozenset()
    shrunk: Mapping[date, tuple[int, int]] = field(default_factory=dict)

    @property
    def bad(self) -> frozenset[date]:
        """Days that must not be published."""
        return self.failing | self.over | {file.day for file in self.mismatches} | self.shrunk.keys()


def audit(
    con: duckdb.DuckDBPyConnection,
    bronze: Table,
    model: Model,
    *,
    failure_budget: float,
    days: tuple[date, date] | None,
    keys: Sequence[str] = (),
    shrink_budget: float | None = None,
) -> Findings:
    """Audits rows of a bronze table, and publishes or withholds their days accordingly.

    Args:
        con: A connection of the lake.
        bronze: The table.
        model: Its contract.
        failure_budget: Share of a day's records that may be dead letters.
        days: First and last day asked for; None for the whole table.
        keys: Of a pull, columns that name a record at the source: of the versions of a record that were read on these
            days the last one is held against the contract. What was mended at the source withholds no day.
        shrink_budget: Of a table of snapshots, the share of the last published one's rows that may be missing from the
            next. One without any row is never published: it would take away all.
    """
    opened = bronze.open()
    version = opened.version()
    read = _read_since(opened)
    where, looked_at = "TRUE", {date.fromisoformat(entry["day"]) for entry in read}
    read_days = frozenset(looked_at)
    looked_at |= settled_days(opened)
    if days is not None:
        looked_at |= {days[0] + timedelta(days=at) for at in range((days[1] - days[0]).days + 1)}
        where = days_predicate("_partition_date", looked_at)
    rows = f"SELECT * FROM {bronze.scan(version)} WHERE {where}"
    counts = _day_counts(con, bronze, version, where)
    contract, failing = _validate(con, rows, model, keys, counts)
    over = frozenset(day for day, found in counts.items() if found.dead_letters > failure_budget * found.records_in)
    read = read or _last_read(opened)
    bronze.refresh(opened)  # validating took its time: what lies in the tables now is compared with the log of now
    total, mismatches = reconcile(con, bronze, Positions(opened), read)
    findings = Findings(where, counts, contract, failing, total, mismatches, over)
    if shrink_budget is None:
        good = counts.keys() | looked_at  # a day without any record left is as good as one that never was
    else:
        shrunk = _shrunk(
            con,
            bronze,
            version,
            counts,
            days=counts.keys() | read_days,
            held=held_in(opened),
            bad=findings.bad,
            budget=shrink_budget,
        )
        findings, good = replace(findings, shrunk=shrunk), set(counts)
    held = publish_or_withhold(con, bronze, version=version, good=good - findings.bad, bad=findings.bad)
    return replace(findings, held=held)


def _validate(
    con: duckdb.DuckDBPyConnection, rows: str, model: Model, keys: Sequence[str], days: Iterable[date]
) -> tuple[Violations, frozenset[date]]:
    """Validates rows, of several versions of a record the last; gives the outcome, and the days that do not pass."""
    contract = validate_rows(con, rows, model)
    if keys and not contract.passed:  # only then do the versions matter
        last = f"PARTITION BY {quote_names(keys)} ORDER BY _extracted_at DESC, _source.line DESC"
        rows += f" QUALIFY row_number() OVER ({last}) = 1"
        contract = validate_rows(con, rows, model)
    return contract, frozenset(
        day
        for day in (() if contract.passed else days)
        if not validate_rows(con, f"SELECT * FROM ({rows}) WHERE _partition_date = DATE '{day}'", model).passed
    )


def reconcile(
    con: duckdb.DuckDBPyConnection, bronze: Table, log: Positions, read: list[dict[str, Any]]
) -> tuple[DayCounts, list[Mismatch]]:
    """Compares the counts taken while reading with what lies in the tables now, file by file.

    Args:
        con: A connection of the lake.
        bronze: The bronze table.
        log: Its positions now.
        read: What commits say that they read.

    Returns:
        The total as the tables hold it, and the files that do not add up.
    """
    read = [entry for entry in read if _is_in_table(log, entry)]
    found: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    where = days_predicate("_partition_date", {date.fromisoformat(entry["day"]) for entry in read})
    dead_letters = dead_letter_table(bronze.lake, bronze.name)
    for at, (table, relation, count) in enumerate(
        [(bronze, bronze.scan(), "count(*)"), (dead_letters, weighed(dead_letters), f"sum({WEIGHT})::BIGINT")]
    ):
        if read and table.exists():
            rows = con.execute(f"SELECT _source.file, _batch_id, {count} FROM {relation} WHERE {where} GROUP BY 1, 2")
            for file, content_id, records in rows.fetchall():
                found[file, content_id][at] = records
    total, wrong = DayCounts(), []
    for entry in read:
        rows_, dead = found[entry["file"], entry["content_id"]]
        records_in = entry["records_in"] - entry.get("duplicates", 0)
        total += DayCounts(1, records_in, rows_, dead)
        if records_in != rows_ + dead:
            day = date.fromisoformat(entry["day"])
            wrong.append(Mismatch(entry["file"], day, records_in, rows_, dead))
    return total, wrong


def _is_in_table(log: Positions, entry: dict[str, Any]) -> bool:
    """Whether what was read still stands there: else it went or was replaced since, or is another file's."""
    if "holds" in entry:  # a pull
        return all(log.get(name) == value for name, value in entry["holds"].items())
    return log.get(owner_of(entry["content_id"])) == date.fromisoformat(entry["day"]).toordinal()


def _day_counts(con: duckdb.DuckDBPyConnection, bronze: Table, version: int, where: str) -> dict[date, DayCounts]:
    dead_letters = dead_letter_table(bronze.lake, bronze.name)
    parts = [f"SELECT _partition_date AS day, 1 AS n, 1 AS good, 0 AS bad FROM {bronze.scan(version)} WHERE {where}"]
    if dead_letters.exists():  # one that was discarded is a record of the day, and no failure any more
        bad = f"CASE WHEN discarded_at IS NULL THEN {WEIGHT} ELSE 0 END"
        parts.append(f"SELECT _partition_date, {WEIGHT}, 0, {bad} FROM {weighed(dead_letters)} WHERE {where}")
    sums = ", ".join(f"sum({column})::BIGINT" for column in ("n", "good", "bad"))
    rows = con.execute(f"SELECT day, {sums} FROM ({' UNION ALL '.join(parts)}) GROUP BY day ORDER BY day")
    return {day: DayCounts(0, *counts) for day, *counts in rows.fetchall()}


def _shrunk(
    con: duckdb.DuckDBPyConnection,
    bronze: Table,
    version: int,
    counts: Mapping[date, DayCounts],
    *,
    days: Collection[date],
    held: Collection[date],
    bad: Collection[date],
    budget: float,
) -> dict[date, tuple[int, int]]:
    """Finds days whose snapshot has far fewer rows than the published one before it: rows of both."""
    opened, before, found = bronze.open(version), None, {}
    rows = {day: counts[day].rows if day in counts else 0 for day in days}
    for day in sorted(days):
        if day - _DAY not in days:  # else no other snapshot lies between the two
            published = newest_day(opened, before=day, without={*held, *days})
            before = max((other for other in (before, published) if other), default=None)
        if before and before not in rows:
            (rows[before],) = con.execute(
                f"SELECT count(*) FROM {bronze.scan(version)} WHERE {days_predicate('_partition_date', [before])}"
            ).fetchone() or (0,)
        last = rows[before] if before else 0
        if rows[day] == 0 or rows[day] < (1 - budget) * last:
            found[day] = (rows[day], last)
        elif day not in bad:
            before = day
    return found


def _read_since(opened: DeltaTable) -> list[dict[str, Any]]:
    """What the commits after the last audit say that they read, the newest word on each content."""
    newest, version = opened.version(), audited_in(opened)
    commits = opened.history(newest - version if version is not None else None) if version != newest else []
    entries = {
        # A file's content may have moved to another file since; a pull may have read several things.
        (entry["content_id"], entry["file"] if "holds" in entry else ""): entry
        for commit in reversed(commits)
        for entry in json.loads(commit.get("read", "[]"))
    }
    return list(entries.values())


def _last_read(opened: DeltaTable) -> list[dict[str, Any]]:
    """What the newest commit of an ingest says that it read; [] if none of the last commits is one."""
    for commit in opened.history(_COMMITS_LOOKED_AT):
        if "read" in commit:
            return list(json.loads(commit["read"]))
    return []
