"""Decodes messages of PostgreSQL's output plugin pgoutput (protocol version 1) into change events.

Holds the decoder and its knowledge of a table (`Relation`). `slot` fetches messages, `pg_text` turns values into JSON.

Protocol: https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from struct import Struct
from typing import NamedTuple

import orjson

from pipeline_assets.ingest.cdc.events import ChangeEvent
from pipeline_assets.ingest.cdc.slot.altered import KnownTable
from pipeline_assets.ingest.cdc.slot.pg_text import Encoders
from pipeline_assets.ingest.conform.names import renamed
from pipeline_assets.ingest.postgres_session import SourceDatabaseError

POSTGRES_EPOCH_US = 946_684_800_000_000
"""2000-01-01 UTC, from which PostgreSQL counts, in microseconds since 1970."""

_BEGIN, _COMMIT, _RELATION, _TRUNCATE, _INSERT, _UPDATE, _DELETE = b"BCRTIUD"
_ROW_CHANGES = frozenset((_INSERT, _UPDATE, _DELETE))
_OF_NO_TABLE = frozenset(b"OYM")  # origin, type, message
_KEY, _OLD, _NEW = b"KON"
_NULL, _TEXT, _UNCHANGED = b"ntu"

_TRANSACTION = Struct(">QqI").unpack_from  # LSN of the commit record, commit time, transaction number
_COLUMN = Struct(">Ii").unpack_from  # type OID, type modifier
_SIZE = Struct(">I").unpack_from
_OIDS = Struct(">I").iter_unpack

_Values = list[bytes | None]
"""JSON of a row's columns, in the table's order; None for a value that was not sent (unchanged TOAST)."""

_Change = tuple[str, str, str | None, str | None, str | None, tuple[str, ...]]
"""table, op, key, before, after, unavailable: the first fields of a `ChangeEvent`."""


class Decoder:
    """Decodes one stream of messages; it remembers the tables that were announced in it.

    Attributes:
        commit_lsn: Commit position of the transaction that was begun last; 0 before the first.
        unlike: Tables whose changes were passed over because their columns differed at the time, with the commit
            position of the last such change and the difference.
    """

    def __init__(
        self,
        keys: Mapping[str, Sequence[str]],
        encoders: Encoders,
        origin: str,
        known: Mapping[int, KnownTable] | None = None,
    ) -> None:
        """Start before the first message.

        Args:
            keys: Table (`public.customers`) to its key columns, in the order that `key` has to have. For other tables
                the key consists of the columns that the message flags as such, which are all columns under REPLICA
                IDENTITY FULL.
            encoders: Encoders by type OID.
            origin: Origin of the events.
            known: Tables by their OIDs. Such a table's events come under its name here, whatever its name was at the
                time; those of another table that had the name come under a separate name.
        """
        self._keys = keys
        self._known = known or {}
        self._known_names = {table.name for table in self._known.values()}
        self._encoders = encoders
        self._origin = origin
        self._relations: dict[int, Relation] = {}
        self._unlike: dict[int, str] = {}
        self.commit_lsn = 0
        self.unlike: dict[str, tuple[int, str]] = {}

    def events(self, messages: Iterable[tuple[int, bytes]], upto: int) -> Iterator[ChangeEvent]:
        """Yield the events of whole transactions, in commit order.

        Args:
            messages: (LSN, message); read no further than a transaction that is not wanted.
            upto: Exclusive bound: transactions whose commit record starts there or later are not wanted.

        Raises:
            SourceDatabaseError: The messages are not of this protocol, or end within a transaction.
        """
        commit_lsn, ts_us, txid, tx_seq, is_open = 0, 0, 0, 0, False
        for lsn, data in messages:
            kind = data[0]
            if kind in _ROW_CHANGES:
                oid = _SIZE(data, 1)[0]
                changes = self._passed_over(oid) if oid in self._unlike else self._relations[oid].changes(data)
            elif kind == _TRUNCATE:
                changes = self._truncated(data)
            else:
                if kind == _BEGIN:
                    commit_lsn, time, txid = _TRANSACTION(data, 1)
                    if commit_lsn >= upto:
                        return
                    self.commit_lsn, ts_us, tx_seq, is_open = commit_lsn, time + POSTGRES_EPOCH_US, 0, True
                elif kind == _COMMIT:
                    is_open = False
                else:
                    self._take_note(kind, data)
                continue
            for change in changes:
                tx_seq += 1
                yield ChangeEvent(*change, commit_lsn, tx_seq, lsn, txid, ts_us, self._origin, lsn)
        if is_open:
            raise SourceDatabaseError(f"{self._origin}: the stream ended within transaction {txid}; run again")

    def _truncated(self, data: bytes) -> Sequence[_Change]:
        tables = [
            self._relations[oid].table
            for (oid,) in _OIDS(data[6:])
            if oid not in self._unlike or self._passed_over(oid)
        ]
        return [(table, "t", None, None, None, ()) for table in tables]

    def _passed_over(self, oid: int) -> Sequence[_Change]:
        self.unlike[self._known[oid].name] = self.commit_lsn, self._unlike[oid]
        return ()

    def _take_note(self, kind: int, data: bytes) -> None:
        if kind == _RELATION:
            announced = _announced(data)
            self._relations[announced.oid] = self._relation(announced)
        elif kind not in _OF_NO_TABLE:
            raise SourceDatabaseError(f"{self._origin}: message {chr(kind)!r} is not of pgoutput's protocol version 1")

    def _relation(self, announced: "_Announced") -> "Relation":
        """Return how to read the rows of an announced table; note if they differ from those of the present table."""
        oid, table, columns, types, identity = announced
        self._unlike.pop(oid, None)
        known = self._known.get(oid)
        if known is not None:
            table = known.name
            if problem := _difference(known, columns, identity, self._keys.get(table, ())):
                self._unlike[oid] = problem
        elif table in self._known_names:
            table = f"{table} (another table of this name, OID {oid})"
        return Relation(table, columns, types, identity, self._keys.get(table, identity), self._encoders)


class Relation:
    """A table as the stream announced it last: how to read its rows.

    Rows are assembled by one `%` of a template and their values, in an eighth of the time that a dictionary takes.

    Attributes:
        table: Schema and name.
    """

    def __init__(
        self, table: str, columns: Sequence[str], types: Sequence[int], identity: Sequence[str], key: Sequence[str],
        encoders: Encoders,
    ) -> None:  # fmt: skip
        """Compile templates and encoders.

        Args:
            table: Schema and name.
            columns: Names, in the order of the values; documents hold them under the contract's names.
            types: Their type OIDs.
            identity: Columns of the replica identity: the part of the old row that is sent unless all of it is sent.
            key: Key columns in the order that `key` has to have. If the table lacks one of them, keys are None.
            encoders: Encoders by type OID.
        """
        self.table = table
        identity = [new for new, name in zip(renamed(columns, key), columns, strict=True) if name in identity]
        self._columns = columns = tuple(renamed(columns, key))
        self._encoders = [encoders[oid] for oid in types]
        self._row_template = _template(columns)
        self._identity = [at for at, name in enumerate(columns) if name in identity]
        self._identity_template = _template([columns[at] for at in self._identity])
        self._key = [self._columns.index(name) for name in key] if key and set(key) <= set(columns) else []
        self._key_template = _template(key)
        self._identity_has_key = set(self._key) <= set(self._identity)

    def changes(self, data: bytes) -> Sequence[_Change]:
        """Read an insert, update or delete.

        An update of the key is two changes: a delete of the old row, an insert of the new.
        """
        table, kind, marker = self.table, data[0], data[5]
        if marker == _NEW:
            new, _ = self.values(data, 6)
            op = "c" if kind == _INSERT else "u"
            return ((table, op, self.key(new), None, *self._after(new)),)
        old, at = self.values(data, 6)
        if marker == _OLD:
            before, old_key = self.row(old), self.key(old)
        else:
            before = (self._identity_template % tuple([old[place] for place in self._identity])).decode()
            old_key = self.key(old) if self._identity_has_key else None
        if kind == _DELETE:
            return ((table, "d", old_key, before, None, ()),)
        new, _ = self.values(data, at + 1)
        for place in range(len(new)) if marker == _OLD else self._identity:
            if new[place] is None:
                new[place] = old[place]
        key, after = self.key(new), self._after(new)
        if old_key is None or old_key == key:
            return ((table, "u", key, before, *after),)
        return (table, "d", old_key, before, None, ()), (table, "c", key, None, *after)

    def values(self, data: bytes, at: int) -> tuple[_Values, int]:
        """Read the row whose number of columns stands at `at`; also return where it ends."""
        at += 2
        values: _Values = []
        for encode in self._encoders:
            kind = data[at]
            if kind == _TEXT:
                start = at + 5
                at = start + _SIZE(data, at + 1)[0]
                values.append(encode(data[start:at]))
            elif kind == _NULL:
                at += 1
                values.append(b"null")
            elif kind == _UNCHANGED:
                at += 1
                values.append(None)
            else:
                raise SourceDatabaseError(
                    f"{self.table}: a value of kind {chr(kind)!r} is not of pgoutput's protocol version 1"
                )
        return values, at

    def text_row(self, line: bytes) -> _Values:
        r"""Read a line of COPY's text format: tabs between values, `\N` for null, escapes as in C."""
        raw = line[:-1].split(b"\t")
        return [
            b"null" if text == b"\\N" else encode(_unescaped(text) if b"\\" in text else text)
            for encode, text in zip(self._encoders, raw, strict=True)
        ]

    def row(self, values: _Values) -> str:
        """Return the JSON object of a row that has all its values."""
        return (self._row_template % tuple(values)).decode()

    def key(self, values: _Values) -> str | None:
        """Return the JSON object of the key; None if one of its columns was not sent."""
        found = [values[at] for at in self._key]
        return (self._key_template % tuple(found)).decode() if found and None not in found else None

    def _after(self, values: _Values) -> tuple[str, tuple[str, ...]]:
        """Return the JSON object of the known values, and the names of the other columns."""
        if None not in values:
            return self.row(values), ()
        known = [at for at, value in enumerate(values) if value is not None]
        after = _template([self._columns[at] for at in known]) % tuple([values[at] for at in known])
        missing = [name for name, value in zip(self._columns, values, strict=True) if value is None]
        return after.decode(), tuple(missing)


