"""The dead letters that a notebook has gathered, until they are saved. What makes them is in `ingest.conform`."""

from hashlib import blake2b

import duckdb
import pyarrow as pa

from pipeline_assets.lake.dead_letters import COLUMNS, append
from pipeline_assets.notebook.frames import EXTRACTED_TYPE, SOURCE_TYPE
from pipeline_assets.notebook.places import table_at

_TYPES = {"DATE": pa.date32(), "VARCHAR": pa.string(), "TIMESTAMPTZ": EXTRACTED_TYPE}
_SCHEMA = pa.schema([(name, _TYPES.get(kind, SOURCE_TYPE)) for name, kind in COLUMNS.items()])


def letters_of(
    con: duckdb.DuckDBPyConnection, relation: str, *, extracted_at: str, source: str, batch: str
) -> pa.Table:
    """The dead letters among records.

    Args:
        con: Connection of the records.
        relation: What `fit_sql` gives, or a table of it.
        extracted_at: SQL of when each was read.
        source: SQL of where each is from, as file and line.
        batch: SQL of the name of its batch.

    Returns:
        Rows of `lake.dead_letters.COLUMNS`.
    """
    found = {
        "_partition_date": extracted_at, "_batch_id": batch, "_extracted_at": extracted_at, "_source": source,
        "reason": "_reason", "raw": "_raw",
    }  # fmt: skip
    selected = ", ".join(f"CAST({found[name]} AS {kind}) AS {name}" for name, kind in COLUMNS.items())
    rows = con.execute(f"SELECT {selected} FROM {relation} WHERE _reason IS NOT NULL ORDER BY _line")
    return rows.to_arrow_table().cast(_SCHEMA)


class LetterBox:
    """Dead letters in the order of their coming. The same ones again, of a cell that is run twice, are in it once."""

    def __init__(self) -> None:
        self._pending: dict[str, pa.Table] = {}
        self._known: set[str] = set()

    def add(self, letters: pa.Table) -> None:
        """Takes in what `letters_of` gives."""
        # A frame that was not extracted has no time of its own: the one of its validation names nothing.
        name = _name(repr(letters.drop_columns(["_partition_date", "_extracted_at"]).to_pylist()))
        if letters.num_rows and name not in self._known:
            self._known.add(name)
            self._pending[name] = letters

    @property
    def pending(self) -> pa.Table:
        """What was not saved yet: rows of `lake.dead_letters.COLUMNS`."""
        return pa.concat_tables([_SCHEMA.empty_table(), *self._pending.values()])

    def save(self, path: str) -> int:
        """Appends what is pending to the Delta table at a path, once, and forgets it. Gives the rows written."""
        letters = self.pending
        if not letters.num_rows:
            return 0
        table = table_at(path)
        with table.lake.connect() as con:
            con.register("letters", letters)
            version = append(con, table, "SELECT * FROM letters", batch_id=f"notebook {_name(*self._pending)}")
        self._pending.clear()
        return 0 if version is None else int(letters.num_rows)


def _name(*texts: str) -> str:
    return blake2b("\n".join(texts).encode(), digest_size=16).hexdigest()
