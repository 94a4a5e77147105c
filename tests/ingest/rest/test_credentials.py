"""Credentials reach the API they are for, no other host, and no text: no error, log, table or metadata holds one."""

import html
import json
import logging
import traceback
from pathlib import Path
from urllib.parse import quote

import pytest
from crm_api import Api, Asked, Reply
from polled import TOKEN

from pipeline_assets.ingest.rest.errors import RestError
from pipeline_assets.ingest.rest.source import ApiKey, Auth, Basic, Bearer, OAuth2ClientCredentials

SECRET = "s3cr3t/+ &é"  # each of its characters is written differently in a URL
QUOTED = ["s3cr3t", "czNjcjN0"]  # as such, and as basic auth spells "s3cr3t"


def oauth(api: Api, **options: str) -> OAuth2ClientCredentials:
    return OAuth2ClientCredentials(
        type="oauth2_client_credentials",
        token_url=f"{api.url}/token",
        client_id_env="CRM_ID",
        client_secret_env="CRM_SECRET",
        **options,
    )


HOW: dict[str, Auth] = {
    "bearer": Bearer(type="bearer", token_env="CRM_SECRET"),
    "basic": Basic(type="basic", user_env="CRM_SECRET", password_env="CRM_SECRET"),
    "header": ApiKey(type="api_key", name="X-Key", key_env="CRM_SECRET"),
    "query": ApiKey(type="api_key", name="auth", key_env="CRM_SECRET", location="query"),
}


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRM_ID", "the-client")
    monkeypatch.setenv("CRM_SECRET", f"  {SECRET}\n")


def test_a_bearer_token_is_sent(crm) -> None:
    with Api() as api:
        crm.poll(api)
    assert {asked.headers["Authorization"] for asked in api.asked} == {f"Bearer {TOKEN}"}


def test_user_and_password_are_sent(crm, monkeypatch) -> None:
    monkeypatch.setenv("CRM_SECRET", "a")
    with Api() as api:
        crm.poll(api, auth=HOW["basic"])
    assert {asked.headers["Authorization"] for asked in api.asked} == {"Basic YTph"}


def test_a_key_is_sent_once_on_every_page(crm, monkeypatch) -> None:
    monkeypatch.setenv("CRM_SECRET", "abc")
    with Api("next_url") as api:
        crm.poll(api, auth=HOW["header"])
        crm.poll(api, auth=HOW["query"])
    assert [asked.headers.get("X-Key") or asked.query.get("auth") for asked in api.asked] == ["abc"] * 8


def test_credentials_that_nobody_declared_are_not_sent(crm, monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password s3cr3t")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with Api() as api:
        crm.poll(api, auth=None)
        crm.poll(api, auth=oauth(api))
    assert "Authorization" not in api.asked[0].headers
    assert "Authorization" not in api.tokens[0].headers


def test_a_variable_that_is_not_set_is_named(crm, monkeypatch) -> None:
    monkeypatch.delenv("CRM_SECRET")
    with Api() as api, pytest.raises(RestError, match="CRM_SECRET is not set"):
        crm.poll(api, auth=HOW["header"])
    assert not api.asked


def test_a_token_is_fetched_once(crm) -> None:
    with Api() as api:
        api.needs_token = True
        crm.poll(api, auth=oauth(api, scope="crm.read"))
    assert len(crm.rows()) == 10
    assert [asked.query for asked in api.tokens] == [
        {"client_id": "the-client", "client_secret": SECRET, "grant_type": "client_credentials", "scope": "crm.read"}
    ]


def test_a_token_that_expires_between_pages_is_renewed(crm) -> None:
    with Api() as api:
        api.needs_token = True
        api.fault = lambda n, query: setattr(api, "token", "another") if n == 2 else None
        polled = crm.poll(api, auth=oauth(api))
    assert len(crm.rows()) == 10
    assert (len(api.tokens), polled.restarted, crm.waits) == (2, None, [])
    assert [asked.query.get("cursor") for asked in api.asked] == [None, "c3", "c6", "c6", "c9"]


def test_a_token_may_be_valid_for_a_fraction_of_seconds(crm, monkeypatch) -> None:
    with Api() as api:
        real = api.answer
        token = Reply(200, b'{"access_token": "t-123", "expires_in": 0.0}')
        monkeypatch.setattr(api, "answer", lambda asked: token if asked.path == "/token" else real(asked))
        crm.poll(api, auth=oauth(api))
    assert len(crm.rows()) == 10


def test_a_token_that_is_refused_for_ever_is_an_error(crm) -> None:
    refusing = Api(fault=lambda n, query: Reply(401))
    with refusing as api, pytest.raises(RestError, match="HTTP 401: check the credentials"):
        crm.poll(api, auth=oauth(api))
    assert len(api.asked) == 2


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply(401, b'{"error": "invalid_client"}'), "token: HTTP 401: check the credentials.*invalid_client"),
        (Reply(200, b'{"refresh_token": "r-123"}'), 'no access_token.*: "\\*\\*\\*"'),
        (Reply(200, b'{"access_token": "t-123", "expires_in": null}'), "expires_in"),
        (Reply(200, b"<html>"), "not JSON"),
        (Reply(204), "token: the body is not JSON"),
        (Reply(503), "HTTP 503: 5 attempts"),
    ],
)
def test_a_token_endpoint_that_gives_none_is_an_error(crm, monkeypatch, reply, error) -> None:
    with Api() as api:
        monkeypatch.setattr(api, "answer", lambda asked: reply)
        with pytest.raises(RestError, match=error) as raised:
            crm.poll(api, auth=oauth(api))
    assert not {"t-123", "r-123"} & set(str(raised.value).split('"'))
    assert crm.rows() == []


