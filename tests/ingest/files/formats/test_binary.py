"""Parquet and Avro through the whole way of a landed file."""

import gzip
import io
import json
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline_assets.contracts.base import RawColumn, RawShape
from pipeline_assets.ingest.files.formats.open_records import load_avro

ROWS = """SELECT i::VARCHAR AS InvoiceNo, i AS Quantity, (i / 4)::DOUBLE AS UnitPrice, 'n' || i AS note
    FROM range(1, 3001) t(i)"""


def zstd(data: bytes) -> bytes:
    return pa.Codec("zstd").compress(data, asbytes=True)


@pytest.fixture
def make(con, tmp_path):
    def make(sql: str, kind: str) -> bytes:
        if kind == "avro":
            load_avro(con)
        path: Path = tmp_path / f"made.{kind}"
        con.execute(f"COPY ({sql}) TO '{path}' (FORMAT {kind})")
        return path.read_bytes()

    return make


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstd])
@pytest.mark.parametrize("kind", ["parquet", "avro"])
def test_rows_land_with_their_row_numbers(land, make, kind, pack):
    landed = land(pack(make(ROWS, kind)), f"a.{kind}.gz")
    assert landed.dead == []
    assert len(landed.rows) == 3000
    assert landed.rows[1] == (2, "2", 2, Decimal("0.500"), "n2", None)
    assert landed.lines == list(range(1, 3001))


@pytest.mark.parametrize("kind", ["parquet", "avro"])
@pytest.mark.parametrize("cut", [1, 10, 10_000])
def test_a_truncated_file_is_one_dead_letter(land, make, kind, cut):
    landed = land(make(ROWS, kind)[:-cut], f"a.{kind}")
    assert landed.rows == []
    assert len(landed.dead) == 1
    assert landed.reasons[0].startswith("file: ")


@pytest.mark.parametrize("kind", ["parquet", "avro"])
def test_a_file_of_another_kind_is_one_dead_letter(land, kind):
    assert land(b"invoice_no,quantity\n1,2\n", f"a.{kind}").reasons[0].startswith("file: not a")


