"""Lines are taken for records by what the records around look like, and for a text by how many texts the file has."""

import pytest

from pipeline_assets.ingest.files.formats.csv_fields import Field
from pipeline_assets.ingest.files.formats.csv_likeness import Counts, odds_of_counts, odds_of_looks, odds_of_quotes


def lines_of(*lines, is_quoted=False):
    return [[None if text is None else Field(text, is_quoted) for text in line] for line in lines]


AROUND = lines_of([b"C0012", b"Ann"], [b"C0013", b"Bob Lee"], [b"C0014", b"Z. Doe"], [b"C0015", b""])


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param([[b"C0700", b"Mary-Jane"]], id="one line"),
        pytest.param([[b"C0700", b"Ann"], [b"C0701", b""], [b"C0702", b"Bob"]], id="lines"),
        pytest.param([[None, b"Ann"], [b"C0701", None]], id="the first and the last"),
    ],
)
def test_lines_that_look_like_the_records_around_are_records(lines):
    assert odds_of_looks(lines_of(*lines), AROUND, 2) > 1


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param([[b"1", b"2"], [b"3", b"4"]], id="numbers"),
        pytest.param([[b"one", b""], [b"two", b""], [b"three", b""]], id="a poem"),
        pytest.param([[b"Good", b" really"], [b"Fast", b" too"]], id="prose"),
    ],
)
def test_lines_that_do_not_are_a_text(lines):
    assert odds_of_looks(lines_of(*lines), AROUND, 2) < -1


def test_where_nothing_is_known_or_all_are_words_looks_tell_nothing():
    assert odds_of_looks(lines_of([b"1", b"2"]), [[None, None]], 2) == 0
    assert abs(odds_of_looks(lines_of([b"One", b"two"]), lines_of([b"Ann", b"Bob"]) * 9, 2)) < 0.2


def test_the_more_values_a_file_has_the_more_a_doubtful_one_is_one_too():
    alone, few, many, alike = Counts(99, 0, 1), Counts(99, 5, 1), Counts(99, 50, 1), Counts(99, 0, 12)
    odds = [odds_of_counts(counts, 2, 2) for counts in (alone, few, many, alike)]
    assert odds == sorted(odds, reverse=True)
    assert odds[0] > 2
    assert odds[-1] < -5


def test_where_all_fields_are_in_quotes_lines_without_are_a_text():
    plain, quoted = lines_of([b"a", b"b"]), lines_of([b"a", b"b"], is_quoted=True)
    assert odds_of_quotes(plain, quoted) < -3
    assert odds_of_quotes(quoted, quoted) > 3
    assert abs(odds_of_quotes(plain, plain * 9)) < 0.1
    assert -1 < odds_of_quotes(plain, [*plain, *quoted]) < 0
    assert odds_of_quotes([[None, None]], quoted) == 0
