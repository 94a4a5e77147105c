"""The HTTP session of a poll: it asks one host, slowly enough and patiently, and accepts only whole answers.

dlt's session has the timeouts, its wait honours Retry-After, and tenacity retries. `api` decides what is asked for, and
in which order.

dlt's own retrying client is not used: it waits without jitter, gives up on a body that breaks off within a gzip stream,
follows redirects with the headers that hold a key, and raises errors whose URLs hold one.
"""

from collections.abc import Callable
from math import inf
from time import monotonic, sleep
from typing import Any, Protocol
from urllib.parse import urlsplit

import requests
from dlt.sources.helpers.requests.retry import wait_exponential_retry_after
from dlt.sources.helpers.requests.session import Session
from requests import PreparedRequest, Response
from requests import exceptions as lost
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    retry_if_result,
    stop_after_attempt,
    stop_any,
    wait_random,
)
from tenacity.stop import stop_base

from pipeline_assets.ingest.rest.answer import NO_CONTENT
from pipeline_assets.ingest.rest.errors import BrokenBodyError, OutOfTimeError, RestError, StatusError, UnreachableError
from pipeline_assets.ingest.rest.secrets import Secrets

_ATTEMPTS = 5
_BACKOFF_SECONDS = 1.0
_JITTER_SECONDS = 1.0
# The longest wait of a poll without a time limit.
_LONGEST_WAIT_SECONDS = 86_400.0
_PASSING = (408, 425, 429, *range(500, 600))
_LOST = (lost.ConnectionError, lost.Timeout, lost.ChunkedEncodingError, lost.ContentDecodingError, BrokenBodyError)
_CREDENTIALS = (401, 403)
# No content, reset content, not modified: the answer is empty, and the server means it.
_EMPTY = (204, 205, 304)


class Renewable(Protocol):
    """Auth that can fetch a new token."""

    def obtain_token(self) -> None:
        """Fetch a token."""

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        """Put the token into a request."""


class _Deadline(stop_base):
    """Stops before a wait that would end after the deadline."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline

    def __call__(self, state: RetryCallState) -> bool:
        """Raise OutOfTimeError if the wait would end after the deadline; give False otherwise."""
        if monotonic() + state.upcoming_sleep <= self._deadline or state.attempt_number >= _ATTEMPTS:
            return False
        raise OutOfTimeError(
            f"{_named(state.args[0])}: {_outcome_of(state)}; the next attempt would be in {state.upcoming_sleep:,.0f} "
            "s, after the poll's max_minutes: nothing was committed, and the next poll tries again; raise max_minutes "
            "if polls are to wait longer"
        )


class ApiSession(Session):
    """Sends requests to one host.

    Attributes:
        answer: The last answer, as `read` took it apart.
        renewable: Auth to renew when the API says that the token has expired.
        deadline: When the time for all requests is over.
    """

    def __init__(
        self,
        base_url: str,
        secrets: Secrets,
        read: Callable[[bytes], Any],
        *,
        timeout_seconds: float,
        requests_per_second: float,
        deadline: float = inf,
    ) -> None:
        """Make a session.

        Args:
            base_url: Any URL of the host.
            secrets: What must not stand in a message.
            read: Takes a body apart; raises BrokenBodyError for a body that is worth another try.
            timeout_seconds: How long to wait for a connection, and for the next bytes.
            requests_per_second: The most requests that are sent.
            deadline: When the time for all requests is over, by the monotonic clock.
        """
        super().__init__(timeout=timeout_seconds, raise_for_status=False)
        self.answer: Any = None
        self.renewable: Renewable | None = None
        self.deadline = deadline
        self._base_url = base_url
        self._secrets = secrets
        self._read = read
        self._pause = 1 / requests_per_second
        self._next_at = 0.0

    def send(self, request: PreparedRequest, **kwargs: Any) -> Response:  # noqa: ANN401  as requests has it
        """Send a request until it is answered.

        Raises:
            RestError: No whole answer with a status of success came, or the request is for another host.
        """
        # The rule of requests itself: another host or port, or http instead of https.
        if self.should_strip_auth(self._base_url, request.url or ""):
            raise RestError(
                f"the next page is at {_origin(request.url)}, not at {_origin(self._base_url)}: nothing was asked "
                "there, because the credentials would go along; if the API has moved, declare its new base URL"
            )
        # Redirects are not followed at all: of the headers that may hold a key, requests only removes Authorization.
        kwargs["allow_redirects"] = False
        retrying = Retrying(
            retry=retry_if_result(lambda found: found.status_code in _PASSING) | retry_if_exception_type(_LOST),
            wait=wait_exponential_retry_after(multiplier=_BACKOFF_SECONDS, max=_LONGEST_WAIT_SECONDS)
            + wait_random(0, _JITTER_SECONDS),
            stop=stop_any(stop_after_attempt(_ATTEMPTS), _Deadline(self.deadline)),
            retry_error_callback=_last_outcome,
            sleep=sleep,
        )
        try:
            with self._secrets.hidden_in_log("urllib3.connectionpool"):
                response: Response = retrying(self._attempt, request, **kwargs)
        except requests.RequestException as error:
            # Its text holds the URL, and with it a key; as a cause it would be shown below our error.
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
                self.answer = NO_CONTENT if response.status_code in _EMPTY else self._read(response.content)
            except RestError as error:
                begins = self._secrets.excerpt(response.content)
                raise type(error)(f"{_named(request)}: {error}; the answer begins: {begins!r}") from None
        return response

    def _wait_for_turn(self) -> None:
        early = max(0.0, self._next_at - monotonic())
        if monotonic() + early > self.deadline:
            raise OutOfTimeError(
                "the poll's max_minutes are over before all pages were read: nothing was committed; raise max_minutes, "
                "ask for larger pages, or poll incrementally"
            )
        if early:
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


def _outcome_of(state: RetryCallState) -> str:
    """Say how an attempt ended, without the URL."""
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, Exception):
        return str(error) if isinstance(error, RestError) else _failure(error)
    return f"HTTP {state.outcome.result().status_code}" if state.outcome else "no answer"


def _last_outcome(state: RetryCallState) -> object:
    """Give the last response, or raise the last error."""
    return state.outcome.result() if state.outcome else None


def _named(request: PreparedRequest) -> str:
    """Name a request without its query and user, which may hold a key."""
    return f"{request.method} {_address(request.url)}"


def _address(url: str | None) -> str:
    """Give a URL without user, password and query."""
    parts = urlsplit(url or "")
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}" if host else parts.path


def _origin(url: str | None) -> str:
    parts = urlsplit(url or "")
    return f"{parts.scheme}://{parts.hostname}:{parts.port}" if parts.port else f"{parts.scheme}://{parts.hostname}"


def _failure(error: Exception) -> str:
    """Say what failed, without the URL."""
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
