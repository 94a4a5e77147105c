"""What was done to a source's table without a change event: what its catalog says now, against what it said before.

Each run notes what it saw in the change table's log; here the next one compares. What the stream itself tells of a
table that was altered and altered back is in `pgoutput`; that the table is read again then, in `drain`.

A file is new after TRUNCATE, VACUUM FULL and CLUSTER, too, which leave what the stream says true. So it speaks only
together with a definition that was touched (its `xmin` is the number of the transaction that wrote it last).
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pipeline_assets.ingest.cdc.slot.catalog import TableDescription
from pipeline_assets.lake import Table

_SOURCE_TABLE = "pipeline_assets.source_table"


class KnownTable(NamedTuple):
    """A table as its change table's log and the catalog know it, by its OID: the stream may give it another name.

    Attributes:
        name: Schema and name as declared.
        columns: Names that its columns had at the last run or have now, in order.
    """

    name: str
    columns: tuple[str, ...]


def note(bronze: Table, found: TableDescription) -> None:
    """Notes what the source's table looks like, for the next run to see what was altered."""
    facts = _facts(found)
    if facts != noted(bronze):
        bronze.set_properties({_SOURCE_TABLE: json.dumps(facts)})


def noted(bronze: Table) -> dict[str, Any] | None:
    """Give what was noted last; None if nothing was."""
    if not bronze.exists():
        return None
    stored = bronze.open().metadata().configuration.get(_SOURCE_TABLE)
    return dict(json.loads(stored)) if stored else None


def known(table: str, before: Mapping[str, Any] | None, found: TableDescription) -> dict[int, KnownTable]:
    """Gives the OID by which the stream's changes are this table's; none if it is another table than it was.

    Of another table the one before and the one now have one name at different times: the name decides, and the table is
    read again.
    """
    if before is not None and _oid(before) != found.oid:
        return {}
    columns = {(column.number, column.name) for column in found.columns}
    columns |= {(int(number), name) for number, (name, _) in (before or {"columns": {}})["columns"].items()}
    return {found.oid: KnownTable(table, tuple(name for _, name in sorted(columns)))}


def new_partitions(before: Mapping[str, Any] | None, found: TableDescription) -> list[int]:
    """OIDs of partitions that were not there: they may have come with rows."""
    if before is None or "marks" not in before:
        return []
    return [int(relation) for relation in found.marks["partitions"].keys() - before["marks"]["partitions"].keys()]


def reason(before: Mapping[str, Any] | None, found: TableDescription) -> str | None:
    """Say why the table has to be read again: rows changed, or may have, without a change event. None if they did not.

    PostgreSQL sends none for rows that get a new column's default, nor for those of a renamed, retyped, recomputed or
    dropped column; nor when labels of an enum or attributes of a composite type are altered; for what is written while
    a table is out of the publication, or an operation or some rows or columns are; and for a partition that is
    truncated or detached (VACUUM FULL of one looks the same). A table that was read, and of which nothing was noted,
    may have been altered since.

    Args:
        before: What was noted; an older version of this program noted less, and what it did not is not compared.
        found: What the catalog says now.
    """
    if before is None:
        return "nothing is known of what it looked like"
    if before["publishing"] != found.publishing:
        return "it is another table of this name, or the publication was altered"
    if found.is_partitioned and any(found.files.get(name) != file for name, file in before["files"].items()):
        return "a partition was truncated, rewritten or detached"
    return _altered_columns(before, found) or (_touched(before["marks"], before, found) if "marks" in before else None)


def _altered_columns(before: Mapping[str, Any], found: TableDescription) -> str | None:
    if gone := before["columns"].keys() - {str(column.number) for column in found.columns}:
        return f"the column {before['columns'][min(gone)][0]} was dropped"  # its values are gone from all rows
    names = {name for name, _ in before["columns"].values()}
    for column in found.columns:
        known_column = before["columns"].get(str(column.number))
        if known_column is None and (column.has_default or column.name in names):
            return f"the column {column.name} was added with a value"
        if known_column is not None and known_column != [column.name, column.type]:
            return f"the column {known_column[0]} was renamed or retyped"
    return None


def _touched(marks: Mapping[str, Any], before: Mapping[str, Any], found: TableDescription) -> str | None:
    now = found.marks
    if any(now["labels"].get(label) != xmin for label, xmin in marks["labels"].items()):
        return "a label of an enum was renamed"
    if any(now["attributes"].get(name) != attributes for name, attributes in marks["attributes"].items()):
        return "a composite type was altered"
    if any(now["partitions"].get(name) != xmin for name, xmin in marks["partitions"].items()):
        return "a partition was detached and attached again"
    is_rewritten = now["file"] != marks["file"]
    if not now["is_listed"]:
        if now["schema"] != marks["schema"]:
            return "it was moved to another schema, which may not be published"
        if is_rewritten:  # of a listed table PostgreSQL refuses it
            return "it was rewritten, and may have been UNLOGGED meanwhile"
    if is_rewritten:
        for column in found.columns:
            is_new = str(column.number) not in before["columns"]
            was_touched = now["columns"].get(str(column.number)) != marks["columns"].get(str(column.number))
            if column.name in found.published_columns and (is_new or was_touched):
                return f"the table was rewritten with the column {column.name}"
    return None


def _facts(found: TableDescription) -> dict[str, Any]:
    return {
        "columns": {str(column.number): [column.name, column.type] for column in found.columns},
        "publishing": found.publishing,
        # Of a table without partitions TRUNCATE is an event.
        "files": dict(found.files) if found.is_partitioned else {},
        "marks": dict(found.marks),
    }


def _oid(facts: Mapping[str, Any]) -> int | None:
    words: Sequence[str] = str(facts["publishing"] or "").split()
    return int(words[0]) if words else None
