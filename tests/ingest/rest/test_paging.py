"""The last page is known as such, however the API says so; a first page is never taken for the whole."""

import json
import time

import pytest
from crm_api import Api, Reply, account, body
from polled import UPDATED, Crm

from pipeline_assets.ingest.rest.errors import RestError
from pipeline_assets.ingest.rest.links import next_link
from pipeline_assets.ingest.rest.source import Cursor, LinkHeader, NextUrl, Offset, PageNumber, SinglePage

SINGLE = SinglePage(type="single_page")
CURSOR = Cursor(type="cursor", path="meta.next", more="meta.has_more")
CURSOR_ALONE = Cursor(type="cursor", path="meta.cursor")


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ('<a?page=2>; rel="next"', "a?page=2"),
        ('<a>; rel="NEXT"', "a"),
        ("<a>; rel=next", "a"),
        ('<a>; REL = "next last"', "a"),
        ('<a>; rel="last\tnext"', "a"),
        ('<a>; title="x"; rel="next"', "a"),
        ('<a>;rel="next";title="a \\"quoted\\", one; rel=last"', "a"),
        ('<b>; rel="prev", <a>; rel="next"', "a"),
        ('<b>; rel="prev" , , <a>; rel="next",', "a"),
        ("<a?x=1,2;3&y=,<b>; rel=next", None),
        ('<a?x=1,2;3&f=id,name>; rel="next"', "a?x=1,2;3&f=id,name"),
        ('<b,<c>; rel="last", <a>; rel="next"', "a"),
        ('<b>; rel="nextish"', None),
        ('<b>; rel="last"; rel="next"', None),  # the first one counts
        ('<b>; rel="next"; anchor="/other"', None),
        ('<b>; crossorigin; rel="next"', "b"),
        ('<a>; rel="next", <a>; rel="next"', "a"),
        ("<b>", None),
        ("", None),
    ],
)
def test_relations_are_read_as_the_rfc_has_them(header: str, found: str | None) -> None:
    if found is None and header.startswith("<a?x=1"):
        with pytest.raises(RestError, match="cannot be read"):
            next_link(header.replace(">", "", 1))
        return
    assert next_link(header) == found


@pytest.mark.parametrize("header", ['a; rel="next"', '<a; rel="next"', '<a>; rel="next', '<a> rel="next"'])
def test_a_header_that_cannot_be_read_is_an_error_not_the_end(header: str) -> None:
    with pytest.raises(RestError, match="cannot be read"):
        next_link(header)


@pytest.mark.parametrize("tail", ["; ", "; a= ", ";a =", ' ; a = "" '])
def test_a_header_that_cannot_be_read_is_told_at_once(tail: str) -> None:
    begun = time.process_time()
    with pytest.raises(RestError, match="cannot be read"):
        next_link("<a>" + tail * 22 + '"')
    assert time.process_time() - begun < 1, "each further parameter doubled the time"


def test_two_next_pages_are_an_error() -> None:
    with pytest.raises(RestError, match="2 different next pages"):
        next_link('<a>; rel="next", <b>; rel="next"')


@pytest.mark.parametrize(
    "form", ['<{url}>; rel="NEXT"', "<{url}>; rel=next", '</accounts>; rel=first, <{url}>; rel="last next"']
)
def test_every_form_of_the_header_leads_to_all_records(crm: Crm, form: str) -> None:
    def written(n: int, query: dict[str, str]) -> Reply:
        reply = api.page(query)
        link = reply.headers.get("Link")
        return Reply(200, reply.body, {"Link": form.format(url=link[1 : link.index(">")])} if link else {})

    with Api("link_header", fault=written) as api:
        assert crm.poll(api).total.rows == 10


@pytest.mark.parametrize("paging", ["single", "page", "offset", "cursor", "next_url", "link_header"])
@pytest.mark.parametrize("status", [204, 205, 304])
def test_an_answer_without_content_means_nothing_new(crm: Crm, paging, status: int) -> None:
    with Api(paging) as api:
        assert crm.poll(api, incremental=UPDATED).total.rows == 10
        before = len(api.asked)
        api.fault = lambda n, query: Reply(status)
        polled = crm.poll(api, incremental=UPDATED)
        assert (polled.total.records_in, polled.total.rows) == (0, 0)
        assert len(api.asked) - before <= 2
    assert len(crm.rows()) == 10


