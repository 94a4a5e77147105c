"""Debezium's records: real ones of Debezium 3.6.3 (samples/), documented ones of MySQL, and every bad one.

The three sample files are one run of the same statements under three configurations: defaults with schemas, the
configuration of connectors/postgres.json, and flattened records. Two transactions of them overlap (780 began first and
committed last), one changes a key, one is a COPY, one leaves TOASTed columns as they were.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_assets.ingest.cdc.events import OPS, ChangeEvent, Reject
from pipeline_assets.ingest.cdc.formats import debezium
from pipeline_assets.ingest.cdc.formats.documents import UNDECLARED
from pipeline_assets.ingest.cdc.table.change_table import envelope
from pipeline_assets.ingest.conform.names import Keys

SAMPLES = Path(__file__).parent / "samples"
KEYS = {"public.customers": ["customer_id"], "public.types": ["id"], "public.toast": ["id"]}
FILES = ["plain", "with_schema", "flattened"]


def records(name: str) -> list[bytes]:
    return (SAMPLES / f"debezium_3_6_{name}.jsonl").read_bytes().splitlines()


def events(name: str) -> list[ChangeEvent]:
    found = [debezium.parse(line, origin="a.jsonl", place=n, keys=KEYS) for n, line in enumerate(records(name), 1)]
    assert not [reject for reject in found if isinstance(reject, Reject)]
    return [event for event in found if isinstance(event, ChangeEvent)]


def after(event: ChangeEvent) -> dict[str, Any]:
    return dict(json.loads(event.after or "{}"))


@pytest.mark.parametrize("name", FILES)
def test_real_records_are_events_in_the_order_of_their_commits(name: str) -> None:
    found = [event for event in events(name) if event.table == "public.customers"]
    story = [(e.op, json.loads(e.key)["customer_id"] if e.key else None, after(e).get("name")) for e in found]
    copied = [("c", 100 + n, "n") for n in range(3)]
    truncated = [("t", None, None)] if name == "plain" else []  # Debezium's default is to skip it
    assert story == [
        ("r", 1, "Ann"), ("r", 2, "Bob"),
        ("c", 3, "C"), ("u", 3, "C2"),
        ("u", 1, "A1"), ("u", 1, "A2"),
        ("d", 2, None), ("c", 20, "Bob"),
        ("d", 20, None),
        ("u", 1, "F"), ("d", 3, None), *copied, *truncated,
    ]  # fmt: skip
    order = [(event.commit_lsn, event.tx_seq) for event in found]
    assert order == sorted(order)
    assert max(order[:2]) < min(order[2:]), "the snapshot comes before all changes"
    # rows of one COPY page share an LSN; without transaction metadata nothing else tells them apart
    distinct = {(*at, event.key) for at, event in zip(order, found, strict=True)}
    assert len(distinct) == len(found)
    lsns = [event.lsn for event in found]
    assert lsns != sorted(lsns), "the LSN alone would be another order"


@pytest.mark.parametrize("name", FILES)
def test_values_that_a_change_left_out_are_unavailable_not_null(name: str) -> None:
    update, delete, insert = [event for event in events(name) if event.table == "public.toast"][-3:]
    # date[] only without isostring, numeric[] never: the connector stops there, see connectors/README.md
    left_out = ("t", "jb", "ta", "ia", "ba", "by", "ua", *(("da",) if name != "plain" else ()))
    for event in (update, insert):
        assert event.unavailable == left_out
        assert not set(left_out) & after(event).keys()
        assert after(event)["n"] == 2
    assert (update.op, delete.op, insert.op) == ("u", "d", "c")


def test_the_shipped_configuration_gives_exact_text() -> None:
    row = next(after(event) for event in events("plain") if event.table == "public.types" and event.op == "c")
    assert row["n12"] == "12.340"
    assert row["n"] == "123456789012345678901234567890.123"
    assert row["i8"] == 9007199254740993
    assert row["ts"] == "2026-01-02T03:04:05.678901Z"
    assert row["d"] == "2026-01-02Z"
    assert row["jb"] == '{"a": 1.50}'
    assert row["by"] == "3q2+7w=="
    assert row["na"] == ["1.50", "2"]


def test_with_a_schema_the_default_encodings_become_text_too() -> None:
    rows = [after(event) for event in events("with_schema") if event.table == "public.types" and event.op == "c"]
    assert {name: rows[0][name] for name in ("n12", "n", "m", "d", "ti", "ti3", "ts", "ts3", "iv", "na")} == {
        "n12": "12.340",
        "n": "123456789012345678901234567890.123",
        "m": "12.50",
        "d": "2026-01-02",
        "ti": "03:04:05.000678",
        "ti3": "03:04:05.123",
        "ts": "2026-01-02T03:04:05.678901",
        "ts3": "2026-01-02T03:04:05.678",
        "iv": "PT2813645S",
        "na": ["1.5", "2"],  # the trailing zero is lost in Debezium already
    }
    assert [rows[1][name] for name in ("n12", "ts", "ts3", "tstz", "iv")] == [
        "-12.340", "infinity", "-infinity", "-infinity", "PT-2629800S",
    ]  # fmt: skip
    assert [rows[2][name] for name in ("d", "ts", "ts3")] == [
        "-0043-03-15", "-0043-03-15T12:00:00", "+12026-01-02T00:00:00",
    ]  # fmt: skip


def test_without_a_schema_numbers_are_left_for_the_caster_to_refuse() -> None:
    row = next(after(event) for event in events("flattened") if event.table == "public.types" and event.op == "c")
    assert row["ts"] == 1767323045678901
    assert row["n12"] == "MDQ="


def test_who_where_and_when() -> None:
    event = next(event for event in events("plain") if event.op == "u")
    source = json.loads(records("plain")[event.place - 1])["value"]["source"]
    assert (event.table, event.origin, event.key, event.before) == (
        "public.customers", "a.jsonl", '{"customer_id":3}', None,
    )  # fmt: skip
    assert (event.txid, event.ts_us, event.lsn) == (source["txId"], source["ts_us"], source["lsn"])


def record(**changes: object) -> dict[str, Any]:
    """An update as Debezium's documentation shows one."""
    source = {
        "version": "3.6.3.Final", "connector": "postgresql", "name": "PostgreSQL_server", "ts_ms": 1559033904863,
        "snapshot": "false", "db": "postgres", "schema": "public", "table": "customers", "txId": 556,
        "lsn": 24023128, "xmin": None, "sequence": '["24023119","24023128"]',
    }  # fmt: skip
    return {
        "before": {"customer_id": 1}, "after": {"customer_id": 1, "name": "Anne Marie"},
        "source": source, "op": "u", "ts_ms": 1465584025523,
    } | changes  # fmt: skip


