"""The one format of change events, whatever brought them: a replication slot, Debezium's envelopes, Maxwell's records.

This module only holds the types. `slot` and `formats` make events, `table.change_table` writes them.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol

OPS = ("r", "c", "u", "d", "t")
"""Debezium's operations: r snapshot read, c insert, u update, d delete, t truncate."""


class ChangeEvent(NamedTuple):
    """One change of one row (or the truncation of a table), as committed at the source.

    Attributes:
        table: The table as the source names it: `public.customers`; in MySQL `shop.customers`.
        op: One of `OPS`.
        key: JSON object of the key columns; None for `t`.
        before: JSON object of the row before, as far as the source sends it; None if it sends nothing.
        after: JSON object of the row after, without the `unavailable` columns; None for `d` and `t`.
        unavailable: Columns of `after` whose value the source did not send, because the change left it as it was
            (TOAST). They are neither null nor known.
        commit_lsn: Position of the transaction's commit. Grows with each commit of the source.
        tx_seq: Place within the transaction. (commit_lsn, tx_seq) orders the events of a source.
        lsn: Position of the change itself: neither unique nor in commit order.
        txid: The transaction's number at the source, if it has one.
        ts_us: When it was committed, microseconds since 1970 UTC.
        origin: Where the record was: `slot <name>`, a landed file's path, or `topic-partition`.
        place: The place in the origin: the LSN, the line, the offset.
    """

    table: str
    op: str
    key: str | None
    before: str | None
    after: str | None
    unavailable: tuple[str, ...]
    commit_lsn: int
    tx_seq: int
    lsn: int
    txid: int | None
    ts_us: int
    origin: str
    place: int


class Reject(NamedTuple):
    """A record that is not an event: malformed, of an unknown op, or without a key or a position.

    Attributes:
        reason: What is wrong, as `<what>: <detail>`.
        raw: The record as it came.
        origin: As in an event.
        place: As in an event.
        table: The source table, as far as it is known.
        records: How many records it stands for: a file that cannot be read is one reject.
    """

    reason: str
    raw: str
    origin: str
    place: int
    table: str | None = None
    records: int = 1


class EventStream(Protocol):
    """Events up to a bound, in commit order, whole transactions only. Each loop reads them anew.

    Attributes:
        reached: After a complete loop, the position up to which (exclusively) everything was yielded; None before.
        unlike: Tables whose changes were skipped, because they had other columns at the time; with the commit position
            of the last such change, and what was different.
    """

    reached: int | None

    @property
    def unlike(self) -> Mapping[str, tuple[int, str]]:
        """The tables whose changes were skipped; see the class."""

    def __iter__(self) -> Iterator[ChangeEvent]: ...


def lsn_text(lsn: int) -> str:
    """Give a position as PostgreSQL writes it: `16/B374D848`."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"
