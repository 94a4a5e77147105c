"""Polls of a well-behaved API: every way of paging, what becomes of the records, and what the next poll asks for."""

import json
from contextlib import suppress
from dataclasses import replace
from datetime import date
from decimal import Decimal

import pytest
from crm_api import PAGE, Api, Reply, account, body
from killing import Killed, kill_at_commit
from polled import UPDATED, Accounts, Crm

from pipeline_assets.ingest.batch.audit import audit
from pipeline_assets.ingest.batch.counts import Counts
from pipeline_assets.ingest.rest.errors import RestError
from pipeline_assets.ingest.rest.source import Cursor, Incremental


def since(api: Api) -> list[str | None]:
    """What the first request of each poll asked for."""
    return [asked.query.get("updated_since") for asked in api.asked if "cursor" not in asked.query]


@pytest.mark.parametrize("paging", ["single", "page", "offset", "cursor", "next_url", "link_header"])
@pytest.mark.parametrize("total", [None, "meta.total"])
def test_every_way_of_paging_ends_with_all_records(crm, paging, total) -> None:
    with Api(paging) as api:
        polled = crm.poll(api, total=total, params={"archived": False, "size": PAGE})
    assert crm.rows() == list(range(1, 11))
    assert polled.total == Counts(records_in=10, rows=10)
    assert api.asked[0].query.items() >= {"archived": "false", "size": "3"}.items()
    needed = 1 if paging == "single" else 4
    assert polled.pages == needed + (2 if paging in ("page", "offset") and not total else 0)


def test_the_cursor_may_be_the_key_of_the_last_record(crm) -> None:
    def after(n: int, query: dict[str, str]) -> Reply:
        start = int(query.get("after", "0"))
        return api.page(query, records=api.records[start : start + PAGE])

    with Api(fault=after) as api:
        polled = crm.poll(api, pagination=Cursor(type="cursor", param="after", path="data.items[-1].account_id"))
    assert (polled.pages, crm.rows()) == (5, list(range(1, 11)))


def test_a_row_says_where_it_came_from(crm) -> None:
    with Api() as api:
        crm.poll(api)
    assert crm.rows("_source.file, _source.line, _batch_id, _deleted")[4] == (
        "GET /accounts",
        5,
        crm.batches()[0],
        False,
    )


def test_values_are_those_that_were_sent(crm) -> None:
    texts = ["1.50", "1e5", "-0.10", "12345678901234567890.1234567890", "0.0000000001", '"2.50"']
    records = [
        f'{{"account_id": {n}, "name": {json.dumps(f"é😀 {n}")}, "revenue": {text}, "more": {{"b": [{text}, null]}}}}'
        for n, text in enumerate(texts, 1)
    ]
    with Api(records=records) as api:
        crm.poll(api)
    assert crm.rows("account_id, revenue::VARCHAR, _rescued") == [
        (n, f"{Decimal(text.strip(chr(34))):.10f}", f'{{"more":{{"b":[{text},null]}}}}')
        for n, text in enumerate(texts, 1)
    ]
    assert crm.rows("name")[0] == "é😀 1"


def test_a_record_that_does_not_fit_is_a_dead_letter_as_it_was_sent(crm) -> None:
    bad = [
        '{ "account_id" : "x",\n "revenue": 1.50 }',
        "17",
        "null",
        '{"account_id": 5, "name": "a\tb"}',
        '{"account_id": 6, "name": "\\ud800"}',
        '{"account_id": 7, "account_id": 8}',
        '{"account_id": 9, "revenue": NaN}',
        '{"account_id": ' + "9" * 6000 + "}",
    ]
    with Api(records=[account(1), *bad]) as api:
        polled = crm.poll(api)
    assert polled.total == Counts(records_in=9, rows=1, dead_letters=8)
    assert [raw for _, _, raw in crm.dead()] == bad
    reasons = [reason.partition("'")[0] for _, reason, _ in crm.dead()]
    assert reasons == [
        "cast: account_id: ", "json: not an object", "json: not an object", "json: malformed", "json: malformed",
        "json: a field is given twice", "cast: revenue: ", "cast: account_id: ",
    ]  # fmt: skip
    found = audit(crm.con, crm.bronze, Accounts, failure_budget=1, days=(polled.day, polled.day))
    assert (found.mismatches, found.total.records_in) == ([], 9)


def test_a_record_that_is_not_utf_8_costs_itself(crm) -> None:
    with Api("single", [account(1), account(2, city="~"), account(3)]) as api:
        page = api.page({})
        api.fault = lambda n, query: replace(page, body=page.body.replace(b"~", b"\xe9"))
        assert crm.poll(api).total == Counts(records_in=3, rows=2, dead_letters=1)
    assert crm.rows() == [1, 3]
    assert [(reason, '"city": "\\xe9"' in raw) for _, reason, raw in crm.dead()] == [("json: malformed", True)]


