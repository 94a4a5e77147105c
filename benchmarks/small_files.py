"""Benchmark `small_files`: many one-line files in a day, one more of them, and a day of files in a log of many."""

import os
import time
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import pandera.polars as pa
import polars as pl

from benchmarks.report import Result, Target
from pipeline_assets.ingest.batch.audit import audit
from pipeline_assets.ingest.files import ingest as landing
from pipeline_assets.ingest.files.ingest import LandingSource
from pipeline_assets.ingest.files.path_pattern import PathPattern
from pipeline_assets.lake import Lake

_FILES = 10_000
_LOGS = (200, 20_000)
_A_DAY = 24
_DAY = date(2026, 1, 5)
_OLD = (1.3e9, 1.3e9)


class Events(pa.DataFrameModel):
    """An event."""

    id: pl.Int64 = pa.Field(nullable=False)
    what: pl.String = pa.Field(nullable=True)


class _Folder:
    """A landing folder and its lake."""

    def __init__(self, folder: Path) -> None:
        self._root, self._lake = folder / "landing", Lake(str(folder / "lake"))
        self._source = LandingSource("bench__events", PathPattern.parse("events/{date}/*"), Events)
        self._con = self._lake.connect()

    def land(self, day: date, *numbers: int) -> None:
        place = self._root / "events" / day.isoformat()
        place.mkdir(parents=True, exist_ok=True)
        for number in numbers:
            path = place / f"{number}.csv"
            path.write_text(f"id,what\n{number},opened\n")
            os.utime(path, _OLD)

    def ingest(self, first: date, last: date, *, files: int) -> float:
        """CPU seconds of reading and auditing the new files of some days."""

        def work() -> None:
            report = landing.ingest(self._lake, self._con, self._source, self._root, first, last, settle_seconds=5)
            table = self._source.table(self._lake)
            found = audit(self._con, table, Events, failure_budget=0, days=(first, last))
            if report.total.rows != files or found.bad:
                raise SystemExit(f"{report.total.rows} of {files} files were read: the benchmark is broken")

        return _cpu_seconds(work)


def _cpu_seconds(work: Callable[[], None]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def run(folder: Path) -> Result:
    """Times runs over one large day, and over a small day beside logs of two sizes."""
    day = _Folder(folder / "day")
    day.land(_DAY, *range(_FILES))
    first = day.ingest(_DAY, _DAY, files=_FILES)
    day.land(_DAY, _FILES)
    one_more = day.ingest(_DAY, _DAY, files=1)
    beside = {size: _beside(_Folder(folder / str(size)), size) for size in _LOGS}
    small, large = (beside[size] for size in _LOGS)
    return Result(
        "small_files",
        "files of one line: read, written, audited",
        ["", "CPU s"],
        [
            [f"{_FILES:,} files in a day, all new", first],
            [f"{_FILES:,} files in a day, one more", one_more],
            *([f"a day of {_A_DAY} files, {size:,} in the log", seconds] for size, seconds in beside.items()),
        ],
        [
            Target(f"CPU seconds, {_FILES:,} new files", first, 60),
            Target(f"CPU seconds, one file beside {_FILES:,}", one_more, 2),
            Target(f"CPU seconds more, {_LOGS[1]:,} files in the log instead of {_LOGS[0]:,}", large - small, 1),
        ],
        ["One process, after its imports; DuckDB uses all cores."],
        {"first": first, "one_more": one_more, "beside": beside},
    )


def _beside(source: _Folder, size: int) -> float:
    """CPU seconds of a day's files, the smallest of three, in a log that holds many files of 100 days before."""
    start = _DAY - timedelta(days=100)
    for at in range(100):
        source.land(start + timedelta(days=at), *range(at, size, 100))
    source.ingest(start, _DAY - timedelta(days=1), files=size)
    found = []
    for at in range(3):
        day = _DAY + timedelta(days=at)
        source.land(day, *range(size + at * _A_DAY, size + (at + 1) * _A_DAY))
        found.append(source.ingest(day, day, files=_A_DAY))
    return min(found)
