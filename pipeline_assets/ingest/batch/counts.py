"""What is counted of records, whatever their source: one accounting for all ways in.

Records are counted where they are read and written; `ingest.batch.audit` compares the counts with the tables.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any

from pipeline_assets.lake.schemas import Widening

if TYPE_CHECKING:
    from pipeline_assets.ingest.batch.batch import Batch


@dataclass(frozen=True)
class Counts:
    """Counts of records: records in = rows + dead letters + duplicates.

    A dead letter counts as the records that it stands for: a file that cannot be read is one dead letter that stands
    for many records.

    Attributes:
        records_in: Counted while reading.
        rows: Records that became rows.
        dead_letters: Records that did not fit.
        duplicates: Records that are in the table already.
    """

    records_in: int = 0
    rows: int = 0
    dead_letters: int = 0
    duplicates: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        """Add two counts."""
        return Counts(
            self.records_in + other.records_in,
            self.rows + other.rows,
            self.dead_letters + other.dead_letters,
            self.duplicates + other.duplicates,
        )


def total(counts: Iterable[Counts]) -> Counts:
    """Add up counts."""
    return sum(counts, start=Counts())


@dataclass(frozen=True)
class Reading:
    """What was read in one piece. The commit names it, and the audit compares it with the tables.

    Attributes:
        batch_id: `_batch_id` of its rows and dead letters.
        counts: Counts of its records.
        days: Partitions that hold its rows and dead letters.
        origin: What was read, as in `_source.file` of its rows; empty if the batch is compared as a whole.
        holds: Positions that the table's log has for as long as the rows of the reading are in the table. If the log
            has others, the rows were replaced or removed.
    """

    batch_id: str
    counts: Counts
    days: frozenset[date]
    origin: str = ""
    holds: Mapping[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Give the reading for the JSON of a commit."""
        days = sorted(day.isoformat() for day in self.days)
        return {"origin": self.origin, "batch_id": self.batch_id, "days": days, "holds": dict(self.holds)} | asdict(
            self.counts
        )

    @classmethod
    def of_dict(cls, facts: Mapping[str, Any]) -> "Reading":
        """Give the reading that `as_dict` wrote."""
        return cls(
            facts["batch_id"],
            Counts(*(facts[name] for name in Counts.__dataclass_fields__)),
            frozenset(map(date.fromisoformat, facts["days"])),
            facts["origin"],
            facts["holds"],
        )


@dataclass
class Report:
    """What a run read and committed. Some sources extend it with facts of their own.

    Attributes:
        counts: Table name to counts of its records.
        by_day: Table name to partition to counts. For change tables these count rows only, and the days are those of
            the commits at the source.
        versions: Table name to version of the bronze table.
        widened: Columns that were widened to the contract's type.
    """

    counts: dict[str, Counts] = field(default_factory=lambda: defaultdict(Counts))
    by_day: dict[str, dict[date, Counts]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(Counts)))
    versions: dict[str, int] = field(default_factory=dict)
    widened: list[Widening] = field(default_factory=list)

    def add(self, batch: "Batch") -> None:
        """Add a batch that was committed."""
        self.counts[batch.name] += batch.counts
        for day, counts in batch.counts_by_day.items():
            self.by_day[batch.name][day] += counts
        self.versions[batch.name] = batch.version
        self.widened += batch.widened

    @property
    def version(self) -> int:
        """Version of the bronze table, for a run that has one table."""
        return max(self.versions.values(), default=0)

    @property
    def total(self) -> Counts:
        """Counts of all tables."""
        return total(self.counts.values())
