# ruff: noqa: DTZ001  times without a zone are what some of it is about
"""What fits comes back, what does not is a dead letter, equal records are one: nothing is lost in between."""

import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_assets import BatchDataIngester
from pipeline_assets.notebook import NotebookError
from pipeline_assets.notebook.dtypes import Wanted, wanted

Make = Any


def validate(frame: Any, **schema: Any) -> tuple[Any, BatchDataIngester]:
    ingester = BatchDataIngester()
    return ingester.validate_and_clean(frame, schema), ingester


def reasons(ingester: BatchDataIngester) -> list[str]:
    return list(ingester.dead_letters["reason"])


def cast(values: Any, dtype: Any, make: Make = pl.DataFrame) -> tuple[list[Any], list[str]]:
    found, ingester = validate(make({"x": values}), dtypes={"x": dtype})
    return list(found["x"]), reasons(ingester)


class TestRequired:
    def test_missing_values_are_dead_letters_that_tell_where_and_what(self, make: Make) -> None:
        frame = make({"id": ["1", " \t", None, ""], "note": [" a ", "b", "c", None]})
        found, ingester = validate(frame, required_fields=["id"])
        assert list(found["note"]) == [" a "]
        assert reasons(ingester) == ["required: id is missing"] * 3
        letters = ingester.dead_letters
        assert [json.loads(raw) for raw in letters["raw"]] == [
            {"id": " \t", "note": "b"}, {"id": None, "note": "c"}, {"id": "", "note": None},
        ]  # fmt: skip
        assert [place["line"] for place in letters["_source"]] == [2, 3, 4]
        assert len({place["file"] for place in letters["_source"]}) == 1

    @pytest.mark.parametrize("missing", [None, np.nan, pd.NaT, pd.NA, float("nan"), np.datetime64("NaT")])
    def test_all_that_pandas_calls_missing_is(self, missing: Any) -> None:
        found, ingester = validate(pd.DataFrame({"x": pd.Series(["a", missing], dtype=object)}), required_fields=["x"])
        assert (len(found), ingester.counts.dead_letters) == (1, 1)

    def test_a_column_that_is_not_there_is_one_error(self, make: Make) -> None:
        with pytest.raises(NotebookError, match="has no column b, c; it has a"):
            validate(make({"a": [1]}), required_fields=["a", "b"], dtypes={"c": "int64"})

    @pytest.mark.parametrize(
        "schema", [{"required_fields": None}, {"required_fields": 1}, {"required_fields": [["a"]]}, {"dtypes": None}]
    )
    def test_a_schema_has_a_list_and_a_dict(self, make: Make, schema: Any) -> None:
        with pytest.raises(NotebookError, match="required_fields is a list of columns, dtypes a dict"):
            validate(make({"a": [1]}), **schema)

    def test_a_schema_says_what_it_knows(self, make: Make) -> None:
        with pytest.raises(NotebookError, match="schema knows no 'required': there is required_fields, dtypes"):
            validate(make({"a": [1]}), required=["a"])
        with pytest.raises(NotebookError, match="required_fields is a list"):
            validate(make({"a": [1]}), required_fields="a")


