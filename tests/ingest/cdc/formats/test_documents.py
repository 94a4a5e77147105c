"""JSON that is taken exactly or refused; what a dead letter keeps of a record."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_assets.ingest.cdc.formats.documents import RefusedError, decode, encode, integer, key_of, raw_text, shown


@pytest.mark.parametrize(
    "text",
    [
        '{"n":1.50}',
        '{"n":123456789012345678901234567890}',
        '{"n":12345678901234567890.123456789012345678}',
        '{"n":-0}',
        '{"n":-0.0}',
        '{"n":1e5}',
        '{"n":9007199254740993}',
        '{"n":18446744073709551615}',
        '{"n":18446744073709551616}',
        '{"s":"é\\u0000\\"\\\\\\n"}',
        '{"a":[1,[2.0,{"b":null}]],"t":true}',
        '{"n":' + "9" * 300 + "}",
        '{"n":' + "9" * 5000 + "}",
        '{"n":1E400,"m":-1e400,"x":[1.50,-0]}',
    ],
)
def test_a_document_is_written_as_it_was_read(text: str) -> None:
    assert encode(decode(text)) == text
    assert encode(decode(text.encode())) == text


def test_spaces_do_not_change_a_value() -> None:
    assert encode(decode('{ "a" : 1.50 , "b" : "x y" }\n')) == '{"a":1.50,"b":"x y"}'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a":1', "json: "),
        ("", "json: "),
        ("{'a':1}", "json: "),
        ('{"a":NaN}', "json: "),
        ('{"a":1E400,"b":NaN}', "json: "),
        ('{"a":1}{"b":2}', "json: "),
        ('{"a":"\\ud800"}', "json: "),
        ('{"a":"' + "\x00" + '"}', "json: "),
        (b'{"a":"\xff"}', "encoding: byte 7 is not UTF-8"),
        ('{"a":1,"b":2,"a":1}', "json: field 'a' is given twice"),
        ('{"x":{"a":1,"a":2}}', "json: field 'a' is given twice"),
        ("[" * 100_000, "json: "),
        ("[" * 300 + "]" * 300, "json: nested too deep, 250 levels are read"),
        ('{"a":' * 900 + "1" + "}" * 900, "json: nested too deep, 250 levels are read"),
        ('{"a": ' * 5_000 + "1.50" + "}" * 5_000, "json: "),
        ("\ud800", "encoding: byte 1 is not UTF-8"),
    ],
)
def test_what_is_no_json_is_refused(text: str | bytes, reason: str) -> None:
    with pytest.raises(RefusedError) as refused:
        decode(text)
    assert refused.value.reason.startswith(reason)


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**200), 2**200) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner)
    ),
    max_leaves=20,
)


@given(_json)
def test_any_document_survives(value: object) -> None:
    text = json.dumps(value, separators=(",", ":"))
    assert json.loads(encode(decode(text))) == value


@pytest.mark.parametrize(
    ("value", "key", "text"),
    [
        (b'{"a":1.50}', None, '{"a":1.50}'),
        (b"\xff{", None, "\\xff{"),
        (None, None, "null"),
        ({"a": 1}, None, '{"a":1}'),
        (b'{"a":1}', b'{"id":1}', '{"key": {"id":1}, "value": {"a":1}}'),
        (None, b"Struct{id=1}", '{"key": "Struct{id=1}", "value": null}'),
        ("\ud800", None, "\\ud800"),
    ],
)
def test_a_dead_letter_keeps_the_record_with_its_key(value: object, key: object, text: str) -> None:
    assert raw_text(value, key) == text  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (1, 1), ("42", 42), (0, 0), (2**63 - 1, 2**63 - 1), (2**63, None), (-1, None), (True, None), ("-1", None),
        ("", None), ("²", None), ("9" * 5000, None), (1.0, None), (None, None), ([], None),
    ],
)  # fmt: skip
def test_integers_fit_a_position_or_are_none(value: object, found: int | None) -> None:
    assert integer(value) == found


def test_keys_come_in_their_declared_order_from_the_first_that_has_them() -> None:
    assert list(key_of(["b", "a"], None, {"a": 1, "b": None}, {"a": 3, "b": 2}).items()) == [("b", 2), ("a", 1)]
    with pytest.raises(RefusedError, match="key: c, d is missing"):
        key_of(["a", "c", "d"], {"a": 1}, {"d": None})


def test_a_reason_shows_a_number_by_its_text_and_not_by_where_it_lies_in_memory() -> None:
    assert shown(decode('{"a":[1.50,1e400]}')) == '{"a":[1.50,1e400]}'
    assert shown(decode("1.50")) == "1.50"
    assert shown("x" * 70) == f"'{'x' * 59}..."
