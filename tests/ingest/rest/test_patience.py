"""How long the client waits, and how often it asks: as the API says, and never faster than declared."""

from itertools import pairwise

import pytest
from crm_api import Api, Reply, http_date
from polled import Crm

from pipeline_assets.ingest.rest import session
from pipeline_assets.ingest.rest.errors import RestError


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        ("17", 17, 18),
        ("in 600 s", 598, 601),
        ("86400", 3600, 3601),  # a run does not wait for a day
        ("600 s ago", 1, 2),
        ("soon", 1, 2),
        (None, 1, 2),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_the_client_waits_as_it_is_told(crm: Crm, header, least, most, status) -> None:
    dates = {"in 600 s": http_date(600), "600 s ago": http_date(-600)}
    told = Reply(status, headers={"Retry-After": dates.get(header, header)} if header else {})
    with Api(fault=lambda n, query: told if n == 2 else None) as api:
        crm.poll(api)
    (waited,) = crm.waits
    assert least <= waited <= most


def test_waits_grow_and_are_not_those_of_other_clients(crm: Crm) -> None:
    with Api(fault=lambda n, query: Reply(500)) as api:
        for _ in range(2):
            with pytest.raises(RestError):
                crm.poll(api)
    for attempt, waited in enumerate(crm.waits[:4]):
        assert 2**attempt <= waited <= 2**attempt + 1
    assert crm.waits[:4] != crm.waits[4:]


def test_the_api_is_asked_no_faster_than_declared(crm: Crm, monkeypatch: pytest.MonkeyPatch) -> None:
    from time import sleep

    monkeypatch.setattr(session, "sleep", sleep)
    monkeypatch.setattr(session, "_BACKOFF_SECONDS", 0)
    monkeypatch.setattr(session, "_JITTER_SECONDS", 0)
    with Api(fault=lambda n, query: Reply(429) if n == 3 else None) as api:
        crm.poll(api, requests_per_second=25)
    moments = [asked.at for asked in api.asked]
    assert len(moments) == 5
    assert min(later - earlier for earlier, later in pairwise(moments)) > 0.03
