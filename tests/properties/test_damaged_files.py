"""Damaged files by the thousand: no crash, no run that fails, every record accounted for, every good line lands.

A file that fails again: `PIPELINE_FUZZ_SEEDS=4711:4712 pytest tests/properties/test_damaged_files.py`.
"""

import os
import zlib
from collections import Counter
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated

import pandera.polars as pa
import polars as pl
import pytest

from pipeline_assets.ingest.batch.audit import audit
from pipeline_assets.ingest.files import ingest as landing
from pipeline_assets.ingest.files.path_pattern import PathPattern
from pipeline_assets.lake import Lake, Table
from pipeline_assets.lake.dead_letters import dead_letter_table
from tests.support.damaged_files import Damaged, make

FIRST = date(2026, 1, 5)
PER_DAY = 500


class Records(pa.DataFrameModel):
    key: str = pa.Field()
    crc: int = pa.Field(nullable=True)
    amount: Annotated[pl.Decimal, 12, 2] = pa.Field(nullable=True)
    day: str = pa.Field(nullable=True)
    note: str = pa.Field(nullable=True)


SOURCE = landing.LandingSource("fuzz__records", PathPattern.parse("{date}/*"), Records)


def seeds(default: range) -> range:
    given = os.environ.get("PIPELINE_FUZZ_SEEDS")
    return range(*map(int, given.split(":"))) if given else default


def check(folder: Path, which: range) -> None:
    lake, root = Lake(str(folder / "lake")), folder / "landing"
    bronze = SOURCE.table(lake)
    with lake.connect() as con:
        for number, start in enumerate(range(which.start, which.stop, PER_DAY)):
            day = FIRST + timedelta(days=number)
            files = [make(seed) for seed in which[start - which.start :][:PER_DAY]]
            for file in files:
                (root / str(day)).mkdir(parents=True, exist_ok=True)
                (root / str(day) / file.name).write_bytes(file.content)
            report = landing.ingest(lake, con, SOURCE, root, day, day, settle_seconds=0)
            _check_day(con, bronze, day, files, {Path(file.file).name: file for file in report.files})
            assert audit(con, bronze, Records, failure_budget=1, days=(day, day)).mismatches == []


def _check_day(con, bronze: Table, day: date, files: list[Damaged], reports: dict[str, landing.FileReport]) -> None:
    of_day = f"_partition_date = DATE '{day}'"
    found = con.execute(f"SELECT _source.file, key, crc FROM {bronze.scan()} WHERE {of_day}").fetchall()
    letters = dead_letter_table(bronze.lake, bronze.name)
    dead = Counter()
    if letters.exists():
        weights = con.execute(f"SELECT _source.file, sum(records) FROM {letters.scan()} WHERE {of_day} GROUP BY 1")
        dead.update({Path(name).name: int(records) for name, records in weights.fetchall()})
    rows = Counter(Path(name).name for name, _, _ in found)
    keys = {key for _, key, crc in found if crc == zlib.crc32(key.encode())}
    wrong = []
    for file in files:
        report = reports.get(file.name)
        if report is None or report.outcome != "new":
            wrong.append(f"{file.name}: was not read ({report})")
        elif (report.rows, report.dead_letters) != (rows[file.name], dead[file.name]):
            wrong.append(
                f"{file.name}: {report} but {rows[file.name]} rows, {dead[file.name]} dead letters in the tables"
            )
        elif file.records is not None and rows[file.name] + dead[file.name] != file.records:
            wrong.append(
                f"{file.name}: {file.records} records, {rows[file.name]} rows + {dead[file.name]} dead letters"
            )
        elif lost := sorted(file.keys - keys):
            wrong.append(f"{file.name}: good lines are missing: {lost}")
    assert not wrong, f"{len(wrong)} of {len(files)} files:\n" + "\n".join(wrong[:30])


def test_a_hundred_damaged_files_cost_nothing_but_what_is_damaged(tmp_path: Path) -> None:
    check(tmp_path, seeds(range(120)))


@pytest.mark.parametrize("seed", [
    2_545,  # statistics of Parquet that say a column of nulls has none
    9_342,  # a name in a Parquet footer that is no UTF-8
])  # fmt: skip
def test_damage_that_was_found_stays_mended(tmp_path: Path, seed: int) -> None:
    check(tmp_path, range(seed, seed + 1))


@pytest.mark.integration
@pytest.mark.parametrize("first", range(1_000, 11_000, 2_500))
def test_ten_thousand_damaged_files_cost_nothing_but_what_is_damaged(tmp_path: Path, first: int) -> None:
    check(tmp_path, seeds(range(first, first + 2_500)))
