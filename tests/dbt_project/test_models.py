"""The models, run by dbt on bronze lines written by hand: what each kind of change does to their rows."""

import datetime
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from pipeline_assets.lake import Table

pytestmark = pytest.mark.slow


def day(number: int) -> datetime.date:
    return datetime.date(2011, 1, number)


def test_a_late_line_changes_its_day_and_no_other(shop: Any, line: Any, expected: Any) -> None:
    shop.land(2, line("1", "02"), line("2", "02", 2))
    shop.land(3, line("3", "03", price=20))
    shop.run()
    before = shop.version("silver.invoice_lines")
    shop.land(9, line("4", "02", price=500))
    shop.run()
    assert shop.state() == expected(shop)
    commit = shop.commit("silver.invoice_lines")
    assert shop.version("silver.invoice_lines") == before + 1
    assert commit["touched_dates"] == '["2011-01-02"]'
    assert (commit["rows_added"], commit["rows_removed"]) == ("3", "2")


def test_a_line_of_several_files_is_one_line_of_its_first_landing_date(shop: Any, line: Any) -> None:
    shop.land(5, line("1", "02"), line("1", "02"))
    shop.run()
    shop.land(3, line("1", "02"), line("1", "02", quantity=2))
    shop.run()
    assert shop.rows("silver.invoice_lines", "quantity, _partition_date") == [(1, day(3)), (2, day(3))]


def test_a_cancellation_is_kept_in_silver_and_counts_for_nothing(shop: Any, line: Any) -> None:
    shop.land(2, line("1", "02"), line("C2", "03", quantity=-1), line("3", "03", None), line("4", "03", price=0))
    shop.run()
    assert shop.rows("silver.invoice_lines", "invoice_no, is_cancelled, is_sale") == [
        ("1", False, True),
        ("3", False, False),
        ("4", False, False),
        ("C2", True, False),
    ]
    assert shop.rows("gold.daily_sales", "sale_date, total_revenue") == [(day(2), Decimal("10.000"))]


def test_a_correction_that_removes_rows_removes_lines_customers_and_products(
    shop: Any, line: Any, expected: Any
) -> None:
    shop.land(2, line("1", "02", 1), line("2", "02", 2, stock="10002"))
    shop.land(3, line("3", "03", 3))
    shop.run()
    shop.correct(2, line("1", "02", 1))
    shop.run()
    assert shop.rows("gold.customer_metrics", "customer_id") == [(1,), (3,)]
    assert shop.rows("gold.product_sales", "stock_code") == [("10001",)]
    assert shop.state() == expected(shop)
    shop.correct(2)
    shop.correct(3)
    shop.run()
    assert shop.state() == {name: [] for name in shop.state()}


def test_gold_that_a_killed_run_left_behind_is_caught_up_by_the_next_run(shop: Any, line: Any, expected: Any) -> None:
    shop.land(2, line("1", "02", 1), line("2", "02", 2))
    shop.run()
    shop.correct(2, line("1", "02", 1))
    shop.land(5, line("3", "05", 3, price=2000))
    shop.dbt("run", "--select", "invoice_lines")  # as if killed after the commit of silver
    shop.dbt("run", "--select", "customer_metrics")  # and again one model later
    assert shop.state() != expected(shop)
    shop.run()
    assert shop.state() == expected(shop)


def test_days_of_the_past_follow_a_customer_to_another_segment(shop: Any, line: Any, expected: Any) -> None:
    shop.land(2, line("1", "02", 1, price=60), line("2", "02", 2), line("3", "03", 1, price=30))
    shop.run()
    assert shop.rows("gold.daily_sales", "sale_date, customer_segment, total_orders") == [
        (day(2), "Bronze", 2),
        (day(3), "Bronze", 1),
    ]
    shop.land(9, line("4", "09", 1, price=20))
    shop.run()
    assert shop.rows("gold.daily_sales", "sale_date, customer_segment, total_orders") == [
        (day(2), "Bronze", 1),
        (day(2), "Silver", 1),
        (day(3), "Silver", 1),
        (day(9), "Silver", 1),
    ]
    assert shop.state() == expected(shop)


def test_customers_that_no_run_touched_grow_older_with_the_last_sale(shop: Any, line: Any, expected: Any) -> None:
    shop.land(2, line("1", "02", 1), line("2", "04", 2))
    shop.run()
    shop.land(9, line("3", "09", 2))
    shop.run()
    assert shop.rows("gold.customer_metrics", "customer_id, days_since_last_order, as_of_date") == [
        (1, 7, day(9)),
        (2, 0, day(9)),
    ]
    shop.land(9, line("4", "03", 3))  # does not move the last sale: customers 1 and 2 are left alone
    shop.run()
    assert shop.commit("gold.customer_metrics")["rows_added"] == "1"
    shop.correct(9)
    shop.run()
    assert shop.state() == expected(shop)


def test_a_run_without_changes_commits_nothing(shop: Any, line: Any) -> None:
    shop.land(2, line("1", "02"))
    shop.run()
    versions = {name: shop.version(name) for name in shop.state()}
    shop.run()
    assert versions == {name: shop.version(name) for name in shop.state()}


