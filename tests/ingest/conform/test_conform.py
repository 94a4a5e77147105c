# ruff: noqa: DTZ001  the shop's times have no zone
"""Field matching and faithful casts."""

import json
import unicodedata
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from pipeline_assets.contracts.base import RawColumn, RawShape
from pipeline_assets.ingest.conform.casts import from_json, from_native, from_text, normal
from pipeline_assets.ingest.conform.conform import conform_sql, fit_sql, match_fields, snake_case
from pipeline_assets.ingest.files.content import read_content
from pipeline_assets.ingest.files.formats.open_records import SourceField, open_records


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("InvoiceNo", "invoice_no"),
        ("invoice no", "invoice_no"),
        ("INVOICE_NO", "invoice_no"),
        ("invoice-no.", "invoice_no"),
        ("CustomerID", "customer_id"),
        ("unit price", "unit_price"),
        ("Unit  Price", "unit_price"),
        ("UnitPriceGBP", "unit_price_gbp"),
        ("HTTPStatus", "http_status"),
        ("address2Line", "address2_line"),
        ("_batch_id", "_batch_id"),
        ("Größe", "größe"),
        (" x ", "x"),
        ("", ""),
        ("%", ""),
    ],
)
def test_names_are_written_in_snake_case(name, expected):
    assert snake_case(name).strip("_") == expected.strip("_")


def test_a_technical_name_keeps_its_underscore():
    assert snake_case("_batch_id") == "_batch_id"


def cast_text(con, text, dtype):
    return con.execute(f"SELECT {from_text('t', normal(dtype))} FROM (SELECT ?::VARCHAR AS t)", [text]).fetchone()[0]


@pytest.mark.parametrize(
    ("text", "dtype", "expected"),
    [
        ("6", "BIGINT", 6),
        ("-6", "BIGINT", -6),
        ("+6", "BIGINT", 6),
        ("3.0", "BIGINT", 3),
        ("007", "BIGINT", 7),
        ("9223372036854775807", "BIGINT", 2**63 - 1),
        ("9007199254740993.000", "BIGINT", 9007199254740993),
        ("2.55", "DECIMAL(12,3)", Decimal("2.550")),
        ("-.5", "DECIMAL(12,3)", Decimal("-0.500")),
        ("5.", "DECIMAL(12,3)", Decimal("5.000")),
        ("2.55000000", "DECIMAL(12,3)", Decimal("2.550")),
        ("1e3", "DECIMAL(12,3)", Decimal("1000.000")),
        ("2.5e-1", "DECIMAL(12,3)", Decimal("0.250")),
        ("7", "DECIMAL(5,0)", Decimal("7")),
        ("2010-12-01", "DATE", date(2010, 12, 1)),
        ("2010-12-01 00:00:00", "DATE", date(2010, 12, 1)),
        ("2010-12-01 08:26", "TIMESTAMP", datetime(2010, 12, 1, 8, 26)),
        ("2010-12-01T08:26:01.5", "TIMESTAMP", datetime(2010, 12, 1, 8, 26, 1, 500_000)),
        ("2010-12-01 08:26:01.123456000", "TIMESTAMP", datetime(2010, 12, 1, 8, 26, 1, 123_456)),
        ("2010-12-01", "TIMESTAMP", datetime(2010, 12, 1)),
        ("2010-12-01T08:26:00Z", "TIMESTAMP", datetime(2010, 12, 1, 8, 26)),
        ("2010-12-01T08:26:00+01:30", "TIMESTAMP", datetime(2010, 12, 1, 6, 56)),
        ("2010-12-01T08:26+0130", "TIMESTAMP", datetime(2010, 12, 1, 6, 56)),
        ("2010-12-01T08:26:00-01", "TIMESTAMPTZ", datetime(2010, 12, 1, 9, 26, tzinfo=UTC)),
        ("2010-12-01 08:26", "TIMESTAMPTZ", datetime(2010, 12, 1, 8, 26, tzinfo=UTC)),
        ("TRUE", "BOOLEAN", True),
        ("f", "BOOLEAN", False),
        ("0", "BOOLEAN", False),
        ("1.5e3", "DOUBLE", 1500.0),
        ("-inf", "DOUBLE", float("-inf")),
        ("x", "VARCHAR", "x"),
        ("10:11:12", "TIME", datetime(2010, 1, 1, 10, 11, 12).time()),
    ],
)
def test_text_that_fits_is_cast(con, text, dtype, expected):
    assert cast_text(con, text, dtype) == expected


