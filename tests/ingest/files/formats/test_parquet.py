# ruff: noqa: DTZ001  local times have no zone
"""Parquet values that DuckDB reads wrongly or fails at, written by Arrow, through the whole way of a landed file."""

import io
import json
from datetime import UTC, date, datetime, time
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline_assets.contracts.base import RawColumn, RawShape

ID = RawShape((RawColumn("id", "BIGINT"),))
NANOS = 1_767_600_000_123_456_789  # 2026-01-05 08:00:00.123456789
FAR = [-62_135_596_800_000_000, 253_402_300_799_999_999]  # microseconds: the first and the last of years 1 to 9999
BAD_TEXT = pa.Array.from_buffers(pa.string(), 2, pa.array([b"caf\xc3\xa9", b"\xff"], pa.binary()).buffers())


@pytest.fixture
def land_values(land):
    def run(values, shape=ID, *, evolve=False, name="v", number=iter(range(1000)), **options):  # noqa: B008
        out = io.BytesIO()
        pq.write_table(pa.table({"id": pa.array(range(len(values)), pa.int64()), name: values}), out, **options)
        return land(out.getvalue(), f"{next(number)}.parquet", shape=shape, evolve=evolve)

    return run


def stamps(kind, zone=None):
    unit = {"int96": "ns"}.get(kind, kind)
    return pa.array([NANOS, NANOS - 789, None, -1], pa.timestamp(unit, zone))


@pytest.mark.parametrize(("zone", "suffix"), [(None, ""), ("UTC", "+00:00")])
@pytest.mark.parametrize("int96", [True, False])
def test_nanoseconds_are_never_cut(land_values, zone, suffix, int96):
    if int96 and zone:
        zone, suffix = None, ""  # INT96 has none
    dtype = "TIMESTAMP WITH TIME ZONE" if zone else "TIMESTAMP"
    values = stamps("ns", zone)
    shape = RawShape((RawColumn("v", dtype),))
    landed = land_values(values, shape, use_deprecated_int96_timestamps=int96)
    exact = datetime(2026, 1, 5, 8, 0, 0, 123_456, tzinfo=UTC if zone else None)
    assert [row[:2] for row in landed.rows] == [(2, exact), (3, None)]
    texts = [f"2026-01-05 08:00:00.123456789{suffix}", f"1969-12-31 23:59:59.999999999{suffix}"]
    assert landed.reasons == [f"cast: v: '{text}' is not {dtype}" for text in texts]
    evolved = land_values(values, evolve=True, use_deprecated_int96_timestamps=int96)
    assert [row[2] for row in evolved.rows] == [None, exact, None, None]
    assert [row[3] for row in evolved.rows] == [f'{{"v":"{texts[0]}"}}', None, None, f'{{"v":"{texts[1]}"}}']


@pytest.mark.parametrize("zone", [None, "UTC"])
def test_microseconds_in_a_file_of_nanoseconds_are_read_as_they_are(land_values, zone):
    values = pa.array([NANOS - 789, None], pa.timestamp("ns", zone))
    landed = land_values(values, RawShape((RawColumn("v", "TIMESTAMP"),)))
    assert [row[1] for row in landed.rows] == [datetime(2026, 1, 5, 8, 0, 0, 123_456), None]


def test_int96_of_any_year_is_exact(land_values):
    far = pa.array(FAR, pa.timestamp("us"))
    landed = land_values(far, RawShape((RawColumn("v", "TIMESTAMP"),)), use_deprecated_int96_timestamps=True)
    assert [row[1] for row in landed.rows] == [datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999_999)]


def test_int96_within_lists_and_structs_is_exact(land_values):
    values = pa.array(
        [[{"t": NANOS}], None, [], [{"t": None}, {"t": -1}]], pa.list_(pa.struct([("t", pa.timestamp("ns"))]))
    )
    landed = land_values(values, use_deprecated_int96_timestamps=True)
    assert [row[-1] for row in landed.rows] == [
        '{"v":[{"t":"2026-01-05 08:00:00.123456789"}]}', None, '{"v":[]}',
        '{"v":[{"t":null},{"t":"1969-12-31 23:59:59.999999999"}]}',
    ]  # fmt: skip


def test_times_of_nanoseconds_and_maps_of_them_are_exact(land_values):
    landed = land_values(pa.array([123_456_789], pa.time64("ns")))
    assert landed.rows[0][-1] == '{"v":"00:00:00.123456789"}'
    landed = land_values(pa.array([[("a", 1)]], pa.map_(pa.string(), pa.timestamp("ns", "UTC"))))
    assert landed.rows[0][-1] == '{"v":{"a":"1970-01-01 00:00:00.000000001+00:00"}}'


