"""Deliveries, corrections, copies and kills in any order: bronze ends as if the final folder had been read at once."""

import os
from contextlib import suppress
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

from deltalake import DeltaTable
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline_assets.contracts.base import contract
from pipeline_assets.ingest.batch.audit import audit
from pipeline_assets.ingest.files import ingest as landing
from pipeline_assets.ingest.files.path_pattern import PathPattern
from pipeline_assets.lake import Lake, Table
from pipeline_assets.lake.dead_letters import dead_letter_table

HEADER = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"
LINE = "53636{0},85123A,HEART,{1},2011-01-0{2} 08:26:00,2.55,17850,United Kingdom\n"
CONTENTS = [
    HEADER + LINE.format(1, 6, 4) + LINE.format(2, "x", 4),
    HEADER + LINE.format(3, 6, 5) + LINE.format(4, 6, 3),
    HEADER + LINE.format(5, 6, 4) + LINE.format(5, 6, 4),
    HEADER,
    "Wrong,Header\n1,2\n",
    "",
]
PATHS = ["2011-01-04/a.csv", "2011-01-04/b.csv", "2011-01-05/a.csv", "2011-01-06/a.csv"]
DAYS = [date(2011, 1, 4), date(2011, 1, 5), date(2011, 1, 6)]
SOURCE = landing.LandingSource("shop__lines", PathPattern.parse("{date}/*"), contract("shop.InvoiceLines"))

deliver = st.tuples(st.just("deliver"), st.sampled_from(PATHS), st.integers(0, len(CONTENTS) - 1))
# the range of days, and before or after which commit of the run the process dies; 9 is never
ingest = st.tuples(
    st.just("ingest"), st.sampled_from([(0, 0), (1, 1), (2, 2), (0, 1), (0, 2)]), st.sampled_from([0, 1, 2, 3, 9, 9])
)


class Killed(BaseException):
    """Stands for a kill: nothing in the code may catch it."""


class KillAtCommit:
    """Dies before (even) or after (odd) a certain commit of a table."""

    def __init__(self, at: int) -> None:
        self.at, self.commits, self.real = at, 0, DeltaTable.create_write_transaction

    def __enter__(self) -> None:
        killer = self

        def commit(table: DeltaTable, *args: object, **options: object) -> None:
            killer.commits += 1
            if killer.at == 2 * (killer.commits - 1):
                raise Killed
            killer.real(table, *args, **options)  # type: ignore[arg-type]
            if killer.at == 2 * (killer.commits - 1) + 1:
                raise Killed

        DeltaTable.create_write_transaction = commit  # type: ignore[method-assign]

    def __exit__(self, *error: object) -> None:
        DeltaTable.create_write_transaction = self.real  # type: ignore[method-assign]


def run(lake: Lake, root: Path, first: date, last: date) -> landing.Report:
    with lake.connect(threads=1) as con:
        return landing.ingest(lake, con, SOURCE, root, first, last, settle_seconds=0)


def content_of(lake: Lake) -> list[list[tuple[object, ...]]]:
    bronze = Table(lake, "bronze.shop__lines")
    with lake.connect(threads=1) as con:
        return [
            con.execute(f"SELECT * FROM {table.scan()} ORDER BY ALL").fetchall() if table.exists() else []
            for table in (bronze, dead_letter_table(lake, bronze.name))
        ]


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
# A content that moves to another file of its day, with dead letters and without.
@example([("deliver", PATHS[0], 0), ("ingest", (0, 0), 9), ("deliver", PATHS[0], 1), ("deliver", PATHS[1], 0)])
@example([("deliver", PATHS[0], 1), ("ingest", (0, 0), 1), ("deliver", PATHS[0], 0), ("deliver", PATHS[1], 1)])
@given(st.lists(st.one_of(deliver, deliver, ingest), min_size=3, max_size=12))
def test_any_history_ends_like_the_final_folder_read_at_once(history: list[tuple[object, ...]]) -> None:
    with TemporaryDirectory() as folder:
        root, lake = Path(folder, "landing"), Lake(f"{folder}/lake")
        for what, where, which in history:
            if what == "deliver":
                path = root / str(where)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(CONTENTS[int(str(which))])
                os.utime(path, (1.3e9 + int(str(which)), 1.3e9 + int(str(which))))
            else:
                first, last = where  # type: ignore[misc]
                with suppress(Killed), KillAtCommit(int(str(which))):
                    run(lake, root, DAYS[first], DAYS[last])
        run(lake, root, DAYS[0], DAYS[-1])
        again = run(lake, root, DAYS[0], DAYS[-1])
        assert not [file for file in again.files if file.outcome in ("new", "corrected")]
        fresh = Lake(f"{folder}/fresh")
        run(fresh, root, DAYS[0], DAYS[-1])
        assert content_of(lake) == content_of(fresh)
        with lake.connect(threads=1) as con:
            found = audit(con, Table(lake, "bronze.shop__lines"), SOURCE.model, failure_budget=1, days=None)
            assert found.mismatches == []