class TestCasts:
    @pytest.mark.parametrize(
        ("values", "fit", "unfit"),
        [
            (
                ["1", " 2 ", "3.0", "1.5", "1e3", "x", "9223372036854775808"],
                [1, 2, 3],
                ["'1.5'", "'1e3'", "'x'", "'92"],
            ),
            ([1.0, 1.5, float("inf"), 2.0**63], [1], ["'1.5'", "'inf'", "'9.2"]),
            ([Decimal("2.00"), Decimal("2.01")], [2], ["'2.01'"]),
            ([True, False], [1, 0], []),
        ],
    )
    def test_whole_numbers_are_exact(self, make: Make, values: list[Any], fit: list[int], unfit: list[str]) -> None:
        found, why = cast(values, "int64", make)
        assert found == fit
        assert len(why) == len(unfit)
        assert all(f"cast: x: {part}" in reason for part, reason in zip(unfit, why, strict=True))

    def test_whole_numbers_that_pandas_made_floats_are_whole_numbers(self) -> None:
        found, ingester = validate(pd.DataFrame({"x": [1, None, 3]}), dtypes={"x": "int64"})
        assert (str(found["x"].dtype), found["x"].tolist()) == ("Int64", [1, pd.NA, 3])
        found, ingester = validate(pd.DataFrame({"x": [1, None, 3]}), dtypes={"x": "int64"}, required_fields=["x"])
        assert (str(found["x"].dtype), found["x"].tolist(), len(reasons(ingester))) == ("int64", [1, 3], 1)

    def test_nan_of_polars_is_a_value(self) -> None:
        assert cast([float("nan")], "int64") == ([], ["cast: x: 'nan' is not BIGINT"])
        _, ingester = validate(pl.DataFrame({"x": [float("nan")]}), required_fields=["x"], dtypes={"x": "int64"})
        assert '{"x":"nan"}' in ingester.dead_letters["raw"].to_list()

    def test_values_of_several_types_are_told_apart(self) -> None:
        values = [1, "1", " 2", 2.5, True, None, [1], {"a": 1}, 2**70]
        found, ingester = validate(pd.DataFrame({"x": pd.Series(values, dtype=object)}), dtypes={"x": "int64"})
        assert found["x"].tolist() == [1, 1, 2, pd.NA]
        assert [json.loads(raw)["x"] for raw in ingester.dead_letters["raw"]] == [2.5, True, [1], {"a": 1}, 2**70]

    @pytest.mark.parametrize("kind", ["datetime64[ns]", "datetime64[us]", "datetime", pl.Datetime, np.datetime64])
    def test_times_are_microseconds(self, make: Make, kind: Any) -> None:
        found, why = cast(["2026-01-02 03:04:05.678901", "2026-01-02T03:04:05+02:00", "31/12/2010"], kind, make)
        assert found == [datetime(2026, 1, 2, 3, 4, 5, 678901), datetime(2026, 1, 2, 1, 4, 5)]
        assert why == ["cast: x: '31/12/2010' is not TIMESTAMP"]

    @pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin"])
    def test_times_with_a_zone_become_utc(self, make: Make, zone: str) -> None:
        found, _ = cast(["2026-01-02 03:04:05+02:00", "2026-01-02 03:04"], f"datetime64[ns, {zone}]", make)
        assert found == [datetime(2026, 1, 2, 1, 4, 5, tzinfo=UTC), datetime(2026, 1, 2, 3, 4, tzinfo=UTC)]

    @pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
    def test_nanoseconds_are_not_cut(self, zone: str | None) -> None:
        times = pd.to_datetime(pd.Series(["2026-01-02 03:04:05.000000001", "2026-01-02 03:04:05.000001000"]))
        frame = pd.DataFrame({"x": times.astype("datetime64[ns]").dt.tz_localize(zone)})
        found, ingester = validate(frame, dtypes={"x": "datetime64[ns, UTC]" if zone else "datetime64[ns]"})
        assert found["x"].tolist() == [frame["x"][1]]
        assert len(reasons(ingester)) == 1
        untouched, _ = validate(frame)
        pd.testing.assert_frame_equal(untouched, frame)

    def test_dates_of_python_are_dates(self) -> None:
        values = pd.Series([date(2026, 1, 1), datetime(2026, 1, 2), datetime(2026, 1, 2, 1), None], dtype=object)
        found, ingester = validate(pd.DataFrame({"x": values}), dtypes={"x": "date"})
        assert [None if pd.isna(day) else day for day in found["x"]] == [date(2026, 1, 1), date(2026, 1, 2), None]
        assert len(reasons(ingester)) == 1

    def test_naive_times_beside_others_are_not_taken_for_utc_unless_asked(self) -> None:
        values = pd.Series([datetime(2026, 1, 1), datetime(2026, 1, 1, tzinfo=UTC)], dtype=object)
        found, _ = validate(pd.DataFrame({"x": values}))
        assert len(found) == 2

    def test_categories(self, kind: str) -> None:
        texts = ["a", "b", None, "c"]
        frame = pl.DataFrame({"x": texts}) if kind == "polars" else pd.DataFrame({"x": texts})
        found, _ = validate(frame, dtypes={"x": "category"})
        assert str(found["x"].dtype) in ("category", "Categorical")
        again, ingester = validate(found, required_fields=["x"], dtypes={"x": "string"})
        assert (list(again["x"]), len(reasons(ingester))) == (["a", "b", "c"], 1)

    def test_decimals(self, make: Make) -> None:
        found, why = cast(["1.10", "1.234", "x"], "decimal(12,2)", make)
        assert found == [Decimal("1.10")]
        assert len(why) == 2

    def test_floats_that_do_not_fit_are_told(self, make: Make) -> None:
        assert cast([0.5, 0.1], "float32", make) == ([0.5], ["cast: x: '0.1' is not FLOAT"])
        assert cast([2**53, 2**53 + 1], "float64", make)[0] == [2.0**53]

    def test_bools(self, make: Make) -> None:
        assert cast(["true", "0", "yes"], "bool", make) == ([True, False], ["cast: x: 'yes' is not BOOLEAN"])

    @pytest.mark.parametrize(
        ("dtype", "expected"),
        [
            (int, "BIGINT"), ("Int64", "BIGINT"), (np.int64, "BIGINT"), (np.dtype("int32"), "INTEGER"),
            (pd.Int64Dtype(), "BIGINT"), (pl.Int64, "BIGINT"), (pl.Int64(), "BIGINT"), ("UInt8", "UTINYINT"),
            (pl.UInt64, "UBIGINT"), (float, "DOUBLE"), ("float32", "FLOAT"), (bool, "BOOLEAN"), ("boolean", "BOOLEAN"),
            (str, "VARCHAR"), ("Utf8", "VARCHAR"), (pl.String, "VARCHAR"), (pd.StringDtype(), "VARCHAR"),
            (date, "DATE"), (pl.Date, "DATE"), (datetime, "TIMESTAMP"), (pl.Datetime("ns"), "TIMESTAMP"),
            (pl.Datetime("us", "UTC"), "TIMESTAMP WITH TIME ZONE"), ("datetime64[s]", "TIMESTAMP"),
            (pd.DatetimeTZDtype("ns", "UTC"), "TIMESTAMP WITH TIME ZONE"), (pl.Decimal(12, 2), "DECIMAL(12,2)"),
            (pl.List(pl.Int64), "BIGINT[]"), ("int64[pyarrow]", "BIGINT"), ("object", None), (object, None),
        ],
        ids=str,
    )  # fmt: skip
    def test_dtypes_have_many_names(self, dtype: Any, expected: str | None) -> None:
        assert wanted(dtype, "x") == Wanted(expected)

    @pytest.mark.parametrize(
        "dtype", ["integer64", "decimal", pl.Decimal, "decimal(40,2)", pl.Duration, None, "timedelta64[ns]"]
    )
    def test_other_names_are_errors(self, dtype: Any) -> None:
        with pytest.raises(NotebookError, match="dtypes: x: "):
            validate(pl.DataFrame({"x": [1]}), dtypes={"x": dtype})


