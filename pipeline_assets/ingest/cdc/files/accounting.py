"""The counts of landed change records: what the last run read, compared with what all its tables hold.

`ingest.batch.audit` compares events with rows and dead letters for each table. Records that carry no data, or belong to
no table, are only counted here.
"""

import json
from dataclasses import dataclass
from datetime import date

import duckdb

from pipeline_assets.ingest.cdc.files.ingest import RUN
from pipeline_assets.ingest.cdc.files.plan import FileSource
from pipeline_assets.ingest.cdc.table.change_table import UNROUTED
from pipeline_assets.ingest.dead_letters.settled import replayed_records
from pipeline_assets.lake import Lake, Table, days_predicate
from pipeline_assets.lake.dead_letters import WEIGHT, dead_letter_table, weighed
from pipeline_assets.sql import quote_text

_COMMITS_LOOKED_AT = 200


@dataclass
class FileAccount:
    """Counts of a run over landed files.

    Attributes:
        records_in: Records counted while reading.
        rows: Rows of the run's batches in the tables.
        dead_letters: Dead letters of these batches.
        replayed: Dead letters of these batches that were replayed since.
        skipped: Records that carry no data.
        present: Events that were in their table before the run, because a run before it was killed.
    """

    records_in: int = 0
    rows: int = 0
    dead_letters: int = 0
    replayed: int = 0
    skipped: int = 0
    present: int = 0

    @property
    def adds_up(self) -> bool:
        """Whether nothing was lost."""
        return self.records_in == self.rows + self.dead_letters + self.replayed + self.skipped + self.present


def account(con: duckdb.DuckDBPyConnection, lake: Lake, source: FileSource) -> FileAccount:
    """Count the last run that read files; if there was none, all counts are 0.

    Args:
        con: A connection of the lake.
        lake: The lake.
        source: The declaration.
    """
    reference = source.reference(lake)
    commits = reference.open().history(_COMMITS_LOOKED_AT) if reference.exists() else []
    commit = next((commit for commit in commits if RUN in commit), None)
    if commit is None:
        return FileAccount()
    run = json.loads(commit[RUN])
    found = FileAccount(**{name: run[name] for name in ("records_in", "skipped", "present")})
    for name, (batch_id, days) in run["batches"].items():
        bronze = Table(lake, f"bronze.{name}")
        dead_letters = dead_letter_table(lake, bronze.name)
        if name != f"{source.name}__{UNROUTED}":
            within = days_predicate("_partition_date", map(date.fromisoformat, days))
            found.rows += _sum(con, "1", f"{bronze.scan()} WHERE {within}", batch_id)
        if dead_letters.exists():
            found.dead_letters += _sum(con, WEIGHT, f"{weighed(dead_letters)} WHERE TRUE", batch_id)
            found.replayed += replayed_records(dead_letters, commit["timestamp"])[batch_id]
    return found


def _sum(con: duckdb.DuckDBPyConnection, what: str, rows: str, batch_id: str) -> int:
    found = con.execute(f"SELECT coalesce(sum({what}), 0)::BIGINT FROM {rows} AND _batch_id = {quote_text(batch_id)}")
    (total,) = found.fetchone() or (0,)
    return int(total)
