"""What is counted of records, whatever their source: one accounting for all ways in.

Counting happens where records are read and written; comparing the counts with the tables is in `audit`.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import date
from typing import Any, Protocol

from pipeline_assets.lake.schemas import Widening


@dataclass(frozen=True)
class Counts:
    """Counts of records: records in = rows + dead letters + duplicates.

    A dead letter counts as the records that it stands for: a file that cannot be read is one dead letter of many.

    Attributes:
        records_in: Counted while reading.
        rows: Records that became rows.
        dead_letters: Records that did not fit.
        duplicates: Records that the table has already.
    """

    records_in: int = 0
    rows: int = 0
    dead_letters: int = 0
    duplicates: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        """Sum up."""
        return Counts(
            self.records_in + other.records_in,
            self.rows + other.rows,
            self.dead_letters + other.dead_letters,
            self.duplicates + other.duplicates,
        )


def total(counts: Iterable[Counts]) -> Counts:
    """Sum up counts."""
    return sum(counts, start=Counts())


@dataclass(frozen=True)
class Reading:
    """What was read in one piece, as the commit says it and the audit compares it with the tables.

    Attributes:
        batch_id: `_batch_id` of its rows and dead letters.
        counts: Of its records.
        days: Partitions that hold its rows and dead letters.
        origin: What was read, as `_source.file` of its rows has it; empty if the batch is compared as a whole.
        holds: Positions that the table's log has for as long as the reading stands there. Others: its rows were
            replaced, or have gone.
    """

    batch_id: str
    counts: Counts
    days: frozenset[date]
    origin: str = ""
    holds: Mapping[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Give it for the JSON of a commit."""
        days = sorted(day.isoformat() for day in self.days)
        return {"origin": self.origin, "batch_id": self.batch_id, "days": days, "holds": dict(self.holds)} | asdict(
            self.counts
        )

    @classmethod
    def of_dict(cls, facts: Mapping[str, Any]) -> "Reading":
        """Read what `as_dict` wrote."""
        return cls(
            facts["batch_id"],
            Counts(*(facts[name] for name in Counts.__dataclass_fields__)),
            frozenset(map(date.fromisoformat, facts["days"])),
            facts["origin"],
            facts["holds"],
        )


class Committed(Protocol):
    """A batch that was committed, as a report takes it."""

    @property
    def name(self) -> str:
        """`<source>__<entity>`."""

    @property
    def counts(self) -> Counts:
        """Counts of all its records."""

    @property
    def counts_by_day(self) -> Mapping[date, Counts]:
        """Counts by partition."""

    @property
    def version(self) -> int:
        """The bronze table's version afterwards."""

    @property
    def widened(self) -> Iterable[Widening]:
        """Columns of the table that took a wider type of the contract."""


@dataclass
class Report:
    """What a run read and committed. Sources add what only they know.

    Attributes:
        counts: Table name to counts of its records.
        by_day: Table name to partition to counts; of change tables the rows only, which lie on the days of their
            commits.
        versions: Table name to version of the bronze table.
        widened: Columns that took a wider type of the contract.
    """

    counts: dict[str, Counts] = field(default_factory=lambda: defaultdict(Counts))
    by_day: dict[str, dict[date, Counts]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(Counts)))
    versions: dict[str, int] = field(default_factory=dict)
    widened: list[Widening] = field(default_factory=list)

    def add(self, batch: Committed) -> None:
        """Count a batch that was committed."""
        self.counts[batch.name] += batch.counts
        for day, counts in batch.counts_by_day.items():
            self.by_day[batch.name][day] += counts
        self.versions[batch.name] = batch.version
        self.widened += batch.widened

    def include(self, other: "Report") -> None:
        """Add the counts of another report."""
        for name, counts in other.counts.items():
            self.counts[name] += counts
        for name, days in other.by_day.items():
            for day, found in days.items():
                self.by_day[name][day] += found
        self.versions |= other.versions
        self.widened += other.widened

    @property
    def version(self) -> int:
        """Version of the bronze table, of a run that has one table."""
        return max(self.versions.values(), default=0)

    @property
    def total(self) -> Counts:
        """Counts of all tables."""
        return total(self.counts.values())
