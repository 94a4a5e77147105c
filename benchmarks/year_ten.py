"""Benchmark `year_ten`: one new day costs the same whether the lake holds one year or ten ("cost follows the change").

Two lakes of small days, 305 trading days a year, with the logs as years would leave them: a hundred commits and a
checkpoint (older commits are cleaned up after 30 days), a position for each day and file, a folder for each day in the
landing folder. Then new days land in both in turn, and each is brought to gold by a process of its own.
"""

import json
from datetime import date, timedelta
from pathlib import Path
from statistics import median

import duckdb
from deltalake import CommitProperties, Transaction

from benchmarks import measure
from benchmarks.lines import lines
from benchmarks.pipeline import BRONZE, MODELS, RUN, LandingToGold, day_folder, make_old, parse_dbt
from benchmarks.report import Result, Target
from pipeline_assets.ingest.files.plan import position_of
from pipeline_assets.lake import Lake, Table, write_parquet

_ROUNDS = 3
# In one call, so that one file has the times of all nodes.
_DBT = [["build", "--exclude-resource-type", "unit_test"]]
_DBT_PARTS = {f"model.pipeline_assets.{name}": name for name in (model.split(".")[1] for model in MODELS)} | {
    "test.": "data tests"
}
_YEARS = {"1 year": 305, "10 years": 3050}
_ROWS = 200
_FIRST = date(2011, 1, 1)
_COMMITS = 100
# 4,000 customers who buy for a year and leave, so that a day moves as many to another segment in year ten as in year
# one. The year of a customer begins half a year before the lake does: the new days have old customers and new ones.
_CUSTOMER = f"12000 + 4000 * ((i + {_ROWS * 152}) // {_ROWS * 305}) + hash(i // 10) % 4000"


class _Years:
    """A lake that holds some years, and what each new day took."""

    def __init__(self, name: str, days: int, folder: Path, parsed: Path) -> None:
        self.name, self.days = name, days
        self.pipeline = LandingToGold(folder, parsed)
        self.lake = Lake(str(self.pipeline.lake))
        self.taken: list[dict[str, float]] = []
        self._build()

    def next_day(self) -> None:
        """Lands the day after the last, brings it to gold and notes what that took."""
        day = self._land(self.days)
        self.days += 1
        self.pipeline.fresh_target()
        command = self.pipeline.command(day, day, audit=True, dbt=_DBT)
        usage = measure.run(command, self.pipeline.environment())
        phases = self.pipeline.phases()
        results = json.loads((self.pipeline.target / "run_results.json").read_text())["results"]
        self.taken.append(
            {"all, CPU s": usage.cpu_seconds, "all, wall s": usage.wall_seconds}
            | {f"{name}, CPU s": phases[name]["cpu_seconds"] for name in phases}
            | {
                f"  {part}, wall s": sum(
                    node["execution_time"] for node in results if node["unique_id"].startswith(key)
                )
                for key, part in _DBT_PARTS.items()
            }
        )

    def files(self) -> dict[str, int]:
        """Number of data files by table."""
        return {name: len(Table(self.lake, name).open().file_uris()) for name in (BRONZE, *MODELS)}

    def _build(self) -> None:
        first = self._land(0)
        self.pipeline.fresh_target()
        env = self.pipeline.environment()
        # The table as ingest makes it.
        measure.run(self.pipeline.command(first, first, audit=False, dbt=[]), env)
        step = -(-self.days // _COMMITS)
        with self.lake.connect(threads=1) as con:  # one thread writes one file per day
            for start in range(1, self.days, step):
                self._commit_days(con, start, min(start + step, self.days))
        measure.run(self.pipeline.command(first, first, audit=False, dbt=RUN), env)
        for name in (BRONZE, *MODELS):
            Table(self.lake, name).open().create_checkpoint()

    def _commit_days(self, con: duckdb.DuckDBPyConnection, start: int, stop: int) -> None:
        """Appends days to bronze in one commit, as that many runs of ingest would have left them."""
        rows = lines((stop - start) * _ROWS, _FIRST, first=start * _ROWS, rows_per_day=_ROWS, customer=_CUSTOMER)
        table = Table(self.lake, BRONZE)
        select = f"""
            SELECT *, invoice_date::DATE AS _partition_date, md5(invoice_date::DATE::VARCHAR) AS _batch_id,
                TIMESTAMPTZ '2011-01-01' AS _extracted_at, {{'file': 'x', 'line': 1::BIGINT}} AS _source,
                NULL::VARCHAR AS _rescued
            FROM ({rows})
        """
        days = [_FIRST + timedelta(days=number) for number in range(start, stop)]
        for day in days:
            day_folder(self.pipeline.landing, day)
        positions = [
            Transaction(name, day.toordinal()) for day in days for name in (f"content:{day:%Y%m%d}-1", position_of(day))
        ]
        opened = table.open()
        files = write_parquet(con, select, table.uri, partition_by=["_partition_date"])
        # Not by table.commit, which looks each position up before.
        opened.create_write_transaction(
            [file.add_action(opened.schema()) for file in files],
            "append",
            opened.schema(),
            partition_by=["_partition_date"],
            commit_properties=CommitProperties(app_transactions=positions),
        )

    def _land(self, number: int) -> date:
        day = _FIRST + timedelta(days=number)
        path = day_folder(self.pipeline.landing, day) / "lines.parquet"
        rows = lines(_ROWS, _FIRST, first=number * _ROWS, rows_per_day=_ROWS, customer=_CUSTOMER)
        duckdb.execute(f"COPY ({rows}) TO '{path}' (FORMAT parquet)")
        make_old(path)
        return day


def run(folder: Path) -> Result:
    """Builds both lakes and brings new days to gold in turn."""
    parsed = parse_dbt(folder / "dbt")
    lakes = [_Years(name, days, folder / str(days), parsed) for name, days in _YEARS.items()]
    files = {lake.name: lake.files() for lake in lakes}
    for _ in range(_ROUNDS):
        for lake in lakes:
            lake.next_day()
    one, ten = ({part: median(day[part] for day in lake.taken) for part in lake.taken[0]} for lake in lakes)
    rows: list[list[str | float]] = [[part, one[part], ten[part], ten[part] / one[part]] for part in one]
    counts = ", ".join(f"{name} {ten_files:,}" for name, ten_files in files[lakes[1].name].items())
    return Result(
        "year_ten",
        f"a new day of {_ROWS} rows to gold, when the lake holds one year or ten",
        ["", *_YEARS, "times"],
        rows,
        [Target("CPU seconds, year ten by year one", ten["all, CPU s"] / one["all, CPU s"], 1.25)],
        [
            f"Medians of {_ROUNDS} days in turn; dbt's start-up (3 CPU s) is in it.",
            f"Data files of ten years: {counts}.",
        ],
        {"days": {lake.name: lake.taken for lake in lakes}, "files": files},
    )
