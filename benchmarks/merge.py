"""Benchmark `merge`: a day's changes into silver cost the same whether the table holds 500,000 rows or five million.

Both tables have the shape of silver.customers: partitions of 100,000 neighbouring keys. Each merge brings the same number
of rows of three partitions, as far apart as the table goes, to both in turn: side by side, the range of the keys would
do to find them. For contrast, the same without the partition among the keys.
"""

import time
from pathlib import Path
from statistics import median

from benchmarks.report import Result, Target
from pipeline_assets.lake import Lake, Table, query_schema

_SIZES = {"500,000 rows": 500_000, "5,000,000 rows": 5_000_000}
_CHANGED, _BUCKETS, _PER_BUCKET = 20_000, 3, 100_000
_ROUNDS = 15
_PRUNED, _WHOLE, _KEYS = "merge", "merge, partition not among the keys", "replace keys"


def _rows(keys: str, sequence: int) -> str:
    return f"""
        SELECT
            id AS customer_id,
            'Customer ' || id AS name,
            'c' || id || '-{sequence}@example.com' AS email,
            '+44' || (id * 7919) AS phone,
            'United Kingdom' AS country,
            TIMESTAMPTZ '2011-01-01' + to_seconds({sequence}) AS updated_at,
            DATE '2011-01-01' + {sequence}::INT AS _changed_date,
            {sequence}::BIGINT AS _commit_lsn,
            id AS _tx_seq,
            id // {_PER_BUCKET} AS _bucket
        FROM ({keys})
    """


class _Silver:
    """A table of some size, and the CPU seconds of what was done to it."""

    def __init__(self, lake: Lake, rows: int) -> None:
        self.con = lake.connect()
        self.con.execute("SET preserve_insertion_order = false")
        self.apart = (rows // _PER_BUCKET - 1) // (_BUCKETS - 1)
        self.table = Table(lake, f"silver.customers_{rows}")
        everyone = _rows(f"SELECT i AS id FROM range({rows}) AS t(i)", 0)
        self.table.create(query_schema(self.con, everyone), partition_by=["_bucket"], date_column="_changed_date")
        self.table.append(self.con, everyone, batch_id="everyone")
        self.cpu_seconds: dict[str, list[float]] = {_PRUNED: [], _WHOLE: [], _KEYS: []}

    def change(self, what: str, number: int) -> None:
        """Brings the rows of a batch in; `number` makes it another one, and newer."""
        ids = f"""
            SELECT (place // {_PER_BUCKET} * {self.apart}) * {_PER_BUCKET} + place % {_PER_BUCKET} AS id FROM (
                SELECT DISTINCT (hash(i + {number * _CHANGED}) % {_BUCKETS * _PER_BUCKET})::BIGINT AS place
                FROM range({_CHANGED}) AS t(i)
            )"""
        self.con.execute(f"CREATE OR REPLACE TEMP TABLE changes AS {_rows(ids, number)}")
        changes, sequence = "SELECT * FROM changes", ["_commit_lsn", "_tx_seq"]
        started = time.process_time()
        if what == _KEYS:
            self.table.replace_keys(self.con, changes, keys=["customer_id", "_bucket"])
        else:
            keys = ["customer_id", "_bucket"] if what == _PRUNED else ["customer_id"]
            self.table.merge(self.con, changes, keys=keys, sequence=sequence)
        self.cpu_seconds[what].append(time.process_time() - started)


def run(folder: Path) -> Result:
    """Builds both tables and brings the same changes to them in turn."""
    tables = {name: _Silver(Lake(str(folder)), rows) for name, rows in _SIZES.items()}
    for number in range(1, _ROUNDS + 2):
        for at, what in enumerate((_PRUNED, _WHOLE, _KEYS)):
            for table in tables.values():
                table.change(what, number * 3 + at)
    # The first round writes over files as the load left them, the others over each other's.
    found = {
        name: {what: median(seconds[1:]) for what, seconds in table.cpu_seconds.items()}
        for name, table in tables.items()
    }
    small, large = found.values()
    rows: list[list[str | float]] = [[what, small[what], large[what], large[what] / small[what]] for what in small]
    return Result(
        "merge",
        f"{_CHANGED:,} changed rows of {_BUCKETS} partitions, CPU seconds, by the size of the table",
        ["", *_SIZES, "times"],
        rows,
        [Target("CPU seconds of a merge, 5 million rows by 500,000", large[_PRUNED] / small[_PRUNED], 1.1)],
        [f"Medians of {_ROUNDS} rounds in turn, in one process; a partition holds {_PER_BUCKET:,} rows."],
        {"cpu_seconds": {name: table.cpu_seconds for name, table in tables.items()}},
    )
