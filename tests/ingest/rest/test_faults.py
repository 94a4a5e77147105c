"""Every fault of an API ends in a complete batch or in a clear error: never in a part of a batch.

`FAULTS` is the list. Where it does not matter which request is struck, `--chaos-seed` chooses it.
"""

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from crm_api import PAGE, Api, Paging, Reply, account, body, http_date, zipped

from pipeline_assets.ingest.rest import staging
from pipeline_assets.ingest.rest.errors import RestError

ALL = list(range(1, 11))
HTML = b"<html><body>502 Bad Gateway</body></html>"

Query = dict[str, str]
Strike = Callable[[Api, int, Query], Reply | None]


@dataclass(frozen=True)
class Fault:
    """A fault, and how a poll of ten records ends.

    Attributes:
        strike: The reply to a request instead of the page, or what happens to the source before the page is made.
        paging: How the API pages.
        options: Of the declaration.
        error: What the error says; None for a complete batch.
        waits: How many times the client waits before it asks again.
        restarted: What is said of a first round of pages that was given up.
        duplicates: Records that came twice.
    """

    name: str
    strike: Strike
    paging: Paging = "cursor"
    options: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    waits: int = 0
    restarted: str | None = None
    duplicates: int = 0


def once(reply: Reply, times: int = 1) -> Strike:
    """At one request, and at the next ones if it is more than once."""
    return lambda api, n, query: reply if _strikes(api, n, times) else None


def always(reply: Reply) -> Strike:
    return once(reply, 1_000)


def rewritten(rewrite: Callable[[Reply], Reply], times: int = 1_000) -> Strike:
    """The right page, sent wrong."""
    return lambda api, n, query: rewrite(api.page(query)) if _strikes(api, n, times) else None


def _strikes(api: Api, n: int, times: int) -> bool:
    api.struck += n >= api.strikes_at
    return 0 < api.struck <= times


def cut(reply: Reply) -> Reply:
    return Reply(200, reply.body, ending="cut")


def cut_chunks(reply: Reply) -> Reply:
    return Reply(200, reply.body, ending="chunks cut")


def cut_gzip(reply: Reply) -> Reply:
    return zipped(reply, cut=12)


def empty(api: Api, n: int, query: Query) -> Reply | None:
    return api.page(query, records=[]) if n == 2 else None


def other_page(api: Api, n: int, query: Query) -> Reply | None:
    """A proxy sends page 2 once more, in place of page 3."""
    return api.page({**query, "page": "2"}) if n == 3 else None


def same_page(api: Api, n: int, query: Query) -> Reply:
    """The API does not know the parameter, and sends its first page for ever."""
    return api.page({})


def circle(api: Api, n: int, query: Query) -> Reply:
    """The second page is its own next one, each time with something else on it."""
    return body([account(n)], {"next": "c3", "total": 10})


def endless(api: Api, n: int, query: Query) -> Reply:
    """There is always a next page, and never anything on it."""
    return body([], {"next": f"c{n}"})


def overlap(api: Api, n: int, query: Query) -> Reply | None:
    """Each page begins with the last record of the page before."""
    start = int(query.get("cursor", "c0")[1:])
    return api.page(query, records=api.records[max(start - 1, 0) : start + PAGE])


def expired(status: int, times: int) -> Strike:
    reply = Reply(status, b'{"error": "invalid cursor"}')
    return lambda api, n, query: reply if query.get("cursor") == "c6" and _strikes(api, n, times) else None


def shrinking(api: Api, n: int, query: Query) -> None:
    """From the second page on the server sends less on each page than before."""
    api.page_size = PAGE if n < 2 else 2


def inserted(api: Api, n: int, query: Query) -> None:
    """A record is inserted at the top, so that all others move down a page."""
    if n == 2:
        api.records.insert(0, account(99))


def moved(api: Api, n: int, query: Query) -> None:
    """A record that the next page should have brought is updated, which puts it first."""
    if n == 2:
        api.records.insert(0, api.records.pop())


def deleted(api: Api, n: int, query: Query) -> None:
    """A record of the first page goes, so that one of the second moves up unseen; and comes back later."""
    if n == 2:
        api.gone = api.records.pop(0)  # type: ignore[attr-defined]
    elif n == 3:
        api.records.insert(0, api.gone)  # type: ignore[attr-defined]


def too_few(api: Api, n: int, query: Query) -> Reply:
    return body(api.records[:3], {"total": 10})


def null_at_the_end(api: Api, n: int, query: Query) -> Reply | None:
    is_behind = int(query.get("page", "1")) * PAGE > len(api.records) + PAGE - 1
    return Reply(200, b'{"data": {"items": null}}') if is_behind else None