@pytest.mark.parametrize(
    ("text", "dtype"),
    [
        ("1.5", "BIGINT"),
        ("1e3", "BIGINT"),
        ("1_000", "BIGINT"),
        ("1,000", "BIGINT"),
        ("0x1F", "BIGINT"),
        ("9223372036854775808", "BIGINT"),
        ("300", "TINYINT"),
        ("-1", "UBIGINT"),
        ("1.23456", "DECIMAL(12,3)"),
        ("1e-5", "DECIMAL(12,3)"),
        ("1_000.5", "DECIMAL(12,3)"),
        ("1234567890", "DECIMAL(12,3)"),
        (".", "DECIMAL(12,3)"),
        ("-", "DECIMAL(12,3)"),
        (".0005", "DECIMAL(12,3)"),
        ("7.5", "DECIMAL(5,0)"),
        ("12345678901234567.5e0", "DECIMAL(38,0)"),
        ("2010-02-30", "DATE"),
        ("2010-12-01 08:26:00", "DATE"),
        ("2010/12/01", "DATE"),
        ("01.12.2010", "DATE"),
        ("infinity", "DATE"),
        ("2010-12-01 08:26:01.1234567", "TIMESTAMP"),
        ("2010-12-01 25:00", "TIMESTAMP"),
        ("2010-12-01 08:26:60", "TIMESTAMP"),
        ("12/1/2010 8:26", "TIMESTAMP"),
        ("2010-12-01 08:26 CET", "TIMESTAMP"),
        ("epoch", "TIMESTAMP"),
        ("maybe", "BOOLEAN"),
        ("2", "BOOLEAN"),
        ("1e400", "DOUBLE"),
        ("1_0", "DOUBLE"),
        ("10:11:12.1234567", "TIME"),
    ],
)
def test_text_that_would_lose_something_is_refused(con, text, dtype):
    assert cast_text(con, text, dtype) is None


def cast_native(con, value, dtype):
    con.execute(f"CREATE OR REPLACE TEMP TABLE one AS SELECT {value} AS v")
    source = con.execute("DESCRIBE one").fetchone()[1]
    return con.execute(f"SELECT {from_native('v', normal(source), normal(dtype))} FROM one").fetchone()[0]


@pytest.mark.parametrize(
    ("value", "dtype", "expected"),
    [
        ("6::INTEGER", "BIGINT", 6),
        ("6::UBIGINT", "BIGINT", 6),
        ("6.0::DOUBLE", "BIGINT", 6),
        ("2.55::DOUBLE", "DECIMAL(12,3)", Decimal("2.550")),
        ("2.55::FLOAT", "DECIMAL(12,3)", Decimal("2.550")),
        ("2.550::DECIMAL(18,4)", "DECIMAL(12,3)", Decimal("2.550")),
        ("2.5::DECIMAL(4,1)", "DECIMAL(12,3)", Decimal("2.500")),
        ("6::BIGINT", "VARCHAR", "6"),
        ("'caf\\xC3\\xA9'::BLOB", "VARCHAR", "café"),
        ("{'a': [1.5]}", "VARCHAR", '{"a":[1.5]}'),
        ("DATE '2010-12-01'", "TIMESTAMP", datetime(2010, 12, 1)),
        ("TIMESTAMP '2010-12-01'", "DATE", date(2010, 12, 1)),
        ("TIMESTAMP_NS '2010-12-01 08:26:00.123456'", "TIMESTAMP", datetime(2010, 12, 1, 8, 26, 0, 123_456)),
        ("TIMESTAMP_S '2010-12-01 08:26:00'", "TIMESTAMP", datetime(2010, 12, 1, 8, 26)),
        ("TIMESTAMPTZ '2010-12-01 08:26:00+01'", "TIMESTAMP", datetime(2010, 12, 1, 7, 26)),
        ("TIMESTAMP '2010-12-01 08:26:00'", "TIMESTAMPTZ", datetime(2010, 12, 1, 8, 26, tzinfo=UTC)),
        ("TIMESTAMP_MS '2010-12-01 08:26:00'", "TIMESTAMPTZ", datetime(2010, 12, 1, 8, 26, tzinfo=UTC)),
        ("1::BIGINT", "BOOLEAN", True),
    ],
)
def test_typed_values_that_fit_are_cast(con, value, dtype, expected):
    assert cast_native(con, value, dtype) == expected


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        ("1.5::DOUBLE", "BIGINT"),
        ("'nan'::DOUBLE", "BIGINT"),
        ("1e300::DOUBLE", "DECIMAL(12,3)"),
        ("2.5555::DOUBLE", "DECIMAL(12,3)"),
        ("2.5555::DECIMAL(18,4)", "DECIMAL(12,3)"),
        ("9223372036854775808::UBIGINT", "BIGINT"),
        ("TIMESTAMP '2010-12-01 08:26:00'", "DATE"),
        ("make_timestamp_ns(1291191960123456789)", "TIMESTAMP"),
        ("2::BIGINT", "BOOLEAN"),
        ("6::BIGINT", "TIMESTAMP"),
        ("[1]", "BIGINT"),
        ("'\\xff'::BLOB", "VARCHAR"),
    ],
)
def test_typed_values_that_would_lose_something_are_refused(con, value, dtype):
    assert cast_native(con, value, dtype) is None


