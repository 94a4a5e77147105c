"""Maxwell's records: those of its documentation (docs/dataformat.md, docs/bootstrapping.md), and every bad one."""

import json
from typing import Any

import pytest

from pipeline_assets.ingest.cdc.events import ChangeEvent, Reject
from pipeline_assets.ingest.cdc.formats import maxwell
from pipeline_assets.ingest.cdc.formats.documents import UNDECLARED
from pipeline_assets.ingest.conform.names import Keys

KEYS = {"test.e": ["id"], "shop.lines": ["order_id", "line"]}

INSERT = (
    '{"database":"test","table":"e","type":"insert","ts":1477053217,"xid":23396,"commit":true,'
    '"position":"master.000006:800911","server_id":23042,"thread_id":108,'
    '"data":{"id":1,"m":4.2341,"c":"2016-10-21 05:33:37.523000","comment":"I am a creature of light."}}'
)
UPDATE = (
    '{"database":"test","table":"e","type":"update","ts":1477053234,"xid":23397,"xoffset":3,'
    '"position":"master.000006:801000",'
    '"data":{"id":1,"m":5.4440,"c":"2016-10-21 05:33:54.631000","comment":"I am a creature of light."},'
    '"old":{"m":4.2341,"c":"2016-10-21 05:33:37.523000"}}'
)
DELETE = (
    '{"database":"test","table":"e","type":"delete","ts":1477053300,"xid":23398,"xoffset":0,'
    '"position":"master.000007:154","data":{"id":1,"m":5.444,"comment":null}}'
)


def parse(text: str | dict[str, Any]) -> Any:
    return maxwell.parse(text, origin="a", place=7, keys=KEYS)


def changed(text: str, **changes: object) -> dict[str, Any]:
    return {name: value for name, value in {**json.loads(text), **changes}.items() if value is not ...}


def test_the_documented_records_are_events() -> None:
    (insert,), (update,), (delete,) = parse(INSERT), parse(UPDATE), parse(DELETE)
    assert insert == ChangeEvent(
        table="test.e",
        op="c",
        key='{"id":1}',
        before=None,
        after='{"id":1,"m":4.2341,"c":"2016-10-21 05:33:37.523000","comment":"I am a creature of light."}',
        unavailable=(),
        commit_lsn=6 << 40 | 800911,
        tx_seq=2**61 + 1,
        lsn=6 << 40 | 800911,
        txid=23396,
        ts_us=1477053217_000000,
        origin="a",
        place=7,
    )
    assert (update.op, update.tx_seq) == ("u", 6)
    assert json.loads(update.before) == json.loads(update.after) | {"m": 4.2341, "c": "2016-10-21 05:33:37.523000"}
    assert '"m":5.4440' in update.after, "the digits of a decimal are those that Maxwell wrote"
    assert (delete.op, delete.after, delete.key) == ("d", None, '{"id":1}')
    assert delete.before == '{"id":1,"m":5.444,"comment":null}'
    order = [(event.commit_lsn, event.tx_seq) for event in (insert, update, delete)]
    assert order == sorted(set(order))


def test_a_changed_key_is_a_delete_and_an_insert() -> None:
    delete, insert = parse(changed(UPDATE, data={"id": 2, "m": 1}, old={"id": 1}))
    assert (delete.op, delete.key, delete.before, delete.after) == ("d", '{"id":1}', '{"id":1,"m":1}', None)
    assert (insert.op, insert.key, insert.before, insert.after) == ("c", '{"id":2}', None, '{"id":2,"m":1}')
    assert (delete.commit_lsn, delete.tx_seq) < (insert.commit_lsn, insert.tx_seq)


def test_one_of_two_key_columns_may_change() -> None:
    record = changed(UPDATE, database="shop", table="lines", data={"line": 2, "order_id": 7}, old={"line": 1})
    assert [event.key for event in parse(record)] == ['{"order_id":7,"line":1}', '{"order_id":7,"line":2}']


def test_a_key_that_is_no_column_of_the_row_comes_from_the_primary_key() -> None:
    (event,) = parse(changed(DELETE, data={"m": 1}, primary_key=[9], primary_key_columns=["id"]))
    assert event.key == '{"id":9}'


def test_rows_of_a_transaction_keep_their_order() -> None:
    """The position is that of the row event, so rows of one event share it; the last row of all has no xoffset."""
    rows = [
        changed(UPDATE, xoffset=0),
        changed(UPDATE, xoffset=1),
        changed(UPDATE, xoffset=2, data={"id": 3}, old={"id": 2}),
        changed(UPDATE, xoffset=..., commit=True),
    ]
    order = [(event.commit_lsn, event.tx_seq) for row in rows for event in parse(row)]
    assert order == sorted(set(order))
    assert len(order) == 5


