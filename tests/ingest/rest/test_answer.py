"""Records are cut out of a body as they stand there, wherever they stand."""

import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_assets.ingest.rest.answer import read_answer, values_at
from pipeline_assets.ingest.rest.errors import BrokenBodyError, RestError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=50)
@given(records=st.lists(JSON), beside=st.dictionaries(st.text(), JSON), indent=st.sampled_from([None, 0, 2]))
def test_every_record_is_found_whole(records, beside, indent) -> None:
    body = json.dumps({**beside, "data": {"a": 1, "items": records, "b": [{}]}}, indent=indent)
    found = read_answer(body.encode(), "data.items", None).records
    assert [json.dumps(json.loads(text)) for text in found] == [json.dumps(record) for record in records]
    assert all(text in body for text in found)


@pytest.mark.parametrize(
    ("body", "path", "records"),
    [
        ("[1.50, 1e5 ,-0]", "$", ["1.50", "1e5", "-0"]),
        ("\ufeff[ ]", "$", []),
        ('{"items": null}', "items", []),
        ('{"items": [], "error": null, "errors": []}', "items", []),
        ('{"items": [1], "error": "one of two shards is down"}', "items", ["1"]),
        ('{"errors": {"items": []}}', "errors.items", []),
        ('{"@odata.value": [1], "x": "]"}', '"@odata.value"', ["1"]),
        ('{"$": {"a-b": {"c": [ {"x": "}]"} ]}}}', "'$'.a-b.c", ['{"x": "}]"}']),
        ('{"i": {"\\u0061": [1]}}', "$.i.a", ["1"]),
    ],
)
def test_the_path_of_records(body, path, records) -> None:
    assert read_answer(body.encode(), path, None).records == records


@pytest.mark.parametrize("path", ["data[0]", "data.*", "..items", "data.[", ""])
def test_a_path_that_names_no_list_is_refused(path) -> None:
    with pytest.raises(RestError, match=r"names with dots between|is no JSONPath"):
        read_answer(b"[]", path, None)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ('{"items": [1], "items": [2]}', "items is of the type list; it is there twice"),
        ('{"items": [1], "items": {}}', "items has nothing; it is there twice"),
        ('{"items": 1, "items": [2]}', "items is of the type list"),
        ('[{"items": []}]', "the body is of the type list"),
        ('{"Items": []}', "the body has Items"),
        ('{"items": null, "error": "try later"}', "there is no record in it, but something at error"),
        ('{"Errors": [{"message": "timeout"}], "items": []}', "something at Errors"),
    ],
)
def test_records_that_are_not_where_they_should_be(body, error) -> None:
    with pytest.raises(RestError, match=error) as raised:
        read_answer(body.encode(), "items", None)
    assert not isinstance(raised.value, BrokenBodyError)


@given(
    body=st.sampled_from(
        ['{"a": {"n": 1.5}, "items": [{"b": "}]"}, 17 , null], "c": [true]}', "[1, 2]", "{}", '{"items":[]}']
    ),
    data=st.data(),
)
def test_a_body_is_read_only_if_all_of_it_is_json(body, data) -> None:
    at = data.draw(st.integers(0, len(body) - 1))
    spoiled = body[:at] + data.draw(st.sampled_from(["", ",", "]", "}", "{", "[", '"', ":", "1", "x"])) + body[at + 1 :]
    try:
        json.loads(spoiled)
    except ValueError:
        with pytest.raises(BrokenBodyError):
            read_answer(spoiled.encode(), "items", None)
    else:
        with suppress(RestError):
            read_answer(spoiled.encode(), "items", None)


@pytest.mark.parametrize(("total", "found"), [("7", 7), ('"12"', 12), ("0", 0)])
def test_the_total_may_be_a_number_or_its_digits(total, found) -> None:
    assert read_answer(f'{{"a": [], "@count": {total}}}'.encode(), "a", '"@count"').total == found


def test_bytes_that_are_not_utf_8_cost_their_own_record() -> None:
    body = '{"items": [{"a": "é"}, {"a": "~"}, {"b": 1}], "n": 3}'.encode().replace(b"~", b"\xe9")
    answer = read_answer(body, "items", "n")
    assert (answer.records, answer.total) == (['{"a": "é"}', '{"a": "\\xe9"}', '{"b": 1}'], 3)


@pytest.mark.parametrize(
    "body",
    [b'{"items": [1], "next": "\xe9"}', b'{"\xe9": 1, "items": []}', b'{"items": [\xe9]}', b'{"items": [1]}\xe9'],
)
def test_bytes_that_are_not_utf_8_elsewhere_spoil_the_body(body) -> None:
    with pytest.raises(BrokenBodyError):
        read_answer(body, "items", None)


def test_an_empty_body_is_called_so() -> None:
    with pytest.raises(BrokenBodyError, match="the body is empty, which is not JSON"):
        read_answer(b" \r\n", "items", None)


def test_a_body_that_ends_early_is_worth_another_try() -> None:
    with pytest.raises(BrokenBodyError):
        read_answer(b'{"items": [1, 2', "items", None)


def _deep(levels: int, opening: str = '{"a]":', closing: str = "}") -> str:
    """A record; what is nested in it has strings with brackets and quotes in them."""
    return f'{{"id": 7, "x": "\\\\", "what": {opening * levels}"]}}\\"["{closing * levels}, "after": 8}}'


@pytest.mark.parametrize("levels", [90, 101, 990, 993, 996, 3_000, 10_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a]":', "}"), ('[{"}": ', "}]")])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_record_nested_too_deep_is_cut_out_whole(levels: int, opening: str, closing: str, place: int) -> None:
    records = ['{"id": 1}', '{"id": 2}']
    records.insert(place, _deep(levels, opening, closing))
    answer = read_answer(f'{{"data": {{"items": [{" , ".join(records)}], "n": 3}}}}'.encode(), "data.items", "data.n")
    assert (answer.records, answer.total) == (records, 3)
    last = values_at("data.items[-1].id", answer.envelope) + values_at("data.items[-1].after", answer.envelope)
    assert last == ([7, 8] if place == 2 else [2])


@pytest.mark.parametrize("spoiled", ["}", "]", '"', '"}', ""])
def test_a_deep_record_without_an_end_is_a_body_that_ends_early(spoiled: str) -> None:
    deep = _deep(3_000).replace("}}", spoiled + "}", 1) if spoiled != "}" else _deep(3_000)[:-20]
    with pytest.raises(BrokenBodyError):
        read_answer(f'[{{"id": 1}}, {deep}]'.encode(), "$", None)


def test_a_last_record_of_many_brackets_is_no_deep_one() -> None:
    wide = json.dumps({"id": 7, "tags": [[n] for n in range(500)]})
    answer = read_answer(f"[{wide}]".encode(), "$", None)
    assert answer.envelope == json.loads(f"[{wide}]")


def test_a_last_record_of_brackets_in_a_string_is_no_deep_one() -> None:
    assert read_answer(json.dumps([1, "[" * 500]).encode(), "$", None).envelope == ["[" * 500]
