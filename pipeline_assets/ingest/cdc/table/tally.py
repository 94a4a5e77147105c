"""What runs count of the batches that they commit. Nothing else lives here."""

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import date

from pipeline_assets.ingest.cdc.table.change_table import Counts, Staging


@dataclass
class Tally:
    """Counts of committed batches.

    Attributes:
        counts: Table name to counts of the events that it got.
        rows_by_day: Table name to commit date to rows.
    """

    counts: dict[str, Counts] = field(default_factory=lambda: defaultdict(Counts))
    rows_by_day: dict[str, dict[date, int]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(int)))

    def add(self, staging: Staging) -> None:
        """Counts a batch that was committed."""
        self.counts[staging.name] += staging.counts
        for file in staging.files:
            day = date.fromisoformat(str(file.partition_values["_partition_date"]))
            self.rows_by_day[staging.name][day] += file.rows

    def include(self, other: "Tally") -> None:
        """Adds the counts of another tally."""
        for name, counts in other.counts.items():
            self.counts[name] += counts
        for name, days in other.rows_by_day.items():
            for day, rows in days.items():
                self.rows_by_day[name][day] += rows