@pytest.mark.parametrize(
    ("text", "dtype", "expected"),
    [
        ('["a", null, "b\\n", " x ", ""]', "VARCHAR[]", ["a", None, "b\n", " x ", ""]),
        ("[1, 2.0, null]", "BIGINT[]", [1, 2, None]),
        ("[[1], [], null]", "BIGINT[][]", [[1], [], None]),
        ("[1.50]", "DECIMAL(10,2)[]", [Decimal("1.50")]),
        ("[12345678901234567890.123456789]", "DECIMAL(38,9)[]", [Decimal("12345678901234567890.123456789")]),
        (
            '[1.50, 1e5, "a, 1.50", [2.50], {"x": 3.50}]',
            "VARCHAR[]",
            ["1.50", "1e5", "a, 1.50", "[2.50]", '{"x":3.50}'],
        ),
        ("[[1.50], [0.10000000000000000555]]", "VARCHAR[][]", [["1.50"], ["0.10000000000000000555"]]),
        ('["2026-01-01"]', "DATE[]", [date(2026, 1, 1)]),
        ("[]", "VARCHAR[]", []),
        ('[1, "x"]', "BIGINT[]", None),
        ("[1.555]", "DECIMAL(10,2)[]", None),
        ("[[1], 2]", "BIGINT[][]", None),
        ('{"a": 1}', "VARCHAR[]", None),
        ('"[1]"', "BIGINT[]", None),
    ],
)
def test_json_arrays_become_lists_if_every_element_fits(con, text, dtype, expected):
    query = f"SELECT {from_json('t', normal(dtype))} FROM (SELECT ?::VARCHAR AS t)"
    assert con.execute(query, [text]).fetchone()[0] == expected


def test_json_arrays_land_in_columns_of_lists(land):
    shape = RawShape((RawColumn("tags", "VARCHAR[]"), RawColumn("sizes", "BIGINT[]")))
    landed = land(b'{"tags": ["a"], "sizes": [1]}\n{"tags": null}\n{"sizes": ["x"]}\n', "a.jsonl", shape=shape)
    assert [row[1:3] for row in landed.rows] == [(["a"], [1]), (None, None)]
    assert landed.reasons == ["cast: sizes: '[\"x\"]' is not BIGINT[]"]


def test_fields_match_columns_by_their_names_in_snake_case():
    shape = RawShape((RawColumn("a_b", "VARCHAR", required=True), RawColumn("c", "BIGINT", required=True)))
    fields = [
        SourceField("A B", "f0", "VARCHAR"),
        SourceField("aB", "f1", "VARCHAR"),
        SourceField("d", "f2", "VARCHAR"),
    ]
    found = match_fields(fields, shape)
    assert found.matched == {"a_b": (fields[0],)}
    assert found.unknown == (fields[1], fields[2])
    assert found.missing == ("c",)


