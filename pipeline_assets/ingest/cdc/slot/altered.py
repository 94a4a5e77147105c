"""Finds what was done to a source's table without a change event, by comparing its catalog with the last run's notes.

Each run notes in the change table's log what it saw; this module compares it in the next run. `pgoutput` finds in the
stream itself that a table was altered and altered back, and `drain` then reads the table again.

A table's file is also new after TRUNCATE, VACUUM FULL and CLUSTER, which do not contradict the stream. So a new file
only counts together with a definition that was touched (its `xmin` is the number of the transaction that wrote it
last).
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
    """Note what the source's table looks like, so that the next run sees what was altered."""
    facts = _facts(found)
    if facts != noted(bronze):
        bronze.set_properties({_SOURCE_TABLE: json.dumps(facts)})


def noted(bronze: Table) -> dict[str, Any] | None:
    """Return what was noted last; None if nothing was noted."""
    if not bronze.exists():
        return None
    stored = bronze.open().metadata().configuration.get(_SOURCE_TABLE)
    return dict(json.loads(stored)) if stored else None


def known(table: str, before: Mapping[str, Any] | None, found: TableDescription) -> dict[int, KnownTable]:
    """Return the OID by which the stream's changes belong to this table; empty if it is another table than before.

    If it is another table, the former one and the present one had this name at different times: then the name decides,
    and the table is read again.
    """
    if before is not None and _oid(before) != found.oid:
        return {}
    columns = {(column.number, column.name) for column in found.columns}
    columns |= {(int(number), name) for number, (name, _) in (before or {"columns": {}})["columns"].items()}
    return {found.oid: KnownTable(table, tuple(name for _, name in sorted(columns)))}


def new_partitions(before: Mapping[str, Any] | None, found: TableDescription) -> list[int]:
    """Return the OIDs of partitions that are new: they may have come with rows."""
    if before is None or "marks" not in before:
        return []
    return [int(relation) for relation in found.marks["partitions"].keys() - before["marks"]["partitions"].keys()]


def reason(before: Mapping[str, Any] | None, found: TableDescription) -> str | None:
    """Return why the table has to be read again because rows may have changed without an event.

    Return None if they cannot have.

    PostgreSQL sends no event for rows that get a new column's default, nor for those of a renamed, retyped, recomputed
    or dropped column. It sends none when labels of an enum or attributes of a composite type are altered, none for what
    is written while a table, an operation, or some rows or columns are out of the publication, and none for a partition
    that is truncated or detached (VACUUM FULL of a partition looks the same). A table that was read before notes
    existed may have been altered since.

    Args:
        before: What was noted; an older version of this program noted less, and what it did not note is not compared.
        found: The catalog's present state.
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
        if is_rewritten:  # PostgreSQL refuses this for a listed table
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
        # For a table without partitions, TRUNCATE is an event.
        "files": dict(found.files) if found.is_partitioned else {},
        "marks": dict(found.marks),
    }


def _oid(facts: Mapping[str, Any]) -> int | None:
    words: Sequence[str] = str(facts["publishing"] or "").split()
    return int(words[0]) if words else None
