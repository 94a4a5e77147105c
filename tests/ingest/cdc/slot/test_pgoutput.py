"""Messages as the protocol defines them, and the events that they are."""

import json
import struct
from collections.abc import Sequence
from typing import Any

import pytest

from pipeline_assets.ingest.cdc.events import ChangeEvent
from pipeline_assets.ingest.cdc.slot.pg_text import Encoders
from pipeline_assets.ingest.cdc.slot.pgoutput import Decoder
from pipeline_assets.ingest.postgres_session import SourceDatabaseError

INT, TEXT, FAR = 23, 25, 1 << 62
UNCHANGED = object()
CUSTOMERS = ("customer_id", INT), ("name", TEXT), ("notes", TEXT)
KEYS = {"public.customers": ["customer_id"]}


def string(text: str) -> bytes:
    return text.encode() + b"\0"


def begin(commit_lsn: int, txid: int = 7, microseconds: int = 0) -> bytes:
    return b"B" + struct.pack(">QqI", commit_lsn, microseconds, txid)


COMMIT = b"C" + bytes(25)


def relation(
    columns: Sequence[tuple[str, int]] = CUSTOMERS, identity: Sequence[str] = ("customer_id",), *, oid: int = 1,
    table: str = "customers", mode: str = "d",
) -> bytes:  # fmt: skip
    head = b"R" + struct.pack(">I", oid) + string("public") + string(table) + mode.encode()
    listed = [bytes([name in identity]) + string(name) + struct.pack(">Ii", dtype, -1) for name, dtype in columns]
    return head + struct.pack(">H", len(columns)) + b"".join(listed)


def row(*values: Any) -> bytes:
    parts = [struct.pack(">H", len(values))]
    for value in values:
        if value is None or value is UNCHANGED:
            parts.append(b"n" if value is None else b"u")
        else:
            text = str(value).encode()
            parts.append(b"t" + struct.pack(">I", len(text)) + text)
    return b"".join(parts)


def insert(*values: Any, oid: int = 1) -> bytes:
    return b"I" + struct.pack(">I", oid) + b"N" + row(*values)


def update(new: Sequence[Any], *, key: Sequence[Any] = (), old: Sequence[Any] = ()) -> bytes:
    before = b"K" + row(*key) if key else b"O" + row(*old) if old else b""
    return b"U" + struct.pack(">I", 1) + before + b"N" + row(*new)


def delete(*, key: Sequence[Any] = (), old: Sequence[Any] = ()) -> bytes:
    return b"D" + struct.pack(">I", 1) + (b"K" + row(*key) if key else b"O" + row(*old))


def decode(*messages: bytes, keys: dict[str, list[str]] = KEYS, upto: int = FAR) -> list[ChangeEvent]:
    decoder = Decoder(keys, Encoders(lambda oid: None), "slot shop")
    return list(decoder.events(enumerate(messages, 100), upto))


def test_an_insert():
    microseconds = 820_454_400_000_001  # after 2000-01-01
    (event,) = decode(begin(900, 41, microseconds), relation(), insert(1, 'Ann "A"', None), COMMIT)
    assert event == ChangeEvent(
        table="public.customers", op="c", key='{"customer_id":1}', before=None,
        after='{"customer_id":1,"name":"Ann \\"A\\"","notes":null}', unavailable=(), commit_lsn=900, tx_seq=1, lsn=102,
        txid=41, ts_us=946_684_800_000_000 + microseconds, origin="slot shop", place=102,
    )  # fmt: skip


def test_events_are_numbered_within_their_transaction():
    events = decode(
        begin(900), relation(), insert(1, "a", "b"), insert(2, "a", "b"), COMMIT,
        begin(950, 8), insert(3, "a", "b"), COMMIT,
    )  # fmt: skip
    assert [(e.commit_lsn, e.tx_seq, e.txid) for e in events] == [(900, 1, 7), (900, 2, 7), (950, 1, 8)]


def test_an_update_without_the_old_row_names_what_was_not_sent():
    (event,) = decode(begin(900), relation(), update([1, "Ann", UNCHANGED]), COMMIT)
    assert (event.op, event.key, event.before) == ("u", '{"customer_id":1}', None)
    assert (event.after, event.unavailable) == ('{"customer_id":1,"name":"Ann"}', ("notes",))


def test_replica_identity_full_fills_in_what_was_not_sent():
    (event,) = decode(
        begin(900), relation(identity=[name for name, _ in CUSTOMERS], mode="f"),
        update([1, "Ann", UNCHANGED], old=[1, None, "long"]), COMMIT,
    )  # fmt: skip
    assert event.before == '{"customer_id":1,"name":null,"notes":"long"}'
    assert (event.after, event.unavailable) == ('{"customer_id":1,"name":"Ann","notes":"long"}', ())
    assert event.key == '{"customer_id":1}'


def test_a_new_key_is_a_delete_and_an_insert():
    gone, came = decode(begin(900), relation(), update([2, "Ann", UNCHANGED], key=[1, None, None]), COMMIT)
    assert (gone.op, gone.key, gone.before, gone.after, gone.tx_seq) == ("d", '{"customer_id":1}', gone.key, None, 1)
    assert (came.op, came.key, came.before, came.tx_seq) == ("c", '{"customer_id":2}', None, 2)
    assert (came.after, came.unavailable) == ('{"customer_id":2,"name":"Ann"}', ("notes",))
    assert gone.lsn == came.lsn