def test_no_content_ends_pages_by_number(crm: Crm) -> None:
    with Api("page", fault=lambda n, query: Reply(204) if n > 4 else None) as api:
        assert crm.poll(api).total.rows == 10


def test_no_content_does_not_empty_a_table_that_is_read_whole(crm: Crm) -> None:
    with Api() as api:
        crm.poll(api)
        api.fault = lambda n, query: Reply(204)
        with pytest.raises(RestError, match="sent no record at all"):
            crm.poll(api)
    assert len(crm.rows()) == 10


def test_no_content_in_place_of_a_page_does_not_pass_for_the_total(crm: Crm) -> None:
    api = Api(fault=lambda n, query: Reply(204) if "cursor" in query else None)
    with api, pytest.raises(RestError, match=r"3 different records came.* 10 were promised"):
        crm.poll(api, total="meta.total")


def test_no_content_in_place_of_a_page_does_not_pass_for_the_end_while_the_api_spoke_of_more_records(crm: Crm) -> None:
    api = Api(fault=lambda n, query: Reply(204) if "cursor" in query else None)
    with api, pytest.raises(RestError, match=r"page 2 has no content \(HTTP 204\), after 3 records of 10"):
        crm.poll(api)
    assert crm.rows() == []


def test_headers_of_a_whole_answer_speak_of_no_more(crm: Crm) -> None:
    headers = {"X-Total-Count": "1", "X-Total-Pages": "1", "X-Next-Page": "", "Content-Range": "items 0-0/1"}
    with Api("single", fault=lambda n, query: body([account(1)], {}, headers)) as api:
        assert crm.poll(api).total.rows == 1


@pytest.mark.parametrize("sent", ["null", '{"data": null}', '{"data": {"items": null}}'])
def test_null_on_the_way_to_the_records_is_no_record(crm: Crm, sent: str) -> None:
    with Api() as api:
        crm.poll(api, incremental=UPDATED)
        api.fault = lambda n, query: Reply(200, sent.encode())
        assert crm.poll(api, incremental=UPDATED).total.records_in == 0


@pytest.mark.parametrize("sent", ["", "{}", '{"data": {}}', '{"error": "try later"}', "[]"])
def test_a_body_without_the_place_of_the_records_is_an_error(crm: Crm, sent: str) -> None:
    with Api(fault=lambda n, query: Reply(200, sent.encode())) as api, pytest.raises(RestError):
        crm.poll(api, incremental=UPDATED)


def test_a_flag_ends_the_pages_though_the_cursor_is_still_there(crm: Crm) -> None:
    def page(n: int, query: dict[str, str]) -> Reply:
        return body([account(n)], {"next": "same", "has_more": n < 2})

    with Api(fault=page) as api:
        assert crm.poll(api, pagination=CURSOR).total.rows == 2
        assert len(api.asked) == 2
        with pytest.raises(RestError, match=r"pagination\.more"):
            crm.poll(api)


@pytest.mark.parametrize(
    "pagination",
    [
        Cursor(type="cursor", path="meta.next", more="meta.more"),
        NextUrl(type="next_url", path="meta.next", more="meta.more"),
        PageNumber(type="page", more="meta.more"),
        Offset(type="offset", more="meta.more"),
    ],
)
def test_every_kind_of_paging_may_have_a_flag(crm: Crm, pagination) -> None:
    def flagged(n: int, query: dict[str, str]) -> Reply:
        found = json.loads(api.page(query).body)
        found["meta"]["more"] = n < 4
        return Reply(200, json.dumps(found).encode())

    with Api(pagination.type, fault=flagged) as api:
        assert crm.poll(api, pagination=pagination).total.rows == 10
        assert len(api.asked) == 4  # no page beyond the last one


@pytest.mark.parametrize(
    "pagination", [PageNumber(type="page", more="meta.more"), Offset(type="offset", more="meta.more")]
)
def test_a_flag_goes_on_though_the_total_is_reached(crm: Crm, pagination) -> None:
    def stale(n: int, query: dict[str, str]) -> Reply:
        found = json.loads(api.page(query).body)
        found["meta"] |= {"more": n < 4, "total": 3}
        return Reply(200, json.dumps(found).encode())

    with Api(pagination.type, fault=stale) as api:
        assert crm.poll(api, pagination=pagination, total="meta.total").total.rows == 10