def test_of_two_fields_the_one_of_the_columns_very_name_is_the_column_wherever_it_stands():
    shape = RawShape((RawColumn("id", "VARCHAR"),))
    fields = [SourceField("Id", "f0", "VARCHAR"), SourceField("id", "f1", "VARCHAR")]
    for given in (fields, fields[::-1]):
        found = match_fields(given, shape)
        assert (found.matched, found.unknown) == ({"id": (fields[1],)}, (fields[0],))
        evolved = match_fields(given, RawShape(()), schema_evolution=True)
        assert [column.name for column in evolved.added] == ["id"]
        assert (evolved.matched, evolved.unknown) == ({"id": (fields[1],)}, (fields[0],))


def test_names_that_are_no_words_are_no_new_columns_and_marks_tell_words_apart():
    names = ["😀", "#", "नाम", "निम", "ชื่อ", unicodedata.normalize("NFD", "é"), "é"]
    fields = [SourceField(name, f"f{at}", "VARCHAR") for at, name in enumerate(names)]
    found = match_fields(fields, RawShape(()), schema_evolution=True)
    assert sorted(column.name for column in found.added) == sorted(["नाम", "निम", "ชื่อ", "é"])
    assert {field.name for field in found.unknown} == {"😀", "#", unicodedata.normalize("NFD", "é")}


def test_two_spellings_in_one_json_object_are_kept_if_one_is_exact(land):
    shape = RawShape((RawColumn("id", "BIGINT"), RawColumn("unit_price", "VARCHAR")))
    landed = land(
        b'{"Id": 1, "id": 2}\n{"Id": 3}\n{"id": null, "Id": 4}\n{"id": 5, "Id": null}\n'
        b'{"unitPrice": "6", "UnitPrice": "7"}\n',
        "a.jsonl", shape=shape,
    )  # fmt: skip
    assert [(row[1], row[-1]) for row in landed.rows] == [(2, '{"Id":1}'), (3, None), (4, None), (5, None)]
    assert landed.reasons == ["json: unit_price is given twice, in two spellings"]


def test_evolution_adds_columns_but_none_with_a_technical_or_empty_name():
    fields = [SourceField(name, f"f{i}", "BIGINT") for i, name in enumerate(["Ship To", "_batch_id", "", "shipTo"])]
    found = match_fields(fields, RawShape(()), schema_evolution=True)
    assert [(column.name, column.dtype) for column in found.added] == [("ship_to", "BIGINT")]
    assert found.unknown == tuple(fields[1:])


def test_a_column_that_was_added_before_keeps_the_type_of_the_table(land):
    evolved = RawShape((RawColumn("invoice_no", "VARCHAR", True),)).extended([RawColumn("ship_to", "BIGINT")])
    landed = land(b"invoice_no,ShipTo,New\n1,5,a\n2,x,b\n", shape=evolved, evolve=True)
    assert landed.columns == ("invoice_no", "ship_to", "new")
    assert landed.rows[0] == (2, "1", 5, "a", None)


def test_a_value_that_does_not_fit_a_column_of_evolution_is_rescued_and_its_record_lands(land):
    evolved = RawShape((RawColumn("invoice_no", "VARCHAR", True),)).extended([RawColumn("ship_to", "BIGINT")])
    landed = land(b"invoice_no,ShipTo,New\n1,5,a\n2,x,b\n", shape=evolved, evolve=True)
    assert landed.rows[1] == (3, "2", None, "b", '{"ShipTo":"x"}')
    assert landed.dead == []


def test_two_spellings_of_a_column_of_evolution_are_both_rescued(land):
    landed = land(b'{"invoice_no":"1","quantity":1,"Xy":1.50,"xY":2}\n{"invoice_no":"1","quantity":1,"Xy":3}\n',
                  "a.jsonl", evolve=True)  # fmt: skip
    found = [(row[-2], row[-1]) for row in landed.rows]
    assert found == [(None, None), (None, None)] or landed.columns[-1] == "x_y"
    assert landed.dead == []