@pytest.mark.parametrize("how", HOW)
def test_nothing_is_sent_to_another_host(crm, how) -> None:
    with Api("next_url") as api, Api() as other:
        target = f"{other.url}/accounts"
        api.fault = lambda n, query: Reply(307, headers={"Location": target}) if n == 2 else None
        with pytest.raises(RestError, match=f"points to {target}; redirects are not followed"):
            crm.poll(api, auth=HOW[how])
        body = f'{{"data": {{"items": [{{"account_id": 1}}]}}, "meta": {{"next": "{target}"}}}}'
        api.fault = lambda n, query: Reply(200, body.encode())
        with pytest.raises(RestError, match=f"the next page is at {other.url}, not at {api.url}"):
            crm.poll(api, auth=HOW[how])
    assert not other.asked
    assert crm.rows() == []


def test_a_password_in_the_address_of_the_next_page_is_not_told(crm) -> None:
    with Api("next_url") as api:
        target = api.url.replace("http://", "http://user:s3cr3t@") + "/gone"
        body = f'{{"data": {{"items": [{{"account_id": 1}}]}}, "meta": {{"next": "{target}"}}}}'
        api.fault = lambda n, query: Reply(200, body.encode()) if n == 1 else Reply(403, b"no")
        with pytest.raises(RestError, match=f"GET {api.url}/gone: HTTP 403") as raised:
            crm.poll(api)
    assert "s3cr3t" not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize("target", ["http://u:s3cr3t@h:x/y", "//u:s3cr3t@h/y"])
def test_a_password_in_the_target_of_a_redirect_is_not_told(crm, target) -> None:
    with Api() as api:
        api.fault = lambda n, query: Reply(302, headers={"Location": target})
        with pytest.raises(RestError, match="redirects are not followed") as raised:
            crm.poll(api)
    assert "s3cr3t" not in "".join(traceback.format_exception(raised.value))


def echo(api: Api, asked: Asked) -> str:
    """What the API was told, as careless ones say it again in their answers."""
    return f"{asked.query} {asked.headers} {json.dumps(SECRET)} {html.escape(SECRET)}"


ANSWERS = {
    "400": lambda api, asked: Reply(400, echo(api, asked).encode()),
    "500": lambda api, asked: Reply(500, echo(api, asked).encode()),
    "HTML": lambda api, asked: Reply(200, b"<html>" + b"x" * 180 + echo(api, asked).encode()),
    "shape": lambda api, asked: Reply(200, b'{"data": "' + SECRET.encode() + b'"}'),
    "redirect": lambda api, asked: Reply(302, headers={"Location": f"/{quote(SECRET, safe='')}?{quote(SECRET)}"}),
    "reset": lambda api, asked: Reply(ending="reset"),
    "cut": lambda api, asked: Reply(200, SECRET.encode() * 2, ending="cut"),
}  # fmt: skip


@pytest.mark.parametrize("how", [*HOW, "oauth"])
@pytest.mark.parametrize("answer", ANSWERS)
def test_no_error_and_no_log_holds_a_secret(crm, monkeypatch, caplog, how, answer) -> None:
    caplog.set_level(logging.DEBUG)
    with Api() as api:
        api.needs_token = how == "oauth"
        real = api.answer
        monkeypatch.setattr(
            api, "answer", lambda asked: real(asked) if asked.path == "/token" else ANSWERS[answer](api, asked)
        )
        with pytest.raises(RestError) as raised:
            crm.poll(api, auth=oauth(api) if how == "oauth" else HOW[how])
    said = "".join(traceback.format_exception(raised.value)) + caplog.text
    assert "urllib3" in said
    assert not [form for form in [*QUOTED, "secret-token"] if form in said]


def test_no_error_holds_a_secret_when_nobody_answers(crm, caplog) -> None:
    caplog.set_level(logging.DEBUG)
    with Api() as api:
        api.close()
        with pytest.raises(RestError, match=r"no connection, or it was lost \(.*refused.*5 attempts") as raised:
            crm.poll(api, auth=HOW["query"])
    assert "s3cr3t" not in "".join(traceback.format_exception(raised.value)) + caplog.text


def test_a_credential_that_no_header_can_hold_is_an_error_without_it(crm, monkeypatch) -> None:
    monkeypatch.setenv("CRM_SECRET", "s3cr3t\nX-Evil: 1")
    with Api() as api, pytest.raises(RestError, match="CRM_SECRET has a line end") as raised:
        crm.poll(api, auth=HOW["header"])
    assert "s3cr3t" not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize("how", HOW)
def test_no_table_holds_a_secret(crm, how) -> None:
    with Api(records=['{"account_id": 1}', '{"account_id": "x"}']) as api:
        crm.poll(api, auth=HOW[how])
    files = [path for path in Path(crm.lake.uri).rglob("*") if path.is_file()]
    assert len(files) > 4
    assert not [path for path in files for form in QUOTED if form.encode() in path.read_bytes()]
