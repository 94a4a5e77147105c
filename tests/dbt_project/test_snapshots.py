"""Full snapshots of files, from the landing folder to silver: the newest published day is the state."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import pytest
from dbt.cli.main import dbtRunnerResult
from warm_dbt import PROJECT, warm_dbt

from pipeline_assets.contracts.base import contract
from pipeline_assets.contracts.changes import snapshot_state
from pipeline_assets.contracts.validation import validate_rows
from pipeline_assets.ingest.batch.audit import Findings, audit
from pipeline_assets.ingest.files import ingest as landing
from pipeline_assets.ingest.files.ingest import LandingSource
from pipeline_assets.ingest.files.path_pattern import PathPattern
from pipeline_assets.lake import Lake, Table, held_days

pytestmark = pytest.mark.slow

_CONFIG = """
name: snapshots
profile: pipeline_assets
flags: {send_anonymous_usage_stats: false, log_level_file: none}
on-run-start: "{{ open_lake() }}"
models: {snapshots: {+materialized: delta, +schema: silver}}
"""
_SOURCES = "sources: [{name: bronze, schema: bronze, tables: [{name: crm__accounts}]}]"
_MODEL = "{{ snapshot_state(source('bronze', 'crm__accounts'), contract='crm.Accounts', keys=['account_id']) }}"


class Accounts:
    """A source of snapshots, and dbt with one model of it. Days are those of January 2026."""

    def __init__(self, folder: Path, lake: Lake, dbt: Callable[..., dbtRunnerResult]) -> None:
        self.root, self.lake, self.con, self._dbt = folder / "landing", lake, lake.connect(), dbt
        self.model = contract("crm.Accounts")
        self.source = LandingSource(
            "crm__accounts", PathPattern.parse("crm/{date}/*"), self.model, delivery="snapshot", schema_evolution=True
        )
        self.bronze = self.source.table(lake)

    def land(self, day: int, *accounts: str, name: str = "all.csv", age: float = 3600, header: str = "") -> None:
        """Lands a file: `A` is account A of segment s, `A=x` of segment x, `A=x,more` with one more field."""
        lines = [header or "account_id,customer_id,segment,account_owner,updated_at"]
        for account in accounts:
            key, _, rest = account.partition("=")
            segment, _, more = rest.partition(",")
            lines.append(f"{key},1,{segment or 's'},Ann,2026-01-01 00:00:00+00" + (f",{more}" if more else ""))
        self.land_text(day, "\n".join(lines) + "\n", name, age)

    def land_text(self, day: int, text: str, name: str = "all.csv", age: float = 3600) -> None:
        path = self.root / f"crm/2026-01-{day:02}/{name}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, (time.time() - age, time.time() - age))

    def ingest(self, first: int, last: int | None = None, *, shrink_budget: float = 0.5) -> Findings:
        days = date(2026, 1, first), date(2026, 1, last or first)
        landing.ingest(self.lake, self.con, self.source, self.root, *days, settle_seconds=5)
        return audit(self.con, self.bronze, self.model, failure_budget=0.5, days=days, shrink_budget=shrink_budget)

    def build(self, *args: str) -> None:
        result = self._dbt("run", *args)
        assert result.success, result

    def take(self, first: int, last: int | None = None, **options: float) -> dict[str, str]:
        self.ingest(first, last, **options)
        self.build()
        return self.state()

    def state(self) -> dict[str, str]:
        """Account to segment; `gone` if it is a tombstone."""
        scan = Table(self.lake, "silver.accounts").scan()
        fits = validate_rows(self.con, f"from {scan}", snapshot_state(self.model, "silver.accounts", ["account_id"]))
        assert fits.passed, fits.failures
        rows = self.con.execute(f"select account_id, segment, _deleted from {scan} order by 1").fetchall()
        return {key: "gone" if is_deleted and segment is None else segment for key, segment, is_deleted in rows}

    def changed(self) -> dict[str, int]:
        """Account to the day of the snapshot that made it what it is."""
        scan = Table(self.lake, "silver.accounts").scan()
        return dict(self.con.execute(f"select account_id, day(_changed_date) from {scan} order by 1").fetchall())


@pytest.fixture(scope="module")
def dbt(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dbtRunnerResult]:
    folder = tmp_path_factory.mktemp("snapshots")
    shutil.copytree(PROJECT / "macros", folder / "macros")
    (folder / "models").mkdir()
    (folder / "dbt_project.yml").write_text(_CONFIG)
    (folder / "models" / "sources.yml").write_text(_SOURCES)
    (folder / "models" / "accounts.sql").write_text(_MODEL)
    return warm_dbt(folder, folder)


@pytest.fixture
def accounts(tmp_path: Path, lake: Lake, dbt: Callable[..., dbtRunnerResult]) -> Iterator[Accounts]:
    found = Accounts(tmp_path, lake, dbt)
    yield found
    found.con.close()


def test_a_snapshot_that_goes_back_to_an_earlier_one_is_the_state(accounts: Accounts) -> None:
    accounts.land(1, "A=x", "B=y")
    accounts.land(2, "A=z", "C")
    accounts.land(3, "A=x", "B=y")
    assert accounts.take(1) == {"A": "x", "B": "y"}
    assert accounts.take(2) == {"A": "z", "B": "gone", "C": "s"}
    assert accounts.take(3) == {"A": "x", "B": "y", "C": "gone"}
    accounts.build("--full-refresh")
    assert accounts.state() == {"A": "x", "B": "y", "C": "gone"}
    rows = accounts.con.execute(
        f"SELECT day(_partition_date), count(*) FROM {accounts.bronze.scan()} GROUP BY 1 ORDER BY 1"
    )
    assert rows.fetchall() == [(1, 2), (2, 2), (3, 2)]


def test_days_that_come_in_one_run_or_late_end_in_the_newest(accounts: Accounts) -> None:
    accounts.land(1, "A=x", "B")
    accounts.land(4, "A=y", "D")
    assert accounts.take(1, 4) == {"A": "y", "B": "gone", "D": "s"}
    accounts.land(2, "A=late", "E")
    expected = {"A": "y", "B": "gone", "D": "s", "E": "gone"}
    assert accounts.take(2) == expected
    accounts.land(1, "A=corrected", "B", age=60)
    assert accounts.take(1) == expected
    accounts.build("--full-refresh")
    assert accounts.state() == expected


def test_files_of_one_day_are_one_snapshot_and_a_corrected_one_replaces_it(accounts: Accounts) -> None:
    accounts.land(1, "A", "B", name="one.csv")
    accounts.land(1, "C", name="two.csv")
    assert accounts.take(1) == {"A": "s", "B": "s", "C": "s"}
    accounts.land(1, "A=x", name="one.csv", age=7200)  # as old as its copy says: it is what lies there now
    assert accounts.take(1) == {"A": "x", "B": "gone", "C": "s"}


def test_only_what_a_snapshot_changes_is_written(accounts: Accounts) -> None:
    accounts.land(1, "A", "B", "C")
    accounts.take(1)
    accounts.land(2, "A", "B=x", "C")
    accounts.take(2)
    assert accounts.changed() == {"A": 1, "B": 2, "C": 1}


@pytest.mark.parametrize(
    "text",
    [
        "account_id,customer_id,segment,account_owner,updated_at\n",
        "",
        "<html>try again later</html>\n",
        "account_id,customer_id,segment,account_owner,updated_at\nA,1,s,Ann,2026-01-01 00:00:00+00\n",
    ],
    ids=["without rows", "empty", "an error page", "far fewer rows"],
)
def test_a_broken_delivery_is_withheld_and_deletes_nobody(accounts: Accounts, text: str) -> None:
    accounts.land(1, "A", "B", "C")
    accounts.take(1)
    accounts.land_text(2, text)
    findings = accounts.ingest(2)
    assert date(2026, 1, 2) in findings.shrunk
    assert held_days(accounts.bronze) == {date(2026, 1, 2)}
    accounts.build()
    assert accounts.state() == {"A": "s", "B": "s", "C": "s"}
    assert accounts.ingest(2).held == {date(2026, 1, 2)}  # the same again does not pass
    accounts.land(2, "A", "B=x", age=60)
    assert accounts.take(2) == {"A": "s", "B": "x", "C": "gone"}
    assert held_days(accounts.bronze) == frozenset()


def test_a_shrink_that_is_meant_passes_with_another_budget(accounts: Accounts) -> None:
    accounts.land(1, "A", "B", "C")
    accounts.take(1)
    accounts.land(2, "A")
    assert accounts.take(2) == {"A": "s", "B": "s", "C": "s"}
    assert accounts.take(2, shrink_budget=0.9) == {"A": "s", "B": "gone", "C": "gone"}


def test_a_new_column_of_the_source_reaches_the_state(accounts: Accounts) -> None:
    accounts.land(1, "A", "B")
    accounts.take(1)
    accounts.land(2, "A=x,gold", "B", header="account_id,customer_id,segment,account_owner,updated_at,level")
    accounts.land(2, "C", name="other.csv")
    accounts.land_text(
        2, "account_id,customer_id,segment,account_owner,updated_at,level\nA,1,x,Ann,2026-01-01 00:00:00+00,gold\n"
    )
    assert accounts.take(2) == {"A": "x", "B": "gone", "C": "s"}
    scan = Table(accounts.lake, "silver.accounts").scan()
    assert accounts.con.execute(f"select account_id, level from {scan} order by 1").fetchall() == [
        ("A", "gold"), ("B", None), ("C", None),
    ]  # fmt: skip
