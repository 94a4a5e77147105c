"""Events into bronze change tables: what fits, what is a dead letter, what a commit says of itself."""

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated

import pandera.polars as pa
import polars as pl
import pytest
from batches import event_batch

from pipeline_assets.contracts.base import raw_shape
from pipeline_assets.ingest.batch.audit import compare_last_run
from pipeline_assets.ingest.batch.counts import Counts
from pipeline_assets.ingest.cdc.events import ChangeEvent, Reject
from pipeline_assets.ingest.cdc.table import row
from pipeline_assets.ingest.cdc.table.change_table import COMMIT_LSN, ChangeTable, EventBatch, envelope
from pipeline_assets.lake import Lake, PositionMovedError, Table

NOW = datetime(2026, 1, 3, 4, 5, tzinfo=UTC)
TS = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)


class Everything(pa.DataFrameModel):
    """A column of each type that a contract has."""

    id: pl.Int64
    small: pl.Int16 = pa.Field(nullable=True)
    price: Annotated[pl.Decimal, 12, 3] = pa.Field(nullable=True)
    large: Annotated[pl.Decimal, 38, 0] = pa.Field(nullable=True)
    ratio: pl.Float64 = pa.Field(nullable=True)
    flag: pl.Boolean = pa.Field(nullable=True)
    day: pl.Date = pa.Field(nullable=True)
    local: Annotated[pl.Datetime, "us", None] = pa.Field(nullable=True)
    at: Annotated[pl.Datetime, "us", "UTC"] = pa.Field(nullable=True)
    data: pl.Binary = pa.Field(nullable=True)
    text: pl.String
    ints: pl.List(pl.Int64) = pa.Field(nullable=True)
    texts: pl.List(pl.String) = pa.Field(nullable=True)
    prices: pl.List(pl.Decimal(12, 3)) = pa.Field(nullable=True)
    times: pl.List(pl.Datetime("us", "UTC")) = pa.Field(nullable=True)
    days: pl.List(pl.Date) = pa.Field(nullable=True)
    blobs: pl.List(pl.Binary) = pa.Field(nullable=True)
    ratios: pl.List(pl.Float64) = pa.Field(nullable=True)
    table: pl.List(pl.List(pl.Int64)) = pa.Field(nullable=True)

    class Config:
        name = "test.everything"


TABLE = ChangeTable("public.things", "shop_db__things", Everything, ("id",))


@pytest.fixture
def lake(tmp_path):
    return Lake(str(tmp_path))


@pytest.fixture
def con(lake):
    with lake.connect() as con:
        yield con


def event(number=1, *, op="u", lsn=100, seq=1, after=None, key=None, unavailable=(), **values):
    document = json.dumps({"id": number, "text": "", **values}, ensure_ascii=False) if after is None else after
    return ChangeEvent(
        "public.things", op, key or json.dumps({"id": number}), None, document if op in "rcu" else None, unavailable,
        lsn, seq, lsn - 8, 7, int(TS.timestamp() * 1_000_000), "slot test", lsn - 8,
    )  # fmt: skip


def staging(lake, con, batch="b1", **options):
    return event_batch(con, lake, TABLE, "shop_db", batch, NOW, **options)


def stored(lake, con, columns="*", name="bronze.shop_db__things"):
    return con.execute(f"SELECT {columns} FROM {Table(lake, name).scan()} ORDER BY ALL").fetchall()


def letters(lake, con):
    return [reason for (reason,) in stored(lake, con, "reason", "dead_letters.shop_db__things")]