def test_rows_of_a_bootstrap_come_before_the_changes_after_it() -> None:
    asked_for = "master.000006:800000"
    (row,) = parse(changed(INSERT, type="bootstrap-insert", position=asked_for, xid=..., commit=...))
    assert (row.op, row.commit_lsn, row.tx_seq) == ("r", 6 << 40 | 800000, 0)
    found = parse(changed(INSERT, type="bootstrap-insert", position=...))
    assert found.reason.startswith("position: this version of Maxwell gives bootstrap rows none")


@pytest.mark.parametrize(
    "record",
    [
        "null",
        {"database": "d", "table": "t", "type": "bootstrap-start", "ts": 1450557744, "data": {}},
        {"database": "d", "table": "t", "type": "bootstrap-complete", "ts": 1450557744, "data": {}},
        {"type": "table-create", "database": "test", "table": "e", "def": {}, "ts": 1477053126000, "sql": "create"},
        {"type": "table-alter", "database": "test", "table": "e", "old": {}, "def": {}, "ts": 1477053308000},
        {"type": "table-drop", "database": "test", "table": "e"},
        {"type": "database-create", "database": "test"},
    ],
)
def test_records_without_data_are_passed_over(record: str | dict[str, Any]) -> None:
    assert parse(record) is None


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ('{"database":"test","table":"e","type":"ins', "json: "),
        ('{"type":"insert","type":"insert"}', "json: field 'type' is given twice"),
        ("[1]", "envelope: the record is not an object with type, database and table"),
        ("{}", "envelope: the record is not an object with type, database and table"),
        ('{"op":"c","source":{}}', "envelope: the record is not an object with type, database and table"),
        (changed(INSERT, type="table-truncate"), "op: type 'table-truncate' is unknown, known are insert, update"),
        (changed(INSERT, type=["insert"]), "envelope: "),
        (changed(INSERT, table=...), "table: the record names no database and table"),
        (changed(INSERT, database=7), "table: the record names no database and table"),
        (changed(INSERT, table="x"), UNDECLARED.format("test.x")),
        (changed(INSERT, data=...), "data: it is not an object but None"),
        (
            changed(INSERT, data=..., encrypted={"iv": "x"}),
            "data: it is not an object but None; records that Maxwell enc",
        ),
        (changed(UPDATE, old=[]), "old: it is not an object but []"),
        (changed(INSERT, data={"m": 1}), "key: id is missing"),
        (changed(INSERT, position=...), "position: the record has none; set output_binlog_position=true in Maxwell"),
        (changed(INSERT, position=7), "position: the record has none; set output_binlog_position=true"),
        (changed(INSERT, position="master:x"), "position: 'master' at 'x' is not a place in a binary log"),
        (changed(INSERT, position="0-1-5:7:9"), "position: '0-1-5:7' at '9' is not a place in a binary log"),
        (changed(INSERT, commit=...), "position: the record has neither xoffset nor commit; set output_xoffset=true"),
        (changed(INSERT, commit="yes", xoffset=-1), "position: the record has neither xoffset nor commit"),
        (changed(INSERT, ts=...), "time: ts is None, not seconds since 1970"),
        (changed(INSERT, ts=1477053217000), "time: ts is 1477053217000, not seconds since 1970"),
    ],
)
def test_a_bad_record_is_a_dead_letter_that_says_what_is_wrong(record: str | dict[str, Any], reason: str) -> None:
    found = parse(record)
    assert isinstance(found, Reject)
    assert found.reason.startswith(reason)
    assert found.raw
    assert (found.origin, found.place) == ("a", 7)


def test_a_reject_names_its_table_as_soon_as_that_is_known() -> None:
    assert parse(changed(INSERT, type="x")).table == "test.e"
    assert parse("{").table is None


def test_columns_get_the_contracts_names_and_of_two_that_are_one_the_exact_one() -> None:
    keys = {"test.e": Keys.of(["id"], ["id", "created_at"])}

    def named(**changes: object) -> Any:
        return maxwell.parse(changed(UPDATE, **changes), origin="a", place=7, keys=keys)

    (update,) = named(data={"ID": 1, "createdAt": "new", "x": 1}, old={"createdAt": "old"})
    assert (update.key, update.after) == ('{"id":1}', '{"id":1,"created_at":"new","x":1}')
    assert update.before == '{"id":1,"created_at":"old","x":1}'
    deleted, inserted = named(data={"id": 1, "Id": 2}, old={"Id": 3, "id": 9})
    assert (deleted.key, inserted.key, inserted.after) == ('{"id":9}', '{"id":1}', '{"id":1,"Id":2}')
    assert named(data={"ID": 1, "Id": 2}, old={}).reason == (
        "names: 'ID' and 'Id' are both id; name one of them otherwise at the source"
    )
