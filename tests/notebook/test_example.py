"""The example of docs/notebook.md, as it stands, against a PostgreSQL; only connection and paths are this test's."""

import re
import textwrap
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import pandera.polars as pa
import polars as pl
import pytest
from deltalake import DeltaTable
from documents import DOCS, blocks
from postgres import execute

from pipeline_assets import BatchDataIngester, DataQualityFramework, DeltaLakeManager
from pipeline_assets.notebook import QualityResult

PAGE = DOCS / "notebook.md"


class Orders(pa.DataFrameModel):
    """What the notebook expects of its orders."""

    id: pl.Int64 = pa.Field(gt=0)
    user_id: pl.Int64
    amount: Annotated[pl.Decimal, 10, 2] = pa.Field(ge=0)
    order_date: pl.Date
    updated_at: Annotated[pl.Datetime, "us", "UTC"] = pa.Field(nullable=True)

    class Config:
        strict = True


@pytest.fixture(autouse=True)
def _suite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DataQualityFramework, "_suites", {})
    DataQualityFramework.add_suite("orders_suite", Orders)


@pytest.fixture
def shop(database: str) -> str:
    execute(
        database,
        "CREATE TABLE orders (id text, user_id bigint, amount numeric(10,2), order_date date, updated_at timestamptz)",
        "INSERT INTO orders VALUES ('1', 10, 9.99, '2026-01-01', '2026-01-01 10:00+00'),"
        " ('2', 20, 0.10, '2026-01-02', '2026-01-02 10:00+00'), ('2.5', 20, 1, '2026-01-02', '2026-01-02 10:00+00'),"
        " ('3', NULL, 5, '2026-01-02', '2026-01-02 11:00+00')",
        "INSERT INTO orders SELECT * FROM orders WHERE id = '1'",
    )
    return database


def run(url: str, lake: Path, last_run_timestamp: Any, config: dict[str, Any]) -> tuple[Any, QualityResult, Any]:
    """The example; `test_the_page_shows_this_code` compares it."""
    # fmt: off
    ingester = BatchDataIngester(config=config)

    # Extract with incremental loading
    df = ingester.extract_from_database(
        connection_string=url,
        query='SELECT * FROM orders',
        watermark_column='updated_at',
        last_watermark=last_run_timestamp
    )

    # Validate
    schema = {'required_fields': ['id', 'user_id'], 'dtypes': {'id': 'int64'}}
    df = ingester.validate_and_clean(df, schema)

    # Data quality checks
    dq = DataQualityFramework()
    result = dq.validate_dataframe(df, suite_name='orders_suite', data_asset_name='orders')

    # Write to Delta Lake
    delta_mgr = DeltaLakeManager(storage_path=lake)
    delta_mgr.create_or_update_table(
        df=df,
        table_name='orders',
        partition_columns=['order_date'],
        mode='append'
    )

    # Save failed records
    ingester.save_dead_letter_queue(f'{lake}/dlq/orders')
    # fmt: on
    return df, result, ingester.counts


def table(path: Path) -> DeltaTable:
    return DeltaTable(str(path))


def rows(path: Path) -> list[dict[str, Any]]:
    return pl.DataFrame(pl.from_arrow(table(path).to_pyarrow_table())).to_dicts()


@pytest.mark.parametrize("config", [{}, {"frames": "pandas"}], ids=["polars", "pandas"])
def test_the_example_runs_again_and_again(shop: str, tmp_path: Path, config: dict[str, Any]) -> None:
    bronze, letters = tmp_path / "bronze" / "orders", tmp_path / "dlq" / "orders"
    df, result, counts = run(shop, tmp_path, None, config)

    assert isinstance(df, pd.DataFrame if config else pl.DataFrame)
    assert list(df["id"]) == [1, 2]
    assert list(df["amount"]) == [Decimal("9.99"), Decimal("0.10")]
    assert (counts.records_in, counts.rows, counts.dead_letters, counts.duplicates) == (5, 2, 2, 1)
    assert result, str(result)
    assert table(bronze).metadata().partition_columns == ["order_date"]
    assert {row["reason"] for row in rows(letters)} == {
        "cast: id: '2.5' is not BIGINT", "required: user_id is missing"
    }  # fmt: skip
    (bad,) = (row for row in rows(letters) if "2.5" in row["reason"])
    assert bad["raw"] == (
        '{"id":"2.5","user_id":20,"amount":1.0,"order_date":"2026-01-02","updated_at":"2026-01-02 10:00:00+00"}'
    )
    assert (bad["_source"]["line"], bad["_extracted_at"].tzinfo is not None) == (3, True)
    assert bad["_source"]["file"].startswith("query ")

    # The same again changes no row.
    before = table(bronze).version()
    run(shop, tmp_path, None, config)
    assert table(bronze).version() == before

    # From the newest time on: what equals it comes again, and a row that was committed late with that very time.
    execute(shop, "INSERT INTO orders VALUES ('4', 40, 4, '2026-01-03', '2026-01-02 10:00+00')")
    df, result, counts = run(shop, tmp_path, max(df["updated_at"]), config)
    assert sorted(df["id"]) == [2, 4]
    assert sorted(row["id"] for row in rows(bronze)) == [1, 2, 2, 4]
    (query,) = (block.text for block in blocks(PAGE) if block.language == "sql")
    with DeltaLakeManager(tmp_path)._lake.connect() as con:
        newest = con.execute(query.replace("lake/bronze/orders", str(bronze))).to_arrow_table()
    assert sorted(newest["id"].to_pylist()) == [1, 2, 4]
    assert {(row["updated_at"], row["order_date"]) for row in rows(bronze) if row["id"] == 4} == {
        (datetime(2026, 1, 2, 10, tzinfo=UTC), date(2026, 1, 3))
    }


def test_what_fails_is_told(shop: str, tmp_path: Path) -> None:
    execute(shop, "INSERT INTO orders VALUES ('-7', 40, -4, '2026-01-03', '2026-01-02 10:00+00')")
    _, result, _ = run(shop, tmp_path, None, {})
    assert not result
    assert (result.rows, result.failing_rows, result.failures) == (3, 1, 2)
    assert "orders by orders_suite: 3 rows, 1 of them fail" in str(result)


def test_the_page_shows_this_code() -> None:
    def code(text: str) -> list[str]:
        lines = (line.split("#")[0].strip() for line in text.splitlines())
        changed = re.compile(r"connection_string|storage_path|save_dead_letter_queue|BatchDataIngester\(|fmt|import")
        return [line for line in lines if line and not changed.search(line)]

    (shown,) = (block.text for block in blocks(PAGE) if block.language == "python")
    body = Path(__file__).read_text().partition("# fmt: off\n")[2].partition("# fmt: on")[0]
    assert code(shown) == code(textwrap.dedent(body))
