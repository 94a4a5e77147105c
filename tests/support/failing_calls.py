"""A file system that fails at the n-th call: run as a program under LD_PRELOAD of failing_calls.c, on real tables.

`python failing_calls.py FOLDER FIRST STEP FAULT...` does each piece of work on a copy of a small lake, with the n-th
call that changes the file system refused, cut short, or done with its answer lost; then once more without a fault. It
prints a line of JSON for each deviation, and at the end one with the number of faults.
"""

import ctypes
import errno
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable
from datetime import date
from itertools import count
from pathlib import Path

import duckdb

from pipeline_assets.contracts.base import contract
from pipeline_assets.ingest.batch.audit import audit
from pipeline_assets.ingest.files import ingest as landing
from pipeline_assets.ingest.files.ingest import LandingSource
from pipeline_assets.ingest.files.path_pattern import PathPattern
from pipeline_assets.lake import Lake, Table, query_schema

SHIM = ctypes.CDLL(None)
REFUSED, SHORT, LOST = range(3)
FAULTS = {
    "full": (REFUSED, errno.ENOSPC, True),
    "full for a moment": (REFUSED, errno.ENOSPC, False),
    "input/output error": (REFUSED, errno.EIO, False),
    "short write": (SHORT, errno.EIO, False),
    "answer lost": (LOST, errno.EIO, False),
}
DAY = date(2011, 1, 4)
MODEL = contract("shop.InvoiceLines")
SOURCE = LandingSource("shop__lines", PathPattern.parse("lines/{date}/*"), MODEL)
CSV = (
    "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"
    "536001,85123A,HEART,6,2011-01-04 08:26:00,2.55,17850,United Kingdom\n"
    "536002,85123A,HEART,many,2011-01-04 08:26:00,2.55,17850,United Kingdom\n"
)
ROWS = (
    "SELECT i AS id, DATE '2020-01-01' + (i % 3)::INTEGER AS day, {1}::BIGINT AS seq, {1} AS v FROM range({0}) AS t(i)"
)


def things(lake: Lake) -> Table:
    return Table(lake, "silver.things")


def ingest(lake: Lake, con: duckdb.DuckDBPyConnection) -> None:
    landing.ingest(lake, con, SOURCE, Path(lake.uri).parent / "landing", DAY, DAY, settle_seconds=0)


def judged(lake: Lake, con: duckdb.DuckDBPyConnection) -> None:
    if not SOURCE.table(lake).exists() or SOURCE.table(lake).position(f"landing:{DAY}") is None:
        ingest(lake, con)
    audit(con, SOURCE.table(lake), MODEL, failure_budget=1, days=(DAY, DAY))


WORK: dict[str, Callable[[Lake, duckdb.DuckDBPyConnection], object]] = {
    "ingest": ingest,
    "audit": judged,
    "append": lambda lake, con: things(lake).append(con, ROWS.format(9, 2), batch_id="b", positions={"p": 1}),
    "merge": lambda lake, con: things(lake).merge(con, ROWS.format(5, 9), keys=["id", "day"], sequence=["seq"]),
    "replace": lambda lake, con: things(lake).replace(con, ROWS.format(5, 9), where="id < 5"),
    "replace keys": lambda lake, con: things(lake).replace_keys(con, ROWS.format(5, 9), keys=["id", "day"]),
    "overwrite": lambda lake, con: things(lake).overwrite(con, f"SELECT *, 'x' AS more FROM ({ROWS.format(5, 9)})"),
}


def start(folder: Path) -> Path:
    """Makes the small lake that each piece of work finds."""
    begun = folder / "begun"
    lake = Lake(str(begun / "lake"))
    file = begun / f"landing/lines/{DAY}/a.csv"
    file.parent.mkdir(parents=True)
    file.write_text(CSV)
    os.utime(file, (1_600_000_000, 1_600_000_000))
    with lake.connect() as con:
        things(lake).create(query_schema(con, ROWS.format(1, 1)), partition_by=["day"], date_column="day")
        things(lake).append(con, ROWS.format(9, 1), batch_id="first")
    return begun


def contents(lake: Lake, con: duckdb.DuckDBPyConnection) -> dict[str, list[str]]:
    """The rows of all tables, read from all files that any version names; less what no repetition gives again."""
    found = {}
    for name in sorted(lake.table_names()):
        table = Table(lake, name)
        for version in range(table.open().version()):
            con.execute(f"SELECT count(*), count(COLUMNS(*)) FROM {table.scan(version)}").fetchall()
        found[name] = sorted(map(str, con.execute(f"FROM {table.scan()}").fetchall()))
    return found


def unnamed(lake: Lake, before: float) -> list[str]:
    """Data files that no version names, and that are older than a moment."""
    found = []
    for name in lake.table_names():
        table = Table(lake, name)
        named: set[str] = set()
        for version in range(table.open().version() + 1):
            named |= {uri.rpartition("/")[2] for uri in table.open(version).file_uris()}
        found += [
            str(path.relative_to(lake.uri))
            for path in Path(table.uri).rglob("*.parquet")
            if "_delta_log" not in path.parts and path.name not in named and path.stat().st_mtime < before
        ]
    return found


def attempt(begun: Path, folder: Path, work: str, fault: str, at: int) -> dict[str, object] | None:
    """Does one piece of work with a fault and again; None if it did not come to the fault, else what there is then."""
    shutil.rmtree(folder / "now", ignore_errors=True)
    shutil.copytree(begun, folder / "now")
    lake = Lake(str(folder / "now/lake"))
    how, number, stays = FAULTS[fault]
    said = ""
    with lake.connect() as con:
        SHIM.fault_arm(lake.uri.encode(), at, how, number, stays)
        try:
            WORK[work](lake, con)
        except Exception as error:  # noqa: BLE001 - any failure will do
            said = f"{type(error).__name__}: {error}"
        finally:
            SHIM.fault_arm(b"", 0, 0, 0, 0)
        if at > 0 and not SHIM.fault_hit():
            return None
    again = time.time()
    with lake.connect() as con:
        try:
            WORK[work](lake, con)
            return {"said": said, "tables": contents(lake, con), "unnamed": unnamed(lake, again)}
        except Exception as error:  # noqa: BLE001 - it is reported
            return {"said": said, "tables": f"{type(error).__name__}: {error}", "unnamed": []}


def tell(facts: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")


def main(folder: Path, first: int, step: int, kinds: list[str]) -> None:
    logging.disable(logging.CRITICAL)
    begun = start(folder)
    faults = 0
    for work in WORK:
        expected = attempt(begun, folder, work, "full", -1)
        assert expected is not None
        for fault in kinds or FAULTS:
            for at in count(first, step):
                found = attempt(begun, folder, work, fault, at)
                if found is None:
                    break
                faults += 1
                if found["tables"] != expected["tables"] or found["unnamed"]:
                    tell({"work": work, "fault": fault, "call": at, **found})
    tell({"faults": faults})


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
