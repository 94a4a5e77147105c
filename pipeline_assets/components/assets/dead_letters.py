"""Dead letters as Dagster shows them, whatever the source: asset metadata, the jobs that replay and discard, the check.

What a replay does is in `ingest.batch.replay` for rows and in `ingest.cdc.table.replay` for change events; discarding
is in `ingest.dead_letters.discard`.

Concept: https://docs.dagster.io/guides/build/jobs/asset-jobs
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import dagster as dg
import duckdb

from pipeline_assets.components.assets.contract_checks import table_value
from pipeline_assets.components.resources import LakeResource
from pipeline_assets.ingest.batch import replay as rows_replay
from pipeline_assets.ingest.batch.replay import Replayed, ReplaySource
from pipeline_assets.ingest.cdc.formats.parse import Format
from pipeline_assets.ingest.cdc.table import replay as changes_replay
from pipeline_assets.ingest.cdc.table.change_table import UNROUTED, ChangeTable
from pipeline_assets.ingest.dead_letters.discard import discard
from pipeline_assets.ingest.dead_letters.select import Selection, groups
from pipeline_assets.lake import Lake, Table
from pipeline_assets.lake.dead_letters import COLUMN_DESCRIPTIONS, dead_letter_table

# What a run does besides reading. These are tags because the config of a partitioned job does not reach ranged runs.
REPLAY_TAG = "pipeline_assets/replay"
"""Tag: the run tries the dead letters again, after the source was read."""
DISCARD_TAG = "pipeline_assets/discard"
"""Tag: the run discards the dead letters that wait when it starts."""

CHECK = "dead_letters"
"""The check that reports dead letters to be replayed or discarded."""
CHECK_TEXT = "No dead letter waits that would fit the contract of now."

_REASONS_SHOWN = 20
_RAW_CHARACTERS = 200
_COMMITS_LOOKED_AT = 200


@dataclass(frozen=True)
class DeadLetters:
    """The dead letters of one source.

    Attributes:
        source: Name of the source: its jobs are `<source>__replay` and `<source>__discard_dead_letters`.
        tables: Names of its tables without the layer.
        replay: Tries selected dead letters again. The last argument is the id of the run.
        finish: Finishes replays that were killed, where discarding does not do so itself.
    """

    source: str
    tables: Sequence[str]
    replay: Callable[[Lake, duckdb.DuckDBPyConnection, Selection | None, str], Replayed]
    finish: Callable[[Lake, duckdb.DuckDBPyConnection, str], None] = lambda lake, con, run_id: None

    @classmethod
    def of_rows(cls, rows: ReplaySource) -> "DeadLetters":
        """Give the dead letters of a row table."""

        def replay(lake: Lake, con: duckdb.DuckDBPyConnection, which: Selection | None, run_id: str) -> Replayed:
            return rows_replay.replay(lake, con, rows, which, run_id=run_id)

        return cls(rows.name, [rows.name], replay)

    @classmethod
    def of_changes(
        cls, source: str, tables: Sequence[ChangeTable], record_format: Format = "debezium"
    ) -> "DeadLetters":
        """Give the dead letters of change tables, and of records that belong to no table."""

        def replay(lake: Lake, con: duckdb.DuckDBPyConnection, which: Selection | None, run_id: str) -> Replayed:
            found = changes_replay.replay(
                lake, con, source, tables, record_format=record_format, selection=which, run_id=run_id
            )
            rows = sum(counts.rows for counts in found.counts.values())
            return Replayed(found.dead_letters, rows)

        def finish(lake: Lake, con: duckdb.DuckDBPyConnection, run_id: str) -> None:
            changes_replay.finish(lake, con, source, tables, record_format=record_format, run_id=run_id)

        return cls(source, [*(table.name for table in tables), f"{source}__{UNROUTED}"], replay, finish)

    def jobs(self, selection: dg.AssetSelection) -> list[Any]:
        """Make the jobs that replay and discard.

        Args:
            selection: What `<source>__to_gold` materializes.
        """
        described = {
            "replay": (
                REPLAY_TAG,
                "Reads the source, tries the dead letters again, then builds all that lies downstream.",
            ),
            "discard_dead_letters": (DISCARD_TAG, "Discards the dead letters that wait now, then does as `to_gold`."),
        }
        return [
            dg.define_asset_job(f"{self.source}__{job}", selection, tags={tag: "yes"}, description=text)
            for job, (tag, text) in described.items()
        ]

    def discard_if_asked(self, tags: Mapping[str, str], lake: LakeResource, run_id: str) -> None:
        """Discard what waits, before the source is read: nobody has looked at the dead letters that this run brings.

        So a further attempt of a step leaves the tables alone in which an earlier one has discarded or read.
        """
        if DISCARD_TAG in tags:
            letters = {name: dead_letter_table(lake.open(), f"bronze.{name}") for name in self.tables}
            names = [name for name, table in letters.items() if not _has_commit_of(table, run_id)]
            with lake.connect() as con:
                self.finish(lake.open(), con, run_id)
                for name in names:
                    discard(con, Table(lake.open(), f"bronze.{name}"), metadata={"run_id": run_id})

    def replay_if_asked(self, tags: Mapping[str, str], lake: LakeResource, run_id: str) -> dict[str, Any]:
        """Replay after the source was read: the dead letters of a killed batch are replaced when it is read again.

        Returns:
            Metadata of the materialization; {} if the run was not asked to replay.
        """
        if REPLAY_TAG not in tags:
            return {}
        with lake.connect() as con:
            found = asdict(self.replay(lake.open(), con, None, run_id))
        days = found.pop("days")
        shown = {"replay_days": ", ".join(map(str, sorted(days)))} if days else {}
        return {**{f"replay_{name}": count for name, count in found.items()}, **shown}

    def metadata(self, lake: LakeResource) -> dict[str, dict[str, Any]]:
        """Describe what waits: for each table the number, and a sample of each of the most frequent reasons."""
        with lake.connect() as con:
            return {name: _metadata(con, dead_letter_table(lake.open(), f"bronze.{name}")) for name in self.tables}


def column_schema() -> dg.TableSchema:
    """Give the columns of a table of dead letters as the UI shows them."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(name=name, type=dtype, description=text)
            for name, (dtype, text) in COLUMN_DESCRIPTIONS.items()
        ]
    )


