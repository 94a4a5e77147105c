# ruff: noqa: DTZ001  local times have no zone
"""Avro files of every type through the whole way of a landed file; encoded byte by byte from the specification."""

import json
import struct
from datetime import date, datetime
from decimal import Decimal

import pytest

from pipeline_assets.contracts.base import RawColumn, RawShape
from tests.support.avro_files import container, data, long, record

ID = RawShape((RawColumn("id", "BIGINT"),))
CENTS = {"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2}
MICROS = 1_767_600_000_123_456  # 2026-01-05 08:00:00.123456


def typed(base, logical, **more):
    return {"type": base, "logicalType": logical, **more}


def fixed(size, logical=None, **more):
    return {"type": "fixed", "name": "f", "size": size, **({"logicalType": logical} if logical else {}), **more}


def bytes_of(number: int, size: int) -> bytes:
    return number.to_bytes(size, "big", signed=True)


@pytest.fixture
def land_value(land):
    def run(kind, *values, shape=ID, evolve=False, codec="null"):
        rows = [long(i) + value for i, value in enumerate(values)]
        return land(
            container(record(("id", "long"), ("v", kind)), rows, codec=codec), "a.avro", shape=shape, evolve=evolve
        )

    return run


@pytest.mark.parametrize("codec", ["null", "deflate"])
@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (CENTS, [data(bytes_of(123_456, 3)), data(bytes_of(825_111_856, 4)), data(b"\xff")]),
        (["null", CENTS], [long(1) + data(bytes_of(123_456, 3)), long(1) + data(bytes_of(825_111_856, 9)),
         long(1) + data(b"\xff")]),
        (fixed(5, "decimal", precision=10, scale=2), [bytes_of(123_456, 5), bytes_of(825_111_856, 5), b"\xff" * 5]),
    ],
)  # fmt: skip
def test_decimals_are_exact_in_columns_in_evolved_columns_and_in_rescued(land_value, kind, values, codec):
    expected = [Decimal("1234.56"), Decimal("8251118.56"), Decimal("-0.01")]
    for dtype, wanted in (("DECIMAL(12,2)", expected), ("VARCHAR", [str(value) for value in expected])):
        landed = land_value(kind, *values, shape=RawShape((RawColumn("v", dtype),)), codec=codec)
        assert [row[1] for row in landed.rows] == wanted
    assert [row[-1] for row in land_value(kind, *values).rows] == [f'{{"v":{value}}}' for value in expected]
    evolved = land_value(kind, *values, evolve=True)
    assert [row[-2] for row in evolved.rows] == expected


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (typed("int", "date"), long(20_458), "2026-01-05"),
        (typed("int", "date"), long(2**31 - 1), "infinity"),
        (typed("int", "time-millis"), long(28_800_123), "08:00:00.123"),
        (typed("long", "time-micros"), long(28_800_000_001), "08:00:00.000001"),
        (typed("long", "time-micros"), long(2**63 - 1), 2**63 - 1),
        (typed("long", "timestamp-millis"), long(MICROS // 1000), "2026-01-05 08:00:00.123"),
        (typed("long", "timestamp-millis"), long(2**63 - 1), 2**63 - 1),
        (typed("long", "timestamp-micros"), long(MICROS), "2026-01-05 08:00:00.123456"),
        (typed("long", "timestamp-nanos"), long(MICROS * 1000 + 789), "2026-01-05 08:00:00.123456789"),
        (typed("long", "timestamp-nanos"), long(-1), "1969-12-31 23:59:59.999999999"),
        (typed("long", "local-timestamp-millis"), long(MICROS // 1000), "2026-01-05 08:00:00.123"),
        (typed("long", "local-timestamp-micros"), long(MICROS), "2026-01-05 08:00:00.123456"),
        (typed("long", "local-timestamp-nanos"), long(5), "1970-01-01 00:00:00.000000005"),
        (typed("string", "uuid"), data(b"f81d4fae-7dec-11d0-a765-00a0c91e6bf6"),
         "f81d4fae-7dec-11d0-a765-00a0c91e6bf6"),
        (fixed(16, "uuid"), b"\x01" * 16, "01010101-0101-0101-0101-010101010101"),
        (fixed(12, "duration"), b"\x01" * 11 + b"\xff", {"base64": "AQEBAQEBAQEBAQH/"}),
        (typed("long", "of-another-world"), long(7), 7),
        (typed("bytes", "decimal", precision=2, scale=3), data(b"\xff"), {"base64": "/w=="}),
        (typed("string", "date"), data(b"x"), "x"),
        ({"type": typed("long", "timestamp-nanos")}, long(5), "1970-01-01 00:00:00.000000005"),
        ({"type": "enum", "name": "e", "symbols": ["A", "B"]}, long(1), "B"),
        ({"type": "array", "items": "double"}, long(-2) + long(16) + struct.pack("<dd", float("nan"), 0.5) + long(0),
         ["nan", 0.5]),
        ({"type": "map", "values": CENTS}, long(1) + data(b"k") + data(b"\x05") + long(0), {"k": 0.05}),
        (["null", "string", "long", CENTS], long(3) + data(b"\x05"), 0.05),
        (["string", "long"], long(1) + long(9), 9),
        (["long"], long(0) + long(9), 9),
        (["null", "row"], long(1) + long(8) + long(0), {"id": 8, "v": None}),
        ("string", data(b"caf\xc3\xa9"), "café"),
        ("string", data(b"\xff"), {"base64": "/w=="}),
        ({"type": "record", "name": "in", "fields": [
            {"name": "t", "type": typed("long", "timestamp-nanos")}, {"name": "u", "type": ["null", "bytes", "int"]}]},
         long(1) + long(2) + long(-3), {"t": "1970-01-01 00:00:00.000000001", "u": -3}),
    ],
)  # fmt: skip
def test_a_field_that_no_contract_asks_for_is_rescued_exactly(land_value, kind, value, expected):
    landed = land_value(kind, value, value)
    assert landed.dead == []
    assert [row[:2] for row in landed.rows] == [(1, 0), (2, 1)]
    for row in landed.rows:
        assert json.loads(row[-1], parse_constant=pytest.fail) == {"v": expected}


@pytest.mark.parametrize(
    ("kind", "values", "dtype", "good", "reason"),
    [
        (typed("long", "timestamp-nanos"), [long(MICROS * 1000), long(MICROS * 1000 + 1)], "TIMESTAMP",
         datetime(2026, 1, 5, 8, 0, 0, 123_456), "cast: v: '2026-01-05 08:00:00.123456001' is not TIMESTAMP"),
        (typed("long", "timestamp-millis"), [long(0), long(2**63 - 1)], "TIMESTAMP",
         datetime(1970, 1, 1), "cast: v: '9223372036854775807' is not TIMESTAMP"),
        (typed("long", "timestamp-micros"), [long(0), long(2**63 - 1)], "TIMESTAMP",
         datetime(1970, 1, 1), "cast: v: 'infinity' is not TIMESTAMP"),
        (typed("int", "date"), [long(0), long(2**31 - 1)], "DATE", date(1970, 1, 1), "cast: v: 'infinity' is not DATE"),
        ("string", [data(b"x"), data(b"\xff")], "VARCHAR", "x", "cast: v: '\\xFF' is not VARCHAR"),
        (CENTS, [data(b"\x05"), data(bytes_of(10**14, 8))], "DECIMAL(10,2)", Decimal("0.05"),
         "cast: v: '1000000000000.00' is not DECIMAL(10,2)"),
        ({"type": "array", "items": ["null", "long"]}, [long(2) + long(0) + long(1) + long(5) + long(0), long(0)],
         "BIGINT[]", [None, 5], None),
    ],
)  # fmt: skip
def test_a_value_that_does_not_fit_costs_its_own_record(land_value, kind, values, dtype, good, reason):
    landed = land_value(kind, *values, shape=RawShape((RawColumn("v", dtype),)))
    assert landed.rows[0][1] == good
    assert landed.reasons == ([reason] if reason else [])
    assert len(landed.rows) + len(landed.dead) == 2


def test_bytes_are_bytes(land_value):
    landed = land_value("bytes", data(b"\xff\x00"), shape=RawShape((RawColumn("v", "BLOB"),)))
    assert landed.rows[0][1] == b"\xff\x00"


def test_a_file_whose_records_are_no_records_has_one_field(land):
    landed = land(container("long", [long(5), long(6)]), "a.avro", shape=ID)
    assert [row[-1] for row in landed.rows] == ['{"avro_schema":5}', '{"avro_schema":6}']


@pytest.mark.parametrize("codec", ["null", "deflate"])
def test_many_blocks_are_one_file(land_value, land, codec):
    rows = [long(i) + data(bytes_of(i, 3)) for i in range(2_500)]
    landed = land(container(record(("id", "long"), ("v", CENTS)), rows, per_block=7, codec=codec), "a.avro", shape=ID)
    assert [row[:2] for row in landed.rows] == [(i + 1, i) for i in range(2_500)]


@pytest.mark.parametrize(
    ("kind", "value", "reason"),
    [
        ({"type": "enum", "name": "e", "symbols": ["A"]}, long(7), "an enum of 1 symbols has none of number 7"),
        (["null", CENTS], long(5), "a union of 2 types has no branch 5"),
        ({"type": "array", "items": "null"}, long(10**12) + long(0), "an array of more items than its block has bytes"),
        (CENTS, long(10**9), "text or bytes end beyond their block"),
        (CENTS, data(b"x") + b"more", "a block is longer than its records"),
    ],
)
def test_a_damaged_block_makes_the_file_one_dead_letter(land_value, kind, value, reason):
    landed = land_value(kind, value)
    assert landed.rows == []
    assert landed.reasons == [f"file: corrupt Avro file: {reason}"]


@pytest.mark.parametrize("schema", [{"type": "record", "name": "r"}, {"type": "nonsense"}, "unknown", 5, None, []])
def test_a_schema_that_is_none_makes_the_file_one_dead_letter(land, schema):
    landed = land(container(schema, [long(1)]), "a.avro", shape=ID)
    assert landed.rows == []
    assert landed.reasons[0].startswith("file: ")


def test_a_codec_that_nobody_knows_is_named(land):
    landed = land(container(record(("id", "long"), ("v", CENTS)), [b"x"], codec="lz99"), "a.avro", shape=ID)
    assert landed.reasons[0].startswith("file: Avro codec 'lz99' is not known")
