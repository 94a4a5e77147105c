"""How long the client waits, and how often it asks: as the API says, and never faster than declared."""

from itertools import pairwise

import pytest
from crm_api import Api, Reply, http_date
from polled import Crm

from pipeline_assets.ingest.rest import poll, session
from pipeline_assets.ingest.rest.errors import OutOfTimeError, RestError


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        ("17", 17, 18),
        ("in 600 s", 598, 601),
        ("3600", 3600, 3601),  # some APIs count calls by the hour
        ("600 s ago", 1, 2),
        ("soon", 1, 2),
        ("Wed, 21 Oct 99999999999 07:28:00 GMT", 1, 2),
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


@pytest.mark.parametrize("header", ["86400", "9" * 5000, "Fri, 31 Dec 2100 23:59:59 GMT"])
@pytest.mark.parametrize("status", [429, 503])
def test_who_is_to_come_back_after_the_poll_s_time_does_not_wait_and_the_next_poll_goes_on(crm, status, header) -> None:
    with Api(fault=lambda n, query: Reply(status, headers={"Retry-After": header}) if n == 2 else None) as api:
        with pytest.raises(OutOfTimeError, match=rf"HTTP {status}; the next attempt would be in 86,40\d s.*max"):
            crm.poll(api)
        assert (crm.waits, len(api.asked), crm.rows()) == ([], 2, [])
        crm.poll(api)
    assert len(crm.rows()) == 10


def test_all_attempts_and_the_second_round_of_pages_share_one_time(crm: Crm, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(session, "monotonic", lambda: clock[0])
    monkeypatch.setattr(poll, "monotonic", lambda: clock[0])
    monkeypatch.setattr(session, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    asked_to_wait = Reply(503, headers={"Retry-After": "100"})
    api = Api(fault=lambda n, query: Reply(410) if n == 5 else None if n % 2 else asked_to_wait)
    with api, pytest.raises(OutOfTimeError, match="max_minutes"):
        crm.poll(api, max_minutes=5)
    assert clock[0] <= 300
    assert len(api.asked) > 5


def test_pages_that_take_longer_than_a_poll_may_end_it(crm: Crm, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(session, "monotonic", lambda: clock[0])
    monkeypatch.setattr(poll, "monotonic", lambda: clock[0])
    api = Api(fault=lambda n, query: clock.__setitem__(0, clock[0] + 40))
    with api, pytest.raises(OutOfTimeError, match="before all pages were read"):
        crm.poll(api, max_minutes=1)
    assert len(api.asked) == 2
    assert crm.rows() == []