@pytest.mark.parametrize(
    ("text", "dtype"),
    [
        ("0000-01-01", "DATE"),
        ("0000-12-31 00:00", "TIMESTAMP"),
        ("0001-01-01 00:00:00+01:00", "TIMESTAMPTZ"),
        ("9999-12-31 23:59:59-01:00", "TIMESTAMPTZ"),
        ("9999-12-31 23:59:59-01:00", "TIMESTAMP"),
        ("infinity", "TIMESTAMPTZ"),
    ],
)
def test_a_time_that_other_engines_cannot_read_is_a_dead_letter(land, text, dtype):
    landed = land(f"invoice_no,t\n1,{text}\n2,2026-01-01\n".encode(), shape=RawShape((RawColumn("t", dtype),)))
    assert landed.lines == [3]
    assert landed.dead[0].reason == f"cast: t: '{text}' is not {normal(dtype)}"


def test_unknown_fields_of_a_csv_file_are_rescued(land):
    landed = land(b'invoice_no,quantity,X,"y ""q"""\n1,2,a,\n2,2,,\n3,3,"a\nb",\n')
    assert [row[-1] for row in landed.rows] == ['{"X":"a"}', None, '{"X":"a\\nb"}']


def test_white_space_around_numbers_is_no_error_and_text_keeps_its_own(land):
    landed = land(b"invoice_no,quantity,unit_price,note\n 1 , 2 ,\t,  x \n")
    assert landed.rows == [(2, " 1 ", 2, None, "  x ", None)]


def test_all_failures_of_a_record_are_named_and_long_values_are_cut(land):
    landed = land(b"invoice_no,quantity,unit_price\n,x,%s\n" % (b"9" * 300))
    assert landed.reasons == [
        "required: invoice_no is missing; cast: quantity: 'x' is not BIGINT; "
        f"cast: unit_price: '{'9' * 100}' is not DECIMAL(12,3)"
    ]


def test_quotes_in_names_are_only_text(land):
    shape = RawShape((RawColumn("it's", "BIGINT"), RawColumn('a"b', "VARCHAR", required=True)))
    fields = [SourceField("x'y", "f0", "VARCHAR")]
    assert match_fields(fields, shape).missing == ('a"b',)
    assert land(b'x\'y,"q""r"\n1,2\n', shape=shape).reasons == ['header: lacks a"b']


def test_the_technical_columns_come_with_every_row(con, tmp_path: Path):
    path = tmp_path / "it's.csv"
    path.write_bytes(b"a\n1\n")
    shape = RawShape((RawColumn("a", "BIGINT"),))
    with open_records(con, path, read_content(path), temp_dir=tmp_path) as records:
        sql = conform_sql(
            records,
            shape,
            file="shop/it's.csv",
            partition_date=date(2011, 1, 2),
            batch_id="abc-1",
            extracted_at=datetime(2011, 1, 3, 4, 5, 6, 789, tzinfo=UTC),
        )
        cursor = con.execute(sql)
        names = [d[0] for d in cursor.description]
        row = dict(zip(names, cursor.fetchone(), strict=True))
    assert row == {
        "a": 1,
        "_partition_date": date(2011, 1, 2),
        "_batch_id": "abc-1",
        "_extracted_at": datetime(2011, 1, 3, 4, 5, 6, 789, tzinfo=UTC),
        "_source": {"file": "shop/it's.csv", "line": 2},
        "_rescued": None,
        "_reason": None,
        "_raw": None,
        "_raw_types": None,
    }


@dataclass(frozen=True)
class Doubles:
    """A record for each double, as `RecordSet` describes them."""

    sql: str = "SELECT 1 AS _line, unnest(['nan', '-inf', '0.5', NULL])::DOUBLE AS f0"
    fields: tuple[SourceField, ...] = (SourceField("x", "f0", "DOUBLE"),)
    has_problems: bool = False


def test_the_raw_text_is_json_whatever_a_double_is(con):
    wanted = [(RawColumn("x", "BIGINT", required=True), Doubles.fields)]
    found = con.execute(f"SELECT _raw FROM ({fit_sql(Doubles(), wanted)})").fetchall()
    assert [json.loads(raw)["x"] for (raw,) in found] == ["nan", "-inf", 0.5, None]


def test_a_time_without_zone_is_refused(con, tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"a\n1\n")
    with (
        open_records(con, path, read_content(path), temp_dir=tmp_path) as records,
        pytest.raises(ValueError, match="no time zone"),
    ):
        conform_sql(
            records,
            RawShape(()),
            file="a",
            partition_date=date(2011, 1, 2),
            batch_id="",
            extracted_at=datetime(2011, 1, 1),
        )
