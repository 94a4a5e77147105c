"""The dead letters that a notebook has gathered, until they are saved.

`ingest.conform` finds them.
"""

from hashlib import blake2b
from pathlib import Path

import duckdb
import pyarrow as pa

from pipeline_assets.lake.dead_letters import COLUMNS, append
from pipeline_assets.notebook.frames import scratch
from pipeline_assets.notebook.places import table_at


def dead_letters_of(
    con: duckdb.DuckDBPyConnection, relation: str, *, extracted_at: str, source: str, batch: str
) -> pa.Table:
    """Select the dead letters among records.

    Args:
        con: Connection of the records, in UTC.
        relation: The query of `fit_sql`, or a table made of it.
        extracted_at: SQL of when each was read.
        source: SQL of where each comes from, as file and line.
        batch: SQL of the name of its batch.

    Returns:
        Rows of `lake.dead_letters.COLUMNS`.
    """
    found = {
        "_partition_date": extracted_at, "_batch_id": batch, "_extracted_at": extracted_at, "_source": source,
        "reason": "_reason", "raw": "_raw", "records": "1",
    }  # fmt: skip
    selected = ", ".join(f"CAST({found[name]} AS {kind}) AS {name}" for name, kind in COLUMNS.items())
    rows = con.execute(f"SELECT {selected} FROM {relation} WHERE _reason IS NOT NULL ORDER BY _line")
    return rows.to_arrow_table()


class DeadLetterBox:
    """Dead letters in batches, one for each call that gave some, in order of arrival; an equal batch is kept once."""

    def __init__(self) -> None:
        self._pending: dict[str, pa.Table] = {}

    def add(self, dead_letters: pa.Table) -> None:
        """Add a result of `dead_letters_of`."""
        if dead_letters.num_rows:
            # A frame that was not extracted only has the time of its validation, which must not name the batch.
            content = repr(dead_letters.drop_columns(["_partition_date", "_extracted_at"]).to_pylist())
            self._pending[blake2b(content.encode(), digest_size=16).hexdigest()] = dead_letters

    @property
    def pending(self) -> pa.Table:
        """The dead letters that were not saved yet: rows of `lake.dead_letters.COLUMNS`."""
        return pa.concat_tables(self._pending.values()) if self._pending else _no_dead_letters()

    def save(self, path: str | Path) -> int:
        """Append the pending dead letters to the Delta table at a path, each batch once.

        Forget them and return their number.
        """
        table, written = table_at(path), 0
        with table.lake.errors_explained(), table.lake.connect() as con:
            for name, dead_letters in list(self._pending.items()):
                con.register("letters", dead_letters)
                if append(con, table, "SELECT * FROM letters", batch_id=f"notebook {name}") is not None:
                    written += dead_letters.num_rows
                del self._pending[name]
        return written


def _no_dead_letters() -> pa.Table:
    with scratch() as con:
        nothing = ", ".join(f"NULL::{kind} AS {name}" for name, kind in COLUMNS.items())
        return con.sql(f"SELECT {nothing} LIMIT 0").to_arrow_table()
