"""Silver made of changes, run by dbt: its data tests find what must not be."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from batches import event_batch
from change_models import event
from dbt.cli.main import dbtRunnerResult

from pipeline_assets.contracts.models.shop_db import Customers
from pipeline_assets.ingest.cdc.table.change_table import ChangeTable
from pipeline_assets.lake import Lake, Table

pytestmark = pytest.mark.slow

STATE, HISTORY = "silver.customers", "silver.customers_history"
SELECT = ("--select", "customers", "customers_history", "--exclude-resource-type", "unit_test")


class Customer:
    """The lake with changes of customers 1 and 200001, which lie in partitions of their own."""

    def __init__(self, lake: Lake, run: Callable[..., dbtRunnerResult]) -> None:
        self.lake, self.run, self.con, self.batches = lake, run, lake.connect(), 0

    def land(self, key: int, at: int, **row: Any) -> None:
        self.batches += 1
        after = {"name": "Ann", "country": "EIRE", "created_at": "2010-12-01", "updated_at": f"2010-12-{at:02} 08:00"}
        table = ChangeTable("public.customers", "shop_db__customers", Customers, ("customer_id",))
        staging = event_batch(
            self.con, self.lake, table, "shop_db", f"batch-{self.batches}", datetime(2026, 1, 1, tzinfo=UTC)
        )
        staging.add([event("u", {"customer_id": key}, after | row, at=at)])
        assert staging.counts.dead_letters == 0
        staging.commit()

    def plant(self, name: str, change: str) -> None:
        """Adds a changed copy of customer 1's last row to a silver table."""
        table = Table(self.lake, name)
        row = f"SELECT * REPLACE ({change}) FROM {table.scan()} WHERE customer_id = 1 ORDER BY ALL DESC LIMIT 1"
        self.con.execute(f"CREATE OR REPLACE TEMP TABLE planted AS {row}")
        table.append(self.con, "FROM planted", batch_id=change)


@pytest.fixture
def customer(lake: Lake, runner: Callable[..., dbtRunnerResult]) -> Iterator[Customer]:
    made = Customer(lake, runner)
    made.land(1, 1)
    made.land(200001, 1)
    assert runner("build", *SELECT).success
    yield made
    made.con.close()


def failed(result: dbtRunnerResult) -> set[str]:
    assert result.result is not None
    return {node.node.name.split("customers")[0].rstrip("_") for node in result.result.results if node.status == "fail"}


@pytest.mark.parametrize(
    ("name", "change", "tests"),
    [
        (STATE, "'Twin' AS name", {"one_row_per_key"}),
        (STATE, "NULL::BIGINT AS customer_id", {"not_null"}),
        (STATE, "7::BIGINT AS customer_id", {"same_live_keys"}),
        (HISTORY, "valid_from - INTERVAL 1 HOUR AS valid_from", {"versions_follow_each_other"}),
        (HISTORY, "TIMESTAMPTZ '1999-01-01' AS valid_from, TIMESTAMPTZ '2000-01-01' AS valid_to, false AS is_current",
         {"versions_follow_each_other"}),
        (HISTORY, "7::BIGINT AS customer_id, NOT is_current AS is_current", {"versions_follow_each_other"}),
        (HISTORY, "7::BIGINT AS customer_id", {"same_live_keys"}),
    ],
    ids=["two rows", "no key", "not in the history", "overlap", "gap", "current and not the last", "not in the state"],
)  # fmt: skip
def test_what_must_not_be_is_found(customer: Customer, name: str, change: str, tests: set[str]) -> None:
    customer.plant(name, change)
    assert failed(customer.run("test", *SELECT)) == tests


def test_a_full_refresh_gives_the_same_rows(customer: Customer) -> None:
    customer.land(1, 3, name="Anna")
    customer.land(1, 2, name="Late")
    assert customer.run("build", *SELECT).success
    scans = [Table(customer.lake, name).scan() for name in (STATE, HISTORY)]
    before = [customer.con.execute(f"SELECT * FROM {scan} ORDER BY ALL").fetchall() for scan in scans]
    assert len(before[1]) == 4
    assert customer.run("build", "--full-refresh", *SELECT).success
    assert [customer.con.execute(f"SELECT * FROM {scan} ORDER BY ALL").fetchall() for scan in scans] == before
