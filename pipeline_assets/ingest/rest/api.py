"""A declared API, asked for page after page.

`auth` puts the credentials into a request, `session` sends it, `answer` takes the answer apart, `paging` finds the way
from one page to the next.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from math import inf
from urllib.parse import urljoin

from requests import Request, RequestException, Response

from pipeline_assets.ingest.rest.answer import NO_CONTENT, Answer, read_answer
from pipeline_assets.ingest.rest.auth import PutCredentials, credentials, read_token
from pipeline_assets.ingest.rest.errors import IncompleteError, RestError, StatusError
from pipeline_assets.ingest.rest.paging import paginator
from pipeline_assets.ingest.rest.secrets import Secrets
from pipeline_assets.ingest.rest.session import ApiSession
from pipeline_assets.ingest.rest.source import Cursor, LinkHeader, NextUrl, Param, RestSource

# Statuses by which APIs refuse a cursor that they no longer know.
_EXPIRED = (400, 404, 410, 422)
# No content, reset content, not modified: the answer is empty, and the server means it.
_EMPTY = (204, 205, 304)


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
    session_at = partial(ApiSession, source=source, secrets=secrets, deadline=deadline)

    def fetch(url: str, form: dict[str, str]) -> tuple[str, float]:
        with session_at(url) as session:
            return session.ask(Request("POST", url, data=form), partial(read_token, secrets=secrets))[1]

    try:
        with session_at(source.base_url) as session:
            yield from _pages(source, asked, session, credentials(source.auth, secrets, fetch))
    except (RequestException, ValueError) as error:
        # A request that cannot be made, because a header or the URL is invalid. The text of the error may hold either.
        raise RestError(secrets.hide(f"{type(error).__name__}: {error}")) from None


def _pages(
    source: RestSource, asked: Mapping[str, Param], session: ApiSession, auth: PutCredentials | None
) -> Iterator[Answer]:
    pages = paginator(source)
    declared = {name: str(value).lower() if isinstance(value, bool) else value for name, value in source.params.items()}
    params = {**declared, **asked, **pages.first}
    url = f"{source.base_url.rstrip('/')}/{source.path.lstrip('/')}" if source.path else source.base_url
    follows = isinstance(source.pagination, Cursor | NextUrl | LinkHeader)
    urls: set[str | None] = set()
    while True:
        number = len(urls) + 1
        try:
            response, answer = session.ask(Request("GET", url, params=params, auth=auth), partial(_read, source))
        except StatusError as error:
            if follows and urls and error.status in _EXPIRED:
                raise IncompleteError(f"page {number} is gone, as when a cursor expires: {error}") from None
            if urls and not follows:
                said = f"page {number}: {error}; if this is how the API says that there are no more, declare `total`"
                raise StatusError(said, error.status, is_transient=error.is_transient) from None
            raise
        reference = pages.next(response, answer)
        if follows and response.request.url in urls:
            raise IncompleteError(
                f"page {number} is one that was read before: the pages lead round in a circle; if the API "
                "says with a flag that there are no more (has_more: false), declare it as pagination.more"
            )
        urls.add(response.request.url)
        yield answer
        if reference is None:
            return
        if pages.param is None:
            url, params = urljoin(url, str(reference)), {}
        else:
            params[pages.param] = reference


def _read(source: RestSource, response: Response) -> Answer:
    if response.status_code in _EMPTY:
        return NO_CONTENT
    return read_answer(response.content, source.records, source.total)
