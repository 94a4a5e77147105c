"""The HTTP session of a poll: it asks one host, slowly enough and patiently, and accepts only whole answers.

`api` decides what is asked for, and in which order.
"""

import re
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from time import monotonic, sleep, time
from typing import TypeVar
from urllib.parse import urlsplit

from requests import PreparedRequest, Request, Response, Session
from requests import exceptions as lost
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_combine, wait_random

from pipeline_assets.ingest.rest.auth import ClientCredentials
from pipeline_assets.ingest.rest.errors import OutOfTimeError, RestError, StatusError, UnreachableError
from pipeline_assets.ingest.rest.secrets import Secrets
from pipeline_assets.ingest.rest.source import RestSource

_ATTEMPTS = 5
_BACKOFF_SECONDS = 1.0
_JITTER_SECONDS = 1.0
# The longest wait of a poll without a time limit.
_LONGEST_WAIT_SECONDS = 86_400.0
_SUCCESS = (*range(200, 300), 304)
_PASSING = (408, 425, 429, *range(500, 600))
_LOST = (lost.ConnectionError, lost.Timeout, lost.ChunkedEncodingError, lost.ContentDecodingError)
_CREDENTIALS = (401, 403)

T = TypeVar("T")


class ApiSession(Session):
    """Sends requests to one host."""

    def __init__(self, base_url: str, source: RestSource, secrets: Secrets, deadline: float) -> None:
        """Make a session.

        Args:
            base_url: Any URL of the host.
            source: How fast the host may be asked, and how long to wait for it.
            secrets: What must not stand in a message.
            deadline: When the time for all requests is over, by the monotonic clock.
        """
        super().__init__()
        # Or requests looks into ~/.netrc for credentials that nobody declared and that no message would hide.
        self.auth = lambda request: request
        self._base_url = base_url
        self._timeout_seconds, self._pause = source.timeout_seconds, 1 / source.requests_per_second
        self._secrets = secrets
        self._deadline = deadline
        self._next_at = 0.0

    def ask(self, asked: Request, read: Callable[[Response], T]) -> tuple[Response, T]:
        """Send a request until it is answered. Give the answer, and what was read from it.

        Args:
            asked: The request. If its token is refused, it is sent once more with a new one.
            read: Takes an answer apart; raises BrokenBodyError for a body that is worth another try.

        Raises:
            RestError: No whole answer with a status of success came, or the request is for another host.
        """
        request = self.prepare_request(asked)
        # The rule of requests itself: another host or port, or http instead of https.
        if self.should_strip_auth(self._base_url, request.url or ""):
            raise RestError(
                f"the next page is at {_origin(request.url)}, not at {_origin(self._base_url)}: nothing was asked "
                "there, because the credentials would go along; if the API has moved, declare its new base URL"
            )
        try:
            return self._ask_patiently(request, read)
        except StatusError as error:
            if error.status != 401 or not isinstance(asked.auth, ClientCredentials):
                raise
        asked.auth.forget()
        return self._ask_patiently(asked.auth(request), read)

    def _ask_patiently(self, request: PreparedRequest, read: Callable[[Response], T]) -> tuple[Response, T]:
        retrying = Retrying(
            retry=retry_if_exception(_may_pass),
            wait=wait_combine(_seconds_to_wait, wait_random(0, _JITTER_SECONDS)),
            stop=self._is_enough,
            sleep=sleep,
            reraise=True,
        )
        try:
            with self._secrets.hidden_in_log("urllib3.connectionpool"):
                return retrying(self._attempt, request, read)
        except _LOST as error:
            # Its text holds the URL, and with it a key; as a cause it would be shown below our error.
            failed = self._secrets.hide(_failure(error))
            raise UnreachableError(f"{_named(request)}: {failed}; {_ATTEMPTS} attempts were made") from None

    def _attempt(self, request: PreparedRequest, read: Callable[[Response], T]) -> tuple[Response, T]:
        self._wait_for_turn()
        options = self.merge_environment_settings(request.url or "", {}, None, None, None)
        # Redirects are not followed at all: of the headers that may hold a key, requests only removes Authorization.
        response = self.send(request, timeout=self._timeout_seconds, allow_redirects=False, **options)
        if response.status_code not in _SUCCESS:
            raise self._refused(request, response)
        try:
            return response, read(response)
        except RestError as error:
            begins = self._secrets.excerpt(response.content)
            raise type(error)(f"{_named(request)}: {error}; the answer begins: {begins!r}") from None

    def _wait_for_turn(self) -> None:
        early = max(0.0, self._next_at - monotonic())
        if monotonic() + early > self._deadline:
            raise OutOfTimeError(
                "the poll's max_minutes are over before all pages were read: nothing was committed; raise max_minutes, "
                "ask for larger pages, or poll incrementally"
            )
        if early:
            sleep(early)
        self._next_at = monotonic() + self._pause

    def _is_enough(self, state: RetryCallState) -> bool:
        """Tell whether no further attempt follows.

        Raises:
            OutOfTimeError: The wait for the next attempt would end after the deadline.
        """
        if state.attempt_number >= _ATTEMPTS:
            return True
        if monotonic() + state.upcoming_sleep <= self._deadline:
            return False
        error = state.outcome.exception() if state.outcome else None
        raise OutOfTimeError(
            f"{_named(state.args[0])}: {_failure(error)}; the next attempt would be in {state.upcoming_sleep:,.0f} "
            "s, after the poll's max_minutes: nothing was committed, and the next poll tries again; raise max_minutes "
            "if polls are to wait longer"
        )

    def _refused(self, request: PreparedRequest, response: Response) -> StatusError:
        status = response.status_code
        if response.is_redirect:
            target = self._secrets.hide(_address(response.headers["location"]))
            remedy = f"it points to {target}; redirects are not followed, because the credentials would go along"
        elif status in _CREDENTIALS:
            remedy = "check the credentials and what they may read"
        elif status in _PASSING:
            remedy = f"{_ATTEMPTS} attempts were made; the next poll tries again"
        else:
            remedy = "check path and params"
        begins = self._secrets.excerpt(response.content)
        said = f"; the answer begins: {begins!r}" if begins else ""
        return StatusError(
            f"{_named(request)}: HTTP {status}: {remedy}{said}",
            status,
            is_transient=status in _PASSING,
            retry_after_seconds=_retry_after(response.headers.get("Retry-After", "")),
        )


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, _LOST) or (isinstance(error, RestError) and error.is_transient)


def _seconds_to_wait(state: RetryCallState) -> float:
    """Give how long to wait after an attempt: as the API says, otherwise twice as long as after the attempt before."""
    error = state.outcome.exception() if state.outcome else None
    told = error.retry_after_seconds if isinstance(error, StatusError) else 0
    return told if told > 0 else _BACKOFF_SECONDS * 2 ** (state.attempt_number - 1)


def _retry_after(header: str) -> float:
    """Give the seconds that a header `Retry-After` tells, in seconds or as a date; 0 if it cannot be read."""
    if re.fullmatch(r"\s*[0-9]+\s*", header):
        return min(float(header), _LONGEST_WAIT_SECONDS)
    try:
        return min(parsedate_to_datetime(header).timestamp() - time(), _LONGEST_WAIT_SECONDS)
    except (ValueError, OverflowError):
        return 0


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


def _failure(error: BaseException | None) -> str:
    """Say what failed, without the query of the URL."""
    if isinstance(error, StatusError):
        return f"HTTP {error.status}"
    if isinstance(error, RestError):
        return str(error)
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
