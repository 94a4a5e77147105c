"""Raw records of dead letters read again: every value as it was, in every type, or not at all."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_assets.contracts.base import RawColumn, RawShape
from pipeline_assets.ingest.conform.conform import conform_sql
from pipeline_assets.ingest.conform.fields import SourceField
from pipeline_assets.ingest.conform.raw_records import raw_records

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["", " ", "null", '"', "\\", "\x00", "nan", "1.50", "{}", "[1, 2]", "\ue0f1", "\ue0f01", "2026-01-05", "true"]
)
_WHOLE = st.integers(-(2**63), 2**63 - 1)
_DECIMAL = st.decimals(-(10**27), 10**27, allow_nan=False, allow_infinity=False, places=10).map(lambda v: f"{v:f}")
_TIME = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)).map(str)  # noqa: DTZ001
_NEAR = st.datetimes(datetime(1700, 1, 1), datetime(2200, 1, 1))  # noqa: DTZ001
_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "VARCHAR": _TEXT,
    "BLOB": st.binary(max_size=8),
    "BOOLEAN": st.booleans(),
    "BIGINT": _WHOLE,
    "UBIGINT": st.integers(0, 2**64 - 1),
    "HUGEINT": st.integers(-(2**100), 2**100),
    "DOUBLE": st.floats(),
    "FLOAT": st.floats(width=32),
    "DECIMAL(38,10)": _DECIMAL,
    "DECIMAL(18,2)": st.decimals(-(10**15), 10**15, places=2, allow_nan=False).map(str),
    "DATE": st.dates().map(str),
    "TIMESTAMP": _TIME,
    "TIMESTAMP WITH TIME ZONE": _TIME,
    "TIMESTAMP_NS": _NEAR.map(lambda v: f"{v:%Y-%m-%d %H:%M:%S}.123456789"),
    "TIME": st.times().map(str),
    "VARCHAR[]": st.lists(st.none() | _TEXT, max_size=3),
    "BIGINT[]": st.lists(st.none() | _WHOLE, max_size=3),
    "DOUBLE[]": st.lists(st.none() | st.floats(), max_size=3),
    "DECIMAL(38,10)[]": st.lists(st.none() | _DECIMAL, max_size=2),
    "STRUCT(a BIGINT, b VARCHAR)": st.fixed_dictionaries({"a": _WHOLE, "b": _TEXT}),
}
_TARGETS = ("VARCHAR", "BLOB", "BOOLEAN", "BIGINT", "DOUBLE", "FLOAT", "DECIMAL(18,2)", "DECIMAL(38,10)", "DATE",
            "TIMESTAMP", "TIMESTAMP WITH TIME ZONE", "VARCHAR[]", "BIGINT[]", "DOUBLE[]")  # fmt: skip


@dataclass(frozen=True)
class Given:
    """Typed records, as a reader of Parquet or of a database has them."""

    fields: tuple[SourceField, ...]
    sql: str
    has_problems: bool = False


@pytest.fixture(scope="module")
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'")
        yield con


def _conform(con: duckdb.DuckDBPyConnection, records: Any, shape: RawShape, what: str) -> list[Any]:
    sql = conform_sql(
        records, shape, file="f", partition_date=date(2026, 1, 5), batch_id="b", extracted_at=datetime.now(UTC),
        schema_evolution=False,
    )  # fmt: skip
    return con.execute(f"SELECT {what} FROM ({sql}) ORDER BY _source.line").fetchall()


@settings(max_examples=100)
@given(data=st.data())
def test_a_record_read_again_from_its_dead_letter_conforms_as_it_did(
    con: duckdb.DuckDBPyConnection, data: st.DataObject
) -> None:
    kinds = data.draw(st.lists(st.sampled_from(sorted(_VALUES)), min_size=1, max_size=3))
    rows = data.draw(st.lists(st.tuples(*(st.none() | _VALUES[kind] for kind in kinds)), min_size=1, max_size=3))
    names = [f"{name} {at}" for at, name in enumerate(data.draw(st.permutations(["Ä", 'q"', "x"])))][: len(kinds)]
    fields = tuple(SourceField(name, f"f{at}", kind) for at, (name, kind) in enumerate(zip(names, kinds, strict=True)))
    columns = ", ".join(f"f{at} {kind}" for at, kind in enumerate(kinds))
    con.execute(f"CREATE OR REPLACE TEMP TABLE given (_line BIGINT, {columns})")
    for line, row in enumerate(rows, 1):
        con.execute(f"INSERT INTO given VALUES (?{', ?' * len(kinds)})", [line, *row])
    given_ = Given(fields, "SELECT * FROM given")
    dead = RawShape((RawColumn("not_there", "BIGINT", required=True),))
    letters = _conform(con, given_, dead, "_source.line, _raw, _raw_types")
    con.execute("CREATE OR REPLACE TEMP TABLE letters (id BIGINT, _text VARCHAR)")
    con.executemany("INSERT INTO letters VALUES (?, ?)", [(line, raw) for line, raw, _ in letters])
    again = raw_records(con, "letters", letters[0][2])
    assert con.execute(f"SELECT DISTINCT _problem FROM ({again.sql})").fetchall() == [(None,)]
    targets = [data.draw(st.sampled_from(_TARGETS)) for _ in kinds]
    held = [f"{name[0].lower()}_{name[-1]}" if name[0] != "Ä" else f"ä_{name[-1]}" for name in names]
    mended = RawShape(tuple(RawColumn(name, kind) for name, kind in zip(held, targets, strict=True)))
    try:
        expected = _conform(con, given_, mended, "* EXCLUDE (_raw, _raw_types, _extracted_at)")
    except duckdb.BinderException:  # no cast between the two, whoever asks
        return
    assert repr(_conform(con, again, mended, "* EXCLUDE (_raw, _raw_types, _extracted_at)")) == repr(expected)


def test_what_cannot_be_read_exactly_is_no_record(con: duckdb.DuckDBPyConnection) -> None:
    kind = "STRUCT(a DOUBLE, b BLOB)"
    given_ = Given((SourceField("x", "f0", kind),), f"SELECT 1 AS _line, {{'a': 1.5, 'b': '\\xFF'}}::{kind} AS f0")
    dead = RawShape((RawColumn("not_there", "BIGINT", required=True),))
    ((raw, types),) = _conform(con, given_, dead, "_raw, _raw_types")
    con.execute("CREATE OR REPLACE TEMP TABLE letters AS SELECT 1 AS id, ? AS _text", [raw])
    ((reason,),) = _conform(con, raw_records(con, "letters", types), RawShape((RawColumn("y", "BIGINT"),)), "_reason")
    assert reason.startswith("replay: a value cannot be read from the raw record as it was")