class TestClean:
    def test_equal_records_are_one_whenever_they_were_extracted(self, make: Make) -> None:
        place = {"file": "query 1", "line": 1}
        frame = make({"a": ["1", "1", "x", "x", "1 "], "b": [None, None, None, None, None],
                      "_extracted_at": [datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2, 3, 4, 5)],
                      "_source": [{**place, "line": line} for line in (7, 8, 9, 10, 11)]})  # fmt: skip
        found, ingester = validate(frame, dtypes={"a": "int64"})
        assert list(found["a"]) == [1, 1]
        assert [row["line"] for row in found["_source"]] == [7, 11]
        counts = ingester.counts
        assert (counts.records_in, counts.rows, counts.dead_letters, counts.duplicates) == (5, 2, 1, 2)
        (letter,) = ingester.dead_letters.to_dicts()
        assert letter["_source"] == {"file": "query 1", "line": 9}
        assert letter["_extracted_at"] == datetime(2026, 1, 3, tzinfo=UTC)
        assert (letter["_partition_date"], letter["_batch_id"]) == (date(2026, 1, 3), "query 1 2026-01-03 00:00:00+00")
        assert letter["raw"] == '{"a":"x","b":null}'

    def test_a_column_of_another_meaning_is_not_taken_for_the_extractions(self, make: Make) -> None:
        with pytest.raises(NotebookError, match=r"the column _source is .*: rename your own"):
            validate(make({"a": [1], "_source": ["crm"]}))

    def test_what_has_no_dtype_stays_as_it_is(self, kind: str) -> None:
        given = {
            "a": ["1", "x", "2"], "nested": [{"k": [1]}, {"k": []}, {"k": [2, 3]}], "list": [[1], [], [None]],
            "span": [timedelta(1)] * 3, "zoned": [datetime(2026, 1, 1, tzinfo=UTC)] * 3, "money": [Decimal("1.1")] * 3,
            "bytes": [b"\xff"] * 3, "unsigned": np.array([1, 2, 2**64 - 1], dtype="uint64"),
        }  # fmt: skip
        frame = pl.DataFrame(given) if kind == "polars" else pd.DataFrame(given)
        found, _ = validate(frame, dtypes={"a": "int8"})
        rest = [name for name in given if name != "a"]
        if isinstance(frame, pl.DataFrame):
            assert found.select(rest).equals(frame.select(rest)[[0, 2]])
            assert found.select(rest).schema == frame.select(rest).schema
        else:
            pd.testing.assert_frame_equal(found[rest], frame[rest].iloc[[0, 2]].reset_index(drop=True))

    def test_an_empty_frame_stays_empty_and_gets_its_types(self, make: Make) -> None:
        found, ingester = validate(make({"id": [], "x": []}), required_fields=["id"], dtypes={"id": "int64"})
        assert (len(found), str(found["id"].dtype).lower(), ingester.counts.records_in) == (0, "int64", 0)

    @pytest.mark.parametrize(
        "values",
        [
            [1, True, 1.0, "1"], [date(2026, 1, 1), datetime(2026, 1, 1)], [[1], [True], [1.0]],
            [{"a": 1}, {"a": True}], [None, "null", "None"], [{"a": None}, {"a": [2**70, "é"]}],
        ],
        ids=str,
    )  # fmt: skip
    def test_records_are_equal_if_type_and_value_are(self, values: list[Any]) -> None:
        frame = pd.DataFrame({"x": pd.Series([*values, *values], dtype=object)})
        found, _ = validate(frame)
        assert list(map(repr, found["x"])) == list(map(repr, values))
        found, _ = validate(pl.DataFrame({"x": pl.Series([*values, *values], dtype=pl.Object)}))
        assert list(map(repr, found["x"])) == list(map(repr, values))

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ([1, None, date(2026, 1, 1)], "date, int: .* row 3, of date;"),
            ([date(2026, 1, 1), "2026-01-01"], "date, str: .* row 1, of date;"),
            ([b"x", "eA=="], "bytes, str: .* row 1, of bytes;"),
            (["1.1", Decimal("1.1")], "Decimal, str: .* row 2, of Decimal;"),
            ([1, float("inf")], "float, int: .* row 2, of float;"),
            ([Decimal(1), Decimal("Infinity")], "Decimal: .* row 1, of Decimal;"),
            ([Decimal("1E-39")], "Decimal: .* row 1, of Decimal;"),
            ([Decimal("1E+8"), Decimal("1E-30")], "Decimal: .* row 1, of Decimal;"),
            ([None, UUID(int=1)], "UUID: .* row 2, of UUID;"),
            ([1j], "complex: .* row 1, of complex;"),
            ([pd.Period("2026-01", "M")], "Period: .* row 1, of Period;"),
            ([{1: 2}, {"1": 2}], "dict: .* row 1, of dict;"),
            ([["x"], [b"x"]], "list: .* row 2, of list;"),
        ],
        ids=str,
    )  # fmt: skip
    def test_objects_that_nothing_keeps_are_refused_until_they_are_cast(
        self, kind: str, values: list[Any], message: str
    ) -> None:
        pandas, polars = pd.Series(values, dtype=object), pl.Series("x", values, dtype=pl.Object)
        frame = pl.DataFrame({"x": polars}) if kind == "polars" else pd.DataFrame({"x": pandas})
        with pytest.raises(NotebookError, match=f"the column x has values of {message} cast the column") as error:
            validate(frame)
        told = str(error.value).removesuffix(" say").rpartition("cast the column, by ")[2]
        cast_column = eval(told, {"frame": frame, "pl": pl})  # what the error tells people to write
        frame = frame.with_columns(x=cast_column) if isinstance(frame, pl.DataFrame) else frame.assign(x=cast_column)
        _, ingester = validate(frame, required_fields=["x"])
        assert ingester.counts.dead_letters == values.count(None)

    def test_periods_are_refused_and_numbers_of_128_bits_are_not(self) -> None:
        with pytest.raises(NotebookError, match="the column p has values of Period"):
            validate(pd.DataFrame({"p": pd.period_range("2026-01", periods=2, freq="M")}))
        frame = pl.DataFrame({"i": pl.Series([2**100, 1], dtype=pl.Int128)})
        found, ingester = validate(frame, dtypes={"i": "int64"})
        assert (found["i"].to_list(), len(reasons(ingester))) == ([1], 1)


