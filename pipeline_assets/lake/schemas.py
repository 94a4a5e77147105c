"""Compares the schema of a table with that of rows. Nothing is read or written here."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from deltalake import Schema

_DIGITS = {"byte": 3, "short": 5, "integer": 10, "long": 19}
_IN_DUCKDB = {
    "byte": "TINYINT",
    "short": "SMALLINT",
    "integer": "INTEGER",
    "long": "BIGINT",
    "timestamp": "TIMESTAMPTZ",
    "timestamp_ntz": "TIMESTAMP",
}
# A float holds all whole numbers up to 2^24, a double those up to 2^53.
_WIDER = {
    "byte": {"float", "double"},
    "short": {"float", "double"},
    "integer": {"double"},
    "float": {"double"},
    "date": {"timestamp", "timestamp_ntz"},
}


@dataclass(frozen=True)
class Widening:
    """A column whose type becomes wider; types are DuckDB's names.

    Attributes:
        column: Its name.
        stored: The type that the table has.
        wanted: The wider type.
    """

    column: str
    stored: str
    wanted: str

    def __str__(self) -> str:
        return f"{self.column}: {self.stored} -> {self.wanted}"


def types(schema: Schema) -> dict[str, str]:
    """Return each column's Delta type as text, in the schema's order."""
    return {column.name: str(getattr(column.type, "type", column.type)) for column in schema.fields}


def misfits(wanted: Mapping[str, str], given: Mapping[str, str]) -> list[str]:
    """List why rows do not fit a table.

    Args:
        wanted: `types` of the table.
        given: `types` of the rows.
    """
    problems = [f"column {name} is missing" for name in wanted if name not in given]
    problems += [f"column {name} is new ({kind})" for name, kind in given.items() if name not in wanted]
    problems += [
        f"column {name} is {given[name]}, the table has {kind}"
        for name, kind in wanted.items()
        if name in given and given[name] != kind
    ]
    return problems


def moved(written: Mapping[str, str], stored: Mapping[str, str]) -> list[str]:
    """List the columns whose type in the table differs from the type that rows were written with."""
    return [
        f"column {name} was {kind}, the table has {stored[name]}"
        for name, kind in written.items()
        if stored.get(name, kind) != kind
    ]


def is_widening(stored: str, wanted: str) -> bool:
    """Tell whether each value of one Delta type is the same value in another one."""
    if wanted in _WIDER.get(stored, ()):
        return True
    if stored in _DIGITS and wanted in _DIGITS:
        return _DIGITS[stored] < _DIGITS[wanted]
    if (digits := _digits(stored)) is None or (room := _digits(wanted)) is None or not wanted.startswith("decimal"):
        return False
    return stored != wanted and digits[0] <= room[0] and digits[1] <= room[1]


def in_duckdb(kind: str) -> str:
    """Return DuckDB's name of a Delta type."""
    return _IN_DUCKDB.get(kind, kind).upper()


def widenings(stored: Mapping[str, str], wanted: Mapping[str, str]) -> list[Widening]:
    """List the columns whose type becomes wider."""
    return [
        Widening(name, in_duckdb(stored[name]), in_duckdb(kind))
        for name, kind in wanted.items()
        if name in stored and is_widening(stored[name], kind)
    ]


def _digits(kind: str) -> tuple[int, int] | None:
    """Return the digits before and after the decimal point; None for a type that is not an exact number."""
    if found := re.fullmatch(r"decimal\((\d+), ?(\d+)\)", kind):
        return int(found[1]) - int(found[2]), int(found[2])
    return (_DIGITS[kind], 0) if kind in _DIGITS else None