def test_events_become_rows_with_the_position(lake, con):
    batch = staging(lake, con, expect={"slot:x": None}, positions={"slot:x": 200}, run_id="r")
    batch.add([event(1, lsn=100), event(2, op="d", lsn=104)])
    batch.commit()
    rows = stored(lake, con, "op, key, commit_lsn, tx_seq, ts, _partition_date, _batch_id, _source")
    assert rows == [
        ("d", '{"id": 2}', 104, 1, TS, date(2026, 1, 2), "b1", {"file": "slot test", "line": 96}),
        ("u", '{"id": 1}', 100, 1, TS, date(2026, 1, 2), "b1", {"file": "slot test", "line": 92}),
    ]
    assert (batch.bronze.position("slot:x"), batch.bronze.position(COMMIT_LSN)) == (200, 104)
    facts = batch.bronze.open().history(1)[0]
    assert (facts["records_in"], facts["rows"], facts["dead_letters"]) == ("2", "2", "0")
    assert (facts["commit_lsn_min"], facts["commit_lsn_max"]) == ("100", "104")


def test_commit_lsn_never_falls(lake, con):
    for batch_id, lsn in (("b1", 100), ("b2", 50)):
        batch = staging(lake, con, batch_id)
        batch.add([event(lsn=lsn)])
        batch.commit()
    assert batch.bronze.position(COMMIT_LSN) == 100


def test_a_position_that_moved_commits_no_row(lake, con):
    for batch_id in ("b1", "b2"):
        batch = staging(lake, con, batch_id, expect={"slot:x": None}, positions={"slot:x": 1})
        batch.add([event()])
        if batch_id == "b1":
            batch.commit()
            continue
        with pytest.raises(PositionMovedError):
            batch.commit()
    assert len(stored(lake, con)) == 1


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("small", -7, -7),
        ("price", "12.50", "12.500"),
        ("large", "9" * 38, "9" * 38),
        ("ratio", 1e300, 1e300),
        ("ratio", "NaN", "nan"),
        ("ratio", "-Infinity", float("-inf")),
        ("flag", True, True),
        ("day", "2026-01-02", date(2026, 1, 2)),
        ("day", "2026-01-02Z", date(2026, 1, 2)),
        ("local", "2026-01-02 03:04:05.678", "2026-01-02 03:04:05.678000"),
        ("local", "2026-01-02T03:04:05.678Z", "2026-01-02 03:04:05.678000"),
        ("at", "2026-01-02 03:04:05.678+00", TS),
        ("at", "2026-01-02T04:04:05.678+01:00", TS),
        ("data", "AP9+", b"\x00\xff~"),
        ("text", "  a\n\t\"'\\\u2028é😀  ", "  a\n\t\"'\\\u2028é😀  "),
        ("text", "", ""),
        ("ints", [1, None, -(2**63)], [1, None, -(2**63)]),
        ("ints", [], []),
        ("ints", None, None),
        ("texts", ["a b", None, "", "null", '{"}', "हिन्दी 😀"], ["a b", None, "", "null", '{"}', "हिन्दी 😀"]),
        ("texts", [["a", None], ["b"]], ['["a",null]', '["b"]']),
        ("prices", ["12.50", None, "-0.001"], [Decimal("12.500"), None, Decimal("-0.001")]),
        ("times", ["2026-01-02 03:04:05.678+00", "2026-01-02T04:04:05.678+01:00"], [TS, TS]),
        ("days", ["2026-01-02", "2026-01-02Z"], [date(2026, 1, 2)] * 2),
        ("blobs", ["AP9+", "", None], [b"\x00\xff~", b"", None]),
        ("ratios", [0.1, "NaN", "-Infinity"], [0.1, float("nan"), float("-inf")]),
        ("table", [[1, 2], [None, 4], []], [[1, 2], [None, 4], []]),
    ],
)
def test_a_value_that_fits_is_read_as_it_was(lake, con, column, value, expected):
    batch = staging(lake, con)
    batch.add([event(**{column: value})])
    batch.commit()
    assert batch.counts == Counts(1, 1, 0)
    kind = next(c.dtype for c in raw_shape(Everything).columns if c.name == column)
    [(found,)] = stored(lake, con, row.typed(f"{row.texts([column], 'after')}[1]", kind))
    assert found == expected or str(found) == str(expected)  # of a decimal its digits, of NaN its name


