"""Records are cut out of a body as they stand there, wherever they stand."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_assets.ingest.rest.answer import read_answer
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
        ('{"items": [1], "items": [2]}', "items", ["2"]),  # as every parser has it: the last one counts
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


@pytest.mark.parametrize(("total", "found"), [("7", 7), ('"12"', 12), ("0", 0)])
def test_the_total_may_be_a_number_or_its_digits(total, found) -> None:
    assert read_answer(f'{{"a": [], "@count": {total}}}'.encode(), "a", '"@count"').total == found


def test_a_body_that_ends_early_is_worth_another_try() -> None:
    with pytest.raises(BrokenBodyError):
        read_answer(b'{"items": [1, 2', "items", None)