def parse(value: object, key: object = None, keys: dict[str, list[str]] | None = None) -> Any:
    text = value if isinstance(value, bytes | str) else json.dumps(value)
    return debezium.parse(text, key, origin="a", place=1, keys=keys or KEYS)  # type: ignore[arg-type]


def with_source(**changes: object) -> dict[str, Any]:
    made = record()
    made["source"] = {name: value for name, value in {**made["source"], **changes}.items() if value is not ...}
    return made


@pytest.mark.parametrize("wrap", ["bare", "schema", "pair", "pair with schema", "pair of texts", "key apart", "dict"])
def test_a_record_is_the_same_event_in_any_wrapping(wrap: str) -> None:
    value, key = record(), {"customer_id": 1}
    schema = {"type": "struct", "fields": []}
    found = {
        "bare": lambda: parse(value),
        "schema": lambda: parse({"schema": schema, "payload": value}),
        "pair": lambda: parse({"key": key, "value": value}),
        "pair with schema": lambda: parse(
            {"key": {"schema": schema, "payload": key}, "value": {"schema": schema, "payload": value}}
        ),
        "pair of texts": lambda: parse({"key": json.dumps(key), "value": json.dumps(value)}),
        "key apart": lambda: parse(value, json.dumps({"schema": schema, "payload": key}).encode()),
        "dict": lambda: debezium.parse(value, key, origin="a", place=1, keys=KEYS),
    }[wrap]()
    assert found == parse(value)
    assert (found.key, found.op, found.commit_lsn, found.tx_seq) == ('{"customer_id":1}', "u", 24023128, 24023128)
    assert found.ts_us == 1559033904863000