def test_a_new_key_under_full_keeps_the_whole_row_before():
    names = [name for name, _ in CUSTOMERS]
    gone, came = decode(
        begin(900), relation(identity=names, mode="f"), update([2, "Ann", UNCHANGED], old=[1, "An", "x"]), COMMIT
    )
    assert gone.before == '{"customer_id":1,"name":"An","notes":"x"}'
    assert came.after == '{"customer_id":2,"name":"Ann","notes":"x"}'


def test_an_old_key_that_is_the_same_is_no_new_key():
    """Sent when the key itself is stored out of line."""
    (event,) = decode(begin(900), relation(), update([UNCHANGED, "Ann", "x"], key=[1, None, None]), COMMIT)
    assert (event.op, event.key, event.unavailable) == ("u", '{"customer_id":1}', ())
    assert event.after == '{"customer_id":1,"name":"Ann","notes":"x"}'


def test_a_delete_holds_the_key_alone_or_the_row():
    key_only, whole = decode(
        begin(900), relation(), delete(key=[1, None, None]),
        relation(identity=[name for name, _ in CUSTOMERS], mode="f"), delete(old=[2, "Bo", None]), COMMIT,
    )  # fmt: skip
    assert (key_only.op, key_only.before, key_only.after) == ("d", '{"customer_id":1}', None)
    assert (whole.key, whole.before) == ('{"customer_id":2}', '{"customer_id":2,"name":"Bo","notes":null}')


def test_a_truncate_is_one_event_per_table():
    events = decode(
        begin(900), relation(), relation(oid=2, table="orders"), insert(1, "a", "b"),
        b"T" + struct.pack(">IBII", 2, 1, 1, 2), COMMIT,
    )  # fmt: skip
    assert [(e.table, e.op, e.key, e.tx_seq) for e in events] == [
        ("public.customers", "c", '{"customer_id":1}', 1),
        ("public.customers", "t", None, 2),
        ("public.orders", "t", None, 3),
    ]


def test_columns_may_change_in_the_middle_of_a_transaction():
    first, second = decode(
        begin(900), relation(), insert(1, "a", "b"), relation([*CUSTOMERS, ("age", INT)]), insert(2, "a", "b", 7),
        COMMIT,
    )  # fmt: skip
    assert list(json.loads(first.after or "")) == ["customer_id", "name", "notes"]
    assert json.loads(second.after or "")["age"] == 7


def test_keys_are_in_declared_order():
    (event,) = decode(
        begin(900), relation(identity=["customer_id", "name"]), insert(1, "a", "b"), COMMIT,
        keys={"public.customers": ["name", "customer_id"]},
    )  # fmt: skip
    assert event.key == '{"name":"a","customer_id":1}'


def test_a_table_that_is_not_declared_has_the_key_that_the_server_names():
    (event,) = decode(begin(900), relation(), insert(1, "a", "b"), COMMIT, keys={})
    assert event.key == '{"customer_id":1}'


def test_a_key_column_that_the_table_has_not_got_leaves_no_key():
    (event,) = decode(begin(900), relation(), insert(1, "a", "b"), COMMIT, keys={"public.customers": ["id"]})
    assert event.key is None


def test_a_delete_that_does_not_tell_the_declared_key_has_none():
    """The key of another unique column, under the default identity."""
    (event,) = decode(
        begin(900), relation(), delete(key=[1, None, None]), COMMIT, keys={"public.customers": ["name"]}
    )  # fmt: skip
    assert (event.key, event.before) == (None, '{"customer_id":1}')


def test_names_of_columns_may_hold_anything():
    (event,) = decode(
        begin(900), relation([('per"cent %b', INT), ("é", TEXT)], identity=['per"cent %b']), insert(1, "a"), COMMIT,
        keys={},
    )  # fmt: skip
    assert json.loads(event.after or "") == {'per"cent %b': 1, "é": "a"}
    assert json.loads(event.key or "") == {'per"cent %b': 1}


def test_messages_that_are_of_no_table_are_passed_over():
    assert not decode(b"M", begin(900), b"O" + bytes(9), b"Y" + bytes(9), COMMIT)


def test_transactions_from_the_bound_on_are_left_out():
    messages = [begin(900), relation(), insert(1, "a", "b"), COMMIT, begin(950), insert(2, "a", "b"), COMMIT]
    assert [e.commit_lsn for e in decode(*messages, upto=950)] == [900]
    assert [e.commit_lsn for e in decode(*messages, upto=951)] == [900, 950]
    assert decode(*messages, upto=900) == []


def test_a_stream_that_ends_within_a_transaction_is_an_error():
    with pytest.raises(SourceDatabaseError, match="ended within transaction 7; run again"):
        decode(begin(900), relation(), insert(1, "a", "b"))


def test_messages_of_other_protocol_versions_are_an_error():
    with pytest.raises(SourceDatabaseError, match="'S' is not of pgoutput's protocol version 1"):
        decode(b"S" + bytes(5))
    with pytest.raises(SourceDatabaseError, match=r"public.customers: a value of kind 'b'"):
        decode(begin(900), relation(), b"I" + struct.pack(">IcHcI", 1, b"N", 3, b"b", 0), COMMIT)
