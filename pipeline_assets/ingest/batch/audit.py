"""The audit of a bronze table: it decides which days are fit to be published.

`lake.publication` publishes them. An audit covers the days that were asked for and all days that were read since the
last audit. So the next audit also covers the rows of a run that was killed before its checks.
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
from pipeline_assets.ingest.dead_letters.settled import replayed_records, settled_days
from pipeline_assets.lake import (
    Positions,
    Table,
    audited_in,
    days_predicate,
    every_day,
    held_in,
    newest_day,
    publish_or_withhold,
)
from pipeline_assets.lake.dead_letters import WEIGHT, dead_letter_table, weighed
from pipeline_assets.sql import quote_names

_COMMITS_LOOKED_AT, _COMMITS_OF_A_RUN = 20, 200
_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Mismatch:
    """A reading whose counts in the tables differ from the counts taken while reading.

    Attributes:
        reading: What was read, as it was counted then.
        rows: Number of its rows in the table now.
        dead_letters: Number of records that its dead letters stand for now.
    """

    reading: Reading
    rows: int
    dead_letters: int

    def as_dict(self) -> dict[str, Any]:
        """Give the mismatch as a row of a table that people read."""
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
        failing: Days with rows that break the contract.
        total: Counts of the readings that were compared, as the tables hold them; without duplicates.
        readings: Number of readings that were compared.
        mismatches: Readings whose counts do not add up.
        over: Days with more dead letters than the failure budget allows.
        held: All days of the table that are withheld after this audit.
        shrunk: Days whose snapshot has no row, or far fewer than the one before. The value is the row counts of both.
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
    """Audit rows of a bronze table, and publish or withhold their days accordingly.

    Args:
        con: A connection of the lake.
        bronze: The table.
        model: Its contract.
        failure_budget: Share of a day's records that may be dead letters.
        days: First and last day asked for; None for the whole table.
        keys: Of a pull, the columns that name a record at the source. If several versions of a record were read on
            these days, only the last one is validated. So a record that was mended at the source withholds no day.
        shrink_budget: Of a table of snapshots, the share of the last published snapshot's rows that may be missing from
            the next one. A snapshot without any row is never published: it would delete everything.
    """
    opened = bronze.open()
    version = opened.version()
    read = _read_since(opened)
    where, looked_at = "TRUE", {day for reading in read for day in reading.days}
    read_days = frozenset(looked_at)
    looked_at |= settled_days(opened)
    if days is not None:
        looked_at |= set(every_day(*days))
        where = days_predicate("_partition_date", looked_at)
    rows = f"SELECT * FROM {bronze.scan(version)} WHERE {where}"
    counts = _day_counts(con, bronze, version, where)
    contract, failing = _validate(con, rows, model, keys, counts)
    over = frozenset(day for day, found in counts.items() if found.dead_letters > failure_budget * found.records_in)
    read = read or _last_read(opened)
    read += _read_before(opened, held_in(opened) & {*counts, *looked_at}, without={one.batch_id for one in read})
    bronze.refresh(opened)  # the validation took time: compare the tables of now with the log of now
    read = standing(Positions(opened), read)
    total, mismatches = compare(con, bronze, read)
    findings = Findings(where, counts, contract, failing, total, len(read), mismatches, over)
    if shrink_budget is None:
        good = counts.keys() | looked_at  # a day that has lost all its records is as good as a day that never had any
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
    """Validate rows, of several versions of a record only the last; give the outcome and the days that do not pass."""
    contract = validate_rows(con, rows, model)
    if keys and not contract.passed:  # versions only matter if some row breaks the contract
        last = f"PARTITION BY {quote_names(keys)} ORDER BY _extracted_at DESC, _source.line DESC"
        rows += f" QUALIFY row_number() OVER ({last}) = 1"
        contract = validate_rows(con, rows, model)
    return contract, frozenset(
        day
        for day in (() if contract.passed else days)
        if not validate_rows(con, f"SELECT * FROM ({rows}) WHERE _partition_date = DATE '{day}'", model).passed
    )


def standing(log: Positions, read: Iterable[Reading]) -> list[Reading]:
    """Leave out readings whose rows were removed or replaced since, or whose rows now belong to another file.

    Args:
        log: The positions of the bronze table now.
        read: The readings that the commits report.
    """
    return [one for one in read if all(log.get(name) == value for name, value in one.holds.items())]


def compare(
    con: duckdb.DuckDBPyConnection, bronze: Table, read: Sequence[Reading], replayed: Mapping[str, int] | None = None
) -> tuple[Counts, list[Mismatch]]:
    """Compare the counts taken while reading with the rows and dead letters in the tables now.

    Args:
        con: A connection of the lake.
        bronze: The bronze table.
        read: The readings whose rows are in the table.
        replayed: Records by batch that belong to another batch since.

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
        records_in = reading.counts.records_in - reading.counts.duplicates - (replayed or {}).get(reading.batch_id, 0)
        total += Counts(records_in, rows_, dead)
        if records_in != rows_ + dead:
            wrong.append(Mismatch(reading, rows_, dead))
    return total, wrong


