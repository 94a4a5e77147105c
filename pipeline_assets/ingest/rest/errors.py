"""Errors of a poll. Nothing of an incomplete poll is ever committed, so each of them means: the table is as it was."""

from pipeline_assets.ingest.batch.errors import BatchError


class RestError(BatchError):
    """An API does not answer as declared. The message says which request, what came and what to do; never a secret."""


class UnreachableError(RestError):
    """There is no answer, whatever was tried."""

    is_transient = True


class OutOfTimeError(RestError):
    """The time of the poll is over, or would be before the API wants to be asked again: the next poll is to try it."""


class StatusError(RestError):
    """An API refuses a request.

    Attributes:
        status: The HTTP status.
    """

    def __init__(self, message: str, status: int, *, is_transient: bool) -> None:
        super().__init__(message)
        self.status = status
        self.is_transient = is_transient


class BrokenBodyError(RestError):
    """An answer ended too early, or is not JSON: worth another try, because proxies do this when a server restarts."""

    is_transient = True


class IncompleteError(RestError):
    """The pages are not the whole: worth a second try from the first page on, as the source may have moved."""

    is_transient = True
