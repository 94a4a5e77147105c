"""Selects what a merge writes into one version of a table: incoming rows that win over the stored row of their key.

Nothing is committed here; `table` does that, together with the removal that `removal` plans.
"""

from collections.abc import Sequence

import duckdb

from pipeline_assets.lake.errors import LakeError
from pipeline_assets.sql import quote_name, quote_names

INCOMING, WINNERS = "merge_incoming", "merge_winners"
_STORED, _TIES = "merge_stored", "merge_ties"


def load_incoming(
    con: duckdb.DuckDBPyConnection, name: str, rows: str, keys: Sequence[str], sequence: Sequence[str]
) -> None:
    """Make `INCOMING`: the rows to merge, the last version of each key.

    Args:
        con: Connection that the query's tables live in.
        name: Name of the table, for errors.
        rows: The query.
        keys: Columns that name a row.
        sequence: Columns that order the versions of a row.

    Raises:
        LakeError: A key or a sequence is null.
    """
    order = ", ".join(f"{quote_name(column)} DESC" for column in sequence)
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE {INCOMING} AS SELECT * FROM ({rows}) "
        f"QUALIFY row_number() OVER (PARTITION BY {quote_names(keys)} ORDER BY {order}) = 1"
    )
    for columns, why in (
        (keys, "each run would add a row without a key once more"),
        (sequence, "their order is unknown"),
    ):
        lacking = " OR ".join(f"{quote_name(column)} IS NULL" for column in columns)
        if con.execute(f"SELECT count(*) FROM {INCOMING} WHERE {lacking}").fetchone() != (0,):
            raise LakeError(f"table {name}: rows to merge have a null in {', '.join(columns)}; {why}")


def find_winners(
    con: duckdb.DuckDBPyConnection, stored: str, columns: Sequence[str], keys: Sequence[str], sequence: Sequence[str]
) -> None:
    """Make `WINNERS`: incoming rows that are new, newer than the stored row, or equally new with another content.

    A row with the sequence of the stored one is the same event seen again. Its content differs only when the first
    sight of it was incomplete. So keys and sequences are compared for all rows, contents only for such ties.

    Args:
        con: The connection that holds `INCOMING`.
        stored: Relation of the rows that may have an incoming key.
        columns: The table's columns.
        keys: Columns that name a row.
        sequence: Columns that order the versions of a row, most significant first.
    """
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE {_STORED} AS SELECT {quote_names([*keys, *sequence])} FROM {stored} "
        f"SEMI JOIN {INCOMING} USING ({quote_names(keys)})"
    )
    new, old = ("(" + ", ".join(f"{side}.{quote_name(column)}" for column in sequence) + ")" for side in ("new", "old"))
    on = " AND ".join(f"old.{quote_name(key)} = new.{quote_name(key)}" for key in keys)
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE {WINNERS} AS SELECT {quote_names(columns)} FROM {INCOMING} AS new "
        f"ANTI JOIN {_STORED} AS old ON {on} AND {old} >= {new}"
    )
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE {_TIES} AS SELECT {quote_names(columns)} FROM {INCOMING} AS new "
        f"SEMI JOIN {_STORED} AS old ON {on} AND {old} = {new}"
    )
    if con.execute(f"SELECT count(*) FROM {_TIES}").fetchone() != (0,):
        same = f"SELECT {quote_names(columns)} FROM {stored} SEMI JOIN {_TIES} USING ({quote_names(keys)})"
        con.execute(f"INSERT INTO {WINNERS} SELECT * FROM {_TIES} EXCEPT {same}")
