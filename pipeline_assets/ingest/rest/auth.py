"""The credentials of a declaration, put into each request of a poll.

`secrets` reads them from the environment. `session` asks for a new token when the API refuses the one it was sent.
"""

import json
import re
from base64 import b64encode
from collections.abc import Callable
from functools import partial
from math import inf
from time import monotonic
from urllib.parse import unquote_plus, urlsplit, urlunsplit

from requests import PreparedRequest, Response
from requests.auth import AuthBase

from pipeline_assets.ingest.rest.errors import BrokenBodyError, RestError
from pipeline_assets.ingest.rest.secrets import Secrets
from pipeline_assets.ingest.rest.source import ApiKey, Auth, Basic, Bearer

PutCredentials = Callable[[PreparedRequest], PreparedRequest]
FetchToken = Callable[[str, dict[str, str]], tuple[str, float]]
"""Sends a form to a URL; gives a token and for how many seconds it is valid."""

_TOKENS = ("access_token", "refresh_token", "id_token")
# For how long a token is valid if the answer does not say so: RFC 6749 only recommends `expires_in`.
_TOKEN_SECONDS = 3600


def credentials(declared: Auth | None, secrets: Secrets, fetch: FetchToken) -> PutCredentials | None:
    """Give what puts the declared credentials into a request; None if there are none.

    Raises:
        RestError: The variable of a credential is not set.
    """
    match declared:
        case None:
            return None
        case Bearer():
            return _in_header("Authorization", f"Bearer {secrets.read(declared.token_env)}")
        case Basic():
            pair = f"{secrets.read(declared.user_env)}:{secrets.read(declared.password_env)}"
            encoded = b64encode(pair.encode()).decode()
            secrets.add(encoded)
            return _in_header("Authorization", f"Basic {encoded}")
        case ApiKey(location="header"):
            return _in_header(declared.name, secrets.read(declared.key_env))
        case ApiKey():
            return _in_query(declared.name, secrets.read(declared.key_env))
    form = {
        "client_id": secrets.read(declared.client_id_env),
        "client_secret": secrets.read(declared.client_secret_env),
        "grant_type": "client_credentials",
        "scope": declared.scope,
    }
    return ClientCredentials(partial(fetch, declared.token_url, {name: value for name, value in form.items() if value}))


def _in_header(name: str, value: str) -> PutCredentials:
    def put(request: PreparedRequest) -> PreparedRequest:
        request.headers[name] = value
        return request

    return put


def _in_query(name: str, value: str) -> PutCredentials:
    def put(request: PreparedRequest) -> PreparedRequest:
        parts = urlsplit(request.url or "")
        # The URL of a next page may repeat the key that it was asked for with: two keys are none to some servers.
        others = [part for part in parts.query.split("&") if unquote_plus(part.partition("=")[0]) != name]
        request.prepare_url(urlunsplit(parts._replace(query="&".join(others))), {name: value})
        return request

    return put


class ClientCredentials(AuthBase):
    """A token that is fetched when it is first needed and when it has expired (OAuth 2.0, RFC 6749, 4.4)."""

    def __init__(self, fetch: Callable[[], tuple[str, float]]) -> None:
        self._fetch = fetch
        self._token, self._expires_at = "", -inf

    def forget(self) -> None:
        """Forget the token, because the API refuses it."""
        self._expires_at = -inf

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        """Put the token into a request."""
        if monotonic() >= self._expires_at:
            self._token, seconds = self._fetch()
            self._expires_at = monotonic() + seconds
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def read_token(response: Response, secrets: Secrets) -> tuple[str, float]:
    """Give a token and for how many seconds it is valid. From here on the tokens of the answer are secrets.

    Raises:
        RestError: There is no token in the answer, or not for a number of seconds.
    """
    try:
        found = json.loads(response.content)
    except ValueError as error:
        raise BrokenBodyError(f"the body is not JSON ({error})") from None
    tokens = {name: found.get(name) for name in _TOKENS} if isinstance(found, dict) else {}
    for token in tokens.values():
        if isinstance(token, str) and token:
            secrets.add(token)
    if not isinstance(token := tokens.get("access_token"), str):
        raise RestError("there is no access_token")
    if not re.fullmatch(r"[0-9]+([.][0-9]+)?", str(seconds := found.get("expires_in", _TOKEN_SECONDS))):
        raise RestError("expires_in is not a number of seconds")
    return token, float(seconds)
