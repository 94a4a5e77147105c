"""Errors of a poll. An incomplete poll is never committed, so after each of them the table is unchanged."""

from pipeline_assets.ingest.batch.errors import BatchError


class RestError(BatchError):
    """An API does not answer as declared. The message names request, answer and remedy, but never a secret."""


class UnreachableError(RestError):
    """No answer came, whatever was tried."""

    is_transient = True


class OutOfTimeError(RestError):
    """The time of the poll is over, or will be before the API wants to be asked again: the next poll tries again."""


class StatusError(RestError):
    """An API refuses a request.

    Attributes:
        status: The HTTP status.
        retry_after_seconds: When to ask again, as the API says; 0 or less if it does not say.
    """

    def __init__(self, message: str, status: int, *, is_transient: bool, retry_after_seconds: float = 0) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_seconds = retry_after_seconds
        self.is_transient = is_transient


class BrokenBodyError(RestError):
    """An answer ended too early, or is not JSON. Another try is worth it: proxies do this when a server restarts."""

    is_transient = True


class IncompleteError(RestError):
    """The pages are not complete. A second try from the first page on is worth it, as the source may have moved."""

    is_transient = True
