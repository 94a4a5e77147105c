"""Declarations that contradict themselves are refused before anything is asked; and what then is asked for."""

from datetime import date, datetime
from typing import Annotated, Any

import pandera.polars as pa
import polars as pl
import pytest
from polled import UPDATED, Accounts
from pydantic import ValidationError

from pipeline_assets.ingest.batch.watermark import position as at
from pipeline_assets.ingest.rest.source import ApiKey, Bearer, Incremental, OAuth2ClientCredentials, RestSource


class Dated(Accounts):
    """An account with more dates."""

    local_at: Annotated[pl.Datetime, "us", None] = pa.Field()
    day: date = pa.Field()


def source(**options: Any) -> RestSource:
    given = {
        "model": Accounts,
        "keys": ("account_id",),
        "base_url": "https://crm.example/v2",
        "path": "accounts",
        "requests_per_second": 5,
        "timeout_seconds": 60,
        **options,
    }
    return RestSource(name="crm__accounts", **given)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"base_url": "crm.example"}, "must be http"),
        ({"base_url": "https://user:word@crm.example"}, "credentials belong into auth"),
        ({"base_url": "https://crm.example/?key=1"}, "a query into params"),
        ({"path": "accounts?size=3"}, "a query belongs into params"),
        ({"path": "https://other.example/accounts"}, "must be below the base URL"),
        ({"keys": ("id",)}, "keys id are not columns of Accounts"),
        ({"incremental": Incremental(param="since", field="changed")}, "watermark changed is not there"),
        ({"incremental": Incremental(param="since", field="name")}, "watermark name is VARCHAR"),
    ],
)
def test_what_cannot_be_right_is_refused(options, error) -> None:
    with pytest.raises(ValueError, match=error):
        source(**options)


def test_secrets_are_named_never_given() -> None:
    with pytest.raises(ValidationError, match=r"token_env\n.*name of an environment variable"):
        Bearer(type="bearer", token_env="tok-123")
    with pytest.raises(ValidationError, match="key"):
        ApiKey(type="api_key", name="X-Key", key_env="CRM_KEY", key="tok-123")  # type: ignore[call-arg]
    with pytest.raises(ValidationError, match="token_url"):
        OAuth2ClientCredentials(
            type="oauth2_client_credentials", token_url="https://a:b@c/token", client_id_env="A", client_secret_env="B"
        )


@pytest.mark.parametrize(
    ("field", "lag", "position", "asked"),
    [
        ("updated_at", None, "2026-01-05T12:00:00", "2026-01-05T11:00:00Z"),
        ("updated_at", 0, "2026-01-05T12:00:00.000001", "2026-01-05T12:00:00.000001Z"),
        ("local_at", 60, "2026-01-05T12:00:00", "2026-01-05T11:59:00Z"),
        ("day", None, "2026-01-05T00:00:00", "2026-01-04"),
        ("day", 0, "2026-01-05T00:00:00", "2026-01-05"),
        ("account_id", None, 12345678901, 12345678901),
        ("account_id", 100, 120, 20),
    ],
)
def test_what_is_new_is_asked_for_less_the_lag(field, lag, position, asked) -> None:
    if isinstance(position, str):
        position = at(datetime.fromisoformat(f"{position}+00:00"))
    declared = source(model=Dated, incremental=Incremental(param="since", field=field, lag=lag))
    assert declared.asked(position) == {"since": asked}


def test_the_first_poll_asks_for_all() -> None:
    assert source(incremental=UPDATED).asked(None) == {}
    assert source().asked(5) == {}
