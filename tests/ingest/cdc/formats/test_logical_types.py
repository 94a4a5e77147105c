"""Connect's logical types as text, over their whole range."""

import base64
import re
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_assets.ingest.cdc.formats.documents import decode
from pipeline_assets.ingest.cdc.formats.logical_types import plain

D, K = "io.debezium.time.", "org.apache.kafka.connect.data."


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        (D + "Date", 20455, "2026-01-02"),
        (D + "Date", -735160, "-0043-03-15"),
        (D + "Date", -719528, "0000-01-01"),
        (D + "Date", 2932897, "+10000-01-01"),
        (K + "Date", 0, "1970-01-01"),
        (D + "Timestamp", 1767323045678, "2026-01-02T03:04:05.678"),
        (D + "Timestamp", -500, "1969-12-31T23:59:59.5"),
        (D + "Timestamp", -9223372036832400, "-infinity"),
        (K + "Timestamp", 0, "1970-01-01T00:00:00"),
        (D + "MicroTimestamp", 1767323045678901, "2026-01-02T03:04:05.678901"),
        (D + "MicroTimestamp", 9223372036825200000, "infinity"),
        (D + "MicroTimestamp", -63517780800000000, "-0043-03-15T12:00:00"),
        (D + "NanoTimestamp", 1767323045678901000, "2026-01-02T03:04:05.678901"),
        (D + "NanoTimestamp", 1, "1970-01-01T00:00:00.000000001"),
        (D + "Time", 11045123, "03:04:05.123"),
        (D + "Time", 86400000, "24:00:00"),
        (K + "Time", 0, "00:00:00"),
        (D + "MicroTime", 11045000678, "03:04:05.000678"),
        (D + "MicroTime", -3020399000000, "-838:59:59"),
        (D + "NanoTime", 1, "00:00:00.000000001"),
        (D + "MicroDuration", -2629800000000, "PT-2629800S"),
        (D + "MicroDuration", 1500000, "PT1.5S"),
        (D + "ZonedTimestamp", "2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z"),
        (D + "Year", 2026, 2026),
        ("io.debezium.data.VariableScaleDecimal", {"scale": 3, "value": "BhY+ZlvrfKai4aZCRMs="},
         "123456789012345678901234567890.123"),
        ("io.debezium.data.VariableScaleDecimal", {"scale": -2, "value": "Dw=="}, "1500"),
        ("io.debezium.data.VariableScaleDecimal", {"scale": -2, "value": "AA=="}, "0"),
    ],
)  # fmt: skip
def test_a_logical_type_becomes_text(name: str, value: object, text: object) -> None:
    assert plain(value, {"name": name}) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        ("7", "7"), ("18446744073709551615", "18446744073709551615"), ("1.50", "1.50"), ("-0.00", "-0.00"),
        ("1E-10", "0.0000000001"), ("0E-3", "0.000"), ("1.5", "1.5"), ("9" * 60, "9" * 60),
    ],
)  # fmt: skip
def test_decimals_in_numeric_format_keep_their_digits(number: str, text: str) -> None:
    assert plain(decode(number), {"name": K + "Decimal", "parameters": {"scale": "2"}}) == text
    items = {"name": K + "Decimal", "parameters": {"scale": "2"}}
    assert plain(decode(f"[{number},null]"), {"type": "array", "items": items}) == [text, None]


@pytest.mark.parametrize("number", ["1e999999999", "true", "{}", '"x"', "[1.50]"])
def test_what_is_no_decimal_is_named_by_its_text(number: str) -> None:
    shown = number.replace('"', "'").replace("true", "True")
    with pytest.raises(ValueError, match=f"^{re.escape(shown)} is not a valid {K}Decimal$"):
        plain(decode(number), {"name": K + "Decimal", "parameters": {"scale": "2"}})


def test_arrays_are_converted_item_by_item() -> None:
    schema = {"type": "array", "items": {"type": "int32", "name": D + "Date"}}
    assert plain([20455, None], schema) == ["2026-01-02", None]


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"name": D + "Date"}, "2026-01-02"),
        ({"name": D + "Date"}, True),
        ({"name": D + "Timestamp"}, 1.5),
        ({"name": D + "MicroTimestamp"}, []),
        ({"name": K + "Decimal"}, "MDQ="),
        ({"name": K + "Decimal", "parameters": {"scale": "x"}}, "MDQ="),
        ({"name": K + "Decimal", "parameters": {"scale": "2"}}, "no base64"),
        ({"name": K + "Decimal", "parameters": {"scale": "2"}}, ""),
        ({"name": K + "Decimal", "parameters": {"scale": "1000000000"}}, "MDQ="),
        ({"name": "io.debezium.data.VariableScaleDecimal"}, {"value": "MDQ="}),
        ({"name": ["a"]}, 1),
        ({"type": "array"}, [1]),
        ({"type": "array", "items": {"name": D + "Date"}}, 1),
    ],
)
def test_a_value_of_another_type_is_refused(schema: dict[str, object], value: object) -> None:
    with pytest.raises(ValueError, match="is no"):
        plain(value, schema)


@given(st.integers(), st.integers(0, 60))
def test_decimals_are_exact(unscaled: int, scale: int) -> None:
    data = unscaled.to_bytes((unscaled.bit_length() + 8) // 8, signed=True)
    found = plain(base64.b64encode(data).decode(), {"name": K + "Decimal", "parameters": {"scale": str(scale)}})
    whole, _, fraction = found.partition(".")
    assert len(fraction) == scale
    assert int(whole + fraction) == unscaled
    assert whole.lstrip("-") == str(int(whole.lstrip("-")))


def test_a_decimal_of_fifty_thousand_digits_is_exact() -> None:
    number = 10**50_000 // 7
    found = plain(
        {"scale": 0, "value": base64.b64encode(number.to_bytes(number.bit_length() // 8 + 1, signed=True)).decode()},
        {"name": "io.debezium.data.VariableScaleDecimal"},
    )
    assert len(found) == 50_000
    assert found.startswith("142857")
    assert found.count("142857") == 8_333


@given(st.dates(), st.integers(0, 86_399_999_999))
def test_dates_and_times_are_those_of_the_calendar(day: date, micros: int) -> None:
    days = (day - date(1970, 1, 1)).days
    assert plain(days, {"name": D + "Date"}) == day.isoformat()
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=days, microseconds=micros)
    text = plain(days * 86_400_000_000 + micros, {"name": D + "MicroTimestamp"})
    assert datetime.fromisoformat(text).replace(tzinfo=UTC) == at