def _template(columns: Sequence[str]) -> bytes:
    """Build a template such as `{"a":%b,"b":%b}`."""
    names = [orjson.dumps(name).replace(b"%", b"%%") + b":%b" for name in columns]
    return b"{" + b",".join(names) + b"}"


class _Announced(NamedTuple):
    """A table as a message announces it: before its first change in a stream, and again after it was altered."""

    oid: int
    table: str
    columns: list[str]
    types: list[int]
    identity: list[str]


def _announced(data: bytes) -> _Announced:
    oid = _SIZE(data, 1)[0]
    schema, at = _name(data, 5)
    name, at = _name(data, at)
    at += 3  # skip the replica identity and the number of columns
    columns, types, identity = [], [], []
    while at < len(data):
        column, end = _name(data, at + 1)
        type_oid, _ = _COLUMN(data, end)
        columns.append(column)
        types.append(type_oid)
        if data[at]:
            identity.append(column)
        at = end + 8
    return _Announced(oid, f"{schema}.{name}", columns, types, identity)


def _difference(known: KnownTable, columns: Sequence[str], identity: Sequence[str], keys: Sequence[str]) -> str | None:
    """Return why rows with these columns differ from the table's; None if they match, as far as the names tell.

    Fewer columns are no difference: the others were added since. The order of columns reveals two that swapped names.
    """
    expected = iter(known.columns)
    for column in columns:
        if column not in expected:  # consumes the columns before it
            return f"its column {column} was called otherwise, or stood elsewhere"
    if missing := [key for key in keys if key not in renamed(identity, keys)]:
        return f"its updates and deletes did not tell {', '.join(missing)} of the old row"
    return None


def _name(data: bytes, at: int) -> tuple[str, int]:
    """Read a string that ends in a zero byte, and return where the next item starts."""
    end = data.index(b"\0", at)
    return data[at:end].decode(), end + 1


def _unescaped(text: bytes) -> bytes:
    return _ESCAPE.sub(lambda found: _ESCAPES.get(found[1], found[1]), text)


_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)
_ESCAPES = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