def compare_last_run(con: duckdb.DuckDBPyConnection, bronze: Table) -> tuple[Counts, list[Mismatch]]:
    """Compare the counts of the last run that read something, from its latest commits, with the tables.

    This is for tables that are not audited by day, such as change tables. Nothing is compared if no run read anything.
    """
    if not bronze.exists():
        return Counts(), []
    opened = bronze.open()
    commits = [commit for commit in opened.history(_COMMITS_OF_A_RUN) if READ in commit]
    own = [commit for commit in commits if commit.get("run_id") == commits[0].get("run_id")]
    read, replayed = standing(Positions(opened), _readings(own)), None
    if any(reading.counts.dead_letters for reading in read):  # otherwise there was nothing to replay
        replayed = replayed_records(
            dead_letter_table(bronze.lake, bronze.name), since=min(commit["timestamp"] for commit in own)
        )
    return compare(con, bronze, read, replayed)


def _day_counts(con: duckdb.DuckDBPyConnection, bronze: Table, version: int, where: str) -> dict[date, Counts]:
    dead_letters = dead_letter_table(bronze.lake, bronze.name)
    parts = [f"SELECT _partition_date AS day, 1 AS n, 1 AS good, 0 AS bad FROM {bronze.scan(version)} WHERE {where}"]
    if dead_letters.exists():  # a discarded one is still a record of the day, but no longer a failure
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
    """Find days whose snapshot has far fewer rows than the published one before it, and give the row counts of both."""
    opened, before, found = bronze.open(version), None, {}
    rows = {day: counts[day].rows if day in counts else 0 for day in days}
    for day in sorted(days):
        if day - _DAY not in days:  # otherwise no other snapshot lies between the two
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
    """Give what the commits after the last audit say that they read; for each content, what the newest commit says."""
    newest, version = opened.version(), audited_in(opened)
    return _readings(opened.history(newest - version if version is not None else None) if version != newest else [])


def _last_read(opened: DeltaTable) -> list[Reading]:
    """Give what the newest commit of an ingest says that it read; [] if none of the last commits is one."""
    commit = next((commit for commit in opened.history(_COMMITS_LOOKED_AT) if READ in commit), None)
    return _readings([commit] if commit else [])


def _read_before(opened: DeltaTable, withheld: Collection[date], *, without: Collection[str]) -> list[Reading]:
    """Give what the log says was read of withheld days, except some batches.

    Perhaps a day is withheld because counts of it do not add up. They must be compared again before it is published.
    """
    if not withheld:
        return []
    found = _readings(opened.history())
    return [one for one in found if not one.days.isdisjoint(withheld) and one.batch_id not in without]


def _readings(commits: Sequence[Mapping[str, str]]) -> list[Reading]:
    """Give the readings of commits that come newest first. The newest commit that names a batch tells all of it.

    A content, which is a batch of its own, may since belong to another file.
    """
    found: dict[str, list[Reading]] = {}
    for commit in reversed(commits):
        read: dict[str, list[Reading]] = defaultdict(list)
        for facts in json.loads(commit.get(READ, "[]")):
            reading = Reading.of_dict(facts)
            read[reading.batch_id].append(reading)
        found |= read
    return [reading for batch in found.values() for reading in batch]
