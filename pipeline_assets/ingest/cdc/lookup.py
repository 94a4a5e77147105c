"""A value that a change left out, asked of the table as it is now. The exception, not the way rows are read.

Under REPLICA IDENTITY DEFAULT an update of the key becomes a delete and an insert, and the insert lacks the long values
(TOAST) that did not change: they are known under the old key only. Whatever happened to the row since comes as a later
change, so the current state ends right; only the history's version of that moment may show a later value.
"""

import json

from pipeline_assets.ingest.cdc.catalog import Session, TableDescription
from pipeline_assets.ingest.cdc.events import ChangeEvent
from pipeline_assets.ingest.cdc.pg_text import Encoders
from pipeline_assets.ingest.cdc.pgoutput import Relation
from pipeline_assets.ingest.sql import identifier, quoted


def complete(session: Session, described: TableDescription, event: ChangeEvent, encoders: Encoders) -> ChangeEvent:
    """Fills the unavailable columns of an event's row; leaves it as it is if the row has gone since.

    Args:
        session: A session with the source.
        described: The table.
        event: With a key and a row after.
        encoders: By type OID.
    """
    columns = [column for column in described.columns if column.name in event.unavailable]
    if event.key is None or event.after is None or len(columns) < len(event.unavailable):
        return event
    key = json.loads(event.key, parse_int=str, parse_float=str)
    where = " AND ".join(f"{identifier(name)} = {quoted(str(value))}" for name, value in key.items())
    listed = ", ".join(identifier(column.name) for column in columns)
    copied = f"COPY (SELECT {listed} FROM {described.sql_name} WHERE {where}) TO STDOUT"
    with session.cursor() as cursor, cursor.copy(copied.encode()) as copy:
        lines = [bytes(line) for line in copy]
    if len(lines) != 1:
        return event
    names, types = [column.name for column in columns], [column.type_oid for column in columns]
    relation = Relation(described.name, names, types, (), (), encoders)
    found = relation.row(relation.text_row(lines[0]))
    return event._replace(after=f"{event.after[:-1]},{found[1:]}", unavailable=())