@pytest.mark.parametrize(
    ("source", "order"),
    [
        ({"sequence": None, "lsn": 100}, (100, 100, 100)),
        ({"sequence": '[null,"100"]', "lsn": 100}, (100, 100, 100)),
        ({"sequence": '["90","100"]', "lsn": 100}, (100, 100, 100)),
        ({"sequence": '["110","100"]', "lsn": 100}, (110, 100, 100)),  # the transaction began before the last commit
        ({"sequence": ["110", "100"], "lsn": "100"}, (110, 100, 100)),
    ],
)
def test_postgres_positions(source: dict[str, Any], order: tuple[int, int, int]) -> None:
    found = parse(with_source(**source))
    assert (found.commit_lsn, found.tx_seq, found.lsn) == order
    found = parse(with_source(**source) | {"transaction": {"id": "556:100", "total_order": 7}})
    assert (found.commit_lsn, found.tx_seq, found.lsn) == (order[0], 7, order[2])


INCREMENTAL = {"lsn": None, "txId": None, "snapshot": "incremental", "sequence": '["100","160"]'}


def test_rows_of_an_incremental_snapshot_stand_where_their_chunk_was_closed() -> None:
    read = parse(with_source(**INCREMENTAL) | {"op": "r"})
    before = parse(with_source(lsn=96, sequence='["80","96"]') | {"op": "u"})
    after = parse(with_source(lsn=200, sequence='["168","200"]') | {"op": "u"})
    assert (read.op, read.commit_lsn, read.tx_seq, read.lsn) == ("r", 160, 0, 160)
    assert before.commit_lsn < read.commit_lsn < after.commit_lsn
    assert parse(with_source(**INCREMENTAL | {"sequence": '[null,"160"]'}) | {"op": "r"}).commit_lsn == 160
    assert parse(with_source(**INCREMENTAL | {"sequence": '["170","160"]'}) | {"op": "r"}).commit_lsn == 170


@pytest.mark.parametrize(("op", "sequence"), [("u", '["100","160"]'), ("r", None), ("r", '["100",null]')])
def test_what_has_no_position_is_refused(op: str, sequence: str | None) -> None:
    found = parse(with_source(**INCREMENTAL | {"sequence": sequence}) | {"op": op})
    assert isinstance(found, Reject)
    assert found.reason.startswith("position: the record has no source.lsn")


def test_an_insert_wins_over_the_delete_of_the_same_change() -> None:
    delete, insert = parse(record(op="d")), parse(record(op="c"))
    assert (delete.commit_lsn, delete.tx_seq) < (insert.commit_lsn, insert.tx_seq)


@given(st.data())
def test_overlapping_transactions_come_in_the_order_of_their_commits(data: st.DataObject) -> None:
    """Whatever is interleaved in the log, and whichever events are delivered twice, a key ends with its last change."""
    commits, lsn = [], 8
    running = {txid: [] for txid in range(1, 5)}  # type: ignore[var-annotated]
    for _ in range(data.draw(st.integers(5, 30))):
        lsn += 8
        txid = data.draw(st.sampled_from(sorted(running)))
        if running[txid] and data.draw(st.booleans()):
            commits.append((lsn + 8, running[txid]))
            running[txid] = []
            lsn += 8
        else:
            running[txid].append(lsn)
    found, last = [], None
    for end, lsns in commits:
        for at in lsns:
            sequence = json.dumps([None if last is None else str(last), str(at)])
            found.append(parse(with_source(lsn=at, sequence=sequence)))
        last = end
    order = [(event.commit_lsn, event.tx_seq) for event in found]
    assert order == sorted(set(order))


MYSQL = {
    "op": "u", "ts_ms": 1465581029523, "before": {"id": 1004, "first_name": "Anne"},
    "after": {"id": 1004, "first_name": "Anne Marie"},
    "source": {
        "version": "3.6.3.Final", "connector": "mysql", "name": "mysql-server-1", "ts_ms": 1465581029100,
        "snapshot": "false", "db": "inventory", "table": "customers", "server_id": 223344, "gtid": None,
        "file": "mysql-bin.000003", "pos": 484, "row": 3, "thread": 7, "query": None,
    },
}  # fmt: skip
MYSQL_KEYS = {"inventory.customers": ["id"]}


def mysql(op: str = "u", transaction: object = None, **source: object) -> Any:
    value = {**MYSQL, "op": op, "transaction": transaction, "source": {**MYSQL["source"], **source}}  # type: ignore[dict-item]
    return parse(value, keys=MYSQL_KEYS)


