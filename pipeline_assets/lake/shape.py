"""Creates tables and changes their columns and properties. Rows are changed in `table`."""

from collections.abc import Callable, Mapping, Sequence

from deltalake import CommitProperties, DeltaTable, Schema, TableFeatures
from deltalake.exceptions import DeltaError

from pipeline_assets.lake import commit_facts
from pipeline_assets.lake.errors import CommitConflictError
from pipeline_assets.lake.reading import TableReader
from pipeline_assets.lake.sending import failed, send

_ATTEMPTS = 20
_NO_ZONE = "timestamp_ntz"


def create(
    table: TableReader,
    schema: Schema,
    *,
    partition_by: Sequence[str],
    date_column: str | None,
    description: str | None,
) -> None:
    """Create a table unless it exists; add columns that it lacks. See `Table.create`."""
    if not table.exists():
        configuration: dict[str, str | None] = {commit_facts.DATE_COLUMN: date_column} if date_column else {}
        try:
            DeltaTable.create(
                table.uri,
                schema,
                partition_by=list(partition_by),
                name=table.name,
                description=description,
                configuration=configuration,
                storage_options=dict(table.lake.storage_options),
                raise_if_key_not_exists=False,
            )
        except (DeltaError, OSError) as error:
            if not table.exists():  # otherwise another writer created it meanwhile, or the answer was lost
                raise failed(table.name, table.uri, error) from error
    known = {column.name for column in table.open().schema().fields}
    if new := [column for column in schema.fields if column.name not in known]:
        try:
            table.open().alter.add_columns(new)
        except (DeltaError, OSError) as error:
            known = {column.name for column in table.open().schema().fields}
            if any(column.name not in known for column in new):
                raise failed(table.name, table.uri, error) from error


def allow(table: TableReader, schema: Schema) -> None:
    """Let a table have the types of a schema: times without a zone need a Delta feature that old tables lack.

    A commit that brings such a column without the feature makes the table unreadable.
    """
    if _NO_ZONE not in schema.to_json() or _has_times_without_zone(table.open()):
        return
    try:
        table.open().alter.add_feature(TableFeatures.TimestampWithoutTimezone, allow_protocol_versions_increase=True)
    except (DeltaError, OSError) as error:
        if not _has_times_without_zone(table.open()):
            raise failed(table.name, table.uri, error) from error


def _has_times_without_zone(opened: DeltaTable) -> bool:
    return "timestampNtz" in (opened.protocol().writer_features or ())


def set_properties(
    table: TableReader, properties: Mapping[str, str], *, version: int | None, metadata: Mapping[str, str] | None
) -> int:
    """Set table properties in a separate commit. See `Table.set_properties`."""

    def write(opened: DeltaTable) -> Callable[[CommitProperties], object]:
        return lambda facts: opened.alter.set_table_properties(
            dict(properties), raise_if_not_exists=False, commit_properties=facts
        )

    attempts = _ATTEMPTS if version is None else 1
    for _ in range(attempts):
        opened = table.open(version)
        committed = send(table.name, opened, write(opened), metadata=metadata)
        if committed is not None:
            return committed
    raise CommitConflictError(table.name, attempts)
