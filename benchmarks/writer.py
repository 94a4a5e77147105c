"""Benchmark `writer`: five million rows into a Delta table by COPY and our commit, beside delta-rs's writer."""

import sys
from datetime import date
from pathlib import Path
from shutil import rmtree

import duckdb

from benchmarks import measure
from benchmarks.lines import lines
from benchmarks.pipeline import CONTENDERS
from benchmarks.report import Result, Target

_ROUNDS = 5
_ROWS, _FILES = 1_000_000, 5
_OURS, _PEER = "DuckDB COPY + our commit", "Arrow stream into write_deltalake"
_DAY = date(2011, 1, 4)


def run(folder: Path) -> Result:
    """Both write the same query's rows with the same compression; each run makes the table anew."""
    for number in range(_FILES):
        rows = lines(_ROWS, _DAY, first=number * _ROWS)
        duckdb.execute(f"COPY ({rows}) TO '{folder}/{number}.parquet' (FORMAT parquet)")
    contenders = [
        measure.Contender(
            name,
            [sys.executable, str(CONTENDERS / "write_delta.py"), how, str(folder / how), f"{folder}/*.parquet"],
            prepare=lambda how=how: rmtree(folder / how, ignore_errors=True),  # type: ignore[misc]
        )
        for name, how in ((_OURS, "copy"), (_PEER, "arrow"))
    ]
    found = measure.alternate(contenders, _ROUNDS)
    middle = {name: measure.middle(usages) for name, usages in found.items()}
    sizes = {name: _megabytes(folder / how) for name, how in ((_OURS, "copy"), (_PEER, "arrow"))}
    ours, peer = middle[_OURS], middle[_PEER]
    return Result(
        "writer",
        f"{_ROWS * _FILES:,} rows from Parquet files into a new Delta table",
        ["", "wall s", "CPU s", "peak MB", "MB written"],
        [[name, u.wall_seconds, u.cpu_seconds, u.peak_rss_mb, sizes[name]] for name, u in middle.items()],
        [Target("CPU seconds, times write_deltalake", ours.cpu_seconds / peer.cpu_seconds, 1.0)],
        [
            f"Medians of {_ROUNDS} alternating runs; zstd level 1; whole processes, imports included.",
            f"{_OURS} takes {ours.wall_seconds / peer.wall_seconds:.2f} times the wall seconds.",
        ],
        {"runs": found, "megabytes": sizes},
    )


def _megabytes(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*.parquet")) / 1e6
