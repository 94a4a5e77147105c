"""Declarations that contradict themselves are refused before anything is asked; the watermark, in all its spellings."""

from datetime import UTC, datetime
from typing import Any

import pytest
from polled import UPDATED, Accounts
from pydantic import ValidationError

from pipeline_assets.ingest.rest.declared import ApiKey, Bearer, Incremental, OAuth2ClientCredentials, RestSource
from pipeline_assets.ingest.rest.watermark import Watermark


def source(**options: Any) -> RestSource:
    given = {"keys": ("account_id",), "base_url": "https://crm.example/v2", "path": "accounts", **options}
    return RestSource(name="crm__accounts", model=Accounts, **given)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"base_url": "crm.example"}, "must be http"),
        ({"base_url": "https://user:word@crm.example"}, "credentials belong into auth"),
        ({"base_url": "https://crm.example/?key=1"}, "a query into params"),
        ({"path": "accounts?size=3"}, "a query belongs into params"),
        ({"path": "https://other.example/accounts"}, "must be below the base URL"),
        ({"keys": ("id",)}, "keys id are not columns of Accounts"),
        ({"incremental": Incremental(param="since", field="changed")}, "changed is no column of Accounts of the types"),
        ({"incremental": Incremental(param="since", field="name")}, "name is no column of Accounts of the types"),
    ],
)
def test_what_cannot_be_right_is_refused(options, error) -> None:
    with pytest.raises(ValueError, match=error):
        source(**options)


def test_secrets_are_named_never_given() -> None:
    with pytest.raises(ValidationError, match="token_env"):
        Bearer(type="bearer", token_env="tok-123")
    with pytest.raises(ValidationError, match="key"):
        ApiKey(type="api_key", name="X-Key", key_env="CRM_KEY", key="tok-123")  # type: ignore[call-arg]
    with pytest.raises(ValidationError, match="token_url"):
        OAuth2ClientCredentials(
            type="oauth2_client_credentials", token_url="https://a:b@c/token", client_id_env="A", client_secret_env="B"
        )


def test_the_lag_has_a_default_by_type() -> None:
    assert source(incremental=UPDATED).watermark == Watermark("updated_at", "TIMESTAMP WITH TIME ZONE", 3_600_000_000)
    by_number = source(incremental=Incremental(param="since", field="account_id")).watermark
    assert by_number == Watermark("account_id", "BIGINT", 0)
    assert Watermark.of("day", "DATE", None) == Watermark("day", "DATE", 1)
    assert Watermark.of("name", "VARCHAR", 5) is None


@pytest.mark.parametrize(
    ("dtype", "value", "text"),
    [
        ("TIMESTAMPTZ", "TIMESTAMPTZ '2026-01-31 23:59:00+00'", "2026-01-31T23:59:00Z"),
        ("TIMESTAMP", "TIMESTAMP '2026-01-31 23:59:00.000001'", "2026-01-31T23:59:00.000001Z"),
        ("TIMESTAMPTZ", "TIMESTAMPTZ '1969-12-31 00:00:00+00'", "1969-12-31T00:00:00Z"),
        ("DATE", "DATE '2026-02-28'", "2026-02-28"),
        ("BIGINT", "12345678901", "12345678901"),
    ],
)
def test_a_position_is_the_value_again(con, dtype, value, text) -> None:
    mark = Watermark.of("moment", dtype, 0)
    assert mark is not None
    (position,) = con.execute(f"SELECT {mark.position_sql(value)}").fetchone()
    assert mark.text(position) == text
    rows = f"SELECT * FROM (VALUES ({value}), (NULL)) AS t(moment)"
    counted = "SELECT count(*) FROM ({}) WHERE {}"
    for least, expected in [(position, 2), (position + 1, 1), (None, 1), (-(2**62), 2)]:
        assert con.execute(counted.format(rows, mark.from_sql(least))).fetchone() == (expected,)


def test_a_time_after_the_poll_began_is_no_watermark() -> None:
    started = datetime(2026, 1, 5, 12, tzinfo=UTC)
    at = Watermark("at", "TIMESTAMP", 0)
    assert at.text(at.capped(2**60, started)) == "2026-01-05T12:00:00Z"
    day = Watermark("day", "DATE", 0)
    assert day.text(day.capped(10**6, started)) == "2026-01-05"
    assert Watermark("id", "BIGINT", 0).capped(2**60, started) == 2**60
