"""What is derived from a contract."""

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, ClassVar

import pandera.polars as pa
import polars as pl
import pytest

from pipeline_assets.contracts.base import (
    MAX_CASES,
    Column,
    ContractError,
    RawColumn,
    column_schema,
    contract,
    duckdb_type,
    event_time,
    raw_shape,
    validate,
)


class Line(pa.DataFrameModel):
    """A small contract."""

    code: pl.String = pa.Field(str_matches="^a", description="A code.")
    price: Annotated[pl.Decimal, 12, 3] = pa.Field(ge=0, nullable=True, description="GBP.")
    at: Annotated[pl.Datetime, "us", "UTC"] = pa.Field(nullable=True)

    class Config:
        name = "test.line"
        metadata: ClassVar = {"event_time": "at"}
        strict = True


class Plain(pa.DataFrameModel):
    """Without metadata."""

    n: pl.Int64 = pa.Field(gt=0)


def lines(*codes: str | None, price: str = "1") -> pl.DataFrame:
    rows = [(code, Decimal(price), None) for code in codes]
    schema = {"code": pl.String, "price": pl.Decimal(12, 3), "at": pl.Datetime("us", "UTC")}
    return pl.DataFrame(rows, schema=schema, orient="row")


def test_the_raw_shape_requires_what_is_not_nullable():
    assert raw_shape(Line).columns == (
        RawColumn("code", "VARCHAR", True, "A code."),
        RawColumn("price", "DECIMAL(12,3)", False, "GBP."),
        RawColumn("at", "TIMESTAMP WITH TIME ZONE", False, ""),
    )


def test_an_extended_shape_keeps_its_own_columns():
    shape = raw_shape(Line).extended([RawColumn("code", "BIGINT"), RawColumn("extra", "VARCHAR")])
    assert [(c.name, c.dtype) for c in shape.columns][-1] == ("extra", "VARCHAR")
    assert len(shape.columns) == 4


def test_the_column_schema_is_what_people_read():
    assert column_schema(Line)[1] == Column("price", "DECIMAL(12,3)", "GBP.", True)


def test_the_event_time_is_in_the_metadata():
    assert event_time(Line) == "at"
    assert event_time(Plain) is None


@pytest.mark.parametrize("dtype", [pl.Struct({"a": pl.Int64}), pl.Datetime("ns"), pl.List(pl.Time), pl.Time])
def test_a_type_that_delta_does_not_hold_is_refused(dtype):
    with pytest.raises(ContractError):
        duckdb_type(dtype)


def test_rows_that_fit_have_no_violations():
    found = validate(Line, [lines("a", "ab"), lines("a")])
    assert found.passed
    assert (found.rows, found.failures, found.cases) == (3, 0, ())


def test_a_bad_value_fails_and_is_shown():
    found = validate(Line, [lines("a", "b", price="-1")])
    assert not found.passed
    assert (found.rows, found.failures, found.failing_rows) == (2, 3, 2)
    assert {(c.column, c.check, c.value, c.row) for c in found.cases} == {
        ("code", "str_matches('^a')", "b", 1),
        ("price", "greater_than_or_equal_to(0)", "-1.000", 0),
        ("price", "greater_than_or_equal_to(0)", "-1.000", 1),
    }
    assert found.by_check == {"code: str_matches('^a')": 1, "price: greater_than_or_equal_to(0)": 2}


def test_rows_are_counted_over_all_chunks():
    found = validate(Line, [lines("a", "a"), lines("a", "b"), lines(None)])
    assert [(c.check, c.row) for c in found.cases] == [("str_matches('^a')", 3), ("not_nullable", 4)]


def test_all_failures_are_counted_but_only_the_first_are_kept():
    found = validate(Line, (lines(*"b" * 30) for _ in range(3)))
    assert (found.failures, found.failing_rows, len(found.cases)) == (90, 90, MAX_CASES)
    assert found.cases[-1].row == MAX_CASES - 1


def test_chunks_are_taken_one_by_one():
    alive = []

    def chunks() -> Iterator[pl.DataFrame]:
        for i in range(3):
            alive.append(i)
            yield lines("a")

    source = chunks()
    validate(Line, source)
    assert alive == [0, 1, 2]


def test_a_wrong_type_is_one_violation_not_a_crash():
    frame = lines("a").with_columns(pl.col("price").cast(pl.Float64))
    found = validate(Line, [frame, frame])
    assert found.failures == 1
    assert found.cases[0].column == "price"
    assert "Decimal" in found.cases[0].check
    assert found.cases[0].value == "Float64"


def test_a_missing_and_a_surplus_column_are_violations():
    found = validate(Line, [lines("a").drop("price").with_columns(z=pl.lit(1))])
    assert {(c.column, c.check) for c in found.cases} == {
        ("price", "column_in_dataframe"),
        ("z", "column_in_schema"),
    }


def test_a_check_that_crashes_is_a_violation():
    class Crashing(pa.DataFrameModel):
        n: pl.Int64

        @pa.dataframe_check(error="crashes")
        @classmethod
        def crashes(cls, data: pa.PolarsData) -> pl.LazyFrame:
            raise RuntimeError("boom")

    found = validate(Crashing, [pl.DataFrame({"n": [1]})])
    assert not found.passed
    assert "boom" in str(found.cases[0].value)


def test_pandera_itself_passes_bad_values_of_a_lazy_frame():
    bad = pl.LazyFrame({"n": [-1]})
    assert Plain.validate(bad).collect().height == 1  # the trap: only the schema was looked at
    assert not validate(Plain, [bad.collect()]).passed


def test_no_chunks_are_no_violations():
    assert validate(Line, []).passed


@pytest.mark.parametrize("name", ["bronze.shop__invoice_lines", "shop.InvoiceLines"])
def test_a_contract_is_found_by_its_table_and_by_its_model(name):
    assert contract(name).__name__ == "InvoiceLines"


def test_an_unknown_contract_is_an_error_that_names_the_nearest():
    with pytest.raises(
        ContractError, match=r"no contract 'silver.invoice_line' .* nearest are: silver.invoice_lines, "
    ):
        contract("silver.invoice_line")


def test_a_time_of_the_wrong_unit_is_a_violation():
    frame = lines("a").with_columns(at=pl.lit(datetime(2011, 1, 1, tzinfo=UTC)).cast(pl.Datetime("ms", "UTC")))
    assert [c.column for c in validate(Line, [frame]).cases] == ["at"]
