"""What a source of any kind is to the spine, and the one loop that plans, reads, commits, and plans anew.

A new way in implements `Source` and calls `ingest`. What happens between reading and the tables is in `batch`.
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
    """One run's way through a source: what is next, and reading it."""

    @property
    def name(self) -> str:
        """Name of the source, for errors."""

    def plan(self, stack: ExitStack) -> Sequence[Batch] | None:
        """Decide what is read next, from the source and from the positions in the tables' logs.

        Args:
            stack: Takes what has to stay open until the commit: a snapshot of a database, a temporary folder.

        Returns:
            The batches to be filled, in the order of their commits; None if nothing is left to do.
        """

    def read(self, batches: Sequence[Batch]) -> None:
        """Read the plan's records into its batches.

        Raises:
            ReplanError: The plan has to be made again; the source has noted why.
        """

    def committed(self, batches: Sequence[Batch]) -> None:
        """Note that all batches are committed: count them, let the source forget what they hold."""


def ingest(source: Source) -> None:
    """Plan, read and commit until nothing is left to do.

    A plan that another run has overtaken is made anew, as is one that the source calls void.

    Raises:
        CommitConflictError: Other runs of the source were faster each time.
    """

    def step() -> bool:
        with ExitStack() as stack:
            batches = source.plan(stack)
            if batches is None:
                return False
            for batch in batches:
                stack.enter_context(batch)
            source.read(batches)
            for batch in batches:
                batch.commit()
            source.committed(batches)
            return True

    while plan_anew(source.name, step):
        pass


def plan_anew(name: str, attempt: Callable[[], _FoundT]) -> _FoundT:
    """Try until no other run has moved what the attempt rested on.

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
