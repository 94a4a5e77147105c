"""What conforming knows of a source: its fields, and the query that yields its records. No SQL is made here."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class SourceField:
    """A field of the source.

    Attributes:
        name: Name in the source.
        column: Name of its column in `RecordSet.sql`, a plain SQL identifier.
        dtype: DuckDB type; VARCHAR for CSV, "JSON" for JSON (a VARCHAR with the exact JSON text of the value).
        evolves_to: Type of the column that schema evolution makes of it, if `dtype` does not decide it; "" for a field
            that becomes no column.
    """

    name: str
    column: str
    dtype: str
    evolves_to: str | None = None


class RecordSet(Protocol):
    """Records of any origin, such as `files.formats.records.Records`."""

    @property
    def sql(self) -> str:
        """A SELECT with `_line` BIGINT and one column for each of `fields`.

        If the records can have problems, it also has `_text` and `_problem`.
        """

    @property
    def fields(self) -> tuple[SourceField, ...]:
        """The source's fields, in order."""

    @property
    def has_problems(self) -> bool:
        """Whether `sql` has `_problem` VARCHAR (why it is not a record, or null) and `_text` VARCHAR (the text)."""
