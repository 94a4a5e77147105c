"""Errors of the lake. Each says which table, what happened and what to do; nothing else lives here."""

from collections.abc import Mapping


class LakeError(Exception):
    """Base class of everything that `pipeline_assets.lake` raises on purpose."""


class TableNotFoundError(LakeError):
    """The table has no log yet. Only raised when storage answered that there is none."""

    def __init__(self, name: str, uri: str) -> None:
        super().__init__(f"table {name} does not exist at {uri}: materialize the asset that writes it first")


class TableUnreadableError(LakeError):
    """The table could not be opened. Never taken for "there is no table": that would overwrite it."""

    def __init__(self, name: str, uri: str, cause: BaseException) -> None:
        reason = str(cause).splitlines()[0] if str(cause) else type(cause).__name__
        super().__init__(
            f"table {name} at {uri} exists but could not be opened: {reason}. Nothing was written; mend the storage "
            "(or restore _delta_log) and run again"
        )


class SchemaMismatchError(LakeError):
    """The rows to write do not have the table's columns and types."""

    def __init__(self, name: str, problems: list[str]) -> None:
        super().__init__(
            f"rows do not fit table {name}: {'; '.join(problems)}. Cast in the query, or let the table evolve "
            "(schema_evolution) if the column is new"
        )


class CommitConflictError(LakeError):
    """Other writers won every race for the next version; nothing of this write is in the table."""

    def __init__(self, name: str, attempts: int) -> None:
        super().__init__(f"table {name}: {attempts} attempts to commit met other writers' commits; run again")


class PositionMovedError(LakeError):
    """A position in the log is not the one this write was planned on: another run was faster.

    Attributes:
        found: Position name to the value that the log holds now (None = not there).
    """

    def __init__(self, name: str, found: Mapping[str, int | None]) -> None:
        self.found = dict(found)
        shown = ", ".join(f"{key}={value}" for key, value in list(self.found.items())[:3])
        super().__init__(f"table {name}: the log moved while the batch was read ({shown}); plan the batch again")