@pytest.mark.parametrize(
    ("column", "value", "kind"),
    [
        ("small", 40000, "SMALLINT"),
        ("small", "", "SMALLINT"),
        ("price", "1.23456", "DECIMAL(12,3)"),
        ("price", "NaN", "DECIMAL(12,3)"),
        ("large", "1" + "0" * 38, "DECIMAL(38,0)"),
        ("flag", "maybe", "BOOLEAN"),
        ("day", "infinity", "DATE"),
        ("day", "0044-03-15 BC", "DATE"),
        ("day", 20455, "DATE"),
        ("at", 1767323045678, "TIMESTAMP WITH TIME ZONE"),
        ("at", "infinity", "TIMESTAMP WITH TIME ZONE"),
        ("data", "not base64!", "BLOB"),
        ("ints", "{1,2}", "BIGINT[]"),
        ("ints", 1, "BIGINT[]"),
        ("ints", [1, "x"], "BIGINT[]"),
        ("ints", [[1, 2], [3, 4]], "BIGINT[]"),
        ("prices", ["1.5", "NaN"], "DECIMAL(12,3)[]"),
        ("times", ["infinity"], "TIMESTAMP WITH TIME ZONE[]"),
        ("table", [1], "BIGINT[][]"),
    ],
)
def test_a_value_that_does_not_fit_is_a_dead_letter_with_the_column(lake, con, column, value, kind):
    batch = staging(lake, con)
    batch.add([event(1, **{column: value}), event(2)])
    batch.commit()
    shown = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    assert letters(lake, con) == [f"cast: {column}: '{shown}' is not {kind}"]
    assert batch.counts == Counts(2, 1, 1)
    assert stored(lake, con, "key") == [('{"id": 2}',)]


def test_missing_values_are_dead_letters_but_unavailable_ones_are_not(lake, con):
    batch = staging(lake, con)
    batch.add(
        [
            event(1, after='{"id": 1}'),
            event(2, after='{"id": 2}', unavailable=("text",)),
            event(3, key='{"other": 3}'),
            event(4, key='{"id": "x"}'),
            event(5)._replace(after=None),
        ]
    )
    batch.commit()
    assert letters(lake, con) == [
        "after: u without the row after",
        "cast: id: 'x' is not BIGINT",
        "key: id is missing",
        "required: text is missing",
    ]
    assert stored(lake, con, "key, unavailable") == [('{"id": 2}', ["text"])]


def test_a_batch_read_again_replaces_its_dead_letters(lake, con):
    killed = staging(lake, con, expect={"slot:x": 5})
    killed.add([event(1, small="x"), event(2, small="y")])
    with pytest.raises(PositionMovedError):  # the letters are committed, the rows are not
        killed.commit()
    again = staging(lake, con)
    again.add([event(1, small="x")])
    again.commit()
    assert letters(lake, con) == ["cast: small: 'x' is not SMALLINT"]


def key_change(seq=1, lsn=100, **values):
    """An update of the key from 1 to 2: two events at one place."""
    return [event(1, op="d", lsn=lsn, seq=seq), event(2, op="c", lsn=lsn, seq=seq + 1, **values)]


def test_a_key_change_whose_insert_does_not_fit_waits_as_a_whole(lake, con):
    batch = staging(lake, con)
    batch.add([event(4, op="d", lsn=100, seq=1), *key_change(seq=2, small="x"), event(5, op="d", lsn=100, seq=4)])
    batch.commit()
    assert stored(lake, con, "raw ->> '$.key.id', reason", "dead_letters.shop_db__things") == [
        ("1", "the other half of this key change does not fit: cast: small: 'x' is not SMALLINT"),
        ("2", "cast: small: 'x' is not SMALLINT"),
    ]
    assert stored(lake, con, "key") == [('{"id": 4}',), ('{"id": 5}',)]
    assert batch.counts == Counts(4, 2, 2)