def test_a_mysql_change_is_placed_by_file_position_and_row() -> None:
    found = mysql()
    assert found.table == "inventory.customers"
    assert (found.commit_lsn, found.lsn, found.tx_seq) == (3 << 40 | 484, 3 << 40 | 484, 6)
    assert found.txid is None
    assert mysql(connector="mariadb", gtid="0-1-5").commit_lsn == found.commit_lsn
    places = [
        mysql("r", file="mysql-bin.000002", pos=154, row=0),
        mysql(file="mysql-bin.000002", pos=999_999_999, row=0),
        mysql(file="mysql-bin.000003", pos=4, row=0),
        mysql("d", row=1),
        mysql("c", row=1),
        mysql(row=2),
        mysql(pos=10_000, row=0),
        mysql(file="mysql-bin.000010", pos=4, row=0),
        mysql(file="mysql-bin.1000000", pos=4, row=0),
    ]
    order = [(event.commit_lsn, event.tx_seq) for event in places]
    assert order == sorted(set(order))


def test_events_of_a_compressed_mysql_transaction_are_told_apart_by_their_total_order() -> None:
    first, second = (mysql(transaction={"id": "x", "total_order": n}, row=0) for n in (1, 2))
    assert (first.commit_lsn, first.tx_seq) < (second.commit_lsn, second.tx_seq)


def test_an_old_mysql_snapshot_has_its_time_in_the_envelope() -> None:
    assert mysql("r", ts_ms=0).ts_us == 1465581029523000


@pytest.mark.parametrize(
    "value",
    [
        b"null",
        {"schema": {"type": "struct"}, "payload": None},
        {"key": {"id": 1}, "value": None},
        {"ts_ms": 1795312829803},
        {"status": "BEGIN", "id": "781:33441024", "event_count": None, "data_collections": None, "ts_ms": 1},
        {
            "status": "END",
            "id": "x",
            "event_count": 2,
            "data_collections": [{"data_collection": "a", "event_count": 2}],
        },
        {"source": {"connector": "mysql"}, "databaseName": "inventory", "ddl": "CREATE TABLE x", "tableChanges": []},
        {"op": "m", "source": {"connector": "postgresql", "table": ""}, "message": {"prefix": "p", "content": "eA=="}},
    ],
)
def test_records_without_data_are_passed_over(value: object) -> None:
    assert parse(value) is None


FLAT = {
    "customer_id": 1, "name": "Ann", "__op": "u", "__table": "customers", "__schema": "public", "__lsn": 38500432,
    "__source_ts_ms": 1795312920161, "__source_sequence": '["38500288","38500432"]', "__deleted": "false",
}  # fmt: skip


def flat(**changes: object) -> Any:
    keys = {**KEYS, **MYSQL_KEYS, "audit.customers": ["customer_id"]}
    return parse({name: value for name, value in {**FLAT, **changes}.items() if value is not ...}, keys=keys)


def test_a_flattened_record_says_in_added_fields_what_the_envelope_said() -> None:
    found = flat()
    assert (found.table, found.op, found.commit_lsn, found.ts_us) == (
        "public.customers",
        "u",
        38500432,
        1795312920161000,
    )
    assert (found.after, found.before) == ('{"customer_id":1,"name":"Ann"}', None)
    deleted = flat(__op="d", __deleted="true")
    assert (deleted.after, deleted.before) == (None, '{"customer_id":1,"name":"Ann"}')
    assert flat(__lsn=..., __source_lsn=38500432) == found
    changes = {"__db": "inventory", "__lsn": ..., "__source_file": "b.000003", "__source_pos": 484, "__row": 3, "id": 5}
    assert flat(**changes).commit_lsn == 3 << 40 | 484
    assert flat(**changes).table == "inventory.customers"


def test_a_flattened_row_may_have_columns_that_are_called_as_the_envelope_s_fields() -> None:
    own = {"op": "sale", "source": "web", "before": 1, "after": 2, "ts_ms": 3, "key": "k", "value": "v", "table": "t"}
    found = flat(**own)
    assert (found.table, found.op) == ("public.customers", "u")
    assert json.loads(found.after) == {"customer_id": 1, "name": "Ann", **own}


