"""The HTTP session of a poll: one host, slowly enough, patiently, and nothing but whole answers.

dlt's session has the timeouts, its wait honours Retry-After, tenacity does the retrying. What is asked for, and in
which order, is in `api`.

dlt's own retrying client is not used: it waits without jitter, gives up on a body that breaks off within a gzip
stream, follows redirects with the headers that hold a key, and raises errors whose URLs hold one.
"""

from collections.abc import Callable
from time import monotonic, sleep
from typing import Any, Protocol
from urllib.parse import urlsplit

import requests
from dlt.sources.helpers.requests.retry import wait_exponential_retry_after
from dlt.sources.helpers.requests.session import Session
from requests import PreparedRequest, Response
from requests import exceptions as lost
from tenacity import RetryCallState, Retrying, retry_if_exception_type, retry_if_result, stop_after_attempt, wait_random

from pipeline_assets.ingest.rest.errors import BrokenBodyError, RestError, StatusError, UnreachableError
from pipeline_assets.ingest.rest.secrets import Secrets

_ATTEMPTS = 5
_BACKOFF_SECONDS = 1.0
_JITTER_SECONDS = 1.0
# Some APIs count calls by the hour, and say to come back in the next one.
_LONGEST_WAIT_SECONDS = 3600.0
_PASSING = (408, 425, 429, *range(500, 600))
_LOST = (lost.ConnectionError, lost.Timeout, lost.ChunkedEncodingError, lost.ContentDecodingError, BrokenBodyError)
_CREDENTIALS = (401, 403)


class Renewable(Protocol):
    """Auth whose token can be fetched anew."""

    def obtain_token(self) -> None:
        """Fetches a token."""

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        """Puts the token into a request."""


class ApiSession(Session):
    """Sends requests to one host.

    Attributes:
        answer: What the last answer held, as `read` took it apart.
        renewable: Auth to renew when the API takes the token for expired.
    """

    def __init__(
        self,
        base_url: str,
        secrets: Secrets,
        read: Callable[[bytes], Any],
        *,
        timeout_seconds: float,
        requests_per_second: float,
    ) -> None:
        """Makes a session.

        Args:
            base_url: Any URL of the host.
            secrets: What must not stand in a message.
            read: Takes a body apart; raises BrokenBodyError for one that is worth another try.
            timeout_seconds: To wait for a connection, and for the next bytes.
            requests_per_second: The most that is sent.
        """
        super().__init__(timeout=timeout_seconds, raise_for_status=False)
        self.answer: Any = None
        self.renewable: Renewable | None = None
        self._base_url = base_url
        self._secrets = secrets
        self._read = read
        self._pause = 1 / requests_per_second
        self._next_at = 0.0

    def send(self, request: PreparedRequest, **kwargs: Any) -> Response:  # noqa: ANN401  as requests has it
        """Sends a request until it is answered.

        Raises:
            RestError: There is no whole answer with a status of success, or the request is for another host.
        """
        # The rule of requests itself: another host or port, or https given up.
        if self.should_strip_auth(self._base_url, request.url or ""):
            raise RestError(
                f"the next page is at {_origin(request.url)}, not at {_origin(self._base_url)}: nothing was asked "
                "there, because the credentials would go along; if the API has moved, declare its new base URL"
            )
        # Not followed at all: of what may hold a key requests takes only the header Authorization off.
        kwargs["allow_redirects"] = False
        retrying = Retrying(
            retry=retry_if_result(lambda found: found.status_code in _PASSING) | retry_if_exception_type(_LOST),
            wait=wait_exponential_retry_after(multiplier=_BACKOFF_SECONDS, max=_LONGEST_WAIT_SECONDS)
            + wait_random(0, _JITTER_SECONDS),
            stop=stop_after_attempt(_ATTEMPTS),
            retry_error_callback=_last_outcome,
            sleep=sleep,
        )
        try:
            with self._secrets.hidden_in_log("urllib3.connectionpool"):
                response: Response = retrying(self._attempt, request, **kwargs)
        except requests.RequestException as error:
            # Its text holds the URL, and with it a key; as a cause it would be shown below ours.
            failed = self._secrets.hide(_failure(error))
            kind = UnreachableError if isinstance(error, _LOST) else RestError
            raise kind(
                f"{_named(request)}: {failed}; {retrying.statistics['attempt_number']} attempts were made"
            ) from None
        if not response.ok or response.is_redirect:
            raise self._refused(request, response, retrying.statistics["attempt_number"])
        return response

    def _attempt(self, request: PreparedRequest, **kwargs: Any) -> Response:  # noqa: ANN401
        self._wait_for_turn()
        response: Response = super().send(request, **kwargs)
        if response.status_code == 401 and self.renewable:
            self.renewable.obtain_token()
            self.renewable(request)
            self._wait_for_turn()
            response = super().send(request, **kwargs)
        if response.ok and not response.is_redirect:
            try:
                self.answer = self._read(response.content)
            except RestError as error:
                begins = self._secrets.excerpt(response.content)
                raise type(error)(f"{_named(request)}: {error}; the answer begins: {begins!r}") from None
        return response

    def _wait_for_turn(self) -> None:
        if (early := self._next_at - monotonic()) > 0:
            sleep(early)
        self._next_at = monotonic() + self._pause

    def _refused(self, request: PreparedRequest, response: Response, attempts: int) -> StatusError:
        status = response.status_code
        if response.is_redirect:
            target = self._secrets.hide(_address(response.headers["location"]))
            remedy = f"it points to {target}; redirects are not followed, because the credentials would go along"
        elif status in _CREDENTIALS:
            remedy = "check the credentials and what they may read"
        elif status in _PASSING:
            remedy = f"{attempts} attempts were made; the next poll tries again"
        else:
            remedy = "check path and params"
        begins = self._secrets.excerpt(response.content)
        said = f"; the answer begins: {begins!r}" if begins else ""
        return StatusError(f"{_named(request)}: HTTP {status}: {remedy}{said}", status, is_transient=status in _PASSING)


def _last_outcome(state: RetryCallState) -> object:
    """Gives the last response, or raises the last error."""
    return state.outcome.result() if state.outcome else None


def _named(request: PreparedRequest) -> str:
    """Names a request without its query and user, which may hold a key."""
    return f"{request.method} {_address(request.url)}"


def _address(url: str | None) -> str:
    """A URL without user, password and query."""
    parts = urlsplit(url or "")
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}" if host else parts.path


def _origin(url: str | None) -> str:
    parts = urlsplit(url or "")
    return f"{parts.scheme}://{parts.hostname}:{parts.port}" if parts.port else f"{parts.scheme}://{parts.hostname}"


def _failure(error: Exception) -> str:
    """Says what failed, without the URL."""
    if isinstance(error, lost.ConnectTimeout):
        return "no connection in time"
    if isinstance(error, lost.Timeout):
        return "no answer in time"
    if isinstance(error, lost.ChunkedEncodingError | lost.ContentDecodingError):
        return "the answer broke off"
    if isinstance(error, lost.ConnectionError):
        cause = error.args[0] if error.args else error
        return f"no connection, or it was lost ({str(getattr(cause, 'reason', cause)).rpartition(': ')[2]})"
    return f"{type(error).__name__}: {error}"