def test_a_field_with_u0000_in_its_name_costs_its_own_record(crm) -> None:
    with Api("single", [account(1), '{"account_id":2,"na\\u0000me":"x"}', account(3)]) as api:
        crm.poll(api)
    assert crm.rows("account_id") == [1, 3]
    assert [reason for _, reason, _ in crm.dead()] == ["json: a field has U+0000 in its name"]


@pytest.mark.parametrize(("evolves", "name", "rescued"), [(True, "region", None), (False, None, '{"region":"north"}')])
def test_a_schema_that_grows_loses_nothing(crm, evolves, name, rescued) -> None:
    records = [*(account(n) for n in range(1, 7)), account(7, region="north")]
    with Api(records=records) as api:
        crm.poll(api, schema_evolution=evolves)
    assert crm.rows("account_id, _rescued")[-1] == (7, rescued)
    described = crm.con.execute(f"DESCRIBE SELECT * FROM {crm.bronze.scan()}").fetchall()
    assert ("region" in {column for column, *_ in described}) == bool(name)


def test_of_records_with_one_key_the_newest_one_stays(crm) -> None:
    records = [
        account(1, day=5, name="new"),
        account(2, day=5, name="first"),
        account(1, day=4, name="old"),
        '{"account_id": "2", "name": "second", "updated_at": "2026-01-05"}',  # the same key, spelled differently
        account(3),
        account(3),
    ]
    with Api(records=records) as api:
        polled = crm.poll(api, incremental=UPDATED)
    assert crm.rows("account_id, name") == [(1, "new"), (2, "second"), (3, "Account 3")]
    assert polled.total == Counts(records_in=6, rows=3, duplicates=3)


def test_an_older_version_does_not_pass_for_a_newer_one_that_does_not_fit(crm) -> None:
    with Api(records=[account(1), '{"account_id": 1, "revenue": "much"}']) as api:
        polled = crm.poll(api)
    assert crm.rows() == []
    assert polled.total == Counts(records_in=2, dead_letters=1, duplicates=1)


def test_the_next_poll_asks_for_what_is_new_and_takes_no_record_twice(crm) -> None:
    with Api() as api:
        first = crm.poll(api, incremental=UPDATED)
        api.records = [account(9), account(10, day=2), account(11, day=3)]
        second = crm.poll(api, incremental=UPDATED)
        api.records = [account(11, day=3)]
        third = crm.poll(api, incremental=UPDATED)
    assert since(api) == [None, "2025-12-31T23:00:00Z", "2026-01-02T23:00:00Z"]
    assert first.total == Counts(records_in=10, rows=10)
    assert second.total == Counts(records_in=3, rows=2, duplicates=1)
    assert third.total == Counts(records_in=1, duplicates=1)
    batches = crm.batches()
    assert crm.rows("account_id, _batch_id")[9:] == [(10, batches[0]), (10, batches[1]), (11, batches[1])]
    assert second.origin == "GET /accounts?updated_since=2025-12-31T23:00:00Z"


def test_a_poll_without_a_record_commits_nothing_and_keeps_the_watermark(crm) -> None:
    with Api() as api:
        first = crm.poll(api, incremental=UPDATED)
        api.fault = lambda n, query: api.page(query, records=[]) if "cursor" not in query else None
        api.records = []
        second = crm.poll(api, incremental=UPDATED)
        crm.poll(api, incremental=UPDATED)
    assert (second.version, second.total) == (first.version, Counts())
    assert since(api)[1:] == ["2025-12-31T23:00:00Z"] * 2


def test_a_record_of_the_future_does_not_end_all_polls(crm) -> None:
    with Api(records=[account(1), '{"account_id": 2, "updated_at": "2999-01-01T00:00:00Z"}']) as api:
        polled = crm.poll(api, incremental=UPDATED)
        crm.poll(api, incremental=UPDATED)
    assert date.fromisoformat((since(api)[1] or "")[:10]) <= polled.day


def test_a_whole_poll_brings_what_was_missed(crm) -> None:
    with Api() as api:
        crm.poll(api, incremental=UPDATED)
        api.records[3] = account(11, revenue="1.5")
        polled = crm.poll(api, incremental=UPDATED, whole=True)
    assert since(api) == [None, None]
    assert polled.total == Counts(records_in=10, rows=1, duplicates=9)