def test_a_flattened_record_without_schema_needs_a_table_that_is_declared_once() -> None:
    assert flat(__table="types", __schema=..., id=1).table == "public.types"
    assert flat(__schema=...).reason == "table: which customers is not clear; add schema to the transform's add.fields"
    assert flat(__table="nothing", __schema=...).reason.startswith("table: which nothing is not clear")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b'{"op":"c","after":{"customer_id":1', "json: "),
        (b"", "json: "),
        (b"\xff\xfe{}", "encoding: byte 1 is not UTF-8"),
        (b"[]", "json: the record is not an object but []"),
        (b'"text"', "json: the record is not an object but 'text'"),
        (b"17", "json: the record is not an object but 17"),
        (b"{}", "envelope: a record with the fields 'none' is unknown"),
        ({"key": {"id": 1}, "value": []}, "json: the record is not an object but []"),
        ({"key": {"id": 1}, "value": "{"}, "json: "),
        ({"schema": {}, "payload": [1]}, "json: the record is not an object but [1]"),
        ('{"op":"u","op":"u"}', "json: field 'op' is given twice"),
        ("[" * 50_000, "json: "),
        ('{"op":"c","source":' + '{"a":' * 300 + "1" + "}" * 301, "json: nested too deep"),
        (record(op="x"), "op: 'x' is unknown, known are r, c, u, d, t"),
        (record(op=None), "op: None is unknown"),
        (record(op=["c"]), "op: ['c'] is unknown"),
        (record(op="c", after=None), "after: c without the row after"),
        (record(op="c", after=[]), "envelope: after is not an object but []"),
        (record(before="x"), "envelope: before is not an object but 'x'"),
        (record(source=7), "envelope: source is not an object but 7"),
        (record(source=None), "connector: None is unknown"),
        (record(transaction="x"), "envelope: transaction is not an object but 'x'"),
        (record(before={}, after={"name": "x"}), "key: customer_id is missing"),
        (record(before=None, after={"customer_id": None}), "key: customer_id is missing"),
        (record(op="d", before=None), "key: customer_id is missing"),
        (with_source(table="orders"), UNDECLARED.format("public.orders")),
        (with_source(table="o" * 10_000), "table: public.ooo"),
        (with_source(table=None), "table: the record names none"),
        (with_source(table=5), "table: the record names none"),
        (with_source(connector="oracle"), "connector: 'oracle' is unknown, known are mariadb, mysql, postgresql"),
        (with_source(connector=...), "connector: None is unknown"),
        (with_source(lsn=None), "position: the record has no source.lsn"),
        (with_source(lsn=2**63), "position: the record has no source.lsn"),
        (with_source(lsn=-1), "position: the record has no source.lsn"),
        (with_source(sequence="x"), "position: source.sequence is 'x'"),
        (with_source(sequence='["-5","7"]'), "position: source.sequence is "),
        (with_source(sequence=str(10**400)), "position: source.sequence is "),
        (with_source(ts_ms=10**30) | {"ts_ms": None}, "time: the record has no source.ts_ms between 1970 and 9999"),
        (with_source(ts_ms=None) | {"ts_ms": "now"}, "time: the record has no source.ts_ms between 1970 and 9999"),
        ({"envelope_version": 9, "changes": []}, "envelope: a record with the fields 'envelope_version, changes' is"),
        ({"before": None, "after": {"id": 1}, "source": {}}, "envelope: op missing"),
        ({"before": None, "after": {"id": 1}}, "envelope: op and source missing"),
        ({"customer_id": 1, "name": "unwrapped without metadata"}, "envelope: a record with the fields"),
        ({"id": "x", "specversion": "1.0", "data": {}}, "envelope: CloudEvents are not read"),
        ({"schema": 5, "payload": record()}, None),
        ({"schema": {"fields": 5}, "payload": record()}, "schema: it is not a Connect schema"),
        ({"schema": {"fields": [{"field": "after", "fields": [{}]}]}, "payload": record()}, "schema: it is not a Conn"),
        (
            {
                "schema": {
                    "fields": [{"field": "after", "fields": [{"field": "name", "name": "io.debezium.time.Date"}]}]
                },
                "payload": record(),
            },
            "schema: 'Anne Marie' is not a valid io.debezium.time.Date",
        ),
    ],
)  # fmt: skip
def test_a_bad_record_is_a_dead_letter_that_says_what_is_wrong(value: object, reason: str | None) -> None:
    found = parse(value)
    if reason is None:
        assert isinstance(found, ChangeEvent)
        return
    assert isinstance(found, Reject)
    assert found.reason.startswith(reason)
    assert len(found.reason) < 300
    raw = value if isinstance(value, str | bytes) else json.dumps(value)
    assert found.raw == (raw.decode("utf-8", "backslashreplace") if isinstance(raw, bytes) else raw)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"__op": ...}, "envelope: a record with the fields"),
        ({"__op": "z"}, "op: 'z' is unknown"),
        ({"__lsn": ...}, "connector: None is unknown"),
        ({"__lsn": ..., "__connector": "postgresql"}, "position: the record has no source.lsn; of a flat"),
        ({"__lsn": ..., "__file": "b.1", "__pos": 4, "__db": "public"}, "position: the record has no source.row; set"),
        ({"__lsn": ..., "__file": "b.x", "__pos": 4, "__row": 0, "__db": "public"}, "position: 'b.x' at 4 is not a p"),
        ({"__table": ...}, "table: the record names none"),
        ({"__source_ts_ms": ...}, "time: "),
    ],
)  # fmt: skip
def test_a_bad_flattened_record_says_which_field_to_add(changes: dict[str, object], reason: str) -> None:
    found = flat(**changes)
    assert isinstance(found, Reject)
    assert found.reason.startswith(reason)