@pytest.mark.parametrize("meta", [{}, {"has_more": None}, {"has_more": "perhaps"}])
def test_a_flag_that_is_not_there_is_an_error(crm: Crm, meta: dict[str, object]) -> None:
    api = Api(fault=lambda n, query: body([account(1)], meta))
    with api, pytest.raises(RestError, match=r"pagination\.more: 'meta\.has_more' must be true or false"):
        crm.poll(api, pagination=CURSOR)


def test_more_without_a_cursor_is_an_error(crm: Crm) -> None:
    api = Api(fault=lambda n, query: body([account(1)], {"has_more": True}))
    with api, pytest.raises(RestError, match="says that there are more, and names no next one"):
        crm.poll(api, pagination=CURSOR)


@pytest.mark.parametrize(
    ("paging", "options", "meta", "headers", "error"),
    [
        ("cursor", {}, {"nextPageToken": "c3"}, {}, "there is something at meta.nextPageToken"),
        ("cursor", {}, {"paging": {"next": "c3"}}, {}, "there is something at meta.paging.next"),
        ("cursor", {}, {"has_more": True}, {}, "meta.has_more says that there are more"),
        ("cursor", {}, {"total_count": 10}, {}, "meta.total_count is 10, and 3 records came"),
        ("cursor", {}, {}, {"Link": '</accounts?start=3>; rel="Next"'}, "its header Link names one"),
        ("cursor", {"params": {"limit": 3}}, {}, {}, r"it is full \(limit=3\)"),
        ("next_url", {}, {"@odata.nextLink": "/accounts?start=3"}, {}, "there is something at meta.@odata.nextLink"),
        ("next_url", {"params": {"per_page": "3"}}, {}, {}, r"it is full \(per_page=3\)"),
        ("link_header", {}, {"next": "/accounts?start=3"}, {}, "there is something at meta.next"),
        ("link_header", {"params": {"per_page": 3}}, {}, {}, r"it is full \(per_page=3\)"),
        ("single", {}, {"next": "c3"}, {}, "there is something at meta.next"),
        ("single", {}, {"total": 10}, {}, "meta.total is 10, and 3 records came"),
        ("single", {}, {}, {"Link": '</accounts?start=3>; rel="next"'}, "its header Link names one"),
        ("single", {}, {"last_page": 4}, {}, "meta.last_page is 4"),
        ("cursor", {}, {"totalPages": 4}, {}, "meta.totalPages is 4"),
        ("link_header", {}, {}, {"X-Total-Count": "10"}, "its header X-Total-Count is 10, and 3 records came"),
        ("link_header", {}, {}, {"x-wp-totalpages": "4"}, "its header X-WP-TotalPages is 4"),
        ("single", {}, {}, {"X-Next-Page": "2"}, "its header X-Next-Page is 2"),
        ("single", {}, {}, {"Content-Range": "items 0-2/10"}, "its header Content-Range is 10, and 3 records came"),
    ],
)  # fmt: skip
def test_a_first_page_that_is_not_the_whole_is_an_error(crm: Crm, paging, options, meta, headers, error: str) -> None:
    api = Api(paging, fault=lambda n, query: body([account(n) for n in range(3)], meta, headers))
    with api, pytest.raises(RestError, match=error):
        crm.poll(api, **options)
    assert crm.rows() == []


@pytest.mark.parametrize(
    ("paging", "options", "meta"),
    [
        ("single", {}, {"last_page": 1, "page_count": 1}),
        ("cursor", {}, {}),  # most APIs leave the cursor out on the last page
        ("cursor", {}, {"next": None, "previous": "c0", "total": 3, "has_more": False}),
        ("cursor", {"params": {"limit": 4}}, {}),
        ("cursor", {"params": {"limit": 3}, "total": "meta.total"}, {"total": 3}),
        ("next_url", {}, {"next": "", "next_due": "2026-01-01"}),
        ("link_header", {}, {}),
        ("single", {"params": {"limit": 3}}, {"count": 3}),
    ],
)
def test_a_first_page_that_is_the_whole_is_taken(crm: Crm, paging, options, meta) -> None:
    with Api(paging, fault=lambda n, query: body([account(n) for n in range(3)], meta)) as api:
        assert crm.poll(api, **options).total.rows == 3


def test_a_resource_may_lie_at_the_root_itself(crm: Crm) -> None:
    with Api() as api:
        assert crm.poll(api, base_url=f"{api.url}/accounts", path="").total.rows == 10
    assert {asked.path for asked in api.asked} == {"/accounts"}


