"""The shop's CRM over HTTP: token, pages, what changed since."""

import json
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from postgres import execute

from pipeline_assets.demo.crm import PAGE_ROWS, open_crm
from pipeline_assets.demo.shop_db import create_tables


@pytest.fixture
def shop(database):
    create_tables(database)
    execute(
        database,
        "INSERT INTO customers SELECT i, 'c', NULL, NULL, 'UK', '2011-01-01', '2011-01-01'::timestamptz + i * interval "
        "'1 minute' FROM generate_series(1, 250) i",
    )
    return database


def get(crm, path, token=None):
    request = Request(crm.url + path, headers={"Authorization": f"Bearer {token or crm.token}"})
    with urlopen(request, timeout=10) as response:
        return json.load(response)


def test_all_accounts_come_page_by_page(shop):
    with open_crm(shop) as crm:
        page, found = get(crm, "/v1/accounts"), []
        while page["nextCursor"]:
            found += page["accounts"]
            page = get(crm, f"/v1/accounts?cursor={page['nextCursor']}")
        found += page["accounts"]
    assert len(page["accounts"]) == 250 - 2 * PAGE_ROWS
    assert [account["customerId"] for account in found] == list(range(1, 251))
    assert found[0].keys() == {"accountId", "customerId", "segment", "accountOwner", "updatedAt"}


def test_what_changed_since(shop):
    with open_crm(shop) as crm:
        found = get(crm, "/v1/accounts?updated_since=2011-01-01T04:08:00%2B00:00")["accounts"]
    assert [account["customerId"] for account in found] == [248, 249, 250]


@pytest.mark.parametrize(
    ("path", "token", "status"),
    [("/v1/accounts", "x", 401), ("/v2", None, 404), ("/v1/accounts?cursor=x", None, 400)],
)
def test_what_is_wrong_with_a_request_is_its_status(shop, path, token, status):
    with open_crm(shop) as crm, pytest.raises(HTTPError) as error:
        get(crm, path, token)
    assert error.value.code == status
    error.value.close()