def test_a_reject_names_its_table_as_soon_as_that_is_known() -> None:
    assert parse(record(op="x")).table == "public.customers"
    assert parse(with_source(table="orders")).table == "public.orders"
    assert parse(b"{").table is None


def test_unknown_fields_change_nothing() -> None:
    more = with_source(origin=None, origin_lsn=None, shard=7) | {"ts_ns": 1, "traceparent": "x"}
    assert parse(more) == parse(record())


def test_a_dead_letter_with_its_key_can_be_parsed_again() -> None:
    value = json.dumps(record(op="d", before={"name": "x"})).encode()
    assert parse(value, b'{"customer_id":1}').key == '{"customer_id":1}'
    letter = parse(value, b'{"customer_id":1}', keys={"public.other": ["id"]})
    assert parse(letter.raw) == parse(value, b'{"customer_id":1}')


_names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
_row = st.dictionaries(_names, st.none() | st.booleans() | st.text(max_size=5) | st.integers(), max_size=4)


@st.composite
def any_event(draw: Callable[..., Any]) -> ChangeEvent:
    op = draw(st.sampled_from(OPS))
    commit_lsn = draw(st.integers(1, 2**62))
    key = {"customer_id": draw(st.integers(0, 9))}
    row = {**key, **draw(_row)}
    text = json.dumps(row, separators=(",", ":"), ensure_ascii=False)
    return ChangeEvent(
        table="public.customers",
        op=op,
        key=None if op == "t" else json.dumps(key, separators=(",", ":")),
        before=text if op in "ud" and draw(st.booleans()) else None,
        after=text if op in "rcu" else None,
        unavailable=tuple(draw(st.lists(_names, max_size=2))) if op in "cu" else (),
        commit_lsn=commit_lsn,
        tx_seq=draw(st.integers(0, 2**62)),
        lsn=draw(st.integers(0, commit_lsn)),
        txid=draw(st.none() | st.integers(0, 2**32)),
        ts_us=draw(st.integers(1, 2**52)),
        origin="a",
        place=1,
    )


@given(any_event())
def test_an_event_written_as_a_dead_letter_is_read_as_the_same_event(event: ChangeEvent) -> None:
    assert debezium.parse(envelope(event), origin="a", place=1, keys=KEYS) == event


def test_columns_get_the_contracts_names_also_those_of_a_dead_letter() -> None:
    keys = {"public.customers": Keys.of(["customer_id"], ["customer_id", "created_at", "bio"])}

    def named(**changes: object) -> Any:
        return debezium.parse(record(**changes), origin="a", place=1, keys=keys)

    row = {"customerId": 1, "createdAt": "x", "Bio": "__debezium_unavailable_value", "other": 1}
    found = named(op="u", before={"customerId": 2}, after=row)
    assert (found.key, found.before) == ('{"customer_id":1}', '{"customer_id":2}')
    assert (found.after, found.unavailable) == ('{"customer_id":1,"created_at":"x","other":1}', ("bio",))
    again = debezium.parse(envelope(found), origin="a", place=1, keys=keys)
    assert (again.key, again.after, again.unavailable) == (found.key, found.after, found.unavailable)
    assert named(op="c", before=None, after={"CUSTOMER_ID": 1, "CustomerId": 2}).reason.startswith(
        "names: 'CUSTOMER_ID' and 'CustomerId' are both customer_id"
    )
