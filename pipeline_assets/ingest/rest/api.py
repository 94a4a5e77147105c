"""A declared API, asked with dlt's REST client: auth, and page after page.

`paging` finds the way from one page to the next, `session` sends a request, `answer` takes an answer apart.
"""

import json
from collections.abc import Iterator, Mapping
from functools import partial
from math import inf
from typing import Any, cast

import requests
from dlt.common import jsonpath
from dlt.common.configuration.specs.runtime_configuration import RuntimeConfiguration
from dlt.sources.helpers.rest_client import auth as dlt_auth
from dlt.sources.helpers.rest_client.client import RESTClient
from requests import Response
from requests.auth import AuthBase

from pipeline_assets.ingest.rest.answer import Answer, read_answer
from pipeline_assets.ingest.rest.errors import BrokenBodyError, IncompleteError, RestError, StatusError
from pipeline_assets.ingest.rest.paging import paginator
from pipeline_assets.ingest.rest.secrets import Secrets
from pipeline_assets.ingest.rest.session import ApiSession
from pipeline_assets.ingest.rest.source import ApiKey, Basic, Bearer, Cursor, LinkHeader, NextUrl, Param, RestSource

# Statuses by which APIs refuse a cursor that they no longer know.
_EXPIRED = (400, 404, 410, 422)
_TOKEN_SECONDS = 3600
_TOKENS = ("access_token", "refresh_token", "id_token")


def answers(source: RestSource, asked: Mapping[str, Param], deadline: float = inf) -> Iterator[Answer]:
    """Ask for the pages of a resource, one after the other.

    Args:
        source: The declaration.
        asked: Parameters besides the declared ones.
        deadline: When the poll's time is over, by the monotonic clock.

    Raises:
        IncompleteError: A reference to a next page is no longer valid, or leads back.
        RestError: A page cannot be read.
    """
    secrets = Secrets()
    session = ApiSession(
        source.base_url,
        secrets,
        partial(read_answer, records=source.records, total=source.total),
        timeout_seconds=source.timeout_seconds,
        requests_per_second=source.requests_per_second,
        deadline=deadline,
    )
    client = _Client(
        source.base_url,
        auth=_auth(source, session, secrets),
        paginator=paginator(source, lambda: cast(Answer, session.answer)),
        session=session,
        config=RuntimeConfiguration(),  # without it dlt looks for one in the environment and below HOME
    )
    params = {name: str(value).lower() if isinstance(value, bool) else value for name, value in source.params.items()}
    pages = client.paginate(source.path, params={**params, **asked}, data_selector="$", hooks={"response": []})
    follows = isinstance(source.pagination, Cursor | NextUrl | LinkHeader)
    urls: set[str] = set()
    try:
        for page in pages:
            url = page.response.request.url or ""
            if follows and url in urls:
                raise IncompleteError(
                    f"page {len(urls) + 1} is one that was read before: the pages lead round in a circle; if the API "
                    "says with a flag that there are no more (has_more: false), declare it as pagination.more"
                )
            urls.add(url)
            yield session.answer
    except StatusError as error:
        if follows and urls and error.status in _EXPIRED:
            raise IncompleteError(f"page {len(urls) + 1} is gone, as when a cursor expires: {error}") from None
        if urls and not follows:
            said = f"page {len(urls) + 1}: {error}; if this is how the API says that there are no more, declare `total`"
            raise StatusError(said, error.status, is_transient=error.is_transient) from None
        raise
    except (requests.RequestException, ValueError) as error:
        # A request that cannot be made, because a header or the URL is invalid. The text of the error may hold either.
        raise RestError(secrets.hide(f"{type(error).__name__}: {error}")) from None
    finally:
        session.close()


class _Client(RESTClient):
    """dlt's client, with records as `read_answer` cuts them out.

    dlt itself parses the body for each question about it, rounds numbers, and takes an answer without records for an
    empty page.
    """

    def extract_response(self, response: Response, data_selector: jsonpath.TJsonPath) -> list[Any]:
        answer: Answer = cast(ApiSession, self.session).answer
        response.json = lambda **_: answer.envelope  # type: ignore[method-assign]
        return list(answer.records)


def _auth(source: RestSource, session: ApiSession, secrets: Secrets) -> AuthBase | None:
    match declared := source.auth:
        case None:
            return None
        case Bearer():
            return dlt_auth.BearerTokenAuth(token=secrets.read(declared.token_env))
        case Basic():
            user, password = secrets.read(declared.user_env), secrets.read(declared.password_env)
            secrets.add_pair(user, password)
            return dlt_auth.HttpBasicAuth(username=user, password=password)
        case ApiKey():
            key = secrets.read(declared.key_env)
            return dlt_auth.APIKeyAuth(name=declared.name, api_key=key, location=declared.location)
    tokens = ApiSession(
        declared.token_url,
        secrets,
        partial(_read_token, secrets=secrets),
        timeout_seconds=source.timeout_seconds,
        requests_per_second=source.requests_per_second,
        deadline=session.deadline,
    )
    found = dlt_auth.OAuth2ClientCredentials(
        access_token_url=declared.token_url,
        client_id=secrets.read(declared.client_id_env),
        client_secret=secrets.read(declared.client_secret_env),
        access_token_request_data={"scope": declared.scope} if declared.scope else {},
        default_token_expiration=_TOKEN_SECONDS,
        session=tokens,
    )
    session.renewable = found
    return found


def _read_token(body: bytes, secrets: Secrets) -> None:
    """Make sure that dlt will find a token, or it would send "None". From here on the token is a secret."""
    try:
        found = json.loads(body)
    except ValueError as error:
        raise BrokenBodyError(f"the body is not JSON ({error})") from None
    tokens = {name: found.get(name) for name in _TOKENS} if isinstance(found, dict) else {}
    for token in tokens.values():
        if isinstance(token, str) and token:
            secrets.add(token)
    if not isinstance(tokens.get("access_token"), str):
        raise RestError("there is no access_token")
    if not str(found.get("expires_in", _TOKEN_SECONDS)).isdigit():
        raise RestError("expires_in is not a number of seconds")
