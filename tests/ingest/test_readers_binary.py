"""Parquet and Avro through the whole way of a landed file."""

import gzip
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline_assets.ingest.readers import load_avro

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
