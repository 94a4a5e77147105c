"""Two stray quotes in a file of texts only enclose no line in silence, and a text stays the value that it is."""

import random

import pytest

from pipeline_assets.contracts.base import RawColumn, RawShape
from pipeline_assets.ingest.files.formats import csv_damage
from tests.support.text_files import TextFile, good_file, with_two_stray_quotes


def landed(land, file: TextFile):
    """Rows by line, and the lines of dead letters."""
    found = land(file.content, shape=RawShape(tuple(RawColumn(name, "VARCHAR") for name in file.header)))
    rows = {line: tuple(value or "" for value in values[: len(file.header)]) for line, *values in found.rows}
    return rows, {letter.line for letter in found.dead}


def silent(land, file: TextFile) -> list[int]:
    """Lines of records that no quote has hit, which are neither in the table nor named by a dead letter."""
    rows, dead = landed(land, file)
    lost = [record for record in file.records if rows.get(record.line) != record.fields]
    return [record.line for record in lost if dead.isdisjoint(range(record.line, record.line + record.lines))]


def damaged(seed: int) -> TextFile:
    chance = random.Random(seed)
    share = chance.choice((0, 0, 0, 0.02, 0.2))
    return with_two_stray_quotes(chance, good_file(chance, chance.randint(2, 5), share))


@pytest.mark.parametrize("seeds", [range(50), range(50, 100)], ids=str)
def test_no_line_is_lost_in_silence(land, seeds):
    assert {seed: lines for seed in seeds if (lines := silent(land, damaged(seed)))} == {}


@pytest.mark.integration
def test_of_fifteen_hundred_files_hardly_any_loses_a_line_in_silence(land):
    losing = {seed: lines for seed in range(1500) if (lines := silent(land, damaged(seed)))}
    assert len(losing) <= 3, losing


@pytest.mark.parametrize("share", [0.4, 1])
def test_texts_of_a_column_that_often_has_them_are_values(land, share):
    for seed in range(30):
        chance = random.Random(seed)
        file = good_file(chance, chance.randint(2, 5), share)
        rows, dead = landed(land, file)
        assert (dead, rows) == (set(), {record.line: record.fields for record in file.records}), seed


def test_in_a_file_that_quotes_all_fields_lines_without_quotes_are_a_value(land):
    three = RawShape(tuple(RawColumn(name, "VARCHAR") for name in "abc"))
    found = land(b'"a","b","c"\n"","","\n,,"\n', shape=three)
    assert (found.dead, [row[1:4] for row in found.rows]) == ([], [(None, None, "\n,,")])


TWO = RawShape((RawColumn("id", "VARCHAR"), RawColumn("name", "VARCHAR")))


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
@pytest.mark.parametrize(
    ("lines", "rows", "dead"),
    [
        pytest.param([b'1,"b', b'"', b'foo",c'], ["0", "3"], [3, 4, 5], id="each has one odd quote"),
        pytest.param([b'1,"b', b'"', b"foo", b'bar",c'], ["0", "\nfoo\nbar", "3"], [3], id="two lines"),
        pytest.param([b'1,"b', b'"', b'fo""o', b'bar",c'], ["0", '\nfo"o\nbar', "3"], [3], id="a doubled quote"),
        pytest.param([b'1,"b', b'"', b"4,d", b"5,e"], ["0", "1", "4", "5", "3"], [], id="a value, and records"),
    ],
)
def test_a_value_that_begins_with_a_line_end_below_a_stray_quote(land, newline, lines, rows, dead):
    data = newline.join([b"id,name", b"0,a", *lines, b"3,c", b""])
    found = land(data, shape=TWO)
    assert [row[1].replace("\r", "") for row in found.rows] == rows
    assert found.lines == sorted(set(found.lines))
    assert [letter.line for letter in found.dead] == dead


def test_a_file_with_many_texts_that_could_be_records_is_not_read_line_by_line(land, monkeypatch):
    parse, parsed = csv_damage.parse, []
    monkeypatch.setattr(csv_damage, "parse", lambda *args, **given: parsed.append(1) or parse(*args, **given))
    count = 40_000
    data = b"id,name\n" + b"".join(b'%d,"Main St %d\nBerlin, DE"\n' % (n, n) for n in range(count))
    found = land(data, shape=TWO)
    assert (len(found.rows), found.dead) == (count, [])
    assert len(parsed) < count
