"""What the spine needs of a source of any kind, and the one loop that plans, reads, commits, and plans anew.

A new kind of source implements `Source` and calls `ingest`. What happens between reading and the tables is in `batch`.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Protocol, TypeVar

from pipeline_assets.ingest.batch.batch import Batch
from pipeline_assets.ingest.batch.errors import ReplanError
from pipeline_assets.lake import CommitConflictError, PositionMovedError, TypesMovedError

ATTEMPTS = 8
"""How often a plan is made before a run gives up because other runs of the source were faster each time."""

_FoundT = TypeVar("_FoundT")


class Source(Protocol):
    """A source as a run sees it: it plans what is new, and reads it."""

    @property
    def name(self) -> str:
        """Name of the source, for errors."""

    def plan(self, stack: ExitStack) -> Sequence[Batch]:
        """Decide what is read, from the source and from the positions in the tables' logs.

        Args:
            stack: Holds what has to stay open until the commit: a snapshot of a database, a temporary folder.

        Returns:
            The batches to be filled, in the order of their commits; empty if nothing is new.
        """

    def read(self, batches: Sequence[Batch]) -> None:
        """Read the plan's records into its batches.

        Raises:
            ReplanError: The plan has to be made again; the source has noted the reason.
        """


def ingest(source: Source) -> Sequence[Batch]:
    """Plan, read and commit what is new in a source.

    The source plans anew if another run has overtaken its plan, or if it raises `ReplanError` itself.

    Returns:
        The batches that were committed; empty if nothing was new.

    Raises:
        CommitConflictError: Other runs of the source were faster each time.
    """

    def attempt() -> Sequence[Batch]:
        with ExitStack() as stack:
            batches = source.plan(stack)
            for batch in batches:
                stack.enter_context(batch)
            if batches:
                source.read(batches)
            for batch in batches:
                batch.commit()
            return batches

    return plan_anew(source.name, attempt)


def plan_anew(name: str, attempt: Callable[[], _FoundT]) -> _FoundT:
    """Repeat an attempt until no other run has moved the positions that it was planned on.

    Args:
        name: Of the source or table, for the error.
        attempt: Plans, reads and commits.

    Raises:
        CommitConflictError: Other runs were faster each time.
    """
    moved = 0
    while moved < ATTEMPTS:
        try:
            return attempt()
        except ReplanError:
            continue
        except (PositionMovedError, TypesMovedError):
            moved += 1
    raise CommitConflictError(name, ATTEMPTS)