class TestFrames:
    def test_an_index_with_a_name_is_a_column(self) -> None:
        frame = pd.DataFrame({"a": [1, 2]}, index=pd.Index(["x", None], name="id"))
        found, _ = validate(frame, required_fields=["id"])
        assert found.to_dict("list") == {"id": ["x"], "a": [1]}

    def test_an_index_without_is_row_numbers(self) -> None:
        frame = pd.DataFrame({"a": [1, 1, 2]}, index=[5, 6, 7])
        found, _ = validate(frame)
        assert (found["a"].tolist(), found.index.tolist(), list(found.columns)) == ([1, 2], [0, 1], ["a"])

    @pytest.mark.parametrize(
        "index", [["x", "y"], pd.to_datetime(["2026-01-01", "2026-01-02"]), [1.5, 2.5], [(1, 2), (1, 3)]], ids=str
    )
    def test_an_index_without_that_is_none_is_not_lost(self, index: Any) -> None:
        with pytest.raises(NotebookError, match=r"name it, or reset_index\(drop=True\)"):
            validate(pd.DataFrame({"a": [1, 1]}, index=index))

    @pytest.mark.parametrize(
        ("frame", "message"),
        [
            (pd.DataFrame([[1, 2]], columns=["a", "a"]), "has the column a more than once"),
            (pd.DataFrame([[1, 2]]), "names of columns are text, not 0, 1"),
            (pl.DataFrame({"": [1]}), "a column has no name"),
            (pd.DataFrame(), "has no columns"),
            (pl.DataFrame(), "has no columns"),
            (pl.LazyFrame({"a": [1]}), "not LazyFrame: call its .collect"),
            ([{"a": 1}], "give a polars or a pandas DataFrame, not list"),
            (pd.DataFrame({"a": [1]}, index=pd.Index([1], name="a")), "index cannot become columns"),
        ],
    )
    def test_what_cannot_be_used_is_told(self, frame: Any, message: str) -> None:
        with pytest.raises(NotebookError, match=message):
            validate(frame)

    def test_the_frame_that_was_given_is_not_changed(self) -> None:
        frame = pd.DataFrame({"a": ["1", "x"]})
        before = frame.copy()
        validate(frame, dtypes={"a": "int64"})
        pd.testing.assert_frame_equal(frame, before)


