"""What is derived from a contract: raw shape, column schema, validation in bounded memory, and a registry.

This module works with any Pandera model of `contracts.models`, which holds the models themselves. It knows nothing of
Dagster: `components.assets.contract_checks` turns `column_schema` and `Violations` into Dagster's metadata.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import cast

import pandera.polars as pa
import polars as pl
from pandera.errors import SchemaError, SchemaErrors

from pipeline_assets.contracts import models

Model = type[pa.DataFrameModel]

MAX_CASES = 20
"""At most this many failing cells are kept as examples; all failures are counted."""

_NEAR_NAMES = 5
_DUCKDB_TYPES: Mapping[type[pl.DataType], str] = {
    pl.String: "VARCHAR",
    pl.Int8: "TINYINT",
    pl.Int16: "SMALLINT",
    pl.Int32: "INTEGER",
    pl.Int64: "BIGINT",
    pl.Float32: "FLOAT",
    pl.Float64: "DOUBLE",
    pl.Boolean: "BOOLEAN",
    pl.Date: "DATE",
    pl.Binary: "BLOB",
}


class ContractError(ValueError):
    """A contract cannot be found or used; the message says what to write instead."""


@dataclass(frozen=True)
class RawColumn:
    """A column as ingestion casts to it: DuckDB type, and whether a record without a value is a dead letter.

    `evolved` columns are not in the contract: schema evolution added them. A value that does not fit such a column does
    not make its record a dead letter.
    """

    name: str
    dtype: str
    required: bool = False
    description: str = ""
    evolved: bool = field(default=False, repr=False)


@dataclass(frozen=True)
class RawShape:
    """The columns that a source's records are cast to, in order."""

    columns: tuple[RawColumn, ...]

    def extended(self, columns: Iterable[RawColumn]) -> "RawShape":
        """Return this shape plus the columns that it lacks: those that schema evolution has added to the table."""
        known = {column.name for column in self.columns}
        added = (replace(column, evolved=True) for column in columns if column.name not in known)
        return RawShape((*self.columns, *added))


@dataclass(frozen=True)
class Column:
    """A column as people read it."""

    name: str
    dtype: str
    description: str
    nullable: bool


@dataclass(frozen=True)
class Case:
    """One failing cell.

    Attributes:
        column: The column, or None for a check of the whole row or table.
        check: The check that failed, e.g. `greater_than(0)`.
        value: The failing value as text.
        row: 0-based row over all chunks, None for a failure that does not belong to one row.
    """

    column: str | None
    check: str
    value: str | None
    row: int | None


@dataclass(frozen=True)
class Violations:
    """The outcome of validating a table's rows against its contract.

    Attributes:
        rows: Number of rows that were validated.
        failures: Number of failures: failing cells, plus failures of the whole table such as a missing column.
        failing_rows: Number of rows with at least one failure.
        cases: The first failures, at most `MAX_CASES`.
        by_check: "column: check" to number of failures.
    """

    rows: int = 0
    failures: int = 0
    failing_rows: int = 0
    cases: tuple[Case, ...] = ()
    by_check: Mapping[str, int] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return self.failures == 0


def raw_shape(model: Model) -> RawShape:
    """Return the shape that ingestion casts a source's records to: a column that is not nullable is required."""
    return RawShape(
        tuple(
            RawColumn(c.name, c.dtype, required=not c.nullable, description=c.description) for c in column_schema(model)
        )
    )


def column_schema(model: Model) -> list[Column]:
    """Return name, DuckDB type, description and nullability of each column, in order.

    Raises:
        ContractError: A column's type has no DuckDB type here.
    """
    schema = model.to_schema()
    return [
        Column(
            name, duckdb_type(column.dtype.type, f"{model.__name__}.{name}"), column.description or "", column.nullable
        )
        for name, column in schema.columns.items()
    ]


def duckdb_type(dtype: pl.DataType | type[pl.DataType], where: str = "column") -> str:
    """Return the DuckDB type of a polars type.

    Raises:
        ContractError: The type has no DuckDB type here: no contract uses structs or times yet.
    """
    if isinstance(dtype, pl.List):
        return f"{duckdb_type(cast(pl.DataType, dtype.inner), where)}[]"
    if isinstance(dtype, pl.Decimal):
        return f"DECIMAL({dtype.precision},{dtype.scale})"
    if isinstance(dtype, pl.Datetime):
        if dtype.time_unit != "us":
            raise ContractError(f"{where}: use Datetime('us'), Delta stores microseconds, not {dtype.time_unit}")
        return "TIMESTAMP" if dtype.time_zone is None else "TIMESTAMP WITH TIME ZONE"
    kind = dtype if isinstance(dtype, type) else type(dtype)
    try:
        return _DUCKDB_TYPES[kind]
    except KeyError:
        known = ", ".join(sorted(t.__name__ for t in _DUCKDB_TYPES))
        raise ContractError(
            f"{where}: {dtype} has no DuckDB type here; use Decimal, Datetime, List or one of {known}"
        ) from None