def test_rows_that_were_inserted_at_one_place_are_no_key_change(lake, con):
    batch = staging(lake, con)
    batch.add([event(n, op="c", lsn=100, seq=n, **({"small": "x"} if n == 2 else {})) for n in (1, 2, 3)])
    batch.add([event(4, op="d", lsn=108, seq=1), event(5, op="c", lsn=116, seq=1, small="x")])
    batch.commit()
    assert stored(lake, con, "key") == [('{"id": 1}',), ('{"id": 3}',), ('{"id": 4}',)]


def test_an_old_key_that_does_not_fit_keeps_no_row_from_its_new_key(lake, con):
    """Bronze never had the row under such a key, and the update may be what mends it."""
    old, new = key_change()
    batch = staging(lake, con)
    batch.add([old._replace(key='{"id": "x"}'), new])
    batch.commit()
    assert letters(lake, con) == ["cast: id: 'x' is not BIGINT"]
    assert stored(lake, con, "op, key") == [("c", '{"id": 2}')]


@pytest.mark.parametrize("end", [lambda batch: batch.commit(), EventBatch.discard])
def test_dead_letters_wait_in_duckdb_which_spills_and_go_with_the_batch(lake, con, end):
    def waiting():
        tables = con.execute("SELECT table_name FROM duckdb_tables() WHERE table_name LIKE 'dead_letters_%'").fetchall()
        return sorted(count for (name,) in tables for count in con.table(name).count("*").fetchone())

    batches = [staging(lake, con), event_batch(con, lake, None, "shop_db", "b1", NOW)]
    batches[0].add([event(1, small="x"), event(2, small="x")])
    batches[1].reject([Reject("json: malformed", "{", "file.jsonl", 3)])
    assert waiting() == [1, 2]
    for batch in batches:
        end(batch)
    assert waiting() == []


def test_rejects_and_undeclared_tables_are_dead_letters(lake, con):
    batch = event_batch(con, lake, None, "shop_db", "b1", NOW)
    batch.reject([Reject("json: malformed", "{", "file.jsonl", 3)])
    batch.add([event()._replace(table="public.other")])
    batch.commit()
    name = "dead_letters.shop_db__unrouted"
    rows = stored(lake, con, "_source.line, reason", name)
    assert [line for line, _ in rows] == [3, 92]
    assert rows[0][1] == "json: malformed"
    assert rows[1][1].startswith("table: public.other is not declared")
    assert batch.counts == Counts(2, 0, 2)


def test_the_raw_of_a_dead_letter_is_an_envelope_with_the_documents_as_they_were():
    found = event(1, after='{"id":1,"price":1.10,"text":"é"}', unavailable=("text",))
    raw = envelope(found)
    assert '{"id":1,"price":1.10,"text":"é"}' in raw
    parsed = json.loads(raw)
    assert parsed["key"] == {"id": 1}
    assert parsed["value"]["source"] | {"x": 0} == {
        "connector": "postgresql", "schema": "public", "table": "things", "txId": 7, "lsn": 92,
        "sequence": '["100", "92"]', "ts_us": 1767323045678000, "x": 0,
    }  # fmt: skip
    assert parsed["value"]["transaction"]["total_order"] == 1
    assert parsed["value"]["unavailable"] == ["text"]


def test_accounts_add_up_and_show_what_vanished(lake, con):
    batch = staging(lake, con, run_id="r")
    batch.add([event(1), event(2), event(3, small="x")])
    batch.commit()
    assert compare_last_run(con, batch.bronze) == (Counts(3, 2, 1), [])
    assert con.execute(f"SELECT reason FROM {batch.dead_letters.scan()}").fetchall() == [
        ("cast: small: 'x' is not SMALLINT",)
    ]
    batch.bronze.replace(con, f"SELECT * FROM {batch.bronze.scan()} WHERE false", where="key = '{\"id\": 2}'")
    total, wrong = compare_last_run(con, batch.bronze)
    assert (total.rows, len(wrong), wrong[0].reading.batch_id, wrong[0].rows) == (1, 1, "b1", 1)