none = st.none()
mixed = st.one_of(
    none, st.integers(-(2**70), 2**70), st.floats(allow_infinity=False), st.text(max_size=3), st.booleans(),
    st.lists(st.integers(0, 3), max_size=2), st.dictionaries(st.sampled_from("ab"), st.integers(0, 3), max_size=2),
)  # fmt: skip
decimals = st.decimals(-1000, 1000, places=3, allow_nan=True)
kinds = [st.floats(), decimals, st.one_of(st.dates(), st.datetimes()), st.binary(max_size=2), mixed]


@settings(max_examples=25)
@given(
    st.one_of(*(st.lists(none | kind, max_size=8) for kind in kinds)),
    st.sampled_from(["int64", "float64", "string", "bool", "datetime64[ns]", "decimal(9,2)"]),
)
def test_whatever_comes_every_record_is_accounted_for(given_: list[Any], dtype: str) -> None:
    frame = pd.DataFrame({"n": range(len(given_)), "x": pd.Series(given_, dtype=object)})
    found, ingester = validate(frame, required_fields=["x"], dtypes={"x": dtype})
    counts = ingester.counts
    assert counts.records_in == len(given_) == counts.rows + counts.dead_letters + counts.duplicates
    assert sorted([*found["n"], *(json.loads(raw)["n"] for raw in ingester.dead_letters["raw"])]) == list(
        range(len(given_))
    )


