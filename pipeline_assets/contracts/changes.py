"""Contracts of silver tables made of changes or of full snapshots, derived from the contract of the source's row.

`state` has one row per key, `history` one row per version of a key; the macros in dbt_project/macros/changes/ make
both. `snapshot_state` has one row per key that a snapshot ever held; the macro of that name makes it. The rows
themselves are described in the model of the source (`models.shop_db`).
"""

import copy
from collections.abc import Sequence
from typing import Annotated, Any

import pandera.polars as pa
import polars as pl

from pipeline_assets.contracts.base import Model

Instant = Annotated[pl.Datetime, "us", "UTC"]
Names = Annotated[pl.List, pl.String]

_UNAVAILABLE = "Columns that are null because no change has held their value yet; normally empty."
_BUCKET = "Partition: a function of the key."
_COMMIT_LSN = "Log position of the commit that last changed the row."
_TX_SEQ = "Place of the change within that transaction."


class _State(pa.DataFrameModel):
    """Columns that a state has beside the source's."""

    own_deleted: pl.Boolean = pa.Field(
        alias="_deleted", description="The row is deleted at the source; all columns but the key are null."
    )
    own_unavailable: Names = pa.Field(alias="_unavailable", description=_UNAVAILABLE)
    own_commit_lsn: pl.Int64 = pa.Field(alias="_commit_lsn", description=_COMMIT_LSN)
    own_tx_seq: pl.Int64 = pa.Field(alias="_tx_seq", description=_TX_SEQ)
    own_changed_at: Instant = pa.Field(alias="_changed_at", description="When that transaction was committed.")
    own_changed_date: pl.Date = pa.Field(alias="_changed_date", description="UTC date of `_changed_at`.")
    own_bucket: pl.Int64 = pa.Field(alias="_bucket", description=_BUCKET)


class _SnapshotState(pa.DataFrameModel):
    """Columns that a state made of snapshots has beside the source's."""

    own_deleted: pl.Boolean = pa.Field(
        alias="_deleted", description="The key is missing from the newest snapshot; all columns but the key are null."
    )
    own_changed_date: pl.Date = pa.Field(
        alias="_changed_date", description="Day of the snapshot that last changed the row."
    )


class _History(pa.DataFrameModel):
    """Columns that a history has beside the source's."""

    valid_from: Instant = pa.Field(description="Start of the version, included.")
    valid_to: Instant = pa.Field(nullable=True, description="End of the version, excluded; null for the last version.")
    is_current: pl.Boolean = pa.Field(description="The last version of a row that is not deleted.")
    is_deleted: pl.Boolean = pa.Field(
        description="The row was deleted at the source during this time; all columns but the key are null."
    )
    own_unavailable: Names = pa.Field(alias="_unavailable", description=_UNAVAILABLE)
    own_commit_lsn: pl.Int64 = pa.Field(alias="_commit_lsn", description=_COMMIT_LSN)
    own_tx_seq: pl.Int64 = pa.Field(alias="_tx_seq", description=_TX_SEQ)
    own_committed_at: Instant = pa.Field(alias="_committed_at", description="When that transaction was committed.")
    own_as_of: Instant = pa.Field(
        alias="_as_of",
        nullable=True,
        description="Of the last version: time up to which it holds changes. The next one does not begin earlier.",
    )
    own_changed_date: pl.Date = pa.Field(
        alias="_changed_date", description="UTC date of the commit that opened, confirmed or closed the version."
    )
    own_bucket: pl.Int64 = pa.Field(alias="_bucket", description=_BUCKET)

    @pa.dataframe_check(error="valid_from < valid_to")
    @classmethod
    def lasts(cls, data: pa.PolarsData) -> pl.LazyFrame:
        """Check that each version lasts some time."""
        return data.lazyframe.select((pl.col("valid_from") < pl.col("valid_to")).fill_null(value=True))

    @pa.dataframe_check(error="is_current follows valid_to and is_deleted")
    @classmethod
    def current_is_last(cls, data: pa.PolarsData) -> pl.LazyFrame:
        """Check that a deleted row has no current version."""
        last_and_alive = pl.col("valid_to").is_null() & ~pl.col("is_deleted")
        return data.lazyframe.select(last_and_alive == pl.col("is_current"))


def state(model: Model, table: str, keys: Sequence[str]) -> Model:
    """Derive the contract of the current state of a source's table.

    Args:
        model: Contract of the source's row.
        table: The silver table.
        keys: Columns that name a row.
    """
    return _derived(model, table, keys, _State, gone="_deleted", doc="Current rows, and tombstones of deleted ones.")


def history(model: Model, table: str, keys: Sequence[str]) -> Model:
    """Derive the contract of the history of a source's table; arguments as for `state`."""
    return _derived(model, table, keys, _History, gone="is_deleted", doc="Versions of rows, without overlap or gap.")


def snapshot_state(model: Model, table: str, keys: Sequence[str]) -> Model:
    """Derive the contract of the state that full snapshots add up to; arguments as for `state`."""
    return _derived(
        model, table, keys, _SnapshotState, gone="_deleted", doc="Rows of the newest snapshot, and tombstones."
    )


def _derived(model: Model, table: str, keys: Sequence[str], own: Model, *, gone: str, doc: str) -> Model:
    """Join the source's columns, null where the row is deleted, with the columns that the silver table adds."""
    required: list[str] = []
    columns: dict[str, Any] = {"__annotations__": {}}
    for at, (name, (annotation, declared)) in enumerate(model.__fields__.items()):
        column = copy.copy(declared)
        column.alias = name  # the source's own name; the class attribute needs one that cannot clash
        if name not in keys:
            required += [] if column.nullable else [name]
            # Both: the second marks the first as set on purpose.
            column.nullable = column.nullable_explicit = True
        columns["__annotations__"][f"source_{at}"] = annotation.raw_annotation
        columns[f"source_{at}"] = column

    def was_sent(name: str) -> pl.Expr:
        """Return whether the source sent the value: a change may leave out a long value, a snapshot holds all."""
        may_be_unavailable = "_unavailable" in own.__fields__
        return ~pl.col("_unavailable").list.contains(name) if may_be_unavailable else pl.lit(value=True)

    def live_rows_are_whole(cls: type, data: pa.PolarsData) -> pl.LazyFrame:
        """Check that live rows hold what the source requires, except values that no change has held yet."""
        missing = (pl.col(name).is_null() & was_sent(name) for name in required)
        return data.lazyframe.select(pl.col(gone) | ~pl.any_horizontal(pl.lit(value=False), *missing))

    class Config:
        """Columns that the source added are allowed beside the contract's."""

        name = table
        strict = False

    check = pa.dataframe_check(error=f"{', '.join(required)}: not null of a live row")
    of_both = {"Config": Config, "live_rows_are_whole": check(classmethod(live_rows_are_whole)), "__doc__": doc}
    class_name = table.replace(".", "_").title().replace("_", "")
    # The columns of base classes come in reverse order, and the source's shall come first.
    return type(class_name, (own, type("Source", (pa.DataFrameModel,), columns)), of_both)
