"""Whatever the standard library writes comes back as it was, on the right lines."""

import csv
import gzip
import io
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from pipeline_assets.contracts.base import RawColumn, RawShape
from pipeline_assets.ingest.files.formats import csv_damage

SHAPE = RawShape((RawColumn("a", "VARCHAR"), RawColumn("b", "VARCHAR"), RawColumn("c", "VARCHAR")))
TEXT = st.one_of(
    st.text(alphabet=st.characters(codec="utf-8"), max_size=8),
    st.text(alphabet=st.sampled_from('ab",;\n\r\t é\0'), max_size=8),
)
SETTINGS = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def may_be_records(rows):
    """Whether a value with line ends begins as a record does, and ends as one ends, or where a value would begin."""
    values = [(column, value.split("\n")) for row in rows for column, value in enumerate(row) if "\n" in value]
    return any(
        column + v[0].count(",") >= 2 and (v[-1].count(",") >= column or v[-1].strip(" \r").endswith(","))
        for column, v in values
    )


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@SETTINGS
@given(
    rows=st.lists(st.tuples(TEXT, TEXT, TEXT), max_size=8),
    newline=st.sampled_from(["\n", "\r\n"]),
    packed=st.booleans(),
)
@example(rows=[("", "", "\n,,")], newline="\n", packed=False)
@example(rows=[("", "", ""), ("", "", ""), (",,\n\r", "", "")], newline="\n", packed=False)
def test_csv_comes_back_as_it_was_written(land, quoting, rows, newline, packed):
    text, lines = io.StringIO(newline=""), []
    writer = csv.writer(text, lineterminator=newline, quoting=quoting)
    writer.writerow(["a", "b", "c"])
    for row in rows:
        lines.append(text.getvalue().count("\n") + 1)
        writer.writerow(row)
    written = text.getvalue()
    # the standard library's reader must agree that the text is the rows
    assume(list(csv.reader(io.StringIO(written, newline=""), strict=True))[1:] == [list(row) for row in rows])
    data = written.encode()
    landed = land(gzip.compress(data) if packed else data, shape=SHAPE)
    if landed.dead:  # nothing tells these values from records between two stray quotes: they are named, not guessed at
        assert may_be_records(rows)
        assert {csv_damage.OPEN, csv_damage.DOUBT} & {letter.reason for letter in landed.dead}
        return
    assert [row[1:4] for row in landed.rows] == [tuple(value or None for value in row) for row in rows]
    assert landed.lines == lines


VALUES = st.one_of(
    TEXT,
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(TEXT, TEXT, max_size=2),
)


def as_text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)


@SETTINGS
@given(
    rows=st.lists(st.one_of(st.none(), st.dictionaries(st.sampled_from("abc"), VALUES, max_size=3)), max_size=8),
    newline=st.sampled_from(["\n", "\r\n"]),
    ascii_only=st.booleans(),
)
def test_json_lines_come_back_as_they_were_written(land, rows, newline, ascii_only):
    """None stands for a blank line."""
    lines = ["" if row is None else json.dumps(row, ensure_ascii=ascii_only) for row in rows]
    assume(any(lines))
    landed = land("".join(line + newline for line in lines).encode(), "a.jsonl", shape=SHAPE)
    assert landed.dead == []
    assert landed.lines == [i for i, row in enumerate(rows, start=1) if row is not None]
    for row, original in zip(landed.rows, (row for row in rows if row is not None), strict=True):
        for name, value in zip("abc", row[1:4], strict=True):
            expected = original.get(name)
            if isinstance(expected, (list, dict)):
                assert json.loads(value) == expected
            else:
                assert value == as_text(expected)