@pytest.mark.parametrize("kind", ["parquet", "avro"])
def test_a_damaged_file_never_lands_in_part(land, make, kind):
    data = bytearray(make(ROWS.replace("3001", "300001"), kind))
    data[len(data) // 3 : len(data) // 3 + 2000] = b"\0" * 2000
    landed = land(bytes(data), f"a.{kind}")
    assert landed.rows == []
    assert len(landed.dead) == 1
    assert str(landed.reasons[0]).startswith("file: ")


@pytest.mark.parametrize("kind", ["parquet", "avro"])
def test_values_that_do_not_fit_are_dead_letters_with_a_json_object(land, make, kind):
    values = "('1', 1.5::DOUBLE, 2.55::DOUBLE), (NULL, 2, 2.5555), ('3', 3, NULL)"
    sql = f"SELECT * FROM (VALUES {values}) t(invoice_no, quantity, unit_price)"
    landed = land(make(sql, kind), f"a.{kind}")
    assert landed.rows == [(3, "3", 3, None, None, None)]
    assert landed.reasons == [
        "cast: quantity: '1.5' is not BIGINT",
        "required: invoice_no is missing; cast: unit_price: '2.5555' is not DECIMAL(12,3)",
    ]
    assert landed.dead[0].raw == '{"invoice_no":"1","quantity":1.5,"unit_price":2.55}'


def test_a_file_that_lacks_required_columns_is_dead_record_by_record(land, make):
    landed = land(make("SELECT '1' AS invoice_no FROM range(2)", "parquet"), "a.parquet")
    assert landed.reasons == ["header: lacks quantity"] * 2
    assert landed.dead[0].raw == '{"invoice_no":"1"}'


def test_unknown_columns_are_rescued_with_their_types(land, make):
    sql = "SELECT '1' AS invoice_no, 2::BIGINT AS quantity, 1.50::DECIMAL(9,2) AS x, {'y': [1]} AS s, NULL::INT AS z"
    assert land(make(sql, "parquet"), "a.parquet").rows[0][-1] == '{"x":1.5,"s":{"y":[1]}}'


def test_evolution_keeps_native_types(land, make, con):
    sql = "SELECT '1' AS invoice_no, 2::BIGINT AS quantity, DATE '2011-01-01' AS \"Ship Date\", [1] AS l"
    landed = land(make(sql, "parquet"), "a.parquet", evolve=True)
    assert landed.columns[-1:] == ("ship_date",)
    assert str(landed.rows[0][-2]) == "2011-01-01"
    assert landed.rows[0][-1] == '{"l":[1]}'


def test_bytes_that_are_no_text_cost_their_own_record_and_only_where_text_is_asked_for(land, make):
    shape = RawShape((RawColumn("id", "BIGINT"), RawColumn("note", "VARCHAR")))
    sql = "SELECT * FROM (VALUES (1, 'caf\\xC3\\xA9'::BLOB), (2, '\\xFF'::BLOB)) t(id, %s)"
    landed = land(make(sql % "note", "parquet"), "a.parquet", shape=shape)
    assert landed.rows == [(1, 1, "café", None)]
    assert landed.reasons == ["cast: note: '\\xFF' is not VARCHAR"]
    assert landed.dead[0].raw == '{"id":2,"note":{"base64":"/w=="}}'
    landed = land(make(sql % "photo", "parquet"), "a.parquet", shape=shape)
    assert [row[-1] for row in landed.rows] == ['{"photo":"café"}', '{"photo":{"base64":"/w=="}}']


def test_bytes_are_bytes_where_the_contract_says_so(land, make):
    shape = RawShape((RawColumn("photo", "BLOB"),))
    landed = land(make("SELECT unnest(['\\xFF'::BLOB, 'a']) AS photo", "parquet"), "a.parquet", shape=shape)
    assert [row[1] for row in landed.rows] == [b"\xff", b"a"]


def test_bytes_become_a_column_of_text_by_evolution_and_are_rescued_where_they_are_none(land, make):
    sql = "SELECT '1' AS invoice_no, 2 AS quantity, unnest(['\\xFF'::BLOB, 'a']) AS photo"
    landed = land(make(sql, "parquet"), "a.parquet", evolve=True)
    assert [row[-2:] for row in landed.rows] == [(None, '{"photo":{"base64":"/w=="}}'), ("a", None)]


def test_numbers_written_as_bytes_are_read_as_text_is(land, make):
    shape = RawShape((RawColumn("price", "DECIMAL(9,2)"),))
    landed = land(make("SELECT unnest(['1.50'::BLOB, '\\xFF']) AS price", "parquet"), "a.parquet", shape=shape)
    assert [row[1] for row in landed.rows] == [Decimal("1.50")]
    assert landed.reasons == ["cast: price: '\\xFF' is not DECIMAL(9,2)"]


@pytest.mark.parametrize("name", ["file_row_number", "FILE_ROW_NUMBER", "filename", "_line", "n", "f0", "file_index"])
@pytest.mark.parametrize("kind", ["parquet", "avro"])
def test_a_field_may_have_any_name(land, make, kind, name):
    shape = RawShape((RawColumn("id", "BIGINT"),))
    landed = land(make(f'SELECT i AS id, i * 10 AS "{name}" FROM range(3) t(i)', kind), f"a.{kind}", shape=shape)
    assert landed.rows == [(i + 1, i, f'{{"{name}":{i * 10}}}') for i in range(3)]


def test_two_fields_whose_names_differ_by_case_are_two(land):
    path = io.BytesIO()
    pq.write_table(
        pa.table([pa.array(["1"]), pa.array([2]), pa.array([3])], ["invoice_no", "quantity", "Quantity"]), path
    )
    assert land(path.getvalue(), "a.parquet").rows == [(1, "1", 2, None, None, '{"Quantity":3}')]


@pytest.mark.parametrize("kind", ["csv", "json", "jsonl", "parquet", "avro"])
def test_a_folder_on_the_path_is_no_column(land, make, tmp_path, kind):
    if kind in ("parquet", "avro"):
        data = make("SELECT '1' AS invoice_no, 2 AS quantity", kind)
    else:
        data = b"invoice_no,quantity\n1,2\n" if kind == "csv" else b'{"invoice_no":"1","quantity":2}\n'
    folder = tmp_path / "quantity=7" / "f0=8" / "_text=9" / "json=10"
    folder.mkdir(parents=True)
    (folder / f"a.{kind}").write_bytes(data)
    landed = land(folder / f"a.{kind}")
    assert [row[1:] for row in landed.rows] == [("1", 2, None, None, None)]


@pytest.mark.parametrize("value", ["[1.5, 'nan'::DOUBLE]", "{'a': 'inf'::DOUBLE}", "MAP {'a': 'nan'::DOUBLE}"])
def test_what_is_rescued_is_strict_json(land, make, value):
    landed = land(make(f"SELECT '1' AS invoice_no, 2 AS quantity, {value} AS x", "parquet"), "a.parquet")
    json.loads(landed.rows[0][-1], parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))


@pytest.mark.parametrize(
    "value", ["DATE 'infinity'", "TIMESTAMP '-infinity'", "DATE '10000-01-01'", "DATE '0001-01-01 (BC)'"]
)
def test_a_time_that_no_other_engine_reads_costs_its_own_record(land, make, value):
    shape = RawShape((RawColumn("t", value.partition(" ")[0]),))
    landed = land(make(f"SELECT unnest([{value}, '2026-01-01']) AS t", "parquet"), "a.parquet", shape=shape)
    assert landed.lines == [2]
    assert landed.reasons[0].startswith("cast: t: '")
    data = make(f"SELECT 1 AS id, {value} AS t", "parquet")
    landed = land(data, "a.parquet", shape=RawShape((RawColumn("id", "BIGINT"),)), evolve=True)
    assert landed.rows[0][2] is None
    assert landed.rows[0][3].startswith('{"t":"')
