"""Reads tables, types and publications from the source's catalog.

`health` decides whether they are good enough for a stream; `slot` and `snapshot` read values.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline_assets.ingest.cdc.slot.pg_text import PgType
from pipeline_assets.ingest.postgres_session import Session
from pipeline_assets.sql import quote_text


@dataclass(frozen=True)
class ColumnDescription:
    """A column of a source table.

    Attributes:
        number: pg_attribute.attnum: it stays when the column is renamed, and is never given to another column.
        name: Its name.
        type: Its type as in CREATE TABLE, user-defined types with their schema.
        type_oid: The type as a number.
        is_not_null: Whether null is ruled out.
        has_default: Whether rows that are older than the column got a value with it, or would get one: there is no
            change event for that.
        is_generated: GENERATED ALWAYS AS (expression).
        is_toastable: Whether long values are stored separately, so that an update's event may leave them out.
    """

    number: int
    name: str
    type: str
    type_oid: int
    is_not_null: bool
    has_default: bool
    is_generated: bool
    is_toastable: bool


@dataclass(frozen=True)
class TableDescription:
    """A table of the source.

    Attributes:
        oid: pg_class.oid: it stays when the table is renamed or moved to another schema.
        name: Schema and name.
        sql_name: The name as SQL takes it.
        columns: All present columns, in order.
        primary_key: Columns of the primary key, in its order; empty without a primary key.
        replica_identity: pg_class.relreplident: d default, f full, n nothing, i index.
        identity_columns: Columns of the old row that updates and deletes send; may be empty.
        is_partitioned: Whether it is the root of partitions, and so has no rows itself.
        partition_of: The root, if it is a partition.
        is_published: Whether its changes arrive under its own name.
        published_columns: Its columns that are published.
        row_filter: Condition of the publication that its rows must meet, if there is one.
        publishing: Numbers that change when the publication's options change, when the table leaves it and returns, or
            when another table takes its name.
        files: Relation (the table or its partitions) to the number of the file with its rows: a new one after TRUNCATE,
            or an ALTER TABLE that rewrote it.
        marks: Catalog entries that are touched when rows read differently without an event; see `_MARKS`.
    """

    oid: int
    name: str
    sql_name: str
    columns: tuple[ColumnDescription, ...]
    primary_key: tuple[str, ...]
    replica_identity: str
    identity_columns: tuple[str, ...]
    is_partitioned: bool
    partition_of: str | None
    is_published: bool
    published_columns: tuple[str, ...]
    row_filter: str | None
    publishing: str | None
    files: Mapping[str, int]
    marks: Mapping[str, Any]


@dataclass(frozen=True)
class Publication:
    """A publication.

    Attributes:
        operations: The operations (insert, update, delete, truncate) that it publishes; a stream needs all four.
        via_root: Whether changes of partitions arrive under their root's name.
    """

    operations: frozenset[str]
    via_root: bool


# In earlier versions pg_publication_tables lists generated columns, but they are never sent.
_V18 = 180_000

_INDEX_COLUMNS = """
    SELECT array_agg(a.attname::text ORDER BY k.place)
    FROM pg_index i, unnest(i.indkey) WITH ORDINALITY AS k (attnum, place)
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
    WHERE i.indrelid = c.oid AND k.place <= i.indnkeyatts AND
"""

_ROOTS = "SELECT relid::oid FROM pg_partition_ancestors(c.oid) UNION SELECT c.oid"

# Types within types: a domain's base, an array's elements, a range's bounds, a composite type's attributes.
_TYPES = """
    WITH RECURSIVE used (oid) AS (
        SELECT a.atttypid FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        UNION
        SELECT part.oid
        FROM used JOIN pg_type y ON y.oid = used.oid CROSS JOIN LATERAL (
            SELECT y.typbasetype UNION ALL SELECT y.typelem
            UNION ALL SELECT rngsubtype FROM pg_range WHERE y.oid IN (rngtypid, rngmultitypid)
            UNION ALL SELECT atttypid FROM pg_attribute
                WHERE attrelid = y.typrelid AND y.typrelid <> 0 AND attnum > 0 AND NOT attisdropped
        ) part (oid)
        WHERE part.oid <> 0
    )