def fitting_result(asset: dg.AssetKey, rows: ReplaySource, fitting: int) -> dg.AssetCheckResult:
    """Warn if waiting dead letters of a row table would fit today's contract, and propose the job."""
    facts: dict[str, Any] = {"would_fit": fitting}
    if fitting:
        facts["remedy"] = f"{fitting:,} dead letters would fit now: run the job {rows.name}__replay"
    return dg.AssetCheckResult(
        asset_key=asset, check_name=CHECK, passed=not fitting, severity=dg.AssetCheckSeverity.WARN, metadata=facts
    )


def waiting_facts(con: duckdb.DuckDBPyConnection, table: Table) -> dict[str, Any]:
    """Describe the dead letters that wait, as metadata of a check: their number, and the most frequent reasons."""
    found = groups(con, table)
    reasons = [{"reason": group.reason, "dead_letters": group.records} for group in found[:_REASONS_SHOWN]]
    return {
        "dead_letters": sum(group.records for group in found),
        **({"reasons": table_value(reasons)} if reasons else {}),
    }


def _has_commit_of(table: Table, run_id: str) -> bool:
    return table.exists() and any(commit.get("run_id") == run_id for commit in table.open().history(_COMMITS_LOOKED_AT))


def _metadata(con: duckdb.DuckDBPyConnection, table: Table) -> dict[str, Any]:
    found = groups(con, table)
    if not found:
        return {"waiting": 0}
    sample = [
        {
            "reason": group.reason, "dead_letters": group.dead_letters, "first_day": group.first_day,
            "last_day": group.last_day, "file": group.file, "line": group.line, "raw": group.raw[:_RAW_CHARACTERS],
        }
        for group in found[:_REASONS_SHOWN]
    ]  # fmt: skip
    return {"waiting": sum(group.records for group in found), "reasons": table_value(sample)}