def _sent(crm: Crm, text: str, records: str, headers: dict[str, str] | None = None, **options) -> int:
    """Rows of a poll that is answered with the text, `%s` standing for two records."""
    sent = Reply(200, text.replace("%s", f"{account(1)}, {account(2)}").encode(), headers or {})
    with Api("single", fault=lambda n, query: sent) as api:
        return crm.poll(api, records=records, **options).total.rows


@pytest.mark.parametrize(
    ("text", "records"),
    [
        ('{"order": {"total": 99, "next_page": "x"}, "lines": [%s]}', "lines"),
        ('{"customer": {"meta": {"total": 99}}, "lines": [%s]}', "lines"),
        ('{"data": {"items": [%s]}, "included": {"paging": {"next": "x"}}}', "data.items"),
        ('{"data": {"items": [%s], "owner": {"links": {"next": "x"}}}}', "data.items"),
        ('{"meta": {"query": {"more": true, "next": "x"}}, "items": [%s]}', "items"),
    ],
)
@pytest.mark.parametrize("pagination", [None, CURSOR_ALONE, LinkHeader(type="link_header")])
def test_what_other_objects_of_the_answer_hold_says_nothing_of_pages(crm: Crm, pagination, text, records) -> None:
    assert _sent(crm, text, records, pagination=pagination) == 2


@pytest.mark.parametrize(
    ("text", "records", "error"),
    [
        ('{"order": {"total": 99, "lines": [%s]}}', "order.lines", "order.total is 99, and 2 records came"),
        ('{"total": 250, "latest": [%s]}', "latest", "total is 250, and 2 records came"),
        ('{"paging": {"next_token": "x"}, "items": [%s]}', "$.items", "there is something at paging.next_token"),
        ('{"next": "x", "data": {"items": [%s]}}', "data.items", "there is something at next"),
        ('{"data": {"items": [%s], "pageInfo": {"hasNextPage": true}}}', "data.items", "data.pageInfo.hasNextPage"),
        ('{"_links": {"next": {"href": "x"}}, "items": [%s]}', "items", "there is something at _links.next"),
        ('{"meta": {"pagination": {"total_pages": 9}}, "items": [%s]}', "items", "meta.pagination.total_pages is 9"),
        ('{"response_metadata": {"next_cursor": "x"}, "items": [%s]}', "items", "response_metadata.next_cursor"),
        ('{"result_info": {"total_count": 9}, "result": [%s]}', "result", "result_info.total_count is 9"),
        ('{"page": {"totalElements": 9}, "items": [%s]}', "items", "page.totalElements is 9"),
    ],
)
def test_more_pages_are_doubted_beside_the_records_until_declared_as_all_there_is(crm, text, records, error) -> None:
    for pagination in None, CURSOR_ALONE:
        with pytest.raises(RestError, match=f"{error}.*pagination: {{type: single_page}}"):
            _sent(crm, text, records, pagination=pagination)
    assert _sent(crm, text, records, pagination=SINGLE) == 2


@pytest.mark.parametrize(
    "headers", [{"Link": '</accounts?start=3>; rel="next"'}, {"X-Total-Count": "10"}, {"X-Next-Page": "2"}]
)
def test_one_answer_that_is_declared_as_all_is_taken_whatever_its_headers_say(crm: Crm, headers) -> None:
    with pytest.raises(RestError, match=r"pagination: {type: single_page}"):
        _sent(crm, "[%s]", "$", headers, pagination=None)
    assert _sent(crm, "[%s]", "$", headers, pagination=SINGLE, params={"limit": 2}) == 2


def test_one_answer_that_is_declared_as_all_still_has_to_reach_a_declared_total(crm: Crm) -> None:
    with pytest.raises(RestError, match=r"2 different records came.* 9 were promised"):
        _sent(crm, '{"total": 9, "items": [%s]}', "items", pagination=SINGLE, total="total")


def test_records_that_hold_a_next_of_their_own_say_nothing_of_pages(crm: Crm) -> None:
    with Api(fault=lambda n, query: body([account(1, next="x", total=99)], {})) as api:
        assert crm.poll(api).total.rows == 1


@pytest.mark.parametrize("pagination", [LinkHeader(type="link_header"), None])
def test_a_page_read_by_its_last_record_s_key_is_unaffected(crm: Crm, pagination) -> None:
    with Api("single") as api:
        assert crm.poll(api, pagination=pagination).total.rows == 10
