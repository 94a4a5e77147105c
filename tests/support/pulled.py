"""What tests of pulls share: a contract, and records that come from a list."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

import pandera.polars as pa
import polars as pl

from pipeline_assets.ingest.conform.fields import SourceField


class Payments(pa.DataFrameModel):
    """A payment of an order."""

    payment_id: int = pa.Field()
    amount: Annotated[pl.Decimal, 12, 2] = pa.Field()
    note: str = pa.Field(nullable=True)
    updated_at: Annotated[pl.Datetime, "us", "UTC"] = pa.Field(nullable=True)


class Strict(Payments):
    """Payments that all have their time."""

    updated_at: Annotated[pl.Datetime, "us", "UTC"] = pa.Field()


@dataclass(frozen=True)
class Listed:
    """Records as text, in the order of their fields."""

    fields: tuple[SourceField, ...]
    sql: str
    has_problems: bool = False


def listed(*records: tuple[object, ...], names: str = "payment_id amount note updated_at") -> Listed:
    fields = tuple(SourceField(name, f"f{i}", "VARCHAR") for i, name in enumerate(names.split()))
    shown = ["(" + ", ".join([str(n), *map(_literal, record)]) + ")" for n, record in enumerate(records, 1)]
    columns = ", ".join(["_line", *(field.column for field in fields)])
    empty = ", ".join(["1", *("NULL" for _ in fields)])
    rows = f"VALUES {', '.join(shown)}" if shown else f"SELECT {empty} WHERE false"
    casts = ", ".join(["_line::BIGINT AS _line", *(f"{field.column}::VARCHAR AS {field.column}" for field in fields)])
    return Listed(fields, f"SELECT {casts} FROM ({rows}) AS t({columns})")


def _literal(value: object) -> str:
    return "NULL" if value is None else "'" + str(value).replace("'", "''") + "'"


def at(text: str) -> datetime:
    return datetime.fromisoformat(f"{text}+00:00")