def test_the_watermark_may_be_a_number_and_the_lag_is_declared(crm) -> None:
    by_id = Incremental(param="since_id", field="account_id", lag=2)
    with Api() as api:
        crm.poll(api, incremental=by_id)
        polled = crm.poll(api, incremental=by_id)
    assert api.asked[4].query == {"since_id": "8"}
    assert polled.total == Counts(records_in=10, duplicates=10)


def test_a_full_poll_replaces_the_table_and_writes_nothing_without_news(crm) -> None:
    with Api() as api:
        first = crm.poll(api)
        api.records.reverse()
        same = crm.poll(api)
        api.records = [account(1), account(2, day=2)]
        third = crm.poll(api)
    assert (same.version, same.total) == (first.version, Counts(records_in=10, duplicates=10))
    assert third.total == Counts(records_in=2, rows=2)
    assert crm.rows() == [1, 2]
    assert len(crm.batches()) == 1


def test_a_whole_poll_brings_back_what_was_taken_out(crm) -> None:
    with Api() as api:
        crm.poll(api)
        nothing = f"SELECT * FROM {crm.bronze.scan()} WHERE false"
        crm.bronze.replace(crm.con, nothing, where="account_id > 5")
        assert crm.poll(api).total == Counts(records_in=10, duplicates=10)
        assert crm.poll(api, whole=True).total == Counts(records_in=10, rows=10)
    assert crm.rows() == list(range(1, 11))


@pytest.mark.parametrize("kill_at", range(5))
def test_a_source_that_turns_back_after_a_killed_poll_has_its_own_dead_letters(crm, monkeypatch, kill_at: int) -> None:
    former = [account(1), '{"account_id": "x"}', '{"account_id": "y"}']
    with Api(records=former) as api:
        crm.poll(api)
        api.records = [account(1, day=2), '{"account_id": "z"}']
        with monkeypatch.context() as during, suppress(Killed):
            kill_at_commit(during, kill_at)
            crm.poll(api)
        api.records = former
        crm.poll(api)
    assert crm.rows("account_id, updated_at::DATE") == [(1, date(2026, 1, 1))]
    assert crm.dead("raw") == [(raw,) for raw in former[1:]]


def test_an_empty_answer_empties_no_table_unless_a_total_says_so(crm) -> None:
    with Api() as api:
        crm.poll(api)
        api.records = []
        api.fault = lambda n, query: api.page(query, records=[])
        with pytest.raises(RestError, match="no record at all"):
            crm.poll(api)
        assert len(crm.rows()) == 10
        crm.poll(api, total="meta.total")
    assert crm.rows() == []


def test_a_source_that_changes_its_mode_misses_nothing(crm) -> None:
    with Api() as api:
        crm.poll(api)
        first = crm.poll(api, incremental=UPDATED)
        api.records[0] = account(1, day=3)
        crm.poll(api, incremental=UPDATED)
        api.records[0] = account(1)
        crm.poll(api)
    assert first.total == Counts(records_in=10, duplicates=10)
    assert crm.rows() == list(range(1, 11))


def test_more_different_fields_than_a_table_has_room_for_are_no_records(crm) -> None:
    records = [json.dumps({"account_id": 1, **{f"k{n}": n for n in range(2_001)}})]
    with Api(records=records) as api, pytest.raises(RestError, match="2002 different fields"):
        crm.poll(api)


@pytest.mark.parametrize("paging", ["cursor", "page", "link_header"])
@pytest.mark.parametrize("place", [0, 2, 9])
def test_a_record_of_3000_levels_costs_itself_at_most(crm: Crm, paging, place: int) -> None:
    records = [account(n) for n in range(1, 11)]
    records[place] = f'{{"account_id": {place + 1}, "name": {"[" * 3_000}{"]" * 3_000}}}'
    with Api(paging, records) as api:
        counts = crm.poll(api).total
    assert (counts.rows + counts.dead_letters, counts.rows >= 9) == (10, True)


@pytest.mark.parametrize("place", [1, 2])
def test_a_cursor_in_the_last_record_is_found_though_the_record_is_too_deep(crm: Crm, place: int) -> None:
    pages = [[account(1), account(2), account(3)], [account(4)]]
    pages[0][place] = f'{{"name": {"[" * 3_000}{"]" * 3_000}, "account_id": {place + 1}}}'

    def page(n: int, query: dict[str, str]) -> Reply:
        return body(pages[query.get("after") == "3"] if query.get("after") != "4" else [], {})

    with Api(fault=page) as api:
        cursor = Cursor(type="cursor", param="after", path="data.items[-1].account_id")
        counts = crm.poll(api, pagination=cursor).total
        assert [asked.query.get("after") for asked in api.asked] == [None, "3", "4"]
    assert counts.records_in == 4