"""

# file: as in `files`, null for the root of partitions. schema: transaction that moved the table to its schema; null in
# a pinned one. columns, labels, attributes, partitions: transactions that wrote the definition of each column, of each
# label of its enums, and of the attributes of its composite types, and that attached each partition. is_listed: whether
# the publication names it.
_MARKS = f"""json_build_object(
    'file', pg_relation_filenode(c.oid)::bigint,
    'schema', (SELECT d.xmin::text FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
               AND d.objsubid = 0 AND d.refclassid = 'pg_namespace'::regclass),
    'columns', (SELECT coalesce(json_object_agg(a.attnum, a.xmin::text), '{{}}') FROM pg_attribute a
                WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
    'labels', ({_TYPES} SELECT coalesce(json_object_agg(e.oid::bigint, e.xmin::text), '{{}}')
               FROM used JOIN pg_enum e ON e.enumtypid = used.oid),
    'attributes', ({_TYPES} SELECT coalesce(json_object_agg(f.relation, f.attributes), '{{}}') FROM (
        SELECT a.attrelid::bigint, string_agg(a.attnum || ':' || a.xmin::text, ' ' ORDER BY a.attnum)
        FROM used JOIN pg_type y ON y.oid = used.oid JOIN pg_attribute a ON a.attrelid = y.typrelid
        WHERE y.typrelid <> 0 AND a.attnum > 0 GROUP BY a.attrelid) f (relation, attributes)),
    'partitions', (SELECT coalesce(json_object_agg(i.inhrelid::bigint, i.xmin::text), '{{}}') FROM pg_inherits i
                   WHERE c.relkind = 'p' AND i.inhrelid IN (SELECT relid FROM pg_partition_tree(c.oid))),
    'is_listed', EXISTS (SELECT FROM pg_publication_rel r JOIN pg_publication u ON u.oid = r.prpubid
                         WHERE u.pubname = %(publication)s AND r.prrelid IN ({_ROOTS})))"""

_TABLES = f"""
    SELECT c.oid::bigint, n.nspname || '.' || c.relname, format('%%I.%%I', n.nspname, c.relname),
        c.relreplident::text, c.relkind = 'p',
        ({_INDEX_COLUMNS} i.indisprimary),
        ({_INDEX_COLUMNS} CASE c.relreplident WHEN 'd' THEN i.indisprimary AND i.indimmediate
                                              WHEN 'i' THEN i.indisreplident END),
        (SELECT rn.nspname || '.' || r.relname
         FROM pg_class r JOIN pg_namespace rn ON rn.oid = r.relnamespace
         WHERE c.relispartition AND r.oid = pg_partition_root(c.oid)),
        (SELECT array_agg(a.attname::text) FROM pg_attribute a
         WHERE a.attrelid = c.oid AND a.attname = ANY(p.attnames) AND (a.attgenerated = '' OR %(sends_generated)s)),
        p.rowfilter,
        (SELECT concat_ws(' ', c.oid, u.oid, u.xmin, string_agg(e.oid::text, ',' ORDER BY e.oid))
         FROM pg_publication u LEFT JOIN LATERAL (
             SELECT oid FROM pg_publication_rel WHERE prpubid = u.oid AND prrelid IN ({_ROOTS})
             UNION ALL SELECT oid FROM pg_publication_namespace WHERE pnpubid = u.oid AND pnnspid IN (
                 SELECT relnamespace FROM pg_class WHERE oid IN ({_ROOTS}))) e ON true
         WHERE u.pubname = %(publication)s GROUP BY u.oid, u.xmin),
        (SELECT json_object_agg(f.relid::bigint, coalesce(pg_relation_filenode(f.relid)::bigint, 0))
         FROM (SELECT relid::oid FROM pg_partition_tree(c.oid) UNION SELECT c.oid) f (relid)),
        {_MARKS},
        (SELECT array_agg(ARRAY[
                a.attnum::text, a.attname, format_type(a.atttypid, a.atttypmod), a.atttypid::text, a.attnotnull::text,
                (a.atthasmissing OR a.attidentity <> '' OR (a.atthasdef AND a.attgenerated = ''))::text,
                (a.attgenerated <> '')::text, (a.attstorage <> 'p')::text
            ] ORDER BY a.attnum)
         FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_publication_tables p
        ON p.pubname = %(publication)s AND p.schemaname = n.nspname AND p.tablename = c.relname
    WHERE c.relkind IN ('r', 'p') AND n.nspname || '.' || c.relname = ANY(%(tables)s::text[])
"""


def tables(session: Session, names: Collection[str], publication: str) -> dict[str, TableDescription]:
    """Describe tables; those that do not exist are missing in the result."""
    parameters = {
        "tables": list(names), "publication": publication, "sends_generated": session.info.server_version >= _V18,
    }  # fmt: skip
    return {row[1]: _described(*row) for row in session.execute(_TABLES.encode(), parameters).fetchall()}


def _described(
    oid: int, name: str, sql_name: str, replica_identity: str, is_partitioned: bool, primary_key: list[str] | None,
    index: list[str] | None, partition_of: str | None, published: list[str] | None, row_filter: str | None,
    publishing: str | None, files: dict[str, int], marks: dict[str, Any], columns: list[list[str]] | None,
) -> TableDescription:  # fmt: skip
    described = tuple(
        ColumnDescription(int(number), column, dtype, int(oid), *(flag == "true" for flag in flags))
        for number, column, dtype, oid, *flags in columns or ()
    )
    identity = [column.name for column in described] if replica_identity == "f" else index
    return TableDescription(
        oid, name, sql_name, described, tuple(primary_key or ()), replica_identity, tuple(identity or ()),
        is_partitioned, partition_of, published is not None, tuple(published or ()), row_filter, publishing, files,
        marks,
    )  # fmt: skip


def came_with_rows(session: Session, partitions: Collection[int]) -> bool:
    """Tell whether one of some partitions had rows when it was attached; a table created as a partition had none.

    The row type is as old as the table. If it is as old as the partition, rows of that very transaction were there
    before the partition, or are events. So such rows may be read once too often, never too seldom.
    """
    found = session.execute(
        """WITH fresh AS (
               SELECT c.oid, c.relnamespace, c.relname, c.relkind, i.xmin::text AS xid, y.xmin <> i.xmin AS was_attached
               FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_type y ON y.oid = c.reltype
               WHERE c.oid = ANY(%s::oid[]))
           SELECT format('%%I.%%I', n.nspname, f.relname), f.xid, has_table_privilege(f.oid, 'SELECT'),
               EXISTS (SELECT FROM pg_partition_ancestors(f.oid) JOIN fresh ON oid = relid WHERE was_attached)
           FROM fresh f JOIN pg_namespace n ON n.oid = f.relnamespace
           WHERE f.relkind = 'r' AND pg_relation_size(f.oid) > 0""",
        [list(partitions)],
    ).fetchall()
    for name, xid, is_readable, was_attached in found:
        if was_attached:
            return True
        query = f"SELECT EXISTS (SELECT FROM ONLY {name} WHERE xmin = {quote_text(xid)}::xid)"
        if is_readable and (session.execute(query.encode()).fetchone() or (False,))[0]:
            return True
    return False


def open_transactions(session: Session, *, prepared_before_seconds: int | None = None) -> list[str]:
    """List transactions of any database that have written and not ended, oldest first, with the way to end each.

    Args:
        session: A session with the server.
        prepared_before_seconds: Only those that were prepared (two-phase commit) longer ago: no session will end them.
    """
    found = session.execute(
        """SELECT format('prepared transaction %%L of %%s since %%s (in the database %%s: COMMIT PREPARED %%1$L, or '
                   'ROLLBACK PREPARED %%1$L)', gid, owner, date_trunc('second', prepared), database), prepared AS since
           FROM pg_prepared_xacts
           WHERE prepared <= now() - make_interval(secs => coalesce(%(seconds)s::float, 0))
           UNION ALL
           SELECT format('transaction of %%s, PID %%s %%s, since %%s (SELECT pg_terminate_backend(%%2$s))', usename,
                   pid, application_name, coalesce(date_trunc('second', xact_start)::text, 'then')), xact_start
           FROM pg_stat_activity
           WHERE %(seconds)s::float IS NULL AND backend_xid IS NOT NULL AND pid <> pg_backend_pid()
           ORDER BY since""",
        {"seconds": prepared_before_seconds},
    ).fetchall()
    return [text for text, _ in found]


def publication(session: Session, name: str) -> Publication | None:
    """Describe a publication; None if it does not exist."""
    row = session.execute(
        "SELECT pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot FROM pg_publication WHERE pubname = %s", [name]
    ).fetchone()
    if row is None:
        return None
    operations = ("insert", "update", "delete", "truncate")
    return Publication(frozenset(op for op, is_on in zip(operations, row, strict=False) if is_on), bool(row[4]))


def pg_type(session: Session, oid: int) -> PgType | None:
    """Describe a type; None if it was dropped since."""
    row = session.execute(
        """SELECT CASE WHEN e.typarray = t.oid THEN t.typelem ELSE 0 END::bigint, coalesce(e.typdelim, ',')::text,
               t.typbasetype::bigint
           FROM pg_type t LEFT JOIN pg_type e ON e.oid = t.typelem WHERE t.oid = %s""",
        [oid],
    ).fetchone()
    return None if row is None else PgType(*row)
