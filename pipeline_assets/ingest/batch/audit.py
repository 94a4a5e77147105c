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
from pipeline_assets.ingest.batch.batch import READ
from pipeline_assets.ingest.batch.counts import Counts, Reading
from pipeline_assets.ingest.dead_letters.settled import settled_days
from pipeline_assets.lake import Positions, Table, audited_in, days_predicate, held_in, newest_day, publish_or_withhold
from pipeline_assets.lake.dead_letters import WEIGHT, dead_letter_table, weighed
from pipeline_assets.sql import quote_names

_COMMITS_LOOKED_AT, _COMMITS_OF_A_RUN = 20, 200
_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Mismatch:
    """A reading whose counts in the tables are not those of its reading.

    Attributes:
        reading: What was read, as it was counted then.
        rows: Rows of it in the table now.
        dead_letters: Records that its dead letters stand for now.
    """

    reading: Reading
    rows: int
    dead_letters: int

    def as_dict(self) -> dict[str, Any]:
        """Give it for a table that people read."""
        days, read = ", ".join(sorted(map(str, self.reading.days))), self.reading.counts
        named = {"file": self.reading.origin} if self.reading.origin else {"batch_id": self.reading.batch_id}
        counted = {"records_in": read.records_in, "duplicates": read.duplicates}
        return {**named, "day": days, **counted, "rows": self.rows, "dead_letters": self.dead_letters}


@dataclass(frozen=True)
class Findings:
    """What an audit found.

    Attributes:
        where: Predicate on the rows that were audited.
        counts: Rows and dead letters by day, as the tables hold them.
        contract: Outcome of validating the rows.
        failing: Days with rows against the contract.
        total: Counts of the readings that were compared, as the tables hold them; without duplicates.
        readings: How many there were.
        mismatches: Those whose counts do not add up.
        over: Days with more dead letters than the failure budget allows.
        held: All days of the table that are withheld after this audit.
        shrunk: Days whose snapshot has no row, or far fewer than the one before: rows of both.
    """

    where: str
    counts: Mapping[date, Counts]
    contract: Violations
    failing: frozenset[date]
    total: Counts
    readings: int
    mismatches: list[Mismatch]
    over: frozenset[date]
    held: frozenset[date] = frozenset()
    shrunk: Mapping[date, tuple[int, int]] = field(default_factory=dict)

    @property
    def bad(self) -> frozenset[date]:
        """Days that must not be published."""
        miscounted = {day for found in self.mismatches for day in found.reading.days}
        return self.failing | self.over | miscounted | self.shrunk.keys()


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
    where, looked_at = "TRUE", {day for reading in read for day in reading.days}
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
    read = standing(Positions(opened), read)
    total, mismatches = compare(con, bronze, read)
    findings = Findings(where, counts, contract, failing, total, len(read), mismatches, over)
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


def standing(log: Positions, read: Iterable[Reading]) -> list[Reading]:
    """Leave out readings whose rows went or were replaced since, or are in the table in another name.

    Args:
        log: The positions of the bronze table now.
        read: What commits say that they read.
    """
    return [one for one in read if all(log.get(name) == value for name, value in one.holds.items())]


def compare(con: duckdb.DuckDBPyConnection, bronze: Table, read: Sequence[Reading]) -> tuple[Counts, list[Mismatch]]:
    """Compare the counts taken while reading with what lies in the tables now.

    Args:
        con: A connection of the lake.
        bronze: The bronze table.
        read: What stands in it.

    Returns:
        The total as the tables hold it, without duplicates, and the readings that do not add up.
    """
    found: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    whole: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    where = days_predicate("_partition_date", {day for reading in read for day in reading.days})
    dead_letters = dead_letter_table(bronze.lake, bronze.name)
    for at, (table, relation, count) in enumerate(
        [(bronze, bronze.scan(), "count(*)"), (dead_letters, weighed(dead_letters), f"sum({WEIGHT})::BIGINT")]
    ):
        if read and table.exists():
            rows = con.execute(f"SELECT _source.file, _batch_id, {count} FROM {relation} WHERE {where} GROUP BY 1, 2")
            for origin, batch_id, records in rows.fetchall():
                whole[batch_id][at] += records
                found[origin, batch_id][at] += records
    total, wrong = Counts(), []
    for reading in read:
        rows_, dead = found[reading.origin, reading.batch_id] if reading.origin else whole[reading.batch_id]
        records_in = reading.counts.records_in - reading.counts.duplicates
        total += Counts(records_in, rows_, dead)
        if records_in != rows_ + dead:
            wrong.append(Mismatch(reading, rows_, dead))
    return total, wrong


def compare_last_run(con: duckdb.DuckDBPyConnection, bronze: Table) -> tuple[Counts, list[Mismatch]]:
    """Compare what the last run that read something counted, its latest commits, with what lies in the tables.

    For tables that are not audited by day, as change tables are not. Nothing is compared if no run read anything.
    """
    if not bronze.exists():
        return Counts(), []
    opened = bronze.open()
    commits = [commit for commit in opened.history(_COMMITS_OF_A_RUN) if READ in commit]
    own = [commit for commit in commits if commit.get("run_id") == commits[0].get("run_id")]
    return compare(con, bronze, standing(Positions(opened), _readings(own)))


def _day_counts(con: duckdb.DuckDBPyConnection, bronze: Table, version: int, where: str) -> dict[date, Counts]:
    dead_letters = dead_letter_table(bronze.lake, bronze.name)
    parts = [f"SELECT _partition_date AS day, 1 AS n, 1 AS good, 0 AS bad FROM {bronze.scan(version)} WHERE {where}"]
    if dead_letters.exists():  # one that was discarded is a record of the day, and no failure any more
        bad = f"CASE WHEN discarded_at IS NULL THEN {WEIGHT} ELSE 0 END"
        parts.append(f"SELECT _partition_date, {WEIGHT}, 0, {bad} FROM {weighed(dead_letters)} WHERE {where}")
    sums = ", ".join(f"sum({column})::BIGINT" for column in ("n", "good", "bad"))
    rows = con.execute(f"SELECT day, {sums} FROM ({' UNION ALL '.join(parts)}) GROUP BY day ORDER BY day")
    return {day: Counts(*counts) for day, *counts in rows.fetchall()}


def _shrunk(
    con: duckdb.DuckDBPyConnection,
    bronze: Table,
    version: int,
    counts: Mapping[date, Counts],
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


def _read_since(opened: DeltaTable) -> list[Reading]:
    """Give what the commits after the last audit say that they read, the newest word on each content."""
    newest, version = opened.version(), audited_in(opened)
    return _readings(opened.history(newest - version if version is not None else None) if version != newest else [])


def _last_read(opened: DeltaTable) -> list[Reading]:
    """Give what the newest commit of an ingest says that it read; [] if none of the last commits is one."""
    commit = next((commit for commit in opened.history(_COMMITS_LOOKED_AT) if READ in commit), None)
    return _readings([commit] if commit else [])


def _readings(commits: Sequence[Mapping[str, str]]) -> list[Reading]:
    """Give the readings of commits, newest first. The newest commit that speaks of a batch says all of it.

    A file's content, which is a batch of its own, may have moved to another file since.
    """
    found: dict[str, list[Reading]] = {}
    for commit in reversed(commits):
        read: dict[str, list[Reading]] = defaultdict(list)
        for facts in json.loads(commit.get(READ, "[]")):
            reading = Reading.of_dict(facts)
            read[reading.batch_id].append(reading)
        found |= read
    return [reading for batch in found.values() for reading in batch]
