"""Errors of a batch: nothing of it was committed, the tables are as they were."""


class BatchError(Exception):
    """A batch cannot be completed; nothing of it was committed. The message says why and what to do.

    Attributes:
        is_transient: Whether the same again may work without anybody's help.
    """

    is_transient = False


class LostRecordsError(BatchError):
    """Fewer records came out of the reading than went in, or more."""

    is_transient = True


class ReplanError(Exception):
    """The plan no longer holds, for a reason that the source has noted: the next plan goes without it."""