def test_a_range_asked_for_is_recomputed_beside_what_changed(shop: Any, line: Any, monkeypatch: Any) -> None:
    shop.land(2, line("1", "02"), line("2", "05"), line("3", "07"))
    shop.run()
    shop.land(9, line("4", "07"))
    monkeypatch.setenv("PIPELINE_MIN_DATE", "2011-01-02")
    monkeypatch.setenv("PIPELINE_MAX_DATE", "2011-01-03")
    shop.run()
    assert shop.commit("silver.invoice_lines")["touched_dates"] == '["2011-01-02", "2011-01-07"]'
    monkeypatch.setenv("PIPELINE_MAX_DATE", "yesterday")
    assert "PIPELINE_MAX_DATE='yesterday'" in shop.dbt_fails("run")


def test_an_upstream_that_was_never_built_is_named(shop: Any, line: Any) -> None:
    shop.land(2, line("1", "02"))
    message = shop.dbt_fails("run", "--select", "invoice_lines", "daily_sales")
    assert "gold.daily_sales reads gold.customer_metrics, which has never been built" in message
    assert "materialize gold/customer_metrics first" in message


def test_of_two_runs_at_once_the_slower_one_writes_nothing(shop: Any, line: Any, monkeypatch: Any) -> None:
    shop.land(2, line("1", "02"))
    shop.run()
    shop.land(3, line("2", "03", 2))
    replace = Table.replace

    def replace_after_another_run(table: Table, con: Any, *args: Any, **kwargs: Any) -> int:
        table.commit(con, [], positions=kwargs["positions"])
        return replace(table, con, *args, **kwargs)

    monkeypatch.setattr(Table, "replace", replace_after_another_run)
    assert "table silver.invoice_lines: the log moved" in shop.dbt_fails("run")
    assert shop.rows("silver.invoice_lines", "invoice_no") == [("1",)]


def test_data_tests_look_at_the_touched_days_until_downstream_accepts_them(shop: Any, line: Any) -> None:
    shop.land(2, line("1", "02"), line("2", "04"))
    shop.dbt("build", "--exclude-resource-type", "unit_test")
    shop.land(3, line(None, "03"))
    assert "Got 1 result" in shop.dbt_fails("build", "--exclude-resource-type", "unit_test")
    untouched = {name: shop.version(name) for name in shop.state() if name != "silver.invoice_lines"}
    # The bad day is no longer news to silver, but gold has not taken it over: it still fails, and still blocks.
    assert "Got 1 result" in shop.dbt_fails("build", "--exclude-resource-type", "unit_test")
    assert untouched == {name: shop.version(name) for name in untouched}
    shop.correct(3, line("3", "03"))
    shop.dbt("build", "--exclude-resource-type", "unit_test")


def test_unit_tests_need_no_table(runner: Any, lake: Any) -> None:
    result = runner("test", "--select", "test_type:unit")
    assert result.success
    assert sum(node.node.resource_type == "unit_test" for node in result.result.results) == 19


def test_no_model_aggregates_over_everything_by_a_window() -> None:
    """`max(x) over ()` crashes DuckDB 1.5.5 now and then when input is scarce: duckdb/duckdb#25713."""
    for path in (Path(__file__).parents[2] / "dbt_project").rglob("*.sql"):
        code = re.sub(r"--.*", "", path.read_text())
        assert not re.search(r"\bover\s*\(\s*\)", code, re.IGNORECASE), path


def test_the_first_build_of_an_empty_lake_fails_at_its_source_only(runner: Any, lake: Any, failures: Any) -> None:
    result = runner("build")
    assert not result.success
    assert "silver.invoice_lines reads bronze.shop__invoice_lines, which has never been built" in failures(result)
    assert not runner("test", "--select", "unique_product_sales_stock_code").success


def test_a_version_that_is_vacuumed_means_everything_is_recomputed(shop: Any, line: Any, expected: Any) -> None:
    shop.land(2, line("1", "02", 1, price=90), line("2", "02", 2, stock="10002"))
    shop.land(3, line("3", "03", 3))
    shop.run()
    shop.correct(2, line("1", "02", 1, price=90), line("4", "02", 1, price=90))
    shop.dbt("run", "--select", "invoice_lines", "customer_metrics")
    for name in ("silver.invoice_lines", "gold.customer_metrics"):
        Table(shop.lake, name).open().vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
    shop.run()
    assert shop.state() == expected(shop)


@pytest.mark.parametrize(
    ("broken", "command"),
    [
        ("bronze.shop__invoice_lines", ("run", "--full-refresh", "--select", "invoice_lines")),
        ("silver.invoice_lines", ("test", "--select", "invoice_lines", "--exclude-resource-type", "unit_test")),
    ],
    ids=["a model", "a data test"],
)
def test_what_cannot_read_the_lake_names_it_and_the_remedy(
    shop: Any, line: Any, broken: str, command: tuple[str, ...]
) -> None:
    shop.land(2, line("1", "02"))
    shop.run()
    for file in Path(Table(shop.lake, broken).uri).rglob("*.parquet"):
        file.unlink()
    message = shop.dbt_fails(*command)
    assert f"the lake at {shop.lake.uri} could not be read: " in message
    assert "mend the storage (permissions, mount, network), then run again" in message