@settings(max_examples=25)
@given(
    st.lists(
        st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False).filter(float.is_integer))
    )
)
def test_whole_numbers_survive_whatever_column_they_are_in(numbers: list[Any]) -> None:
    for series in (pd.Series(numbers, dtype=object), pd.Series([None if n is None else str(n) for n in numbers])):
        found, _ = validate(pd.DataFrame({"n": range(len(numbers)), "x": series}), dtypes={"x": "int64"})
        kept = dict(zip(found["n"], found["x"], strict=True))
        for row, number in enumerate(numbers):
            fits = number is not None and -(2**63) <= number < 2**63
            if fits and row in kept:
                assert kept[row] == number
            if isinstance(number, int):
                assert row in kept


def test_the_letters_are_saved_once(tmp_path: Path, stored: Any) -> None:
    ingester = BatchDataIngester()
    path = tmp_path / "dlq" / "orders"
    assert ingester.save_dead_letter_queue(str(path)) == 0
    assert not path.exists()
    frame = pl.DataFrame({"id": ["1", "x", "y"]})
    for _ in range(2):  # a cell that is run twice
        ingester.validate_and_clean(frame, {"dtypes": {"id": "int64"}})
    assert ingester.save_dead_letter_queue(str(path)) == 2
    assert ingester.save_dead_letter_queue(str(path)) == 0
    ingester.validate_and_clean(frame.head(2), {"dtypes": {"id": "int64"}})
    assert ingester.save_dead_letter_queue(f"file://{path}") == 1
    assert [row["reason"] for row in stored(path)].count("cast: id: 'x' is not BIGINT") == 2
    # The same again, into another table too.
    ingester.validate_and_clean(frame, {"dtypes": {"id": "int64"}})
    assert ingester.save_dead_letter_queue(str(path)) == 0
    ingester.validate_and_clean(frame, {"dtypes": {"id": "int64"}})
    assert ingester.save_dead_letter_queue(tmp_path / "b") == 2
    assert len(stored(tmp_path / "b")) == 2
    # Another process that does the same, and something else.
    other = BatchDataIngester()
    other.validate_and_clean(frame, {"dtypes": {"id": "int64"}})
    other.validate_and_clean(pl.DataFrame({"id": ["z"]}), {"dtypes": {"id": "int64"}})
    assert other.save_dead_letter_queue(str(path)) == 1
    assert len(stored(path)) == 4


def test_letters_of_values_of_other_types_are_others(tmp_path: Path) -> None:
    ingester = BatchDataIngester()
    for value in (2.5, "2.5"):
        frame = pd.DataFrame({"x": pd.Series([value, 1], dtype=object)})
        ingester.validate_and_clean(frame, {"dtypes": {"x": "int64"}})
    assert ingester.save_dead_letter_queue(tmp_path / "dlq") == 2


def test_a_letter_that_cannot_be_saved_is_kept(tmp_path: Path, stored: Any) -> None:
    pl.DataFrame({"id": [1]}).write_delta(tmp_path / "other")
    ingester = BatchDataIngester()
    ingester.validate_and_clean(pl.DataFrame({"id": ["x"]}), {"dtypes": {"id": "int64"}})
    with pytest.raises(Exception, match="rows do not fit table"):
        ingester.save_dead_letter_queue(str(tmp_path / "other"))
    with pytest.raises(NotebookError, match="give a folder, or s3"):
        ingester.save_dead_letter_queue("gs://bucket/x")
    assert ingester.save_dead_letter_queue(str(tmp_path / "mine")) == 1
    assert (stored(tmp_path / "other"), len(stored(tmp_path / "mine"))) == ([{"id": 1}], 1)
