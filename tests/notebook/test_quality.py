"""Frames against contracts, as the asset checks see them."""

import subprocess
import sys
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime
from typing import Any

import pandera.pandas
import pandera.polars as pa
import polars as pl
import pytest

import pipeline_assets
from pipeline_assets import DataQualityFramework
from pipeline_assets.notebook import NotebookError

Make = Any


class Lines(pa.DataFrameModel):
    """A strict model."""

    id: pl.Int64 = pa.Field(gt=0)
    code: pl.String

    class Config:
        strict = True


@pytest.fixture(autouse=True)
def dq(monkeypatch: pytest.MonkeyPatch) -> DataQualityFramework:
    monkeypatch.setattr(DataQualityFramework, "_suites", {})
    DataQualityFramework.add_suite("lines", Lines)
    return DataQualityFramework()


def test_what_the_extraction_adds_does_not_count(dq: DataQualityFramework, make: Make) -> None:
    frame = make({"id": [1], "code": ["a"], "_extracted_at": [datetime(2026, 1, 1, tzinfo=UTC)],
                  "_source": [{"file": "q", "line": 1}]})  # fmt: skip
    result = dq.validate_dataframe(frame, suite_name="lines", data_asset_name="orders")
    assert result
    assert (result.success, result.rows, result.failing_cases) == (True, 1, ())
    assert str(result) == "orders by lines: 1 rows, all as they should be"
    with pytest.raises(FrozenInstanceError):
        result.success = False  # type: ignore[misc]


def test_failing_cases_are_those_of_the_asset_checks(dq: DataQualityFramework, make: Make) -> None:
    result = dq.validate_dataframe(make({"id": [1, -2, -3], "code": ["a", "b", None]}), "lines", "orders")
    assert not result
    assert (result.failures, result.failing_rows) == (3, 2)
    assert result.by_check == {"id: greater_than(0)": 2, "code: not_nullable": 1}
    assert {(case.column, case.row, case.value) for case in result.failing_cases} == {
        ("id", 1, "-2"), ("id", 2, "-3"), ("code", 2, None)
    }  # fmt: skip
    assert "2  id: greater_than(0)" in str(result)
    assert "id, row 1 '-2': greater_than(0)" in str(result)


def test_columns_too_many_and_too_few_fail(dq: DataQualityFramework, make: Make) -> None:
    result = dq.validate_dataframe(make({"id": [1], "more": ["a"]}), "lines", "orders")
    assert result.failures == 2
    assert result.by_check == {"code: column_in_dataframe": 1, "more: column_in_schema": 1}


@pytest.mark.parametrize("name", ["shop.InvoiceLines", "silver.invoice_lines"])
def test_contracts_of_the_package_are_suites(dq: DataQualityFramework, name: str) -> None:
    result = dq.validate_dataframe(pl.DataFrame({"id": [1]}), name, "x")
    assert not result
    assert result.by_check.items() >= {"country: column_in_dataframe": 1, "customer_id: column_in_dataframe": 1}.items()


def test_other_names_are_errors_that_say_what_there_is(dq: DataQualityFramework) -> None:
    with pytest.raises(NotebookError, match=r"silver\.orders.*added: lines\. Add your own.*add_suite\('orders'"):
        dq.validate_dataframe(pl.DataFrame({"id": [1]}), "orders", "x")
    with pytest.raises(NotebookError, match=r"give a class of pandera\.polars\.DataFrameModel"):
        DataQualityFramework.add_suite("x", pandera.pandas.DataFrameModel)  # type: ignore[arg-type]
    with pytest.raises(NotebookError, match="choose another one"):
        DataQualityFramework.add_suite("silver.invoice_lines", Lines)


def test_a_process_pays_for_what_it_uses() -> None:
    # pandera imports pandas where it is installed; here it is not.
    code = """
import sys
import pipeline_assets
assert not {"polars", "duckdb"} & set(sys.modules)

class NoPandas:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "pandas":
            raise ModuleNotFoundError("No module named 'pandas'")

sys.meta_path.insert(0, NoPandas())
from pipeline_assets import BatchDataIngester, DataQualityFramework, DeltaLakeManager
import polars
frame = polars.DataFrame({"id": ["1", "x"]})
assert BatchDataIngester().validate_and_clean(frame, {"dtypes": {"id": "int64"}}).height == 1
assert not {"dagster", "dbt", "dlt"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_the_package_names_them() -> None:
    assert set(pipeline_assets.__all__) < set(dir(pipeline_assets))
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        pipeline_assets.Nothing  # noqa: B018