@pytest.mark.parametrize(
    "kind", [pa.decimal128(9, 2), pa.decimal128(18, 2), pa.decimal128(38, 2), pa.decimal256(60, 2)]
)
@pytest.mark.parametrize("as_integer", [True, False])
def test_decimals_of_any_size_are_exact(land_values, kind, as_integer):
    values = pa.array([Decimal("1234567.89"), Decimal("-0.01"), None], kind)
    landed = land_values(values, RawShape((RawColumn("v", "DECIMAL(12,2)"),)), store_decimal_as_integer=as_integer)
    assert [row[1] for row in landed.rows] == values.to_pylist()
    rescued = [json.loads(row[-1], parse_float=Decimal) if row[-1] else None for row in land_values(values).rows]
    assert rescued == [{"v": Decimal("1234567.89")}, {"v": Decimal("-0.01")}, None]


def test_a_decimal_of_fifty_digits_is_rescued_with_all_of_them(land_values):
    value = "12345678901234567890123456789012345678901234567890.12"
    landed = land_values(pa.array([Decimal(value)], pa.decimal256(60, 2)))
    assert landed.rows[0][-1] == f'{{"v":{value}}}'


def test_text_that_is_no_utf8_costs_its_own_record(land_values):
    landed = land_values(BAD_TEXT, RawShape((RawColumn("id", "BIGINT"), RawColumn("v", "VARCHAR"))))
    assert landed.rows == [(1, 0, "café", None)]
    assert landed.reasons == ["cast: v: '\\xFF' is not VARCHAR"]
    assert [row[-1] for row in land_values(BAD_TEXT).rows] == ['{"v":"café"}', '{"v":{"base64":"/w=="}}']


def test_times_that_duckdb_cannot_hold_cost_their_own_record(land_values):
    values = pa.array([0, 2**62], pa.timestamp("ms"))
    landed = land_values(values, RawShape((RawColumn("v", "TIMESTAMP"),)))
    assert [row[1] for row in landed.rows] == [datetime(1970, 1, 1)]
    assert landed.reasons == [f"cast: v: '{2**62}' is not TIMESTAMP"]
    assert [row[-1] for row in land_values(values).rows] == ['{"v":"1970-01-01 00:00:00"}', f'{{"v":{2**62}}}']


@pytest.mark.parametrize("poison", [None, BAD_TEXT])
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([1, None], pa.uint64()), [1, None]),
        (pa.array([2**64 - 1, 0], pa.uint64()), [2**64 - 1, 0]),
        (pa.array([True, None]), [True, None]),
        (pa.array([1.5, float("nan")]), [1.5, "nan"]),
        (pa.array([1.5, None], pa.float16()), [1.5, None]),
        (pa.array([date(2026, 1, 5), None]), ["2026-01-05", None]),
        (pa.array([time(8, 0, 0, 5), None]), ["08:00:00.000005", None]),
        (pa.array(["a", "b"]).dictionary_encode(), ["a", "b"]),
        (pa.array([["a"], [None, "b"]]), [["a"], [None, "b"]]),
        (pa.array([{"a": 1, "b": {"c": 0.5}}, None]), [{"a": 1, "b": {"c": 0.5}}, None]),
        (pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int64())), [{"k": 1}, {}]),
        (pa.array([b"\x01" * 16, None], pa.uuid()), ["01010101-0101-0101-0101-010101010101", None]),
        (pa.array([b"\xff\x00\x01", None], pa.binary(3)), [{"base64": "/wAB"}, None]),
        (pa.array(['{"a":1.50}', None], pa.json_()), ['{"a":1.50}', None]),
        (pa.array([None, None]), [None, None]),
    ],
)  # fmt: skip
def test_all_other_types_are_rescued_alike_by_both_readers(land, values, expected, poison):
    out = io.BytesIO()
    columns = {"id": pa.array([0, 1], pa.int64()), "v": values, **({"poison": poison} if poison is not None else {})}
    pq.write_table(pa.table(columns), out)
    landed = land(out.getvalue(), "a.parquet", shape=ID)
    assert [row[:2] for row in landed.rows] == [(1, 0), (2, 1)]
    rescued = [json.loads(row[-1], parse_constant=pytest.fail) if row[-1] else {} for row in landed.rows]
    assert [row.get("v") for row in rescued] == expected


def test_an_empty_file_of_doubtful_fields_has_no_rows(land_values):
    landed = land_values(pa.array([], pa.timestamp("ns")), use_deprecated_int96_timestamps=True)
    assert (landed.rows, landed.dead) == ([], [])