def event_time(model: Model) -> str | None:
    """Return the column with the time of the event, for freshness.

    Return None if the model's metadata names no such column.
    """
    # Not `get_metadata()`, which fails for a model whose `Config` has none (pandera 0.35).
    metadata = getattr(getattr(model, "Config", None), "metadata", None) or {}
    return str(metadata["event_time"]) if metadata.get("event_time") else None


def validate(model: Model, frames: Iterable[pl.DataFrame]) -> Violations:
    """Validate a table chunk by chunk; memory is bounded by the largest chunk.

    Failures are counted, never raised: a wrong type, a missing column and a check that crashes are violations too.
    Uniqueness (`Config.unique`) is checked within a chunk only; give such tables as one frame.

    Args:
        model: The contract.
        frames: Chunks of the table. They must be collected frames: of a LazyFrame, pandera checks the schema alone.

    Returns:
        The violations of all chunks together; without any chunk, a result of zero rows.
    """
    schema = model.to_schema()
    rows = failing_rows = 0
    cases: list[Case] = []
    by_check: Counter[str] = Counter()
    for frame in frames:
        found = list(_failures(schema, frame, rows))
        # a wrong type or a missing column is one failure of the table, not one failure per chunk
        found = [case for case in found if case.row is not None or f"{case.column}: {case.check}" not in by_check]
        by_check.update(f"{case.column}: {case.check}" if case.column else case.check for case in found)
        failing_rows += len({case.row for case in found if case.row is not None})
        cases.extend(found[: MAX_CASES - len(cases)])
        rows += frame.height
    return Violations(rows, sum(by_check.values()), failing_rows, tuple(cases), dict(by_check))


def _failures(schema: pa.DataFrameSchema, frame: pl.DataFrame, first_row: int) -> Iterator[Case]:
    try:
        schema.validate(frame, lazy=True)
    except SchemaErrors as errors:
        for row in errors.failure_cases.iter_rows(named=True):
            index = row["index"]
            yield Case(
                column=_column_of(row),
                check=str(row["check"]),
                value=None if row["failure_case"] is None else str(row["failure_case"])[:500],
                row=None if index is None else first_row + index,
            )
    except SchemaError as error:
        yield Case(None, "schema", str(error)[:500], None)
    except Exception as error:  # noqa: BLE001  a check that crashes must fail the table's check, not the run
        yield Case(None, f"crash: {type(error).__name__}", str(error)[:500], None)


def _column_of(row: Mapping[str, object]) -> str | None:
    if row["schema_context"] == "Column":
        return str(row["column"])
    # for the whole table: the failing "value" of these two checks is the column's name
    return str(row["failure_case"]) if row["check"] in ("column_in_dataframe", "column_in_schema") else None


@cache
def _registry() -> dict[str, Model]:
    """Return all contracts by every name that they have; the name of a table is its model's `Config.name`."""
    found: dict[str, Model] = {}
    for module in (found.name for found in iter_modules(models.__path__)):
        for value in vars(import_module(f"{models.__name__}.{module}")).values():
            if isinstance(value, type) and issubclass(value, pa.DataFrameModel) and value is not pa.DataFrameModel:
                found[f"{module}.{value.__name__}"] = value
                found[str(value.to_schema().name)] = value
    return found


def contract(name: str) -> Model:
    """Return the contract of a table (`silver.invoice_lines`) or of a name such as `shop.InvoiceLines`.

    Raises:
        ContractError: There is no contract of this name; the message lists the nearest names.
    """
    try:
        return _registry()[name]
    except KeyError:
        known = [found for found in _registry() if not found.rpartition(".")[2].startswith("_")]
        near = ", ".join(get_close_matches(name, known, _NEAR_NAMES, cutoff=0))
        raise ContractError(
            f"no contract {name!r} in pipeline_assets/contracts/models/; the nearest are: {near}"
        ) from None


__all__: Sequence[str] = (
    "Case",
    "Column",
    "ContractError",
    "Model",
    "RawColumn",
    "RawShape",
    "Violations",
    "column_schema",
    "contract",
    "duckdb_type",
    "event_time",
    "raw_shape",
    "validate",
)
