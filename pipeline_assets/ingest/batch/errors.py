"""Errors of a batch: nothing of it was committed, and the tables are unchanged."""


class BatchError(Exception):
    """A batch cannot be completed; nothing of it was committed. The message says why and what to do.

    Attributes:
        is_transient: Whether another attempt may succeed although nobody mends anything.
    """

    is_transient = False


class LostRecordsError(BatchError):
    """Fewer records came out of the reading than went in, or more."""

    is_transient = True


class ReplanError(Exception):
    """The plan no longer holds. The source has noted the reason, and its next plan takes it into account."""