def at_page_2(sent: bytes) -> Strike:
    return lambda api, n, query: Reply(200, sent) if n == 2 else None


def at_once(reply: Reply) -> Strike:
    return lambda api, n, query: reply


def behind_the_end(api: Api, n: int, query: Query) -> Reply | None:
    return Reply(404, b'{"detail": "Invalid page."}') if int(query["page"]) > 4 else None


def last_page(api: Api, n: int, query: Query) -> Reply | None:
    return api.page({"page": "4"}) if int(query["page"]) > 4 else None


TOTAL = {"total": "meta.total"}

FAULTS = [
    # The server is busy, or down.
    Fault("429 with Retry-After in seconds", once(Reply(429, headers={"Retry-After": "17"})), waits=1),
    Fault("429 with Retry-After as a date", once(Reply(429, headers={"Retry-After": http_date(600)})), waits=1),
    Fault("429 with Retry-After that is nonsense", once(Reply(429, headers={"Retry-After": "soon"})), waits=1),
    Fault("429 without Retry-After", once(Reply(429)), waits=1),
    Fault("429 for ever", always(Reply(429, headers={"Retry-After": "1"})), error="HTTP 429.*5 attempts", waits=4),
    Fault("500 once", once(Reply(500)), waits=1),
    Fault("503 three times", once(Reply(503, b"busy"), 3), waits=3),
    Fault("502 for ever", always(Reply(502, HTML)), error="HTTP 502: 5 attempts.*Bad Gateway", waits=4),
    Fault("connection reset once", once(Reply(ending="reset")), waits=1),
    Fault("connection reset for ever", always(Reply(ending="reset")), error="no connection, or it was lost", waits=4),
    Fault("timeout once", once(Reply(ending="hang")), options={"timeout_seconds": 0.5}, waits=1),
    Fault("timeout for ever", always(Reply(ending="hang")), options={"timeout_seconds": 0.05}, waits=4,
          error="no answer in time"),
    # The answer is not what was sent, or is none.
    Fault("body shorter than Content-Length once", rewritten(cut, 1), waits=1),
    Fault("body shorter than Content-Length for ever", rewritten(cut), error="broke off", waits=4),
    Fault("chunked body cut once", rewritten(cut_chunks, 1), waits=1),
    Fault("chunked body cut for ever", rewritten(cut_chunks), error="broke off", waits=4),
    Fault("gzip", rewritten(zipped)),
    Fault("gzip stream cut once", rewritten(cut_gzip, 1), waits=1),
    Fault("gzip stream cut for ever", rewritten(cut_gzip), error="not JSON", waits=4),
    Fault("gzip that is none", rewritten(lambda page: Reply(200, page.body, {"Content-Encoding": "gzip"})), waits=4,
          error="broke off"),
    Fault("invalid JSON once", once(Reply(200, b'{"data": {"items": [{"account_id": 1}')), waits=1),
    Fault("invalid JSON for ever", always(Reply(200, b"[1, 2,, 3]")), error=r"not JSON.*'\[1, 2,, 3\]'", waits=4),
    Fault("two documents in one body", rewritten(lambda page: Reply(200, page.body * 2)), error="Extra data", waits=4),
    Fault("empty body with status 200", always(Reply(200)), error="not JSON", waits=4),
    Fault("body not in UTF-8", rewritten(lambda p: Reply(200, p.body.decode().encode("utf-16"))), waits=4,
          error="not JSON in UTF-8"),
    Fault("body nested too deeply", always(Reply(200, b'{"data": ' + b"[" * 100_000)), error="not JSON", waits=4),
    Fault("HTML error page with status 200 once", once(Reply(200, HTML)), waits=1),
    Fault("HTML error page with status 200 for ever", always(Reply(200, HTML)), error="not JSON.*Gateway", waits=4),
    # The answer is JSON, but not the one that was declared.
    Fault("records path missing", always(Reply(200, b'{"data": {"rows": []}}')),
          error="no list of records at 'data.items': data has rows"),
    Fault("error object with status 200", always(Reply(200, b'{"error": "no such tenant"}')),
          error="the body has error; .*no such tenant"),
    Fault("error object beside no data in place of page 2", at_page_2(b'{"data": null, "error": "try later"}'),
          error="no record in it, but something at error; .*try later"),
    Fault("records are not a list", always(Reply(200, b'{"data": {"items": {"1": {}}}}')),
          error="data.items has 1"),
    Fault("body is a string", always(Reply(200, b'"ok"')), error="the body is of the type str"),
    Fault("null for a list at the end", null_at_the_end, paging="page"),
    # The pages do not add up.
    Fault("empty page in the middle, by cursor", empty, paging="cursor", options=TOTAL,
          restarted="7 different records came"),
    Fault("empty page in the middle, by number", empty, paging="page", restarted="page 2 was empty, page 3 is not"),
    Fault("empty page in the middle, by number, with a total", empty, paging="page", options=TOTAL,
          restarted="7 different records came"),
    Fault("empty page in the middle, by offset", empty, paging="offset"),
    Fault("page that repeats for ever, by number", same_page, paging="page", error="same records as page 1.*second"),
    Fault("page that repeats for ever, by offset", same_page, paging="offset", error="same records as page 1"),
    Fault("page that repeats for ever, by cursor", same_page, error="same records as page 1"),
    Fault("next page that is the same one", circle, error="round in a circle"),
    Fault("empty pages without an end", endless, error="pages in a row without a record"),
    Fault("repeated page once", other_page, paging="page", restarted="page 3 holds the same records as page 2"),
    Fault("records twice across pages", overlap, duplicates=3),
    Fault("cursor that expires once, 410", expired(410, 1), restarted="page 3 is gone.*HTTP 410"),
    Fault("cursor that expires once, 400", expired(400, 1), restarted="invalid cursor"),
    Fault("cursor that expires each time", expired(410, 9), error="page 3 is gone.*second attempt"),
    Fault("total not reached", too_few, options=TOTAL, paging="single", error="3 different records .*10 were promised"),
    Fault("total that is no number", always(body([], {"total": "many"})), options=TOTAL, error="found many"),
    Fault("total that is missing", always(body([], {})), options=TOTAL, error="found nothing"),
    Fault("page size shrinking, by number", shrinking, paging="page", duplicates=1),
    Fault("page size shrinking, by offset", shrinking, paging="offset"),
    Fault("record inserted between pages, by offset", inserted, paging="offset", options=TOTAL, duplicates=1),
    Fault("record inserted between pages, by number", inserted, paging="page", duplicates=1),
    Fault("record moved between pages, by number", moved, paging="page", options=TOTAL,
          restarted="9 different records came on 4 pages, 10 were promised"),
    Fault("record deleted between pages, by offset", deleted, paging="offset", options=TOTAL,
          restarted="total went from 10 down to 9"),
    # The API does not let us in.
    Fault("401", always(Reply(401, b'{"error": "expired"}')), error="HTTP 401: check the credentials"),
    Fault("403", always(Reply(403)), error="HTTP 403: check the credentials"),
    Fault("404", at_once(Reply(404)), paging="page", error="^GET .*HTTP 404: check path and params"),
    Fault("404 behind the last page", behind_the_end, paging="page", error="page 5: GET .*HTTP 404.*declare `total`"),
    Fault("404 behind the last page, with a total", behind_the_end, paging="page", options=TOTAL),
    Fault("last page for ever", last_page, paging="page", error="page 5 holds the same records as page 4.*`total`"),
    Fault("last page for ever, with a total", last_page, paging="page", options=TOTAL),
    Fault("redirect that names no place", rewritten(lambda page: Reply(301, page.body)), error="HTTP 301: check path"),
    Fault("several choices", rewritten(lambda page: Reply(300, page.body)), error="HTTP 300: check path"),
    Fault("redirect to another host", always(Reply(302, headers={"Location": "http://127.0.0.1:1/accounts?k=v"})),
          error="HTTP 302: it points to http://127.0.0.1:1/accounts; redirects are not followed"),
    Fault("next page on another host", rewritten(lambda p: Reply(200, p.body.replace(b"127.0.0.1", b"127.0.0.2"))),
          paging="next_url", error="next page is at http://127.0.0.2"),
]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_ends_in_a_complete_batch_or_a_clear_error(crm, fault: Fault, monkeypatch, pytestconfig) -> None:
    seed = pytestconfig.getoption("--chaos-seed")
    monkeypatch.setattr(staging, "_EMPTY_PAGES", 5)
    with Api(fault.paging) as api:
        api.strikes_at = random.Random(f"{seed} {fault.name}").randint(1, 3)
        api.fault = lambda n, query: fault.strike(api, n, query)
        if fault.error is None:
            polled = crm.poll(api, **fault.options)
            assert (polled.total.rows, polled.total.duplicates) == (len(ALL), fault.duplicates)
            assert re.search(fault.restarted or "^None$", str(polled.restarted))
        else:
            with pytest.raises(RestError, match=f"(?s){fault.error}"):
                crm.poll(api, **fault.options)
            assert crm.rows() == []
            assert len(crm.waits) == fault.waits
            api.fault = None
            crm.poll(api, **fault.options)
    assert crm.rows() == ALL
    assert len(crm.waits) == fault.waits
