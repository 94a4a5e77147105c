"""JSON taken apart with every digit: any document, any characters, the marks' own ones too."""

import json

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_assets.ingest.conform import json_numbers

NUMBERS = (
    "0", "-0", "-0.0", "0.0", "1.0", "1.50", "10", "100.00", "0.0001", "0.00001", "5e-324", "1e5", "1E5", "1e400",
    "-1E-10", "0E-30", "1.0E30", "0.1", "0.10000000000000000555", "12345678901234.123456", "99999999999999.9",
    "1234567890123456.0", "1000000000000000.0", "18446744073709551615", "18446744073709551616",
    "123456789012345678901234567890", "12345678901234567890.123456", "9007199254740993.0",
)  # fmt: skip
TEXTS = st.text(st.sampled_from('a1.:,"\\[{e-\ue0f0\ue0f1☃\n')) | st.sampled_from(["\ue0f11.50", "\ue0f00", '":1.50,'])
VALUES = st.recursive(
    st.sampled_from([*NUMBERS, "true"]) | TEXTS.map(lambda text: json.dumps(text, ensure_ascii=False)),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{','.join(items)}]")
        | st.dictionaries(TEXTS, inner, max_size=3).map(
            lambda fields: "{" + ",".join(f"{json.dumps(n, ensure_ascii=False)}:{v}" for n, v in fields.items()) + "}"
        )
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def con():
    with duckdb.connect() as con:
        yield con


@settings(max_examples=40, deadline=None)
@given(values=st.lists(VALUES, min_size=1, max_size=40))
def test_every_part_of_a_document_is_its_exact_text(con, values):
    con.register("documents", pa.table({"text": [f'{{"a":1.50,"v\ue0f1":{value}}}' for value in values]}))
    path = f"'/{json_numbers.marked_name('v' + chr(0xE0F1))}'"
    marked = json_numbers.marked("text")
    parts = con.execute(
        f"SELECT {json_numbers.is_at_risk('text')}, "
        f"{json_numbers.unmarked(f'json_extract({marked}, {path})::VARCHAR')}, "
        f"{json_numbers.unmarked_text(f'json_extract_string({marked}, {path})')} FROM documents"
    ).fetchall()
    texts = [json.loads(value) if value.startswith('"') else value for value in values]
    assert parts == [(True, value, text) for value, text in zip(values, texts, strict=True)]


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("document", ['{{"a":{}}}', '{{"a" : {} }}', '{{"a":[1,{}]}}', "{}", "[\n{}]"])
def test_no_number_that_duckdb_changes_goes_unmarked(con, number, document):
    text = document.format(number)
    sql = f"SELECT {json_numbers.is_at_risk('t')}, contains(t::JSON->>'$', ?) FROM (SELECT ?::VARCHAR AS t)"
    is_at_risk, survives = con.execute(sql, [number, text]).fetchone()
    assert is_at_risk or survives


def test_text_that_looks_like_a_mark_written_as_an_escape_is_left_alone(con):
    sql = f"SELECT {json_numbers.is_at_risk('t')} FROM (SELECT ?::VARCHAR AS t)"
    assert con.execute(sql, [r'{"a":1.50,"b":"\uE0F15"}']).fetchone() == (False,)
