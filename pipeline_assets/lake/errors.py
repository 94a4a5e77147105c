"""Errors of the lake. Each says which table, what happened and what to do; this module holds nothing else."""

import re
from collections.abc import Mapping

# delta-rs prints a chain of causes: one line each, behind a red arrow.
_ARROWS = re.compile(r"\s*(\x1b\[\d+m)?↳(\x1b\[0m)?\s*")


class LakeError(Exception):
    """Base class of everything that `pipeline_assets.lake` raises on purpose."""


class TableNotFoundError(LakeError):
    """The table has no log yet. Raised only when storage answered that there is no log."""

    def __init__(self, name: str, uri: str) -> None:
        super().__init__(f"table {name} does not exist at {uri}: materialize the asset that writes it first")


class TableUnreadableError(LakeError):
    """The table could not be opened. It is never treated as a missing table, because that would overwrite it."""

    def __init__(self, name: str, uri: str, cause: BaseException) -> None:
        super().__init__(
            f"table {name} at {uri} exists but could not be opened: {reason(cause)}. Nothing was written; mend the "
            "storage (or restore _delta_log) and run again"
        )


class StorageError(LakeError):
    """The storage of the lake failed a write: full, read-only, not allowed, or unreachable.

    The table holds no part of it.
    """

    def __init__(self, uri: str, cause: BaseException, name: str = "", *, tried: str = "written") -> None:
        super().__init__(
            f"{f'table {name}: ' if name else ''}the lake could not be {tried} at {uri}: {reason(cause)}. Nothing "
            "of this write is in the table; free space, or mend the storage (permissions, mount, network), then run "
            "again"
        )


class LakeUnreadableError(LakeError):
    """The storage of the lake failed a query or a read of a table's log."""

    def __init__(self, uri: str, cause: BaseException) -> None:
        super().__init__(
            f"the lake at {uri} could not be read: {reason(cause)}. What was committed before stays, and is not "
            "written twice; mend the storage (permissions, mount, network), then run again"
        )


class WriteRefusedError(LakeError):
    """Delta does not allow a write: the table is append-only, or has features or columns that forbid it."""

    def __init__(self, name: str, cause: BaseException) -> None:
        super().__init__(
            f"table {name}: Delta refused the write: {reason(cause)}. Nothing of it is in the table. Storage is not to "
            "blame: look at the table's properties (delta.appendOnly), the features of its protocol and its columns"
        )


class CommitUnknownError(LakeError):
    """Storage failed during a commit and could not say whether it holds the commit. Nothing was deleted."""

    def __init__(self, name: str, version: int, cause: BaseException) -> None:
        super().__init__(
            f"table {name}: storage failed while version {version} was committed ({reason(cause)}), and does not say "
            "whether the commit is there. No file was deleted. Mend the storage, then run again: what is in the table "
            "is not written twice"
        )


class SchemaMismatchError(LakeError):
    """The rows to write do not have the table's columns and types."""

    def __init__(self, name: str, problems: list[str], remedy: str = "") -> None:
        remedy = remedy or (
            "Cast in the query, let the table evolve (schema_evolution) if the column is new, or change a type of the "
            f"table: pipeline tables retype {name} COLUMN=TYPE"
        )
        super().__init__(f"rows do not fit table {name}: {'; '.join(problems)}. {remedy}")
        self.problems = problems


class TypesMovedError(LakeError):
    """A column has another type than the one that the files were written for: the table was retyped meanwhile."""

    def __init__(self, name: str, problems: list[str]) -> None:
        super().__init__(
            f"table {name}: its types changed while rows were written ({'; '.join(problems)}); nothing of them is in "
            "the table. Run again: they are written for the new types"
        )


class CommitConflictError(LakeError):
    """Other writers won every race for the next version; nothing of this write is in the table."""

    def __init__(self, name: str, attempts: int) -> None:
        super().__init__(f"table {name}: {attempts} attempts to commit met other writers' commits; run again")


class PositionMovedError(LakeError):
    """A position in the log is not the one that this write was planned on: another run was faster.

    Attributes:
        found: Position name to the value that the log holds now (None: not there).
    """

    def __init__(self, name: str, found: Mapping[str, int | None]) -> None:
        self.found = dict(found)
        shown = ", ".join(f"{key}={value}" for key, value in list(self.found.items())[:3])
        super().__init__(f"table {name}: the log moved while the batch was read ({shown}); plan the batch again")


def reason(cause: BaseException) -> str:
    """Return the message of an error of delta-rs, DuckDB or the system, in one line."""
    return _ARROWS.sub(": ", str(cause).strip()).split("\n")[0].strip() or type(cause).__name__
